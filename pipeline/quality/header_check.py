"""Settle what a catalog states of a scene by the headers of its files.

A catalog may be wrong about a file: its transform, coordinate system, nodata, scale, offset. What
is read is the file, so its own statements are used, and differences are told. What neither the
file nor the definition of the sensor nor the provider's table confirms is refused: docs/files.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from shapely.geometry import shape

from catalogs import href_policy, lonlat_geometry, number_format, providers
from catalogs.scene import Asset, RejectedScene, Scene
from catalogs.sensors import get_sensor
from catalogs.stac import footprint_check
from catalogs.stac.parsing import UnusableItemError
from catalogs.stac.projection import AssetProjection
from pipeline.quality import asset_check
from pipeline.quality.asset_check import AssetRules, Differences
from pipeline.reading import raster_header, raster_reader
from pipeline.reading.asset_opener import AssetInfo
from pipeline.reading.raster_header import RasterHeader
from pipeline.runtime import cancellation

MIN_COMMON_EXTENT = 0.5
"""Share of a band's extent that it must have in common with that of another band."""

THUMBNAIL_SIZE = 64
"""Side of the thumbnails that show where a scene has pixels."""

MIN_SHARE_DIFFERENCE = 0.01
"""Percent of the region; smaller differences of what files and footprints cover are not told."""

_UNIT_SYMBOLS = {"metre": "m", "degree": "°"}

