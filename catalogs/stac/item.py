"""One STAC item to one scene: STAC 0.8 to 1.1, by the conventions of its provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import shapely

from catalogs import lonlat_geometry, providers
from catalogs.scene import TIMELESS_MODALITIES, Asset, Scene
from catalogs.stac import projection, properties, radiometry
from catalogs.stac.radiometry import UnusableItemError, format_value, get_list, parse_number

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from catalogs.href_policy import HrefPolicy
    from catalogs.providers.schema import Provider, ProviderCollection
    from catalogs.stac.projection import AssetProjection

    Item = Mapping[str, Any]

__all__ = [
    "MALFORMED_ITEM_ERRORS",
    "ParsedItem",
    "UnusableItemError",
    "parse",
    "read_datetime",
    "read_footprint",
]

P = ParamSpec("P")
T = TypeVar("T")

MALFORMED_ITEM_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
    shapely.errors.ShapelyError,
)
"""What a foreign document of unexpected form raises while it is read."""

RADAR_MODALITIES = ("S1RTC", "S1GRD")

NOT_GEOCODED_REASON = (
    "not geocoded (GRD in radar geometry): use S1RTC, as planetary-computer's sentinel-1-rtc, or "
    "correct its terrain first"
)


MAX_COORDINATE = 10_000.0
"""Largest coordinate of a footprint: degrees, or metres of height in its third place."""

_COORDINATE_DEPTHS = {"Polygon": 3, "MultiPolygon": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedItem:
    """A scene and what the catalog left open about it."""

    scene: Scene
    caveats: tuple[str, ...]


def _raise_unusable_if_malformed(function: Callable[P, T]) -> Callable[P, T]:
    """Let nothing but errors of ours out of a function that reads a foreign document."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except MALFORMED_ITEM_ERRORS as error:
            said = " ".join(ascii(str(error))[1:-1].split())[:200]
            raise UnusableItemError(f"malformed item: {type(error).__name__} {said}") from error

    return guarded


@_raise_unusable_if_malformed
def read_datetime(item: Item) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else start_datetime, else None.

    Raises:
        Unusable: It is stated but is no time with a zone, or this is no item.
    """
    _check_is_item(item)
    return properties.read_datetime(item)


@_raise_unusable_if_malformed
def read_footprint(item: Item) -> Any:
    """Return the footprint as a valid shapely area within -180..180 degrees.

    Raises:
        Unusable: It has none, or this is no item.
    """
    _check_is_item(item)
    whole = _drop_empty_polygons(item)
    if whole.get("bbox") is not None:
        _check_coordinates("bbox", whole["bbox"], 1)
    geometry = whole.get("geometry")
    if not isinstance(geometry, Mapping | None):
        raise UnusableItemError(f"its geometry is {format_value(geometry)}, which is no GeoJSON")
    if geometry is not None and geometry.get("type") in _COORDINATE_DEPTHS:
        _check_coordinates(
            "geometry", geometry.get("coordinates"), _COORDINATE_DEPTHS[geometry["type"]]
        )
    try:
        return lonlat_geometry.from_item(whole)
    except ValueError as error:
        raise UnusableItemError(f"it has no usable footprint: {error}") from error


@_raise_unusable_if_malformed
def parse(
    item: Item,
    *,
    provider: Provider,
    modality: str,
    policy: HrefPolicy,
    base: str,
    area: Any = None,
) -> ParsedItem:
    """Return the scene that an item describes; nothing else than Wrong is ever raised.

    Args:
        item: Any JSON value; an item, where all is well.
        provider: Whose conventions hold.
        modality: What its collection holds, a key of BANDS.
        policy: Where its hrefs may point to.
        base: Path or address of the item's own document, for relative hrefs.
        area: Its footprint, where that is already known from :func:`read_footprint`.

    Raises:
        Unusable: It cannot be used, with the reason.
        Untrusted: One of its hrefs points where it may not.
    """
    moment = read_datetime(item)
    if moment is None and modality not in TIMELESS_MODALITIES:
        raise UnusableItemError("it has neither datetime nor start_datetime")
    area = read_footprint(item) if area is None else area
    collection = item.get("collection")
    holding = providers.find_collection(provider, collection, modality)
    if holding is None:
        raise UnusableItemError(
            f"its collection {format_value(collection)} is not one of "
            f"{', '.join(provider.collections_by_modality.get(modality, ()))} of {provider.name}"
        )
    baseline = (
        properties.read_baseline(item) if modality not in (*RADAR_MODALITIES, "DEM") else None
    )
    named = dict(_select_assets(item, holding))
    if not named:
        raise UnusableItemError(_describe_missing_assets(item, provider, holding))
    grids = {band: projection.parse_asset(item, asset, band) for band, asset in named.items()}
    _check_georeferenced(item, modality, list(grids.values()))
    claims = {
        band: radiometry.parse_asset(item, asset, band=band, collection=holding, baseline=baseline)
        for band, asset in named.items()
    }
    processed, ignored = properties.read_processing_time(item)
    scene = Scene(
        id=item["id"],
        collection=collection if isinstance(collection, str) else "",
        provider=provider.key,
        modality=modality,
        datetime=moment,
        footprint=lonlat_geometry.to_geojson(area),
        bbox=_read_bbox(item),
        platform=properties.read_platform(item),
        datatake=properties.read_datatake(item),
        tile=properties.read_mgrs_code(item),
        baseline=baseline,
        processed=processed,
        orbit_state=properties.read_orbit_state(item),
        relative_orbit=properties.read_relative_orbit(item),
        cloud_cover=properties.read_cloud_cover(item),
        assets={
            band: Asset(
                band=band,
                href=policy.resolve_raster(_select_href(asset, band, provider.hrefs), base),
                radiometry=claims[band].radiometry,
                epsg=grids[band].epsg,
                transform=grids[band].transform,
                shape=grids[band].shape,
                nodata=claims[band].nodata,
                checksum=_read_checksum(asset),
            )
            for band, asset in named.items()
        },
    )
    doubts = {doubt for doubt in (ignored, *(one.caveat for one in claims.values())) if doubt}
    return ParsedItem(scene=scene, caveats=tuple(sorted(doubts)))


def _check_is_item(item: object) -> None:
    """Refuse what is no STAC item, naming what it lacks."""
    if not isinstance(item, Mapping):
        raise UnusableItemError(f"it is no STAC item but {format_value(item)}")
    if item.get("type") != "Feature":
        raise UnusableItemError(
            f"it is no STAC item: its type is {format_value(item.get('type'))}, not Feature"
        )
    name = item.get("id")
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000:
        raise UnusableItemError(f"its id {format_value(name)} is no name that can be printed")
    for key in ("properties", "assets"):
        if not isinstance(item.get(key), Mapping):
            raise UnusableItemError(f"it has no {key}")
    collection = item.get("collection")
    if isinstance(collection, str) and not collection.isprintable():
        raise UnusableItemError(
            f"its collection {format_value(collection)} is no name that can be printed"
        )


def _check_coordinates(key: str, value: Any, depth: int) -> None:
    """Refuse lists, nested to a depth, of what are no coordinates, before they reach geometry."""
    if depth == 0:
        if (
            isinstance(value, str)
            or abs(parse_number(value, f"coordinate in the {key}")) > MAX_COORDINATE
        ):
            raise UnusableItemError(f"its {key} has {format_value(value)} for a coordinate")
    elif not isinstance(value, list | tuple) or (depth == 1 and len(value) < 2):
        raise UnusableItemError(f"its {key} has {format_value(value)} where coordinates belong")
    else:
        for part in value:
            _check_coordinates(key, part, depth - 1)


def _drop_empty_polygons(item: Item) -> Item:
    """Return an item whose MultiPolygon has no empty polygons, as some at the antimeridian have."""
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping) or geometry.get("type") != "MultiPolygon":
        return item
    parts = [part for part in get_list(geometry, "coordinates") if part]
    return {**item, "geometry": {**geometry, "coordinates": parts}}


def _read_bbox(item: Item) -> tuple[float, float, float, float]:
    """Return the bbox; the footprint's where none is stated."""
    west, south, east, north = lonlat_geometry.read_bbox(item)
    if max(abs(west), abs(east)) > 361 or max(abs(south), abs(north)) > 91:
        # ^ rasters at the pole reach half a pixel beyond it
        raise UnusableItemError(f"its bbox {format_value(item.get('bbox'))} is not in degrees")
    return west, south, east, north


