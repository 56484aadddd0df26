"""Footprint of an item, and whether geometry, bbox and raster extent contradict each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely

from catalogs import lonlat_geometry
from catalogs.stac import projection
from catalogs.stac.parsing import MALFORMED_ITEM_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalogs.stac.projection import AssetProjection

BBOX_TOLERANCE = 0.05
"""Share of its sides by which a bbox may differ from the bounds of its geometry."""

MIN_BBOX_TOLERANCE = 0.001
"""The same in degrees: coordinates are rounded."""

EXTENT_TOLERANCE = 0.02
"""Share of the sides of a raster by which the corners of a footprint may lie outside of it.

Footprints that the Planetary Computer states leave their granule by up to 1.3 %.
"""

MIN_EXTENT_TOLERANCE = 3.0
"""The same in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFootprint:
    """Where the pixels of an item may lie besides its geometry, as it contradicts itself."""

    area: Any
    """Shapely area in longitude and latitude."""

    caveat: str


def find_other_footprint(item: Mapping[str, Any], area: Any) -> OtherFootprint | None:
    """Return the areas that contradict an item's footprint; None where all agree.

    Args:
        item: A STAC item.
        area: Its footprint.
    """
    contradicting_areas = dict(_iterate_contradictions(item, area))
    if not contradicting_areas:
        return None
    names = " and ".join(["geometry" if item.get("geometry") else "bbox", *contradicting_areas])
    return OtherFootprint(
        area=lonlat_geometry.union(contradicting_areas.values()),
        caveat=f"its {names} contradict each other: its files show where it lies",
    )


def measure_excess(area: Any, raster: AssetProjection) -> float:
    """Return how far corners of a footprint lie outside of the extent of a raster at most.

    The corners are compared, and not the edges, which are straight in one coordinate system only.

    Args:
        area: Shapely area in longitude and latitude.
        raster: A raster whose EPSG code, transform and shape are known.

    Returns:
        The distance in the units of the raster's coordinate system; 0 if all corners lie within
        :data:`EXTENT_TOLERANCE`.
    """
    if raster.epsg is None or raster.transform is None or raster.shape is None:
        raise ValueError("The extent of the raster is unknown.")
    a, b, c, d, e, f = raster.transform
    determinant = a * e - b * d
    rows, columns = raster.shape
    margin = max(MIN_EXTENT_TOLERANCE, EXTENT_TOLERANCE * max(rows, columns))
    to_raster = lonlat_geometry.get_transformer(raster.epsg)
    longitudes, latitudes = zip(*shapely.get_coordinates(area).tolist(), strict=True)
    distances = [math.inf] * len(longitudes)
    for turn in (0, 360, -360) if raster.epsg == projection.LONLAT else (0,):
        # ^ a raster may extend beyond 180 degrees
        xs, ys = to_raster.transform([longitude + turn for longitude in longitudes], latitudes)
        for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
            column = (e * (x - c) - b * (y - f)) / determinant
            row = (a * (y - f) - d * (x - c)) / determinant
            columns_beyond = max(-column, column - columns, 0.0)
            rows_beyond = max(-row, row - rows, 0.0)
            distance = math.hypot(columns_beyond * math.hypot(a, d), rows_beyond * math.hypot(b, e))
            if max(columns_beyond, rows_beyond) <= margin or not math.isfinite(distance):
                # ^ infinite where PROJ cannot transform a corner, as at the antipode
                distance = 0.0
            distances[index] = min(distances[index], distance)
    return max(distances)


def raster_area(raster: AssetProjection) -> Any:
    """Return the extent of a raster as a shapely area in longitude and latitude.

    Raises:
        ValueError: Its extent is unknown, or lies outside of its coordinate system.
    """
    if raster.epsg is None or raster.transform is None or raster.shape is None:
        raise ValueError("The extent of the raster is unknown.")
    a, b, c, d, e, f = raster.transform
    rows, columns = raster.shape
    corners = shapely.Polygon([(0, 0), (columns, 0), (columns, rows), (0, rows)])
    dense = shapely.segmentize(corners, max_segment_length=max(rows, columns) / 20)
    pixels = shapely.get_coordinates(dense).tolist()
    positions = [(a * x + b * y + c, d * x + e * y + f) for x, y in pixels]
    to_lonlat = lonlat_geometry.get_transformer(raster.epsg)
    ring = [to_lonlat.transform(x, y, direction="INVERSE") for x, y in positions]
    if not all(map(math.isfinite, (value for position in ring for value in position))):
        raise ValueError("The raster lies outside of its coordinate system.")
    return lonlat_geometry.from_item(
        {"geometry": {"type": "Polygon", "coordinates": [[list(position) for position in ring]]}}
    )


def _iterate_contradictions(item: Mapping[str, Any], area: Any) -> Iterator[tuple[str, Any]]:
    """Yield (fields, area) of the statements that contradict a footprint.

    Where bbox and geometry differ, both may be wrong, so the extent of the raster counts as well.
    """
    is_doubtful = False
    if item.get("geometry") is not None and item.get("bbox") is not None:
        bbox = lonlat_geometry.from_bbox(lonlat_geometry.read_bbox(item))
        is_doubtful = _bounds_differ(area, bbox)
        if is_doubtful:
            yield "bbox", bbox
    try:
        raster = _find_contradicting_raster(item, area, any_raster=is_doubtful)
        if raster is not None:
            yield "proj:transform with proj:shape", raster_area(raster)
    except (ValueError, RuntimeError):
        return
        # ^ a raster that lies nowhere, or an unknown EPSG code, does not show where the pixels are


def _find_contradicting_raster(
    item: Mapping[str, Any], area: Any, *, any_raster: bool
) -> AssetProjection | None:
    """Return the first stated raster if a footprint exceeds all of them, or any one at all."""
    first_raster = None
    for raster in _iterate_stated_rasters(item):
        if not any_raster and not measure_excess(area, raster):
            return None
        first_raster = first_raster or raster
    return first_raster


def _bounds_differ(area: Any, bbox: Any) -> bool:
    """Return whether an area does not fill its bbox, or leaves it."""
    west, south, east, north = bbox.bounds
    if bbox.geom_type != "Polygon" or east - west > 180 or area.bounds[2] - area.bounds[0] > 180:
        return False
        # ^ across 180 degrees, or around a pole, there are several ways of writing either
    margins = [
        max(MIN_BBOX_TOLERANCE, BBOX_TOLERANCE * side) for side in (east - west, north - south)
    ]
    return any(
        abs(area_bound - bbox_bound) > margins[index % 2]
        for index, (area_bound, bbox_bound) in enumerate(zip(area.bounds, bbox.bounds, strict=True))
    )


def _iterate_stated_rasters(item: Mapping[str, Any]) -> Iterator[AssetProjection]:
    """Yield the georeference of the data assets whose extent is stated."""
    for band, asset in item["assets"].items():
        if not isinstance(asset, dict) or "data" not in (asset.get("roles") or ["data"]):
            continue
        try:
            raster = projection.parse_asset(item, asset, band)
        except MALFORMED_ITEM_ERRORS:
            continue
            # ^ refused with its reason if it is used
        if raster.epsg is not None and raster.transform is not None and raster.shape is not None:
            yield raster