MAX_OUTSIDE_SHARE = 0.01
"""Share of the valid pixels that may lie outside of a footprint: footprints are simplified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledScene:
    """A scene whose assets are as their files say."""

    scene: Scene

    caveats: tuple[str, ...] = ()
    """What the catalog states otherwise."""

    offset_doubt: str | None = None
    """Why the offset may be used only if the pixels confirm it; None where nothing is doubtful."""


def settle_scene(
    scene: Scene, headers: Mapping[str, RasterHeader], *, region: Any, mapped_region: Any = None
) -> SettledScene | RejectedScene:
    """Settle the facts about a scene by the headers of the files that are used of it.

    Args:
        scene: a scene as the catalog states it.
        headers: band → header, of the assets that are used. Of the others, only those are kept
            that state the extent of one of these: no header shows whether they are right.
        region: shapely area in longitude and latitude that the scene is used for.
        mapped_region: the part of it that is mapped, without what is read around it; all of it by
            default.

    Returns:
        The settled scene, or the scene as refused, with the reason.
    """
    sensor = get_sensor(scene.modality)
    collection = providers.find_collection(
        providers.get(scene.provider), scene.collection or None, scene.modality
    )
    rules = AssetRules(sensor=sensor, collection=collection, baseline=scene.baseline)
    try:
        settled = _settle(scene, headers, region, mapped_region or region, rules)
    except UnusableItemError as error:
        return reject_scene(scene, str(error))
    return SettledScene(
        scene=settled,
        caveats=tuple(rules.differences.describe()),
        offset_doubt=rules.offset_doubt,
    )


def check_scene(
    scene: Scene, bands: Sequence[str], *, region: Any, mapped_region: Any = None
) -> SettledScene | RejectedScene:
    """Read the headers of some bands of a scene and settle it by them.

    Of a scene whose catalog contradicts itself about the footprint, pixels are read, too.

    Args:
        scene: a scene as the catalog states it.
        bands: the bands that are used.
        region: shapely area in longitude and latitude that the scene is used for.
        mapped_region: the part of it that is mapped; all of it by default.

    Raises:
        AssetReadError: a file could not be read.
    """
    assets = {band: scene.assets[band] for band in bands if band in scene.assets}
    headers = {
        band: raster_header.read_header(asset.href, AssetInfo.from_scene(scene, asset))
        for band, asset in assets.items()
    }
    result = settle_scene(scene, headers, region=region, mapped_region=mapped_region)
    if isinstance(result, RejectedScene) or result.scene.other_footprint is None:
        return result
    settled = result.scene
    asset = settled.assets[next(iter(headers))]
    thumbnail = raster_reader.read_thumbnail(
        asset.href, AssetInfo.from_scene(settled, asset), size=THUMBNAIL_SIZE
    )
    if has_pixels_outside(settled, asset, thumbnail) is False:
        return replace(result, scene=replace(settled, other_footprint=None))
    return replace(result, scene=replace_footprint(settled))


def check_scenes(
    scenes: Sequence[Scene],
    select_bands: Callable[[Scene], Sequence[str]],
    *,
    region: Any,
    mapped_region: Any = None,
    threads: int,
) -> list[SettledScene | RejectedScene]:
    """Check scenes in parallel; return the results in the order of the scenes.

    Args:
        scenes: scenes as the catalog states them.
        select_bands: returns the bands of a scene that are used.
        region: shapely area in longitude and latitude that the scenes are used for.
        mapped_region: the part of it that is mapped; all of it by default.
        threads: threads that read.

    Raises:
        AssetReadError: a file could not be read.
    """

    def check(scene: Scene) -> SettledScene | RejectedScene:
        return check_scene(scene, select_bands(scene), region=region, mapped_region=mapped_region)

    with cancellation.CancellableThreadPool(threads, "headers") as pool:
        return list(pool.map(check, scenes))


def reject_scene(scene: Scene, reason: str) -> RejectedScene:
    """Return a scene as refused."""
    return RejectedScene(
        id=scene.id,
        reason=reason.rstrip("."),
        collection=scene.collection,
        modality=scene.modality,
        day=scene.solar_day.isoformat() if scene.datetime else None,
    )


def replace_footprint(scene: Scene) -> Scene:
    """Return a settled scene with the extent of its files as its footprint."""
    area = lonlat_geometry.union(
        footprint_check.raster_area(_stated_raster(asset))
        for asset in scene.assets.values()
        if None not in (asset.epsg, asset.transform, asset.shape)
    )
    return replace(
        scene,
        footprint=lonlat_geometry.to_geojson(area),
        bbox=lonlat_geometry.to_bbox(area),
        other_footprint=None,
    )


def has_pixels_outside(scene: Scene, asset: Asset, thumbnail: NDArray[Any]) -> bool | None:
    """Return whether many valid pixels of a thumbnail lie well outside of a scene's footprint.

    Args:
        scene: a settled scene.
        asset: one of its assets.
        thumbnail: (height, width) values of its file at reduced resolution; NaN = nodata.

    Returns:
        None where the thumbnail does not show it: windows of a large raster, or an unknown extent.
    """
    if asset.epsg is None or asset.transform is None or asset.shape is None:
        return None
    rows, columns = asset.shape
    height, width = thumbnail.shape
    if not raster_reader.is_whole_raster(thumbnail, asset.shape):
        return None
    step = max(1, max(height, width) // THUMBNAIL_SIZE)
    valid_rows, valid_columns = np.nonzero(np.isfinite(thumbnail[::step, ::step]))
    if not valid_rows.size:
        return False
    a, b, c, d, e, f = asset.transform
    xs = (valid_columns * step + 0.5) * columns / width
    ys = (valid_rows * step + 0.5) * rows / height
    longitudes, latitudes = lonlat_geometry.get_transformer(asset.epsg).transform(
        a * xs + b * ys + c, d * xs + e * ys + f, direction="INVERSE"
    )
    west, south, east, north = footprint_check.raster_area(_stated_raster(asset)).bounds
    extent = max(min(east - west, 360 + west - east), north - south)
    margin = footprint_check.EXTENT_TOLERANCE * extent
    wider = shape(scene.footprint).buffer(margin)
    inside = shapely.contains_xy(wider, longitudes, latitudes)
    return bool(np.mean(~inside) > MAX_OUTSIDE_SHARE)


def _stated_raster(asset: Asset) -> AssetProjection:
    return AssetProjection(epsg=asset.epsg, transform=asset.transform, shape=asset.shape)


def _settle(
    scene: Scene,
    headers: Mapping[str, RasterHeader],
    region: Any,
    mapped_region: Any,
    rules: AssetRules,
) -> Scene:
    """Return a scene as its files say.

    Raises:
        UnusableItemError: It cannot be used.
    """
    assets = {
        band: asset_check.settle_asset(scene.assets[band], header, rules)
        for band, header in headers.items()
    }
    extents = {band: _raster_area(assets[band], header) for band, header in headers.items()}
    _check_common_extent(assets, extents)
    area = lonlat_geometry.union(extents.values())
    if not area.intersects(region):
        raise UnusableItemError(
            "its geometry or bbox touches the region, but its files lie at "
            f"{number_format.format_numbers(lonlat_geometry.to_bbox(area), 7)}, outside of it"
        )
    assets |= _keep_unused(scene, assets, headers)
    settled = replace(scene, assets=assets)
    if _note_excess(settled, headers, extents, mapped_region, rules.differences):
        return replace_footprint(settled)
    return _settle_bbox(settled, rules.differences)


def _check_common_extent(assets: Mapping[str, Asset], extents: Mapping[str, Any]) -> None:
    """Raise where a band lies elsewhere than the first one."""
    first_band, first_extent = next(iter(extents.items()))
    for band, extent in extents.items():
        common = shapely.intersection(extent, first_extent).area
        if common < MIN_COMMON_EXTENT * min(extent.area, first_extent.area):
            bounds, first_bounds = _format_bounds_apart(extent, first_extent)
            raise UnusableItemError(
                f"its {band} ({href_policy.redact(assets[band].href)}) lies at {bounds} and its "
                f"{first_band} at {first_bounds}: one of them is of another place"
            )


def _keep_unused(
    scene: Scene, assets: Mapping[str, Asset], headers: Mapping[str, RasterHeader]
) -> dict[str, Asset]:
    """Return the assets that are not used, as far as they state the extent of one that is.

    Grids and tiles are planned with all assets of a scene, so a wrong one must not be among them.
    """
    unused = {band: asset for band, asset in scene.assets.items() if band not in assets}
    return {
        band: asset
        for band, asset in unused.items()
        if asset.transform is None
        or asset.shape is None
        or any(
            _has_same_extent(asset, assets[used_band], header)
            for used_band, header in headers.items()
        )
    }


def _has_same_extent(asset: Asset, settled: Asset, header: RasterHeader) -> bool:
    """Return whether an asset states the extent of a settled one, whatever its pixel size."""
    if asset.epsg != settled.epsg or asset.transform is None or asset.shape is None:
        return False
    rows, columns = (
        stated / actual for stated, actual in zip(asset.shape, header.shape, strict=True)
    )
    # ^ of the asset for each of the file
    a, b, c, d, e, f = asset.transform
    scaled = (a * columns, b * rows, c, d * columns, e * rows, f)
    return header.corner_shift(scaled) <= raster_header.MAX_CORNER_SHIFT


def _note_excess(
    scene: Scene,
    headers: Mapping[str, RasterHeader],
    extents: Mapping[str, Any],
    mapped_region: Any,
    differences: Differences,
) -> bool:
    """Note by how much a scene's footprint exceeds the extents of its files; return if any."""
    stated = shape(scene.footprint)
    is_exceeded = False
    for band, header in headers.items():
        raster = _to_projection(scene.assets[band], header)
        excess = footprint_check.measure_excess(stated, raster)
        if not excess:
            continue
        is_exceeded = True
        bounds, file_bounds = _format_bounds_apart(stated, extents[band])
        unit = CRS.from_epsg(_require_epsg(scene.assets[band], header)).axis_info[0].unit_name
        distance = f"{number_format.format_length(excess)} {_UNIT_SYMBOLS.get(unit, unit)}"
        differences.add(
            band,
            f"the footprint that the catalog states reaches to {bounds}, the file to "
            f"{file_bounds}: corners lie up to {distance} outside of the file"
            f"{_describe_shares(stated, extents[band], mapped_region)}",
        )
    return is_exceeded