def _select_assets(
    item: Item, collection: ProviderCollection
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (our band, asset), the first candidate that is there and holds one band."""
    for band, candidates in collection.names.items():
        for name in candidates:
            asset = item["assets"].get(name)
            if isinstance(asset, Mapping) and _count_bands(asset) == 1:
                yield band, asset
                break


def _count_bands(asset: Mapping[str, Any]) -> int:
    return max(1, *(len(get_list(asset, key)) for key in ("bands", "raster:bands", "eo:bands")))


def _describe_missing_assets(item: Item, provider: Provider, collection: ProviderCollection) -> str:
    there = ", ".join(sorted(map(str, item["assets"]))[:8]) or "none"
    wanted = ", ".join(names[0] for names in collection.names.values())
    return (
        f"no usable {collection.modality} asset: it has {format_value(there)[1:-1]}; {provider.name} calls "
        f"them {wanted}, one band each"
    )


def _read_checksum(asset: Mapping[str, Any]) -> str | None:
    stated = asset.get("file:checksum")
    return stated if isinstance(stated, str) and stated.isascii() and stated.isalnum() else None


def _select_href(asset: Mapping[str, Any], band: str, preferred_scheme: str) -> str:
    """Return the address of an asset: its own, or an alternate of the scheme that is preferred."""
    if "zarr" in str(asset.get("type")).lower():
        raise UnusableItemError(f"its {band} is a Zarr array: GeoTIFF and JPEG 2000 are read")
    stated = asset.get("href")
    alternates = asset.get("alternate")
    others = alternates.values() if isinstance(alternates, Mapping) else ()
    hrefs = [stated, *(one.get("href") for one in others if isinstance(one, Mapping))]
    texts = [href for href in hrefs if isinstance(href, str) and href]
    if not texts:
        raise UnusableItemError(f"its {band} has no href")
    return next((href for href in texts if href.startswith(f"{preferred_scheme}://")), texts[0])


def _check_georeferenced(item: Item, modality: str, projections: Sequence[AssetProjection]) -> None:
    """Refuse radar geometry, and rasters without a stated coordinate system."""
    if modality == "S1GRD" and any(
        projection.is_radar_geometry(item, grid) for grid in projections
    ):
        raise UnusableItemError(NOT_GEOCODED_REASON)
    if any(grid.epsg is None for grid in projections):
        raise UnusableItemError("it states no coordinate system (proj:epsg or proj:code)")
