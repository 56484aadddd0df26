"""One STAC item to one scene: STAC 0.8 to 1.1, by the conventions of its provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import shapely

from catalogs import lonlat_geometry, providers
from catalogs.scene import TIMELESS, Asset, Scene
from catalogs.stac import projection, properties, radiometry
from catalogs.stac.radiometry import Unusable, listed, number, shown

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from catalogs.href_policy import Trust
    from catalogs.providers.schema import Holding, Provider
    from catalogs.stac.projection import Georeference

    Item = Mapping[str, Any]

__all__ = ["MALFORMED", "Parsed", "Unusable", "area_of", "parse", "time_of"]

P = ParamSpec("P")
T = TypeVar("T")

MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
    shapely.errors.ShapelyError,
)
"""What a foreign document of unexpected form raises while it is read."""

RADAR = ("S1RTC", "S1GRD")

NOT_GEOCODED = (
    "not geocoded (GRD in radar geometry): use S1RTC, as planetary-computer's sentinel-1-rtc, or "
    "correct its terrain first"
)


FARTHEST = 10_000.0
"""Largest coordinate of a footprint: degrees, or metres of height in its third place."""

_DEPTHS = {"Polygon": 3, "MultiPolygon": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A scene and what the catalog left open about it."""

    scene: Scene
    doubts: tuple[str, ...]


def _unusable_if_malformed(function: Callable[P, T]) -> Callable[P, T]:
    """Let nothing but errors of ours out of a function that reads a foreign document."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except MALFORMED as error:
            said = " ".join(ascii(str(error))[1:-1].split())[:200]
            raise Unusable(f"malformed item: {type(error).__name__} {said}") from error

    return guarded


@_unusable_if_malformed
def time_of(item: Item) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else start_datetime, else None.

    Raises:
        Unusable: It is stated but is no time with a zone, or this is no item.
    """
    _check_form(item)
    return properties.sensed(item)


@_unusable_if_malformed
def area_of(item: Item) -> Any:
    """Return the footprint as a valid shapely area within -180..180 degrees.

    Raises:
        Unusable: It has none, or this is no item.
    """
    _check_form(item)
    whole = _without_empty_parts(item)
    if whole.get("bbox") is not None:
        _check_numbers("bbox", whole["bbox"], 1)
    geometry = whole.get("geometry")
    if not isinstance(geometry, Mapping | None):
        raise Unusable(f"its geometry is {shown(geometry)}, which is no GeoJSON")
    if geometry is not None and geometry.get("type") in _DEPTHS:
        _check_numbers("geometry", geometry.get("coordinates"), _DEPTHS[geometry["type"]])
    try:
        return lonlat_geometry.of_item(whole)
    except ValueError as error:
        raise Unusable(f"it has no usable footprint: {error}") from error


@_unusable_if_malformed
def parse(
    item: Item,
    *,
    provider: Provider,
    modality: str,
    trust: Trust,
    base: str,
    area: Any = None,
) -> Parsed:
    """Return the scene that an item describes; nothing else than Wrong is ever raised.

    Args:
        item: Any JSON value; an item, where all is well.
        provider: Whose conventions hold.
        modality: What its collection holds, a key of BANDS.
        trust: Where its hrefs may point to.
        base: Path or address of the item's own document, for relative hrefs.
        area: Its footprint, where that is already known from :func:`area_of`.

    Raises:
        Unusable: It cannot be used, with the reason.
        Untrusted: One of its hrefs points where it may not.
    """
    moment = time_of(item)
    if moment is None and modality not in TIMELESS:
        raise Unusable("it has neither datetime nor start_datetime")
    area = area_of(item) if area is None else area
    collection = item.get("collection")
    holding = providers.holding(provider, collection, modality)
    if holding is None:
        raise Unusable(
            f"its collection {shown(collection)} is not one of "
            f"{', '.join(provider.collections.get(modality, ()))} of {provider.name}"
        )
    baseline = properties.baseline(item) if modality not in (*RADAR, "DEM") else None
    named = dict(_named_assets(item, holding))
    if not named:
        raise Unusable(_nothing_usable(item, provider, holding))
    grids = {band: projection.of_asset(item, asset, band) for band, asset in named.items()}
    _refuse_without_grid(item, modality, list(grids.values()))
    claims = {
        band: radiometry.of_asset(item, asset, band=band, holding=holding, baseline=baseline)
        for band, asset in named.items()
    }
    processed, ignored = properties.processed(item)
    scene = Scene(
        id=item["id"],
        collection=collection if isinstance(collection, str) else "",
        provider=provider.key,
        modality=modality,
        datetime=moment,
        footprint=lonlat_geometry.geojson(area),
        bbox=_box(item),
        platform=properties.platform(item),
        datatake=properties.datatake(item),
        tile=properties.tile(item),
        baseline=baseline,
        processed=processed,
        orbit_state=properties.orbit_state(item),
        relative_orbit=properties.relative_orbit(item),
        cloud_cover=properties.cloud_cover(item),
        assets={
            band: Asset(
                band=band,
                href=trust.settle_raster(_href(asset, band, provider.hrefs), base),
                radiometry=claims[band].radiometry,
                epsg=grids[band].epsg,
                transform=grids[band].transform,
                shape=grids[band].shape,
                nodata=claims[band].nodata,
                checksum=_checksum(asset),
            )
            for band, asset in named.items()
        },
    )
    doubts = {doubt for doubt in (ignored, *(one.doubt for one in claims.values())) if doubt}
    return Parsed(scene=scene, doubts=tuple(sorted(doubts)))