def _describe_shares(stated: Any, extent: Any, mapped_region: Any) -> str:
    """Return how much of a region a file covers; empty if no less than its stated footprint."""
    stated_share, share = (
        100 * lonlat_geometry.covered_fraction(area, mapped_region) for area in (stated, extent)
    )
    if stated_share - share < MIN_SHARE_DIFFERENCE:
        return ""
    share_text, stated_text = number_format.format_apart(share, stated_share, digits=3)
    return f"; the file covers {share_text} % of the region, the footprint {stated_text} %"


def _settle_bbox(scene: Scene, differences: Differences) -> Scene:
    """Return a scene whose bbox holds its footprint."""
    stated = shape(scene.footprint)
    bbox = lonlat_geometry.from_bbox(scene.bbox)
    if bbox.buffer(footprint_check.MIN_BBOX_TOLERANCE).covers(stated):
        return scene
    bounds = lonlat_geometry.to_bbox(stated)
    bbox_text, bounds_text = number_format.format_lists_apart(scene.bbox, bounds, digits=7)
    differences.add(
        "all bands",
        f"the catalog states the bbox {bbox_text}, but its geometry reaches to {bounds_text}",
    )
    return replace(scene, bbox=bounds)


def _raster_area(asset: Asset, header: RasterHeader) -> Any:
    """Return the extent of a file in longitude and latitude."""
    try:
        return footprint_check.raster_area(_to_projection(asset, header))
    except ValueError:
        raise UnusableItemError(
            f"its {asset.band} ({href_policy.redact(asset.href)}) lies outside of its coordinate "
            f"system: its transform is {number_format.format_numbers(header.transform)}"
        ) from None


def _to_projection(asset: Asset, header: RasterHeader) -> AssetProjection:
    return AssetProjection(
        epsg=_require_epsg(asset, header), transform=header.transform, shape=header.shape
    )


def _require_epsg(asset: Asset, header: RasterHeader) -> int:
    """Return the EPSG code of a settled asset."""
    if asset.epsg is None:
        raise UnusableItemError(
            f"the coordinate system of its {asset.band} ({href_policy.redact(asset.href)}) has no "
            f"EPSG code: {(header.crs_wkt or '')[:60]}"
        )
    return asset.epsg


def _format_bounds_apart(first: Any, second: Any) -> tuple[str, str]:
    """Return the bounds of two areas, with as many digits as show that they differ."""
    bounds = lonlat_geometry.to_bbox(first), lonlat_geometry.to_bbox(second)
    return number_format.format_lists_apart(*bounds, digits=5)