def _check_form(item: object) -> None:
    """Refuse what is no STAC item, naming what it lacks."""
    if not isinstance(item, Mapping):
        raise Unusable(f"it is no STAC item but {shown(item)}")
    if item.get("type") != "Feature":
        raise Unusable(f"it is no STAC item: its type is {shown(item.get('type'))}, not Feature")
    name = item.get("id")
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000:
        raise Unusable(f"its id {shown(name)} is no name that can be printed")
    for key in ("properties", "assets"):
        if not isinstance(item.get(key), Mapping):
            raise Unusable(f"it has no {key}")
    collection = item.get("collection")
    if isinstance(collection, str) and not collection.isprintable():
        raise Unusable(f"its collection {shown(collection)} is no name that can be printed")


def _check_numbers(key: str, value: Any, depth: int) -> None:
    """Refuse lists, nested to a depth, of what are no coordinates, before they reach geometry."""
    if depth == 0:
        if isinstance(value, str) or abs(number(value, f"coordinate in the {key}")) > FARTHEST:
            raise Unusable(f"its {key} has {shown(value)} for a coordinate")
    elif not isinstance(value, list | tuple) or (depth == 1 and len(value) < 2):
        raise Unusable(f"its {key} has {shown(value)} where coordinates belong")
    else:
        for part in value:
            _check_numbers(key, part, depth - 1)


def _without_empty_parts(item: Item) -> Item:
    """Return an item whose MultiPolygon has no empty polygons, as some at the antimeridian have."""
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping) or geometry.get("type") != "MultiPolygon":
        return item
    parts = [part for part in listed(geometry, "coordinates") if part]
    return {**item, "geometry": {**geometry, "coordinates": parts}}


def _box(item: Item) -> tuple[float, float, float, float]:
    """Return the bbox; the footprint's where none is stated."""
    west, south, east, north = lonlat_geometry.box_of(item)
    if max(abs(west), abs(east)) > 361 or max(abs(south), abs(north)) > 91:
        # ^ rasters at the pole reach half a pixel beyond it
        raise Unusable(f"its bbox {shown(item.get('bbox'))} is not in degrees")
    return west, south, east, north


def _named_assets(item: Item, holding: Holding) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (our band, asset), the first candidate that is there and holds one band."""
    for band, candidates in holding.names.items():
        for name in candidates:
            asset = item["assets"].get(name)
            if isinstance(asset, Mapping) and _count_of_bands(asset) == 1:
                yield band, asset
                break


def _count_of_bands(asset: Mapping[str, Any]) -> int:
    return max(1, *(len(listed(asset, key)) for key in ("bands", "raster:bands", "eo:bands")))


def _nothing_usable(item: Item, provider: Provider, holding: Holding) -> str:
    there = ", ".join(sorted(map(str, item["assets"]))[:8]) or "none"
    wanted = ", ".join(names[0] for names in holding.names.values())
    return (
        f"no usable {holding.modality} asset: it has {shown(there)[1:-1]}; {provider.name} calls "
        f"them {wanted}, one band each"
    )


def _checksum(asset: Mapping[str, Any]) -> str | None:
    stated = asset.get("file:checksum")
    return stated if isinstance(stated, str) and stated.isascii() and stated.isalnum() else None


def _href(asset: Mapping[str, Any], band: str, preferred: str) -> str:
    """Return the address of an asset: its own, or an alternate of the scheme that is preferred."""
    if "zarr" in str(asset.get("type")).lower():
        raise Unusable(f"its {band} is a Zarr array: GeoTIFF and JPEG 2000 are read")
    stated = asset.get("href")
    alternates = asset.get("alternate")
    others = alternates.values() if isinstance(alternates, Mapping) else ()
    hrefs = [stated, *(one.get("href") for one in others if isinstance(one, Mapping))]
    texts = [href for href in hrefs if isinstance(href, str) and href]
    if not texts:
        raise Unusable(f"its {band} has no href")
    return next((href for href in texts if href.startswith(f"{preferred}://")), texts[0])


def _refuse_without_grid(item: Item, modality: str, grids: Sequence[Georeference]) -> None:
    """Refuse radar geometry, and rasters without a stated coordinate system."""
    if modality == "S1GRD" and any(projection.in_radar_geometry(item, grid) for grid in grids):
        raise Unusable(NOT_GEOCODED)
    if any(grid.epsg is None for grid in grids):
        raise Unusable("it states no coordinate system (proj:epsg or proj:code)")
