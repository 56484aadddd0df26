"""Parsing one STAC item (0.8 to 1.1) into one scene, by the conventions of its provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from catalogs import lonlat_geometry, providers
from catalogs.scene import Asset, Scene
from catalogs.sensors import get_sensor
from catalogs.stac import band_names, footprint_check, projection, properties, radiometry
from catalogs.stac.asset_selection import describe_assets, select_assets
from catalogs.stac.parsing import (
    MALFORMED_ITEM_ERRORS,
    UnusableItemError,
    format_value,
    get_list,
    parse_number,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from catalogs.providers.schema import Provider, ProviderCollection
    from catalogs.sensors import Sensor
    from catalogs.stac.projection import AssetProjection

    Item = Mapping[str, Any]

P = ParamSpec("P")
T = TypeVar("T")

NOT_GEOCODED_REASON = (
    "not geocoded (GRD in radar geometry): use S1RTC, as planetary-computer's sentinel-1-rtc, or "
    "correct its terrain first"
)

MAX_COORDINATE = 10_000.0
"""Largest coordinate of a footprint: degrees, or metres of height as the third number."""

_COORDINATE_DEPTHS = {"Polygon": 3, "MultiPolygon": 4}


class HrefResolver(Protocol):
    """Decides which hrefs may be read; see :class:`catalogs.href_policy.HrefPolicy`."""

    def resolve_raster(self, href: str, base: str) -> str:
        """Return the href of a raster as an absolute path or URL, or raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedItem:
    """A scene and the caveats about it."""

    scene: Scene
    caveats: tuple[str, ...]


def _raise_unusable_if_malformed(function: Callable[P, T]) -> Callable[P, T]:
    """Turn the exceptions that a malformed document causes into UnusableItemError."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except MALFORMED_ITEM_ERRORS as error:
            reason = " ".join(ascii(str(error))[1:-1].split())[:200]
            raise UnusableItemError(f"malformed item: {type(error).__name__} {reason}") from error

    return guarded


@_raise_unusable_if_malformed
def read_datetime(item: Item) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else the start of the range, else None.

    Raises:
        UnusableItemError: It is stated but is no time with a zone, or this is no item.
    """
    _check_is_item(item)
    return properties.read_datetime(item)


@_raise_unusable_if_malformed
def read_footprint(item: Item) -> Any:
    """Return the footprint as a valid shapely area within -180..180 degrees.

    Raises:
        UnusableItemError: It has none, or this is no item.
    """
    _check_is_item(item)
    cleaned = _drop_empty_polygons(item)
    if cleaned.get("bbox") is not None:
        _check_coordinates("bbox", cleaned["bbox"], 1)
    geometry = cleaned.get("geometry")
    if not isinstance(geometry, Mapping | None):
        raise UnusableItemError(f"its geometry is {format_value(geometry)}, which is no GeoJSON")
    if geometry is not None and geometry.get("type") in _COORDINATE_DEPTHS:
        _check_coordinates(
            "geometry", geometry.get("coordinates"), _COORDINATE_DEPTHS[geometry["type"]]
        )
    try:
        return lonlat_geometry.from_item(cleaned)
    except ValueError as error:
        raise UnusableItemError(f"it has no usable footprint: {error}") from error


@_raise_unusable_if_malformed
def find_other_footprint(item: Item, area: Any) -> footprint_check.OtherFootprint | None:
    """Return where else an item may lie, as it contradicts itself; None where it does not.

    Args:
        item: A STAC item.
        area: Its footprint from :func:`read_footprint`.
    """
    return footprint_check.find_other_footprint(item, area)


@_raise_unusable_if_malformed
def read_product_days(item: Item) -> properties.TimeRange | None:
    """Return the first and last moment of sensing that the name of the product allows."""
    return properties.read_product_days(item)


@_raise_unusable_if_malformed
def parse(
    item: Item,
    *,
    provider: Provider,
    modality: str,
    policy: HrefResolver,
    base: str,
    item_href: str | None = None,
    collection_id: str | None = None,
    area: Any = None,
) -> ParsedItem:
    """Return the scene that an item describes; no error but InvalidInputError is raised.

    Args:
        item: A STAC item; any other JSON value is refused.
        provider: The provider whose conventions hold.
        modality: Modality of its collection.
        policy: Where its hrefs may point to.
        base: Path or URL of the item's own document, for relative hrefs.
        item_href: Path or URL of the item itself, for links to it; None where it is not known.
        collection_id: Id of its collection, from :func:`catalogs.stac.collection
            .identify_collection`; None for the one that the item states.
        area: Its footprint, where it is already known from :func:`read_footprint`.

    Raises:
        UnusableItemError: It cannot be used, with the reason.
        UntrustedHrefError: One of its hrefs points where it may not.
    """
    sensor = get_sensor(modality)
    sensing_time = read_datetime(item)
    if sensing_time is None and sensor.is_temporal:
        raise UnusableItemError("it has neither datetime nor start_datetime")
    area = read_footprint(item) if area is None else area
    collection_id = item.get("collection") if collection_id is None else collection_id
    collection = providers.find_collection(provider, collection_id, modality)
    if collection is None:
        raise UnusableItemError(
            f"its collection {format_value(collection_id)} is not one of "
            f"{', '.join(provider.collections_by_modality.get(modality, ()))} of {provider.name}"
        )
    properties.check_datetime(item, sensing_time)
    baseline = properties.read_baseline(item) if sensor.has_baseline else None
    assets = select_assets(item, collection)
    if not assets:
        raise UnusableItemError(_describe_missing_assets(item, provider, collection))
    for band, asset in assets.items():
        band_names.check_asset(item, asset, band)
    projections = {
        band: projection.parse_asset(item, asset, band) for band, asset in assets.items()
    }
    _check_georeferenced(item, sensor, list(projections.values()))
    radiometries = {
        band: radiometry.parse_asset(
            item, asset, band=band, collection=collection, baseline=baseline
        )
        for band, asset in assets.items()
    }
    processed, time_caveat = properties.read_processing_time(item)
    other_footprint = footprint_check.find_other_footprint(item, area)
    scene = Scene(
        id=item["id"],
        collection=collection_id if isinstance(collection_id, str) else "",
        provider=provider.key,
        modality=modality,
        datetime=sensing_time,
        footprint=lonlat_geometry.to_geojson(area),
        other_footprint=(
            lonlat_geometry.to_geojson(other_footprint.area) if other_footprint else None
        ),
        bbox=_read_bbox(item),
        platform=properties.read_platform(item),
        datatake=properties.read_datatake(item),
        tile=properties.read_mgrs_code(item),
        baseline=baseline,
        processed=processed,
        orbit_state=properties.read_orbit_state(item),
        relative_orbit=properties.read_relative_orbit(item),
        cloud_cover=properties.read_cloud_cover(item),
        item_href=item_href,
        assets={
            band: Asset(
                band=band,
                href=policy.resolve_raster(_select_href(asset, band, provider.hrefs), base),
                radiometry=radiometries[band].radiometry,
                epsg=projections[band].epsg,
                transform=projections[band].transform,
                shape=projections[band].shape,
                nodata=radiometries[band].nodata,
                checksum=_read_checksum(asset),
                stated=radiometries[band].stated,
            )
            for band, asset in assets.items()
        },
    )
    range_caveat = properties.describe_time_range(item) if sensor.is_temporal else None
    caveats = {time_caveat, range_caveat, *(claim.caveat for claim in radiometries.values())}
    caveats.add(other_footprint.caveat if other_footprint else None)
    return ParsedItem(scene=scene, caveats=tuple(sorted(text for text in caveats if text)))


def _check_is_item(item: object) -> None:
    """Raise where a value is no STAC item, with what it lacks."""
    if not isinstance(item, Mapping):
        raise UnusableItemError(f"it is no STAC item but {format_value(item)}")
    if item.get("type") != "Feature":
        raise UnusableItemError(
            f"it is no STAC item: its type is {format_value(item.get('type'))}, not Feature"
        )
    item_id = item.get("id")
    if (
        not isinstance(item_id, str)
        or not item_id
        or not item_id.isprintable()
        or len(item_id) > 1000
    ):
        raise UnusableItemError(f"its id {format_value(item_id)} is not printable text")
    for key in ("properties", "assets"):
        if not isinstance(item.get(key), Mapping):
            raise UnusableItemError(f"it has no {key}")
    collection = item.get("collection")
    if isinstance(collection, str) and not collection.isprintable():
        raise UnusableItemError(f"its collection {format_value(collection)} is not printable text")


def _check_coordinates(key: str, value: Any, depth: int) -> None:
    """Raise where lists nested to a depth hold anything but coordinates."""
    if depth == 0:
        if (
            isinstance(value, str)
            or abs(parse_number(value, f"coordinate in the {key}")) > MAX_COORDINATE
        ):
            raise UnusableItemError(f"its {key} has the invalid coordinate {format_value(value)}")
    elif not isinstance(value, list | tuple) or (depth == 1 and len(value) < 2):
        raise UnusableItemError(f"its {key} has {format_value(value)} in place of coordinates")
    else:
        for part in value:
            _check_coordinates(key, part, depth - 1)


def _drop_empty_polygons(item: Item) -> Item:
    """Return the item without empty polygons, which some have at the antimeridian."""
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping) or geometry.get("type") != "MultiPolygon":
        return item
    parts = [part for part in get_list(geometry, "coordinates") if part]
    return {**item, "geometry": {**geometry, "coordinates": parts}}


def _read_bbox(item: Item) -> tuple[float, float, float, float]:
    """Return the bbox; the footprint's where none is stated."""
    west, south, east, north = lonlat_geometry.read_bbox(item)
    if max(abs(west), abs(east)) > 361 or max(abs(south), abs(north)) > 91:
        # ^ rasters at a pole extend half a pixel beyond it
        raise UnusableItemError(f"its bbox {format_value(item.get('bbox'))} is not in degrees")
    return west, south, east, north


def _describe_missing_assets(item: Item, provider: Provider, collection: ProviderCollection) -> str:
    expected = ", ".join(names[0] for names in collection.names.values())
    return (
        f"no usable {collection.modality} asset: it has {describe_assets(item)}; "
        f"those of {provider.name} are called {expected} and hold one band each"
    )


def _read_checksum(asset: Mapping[str, Any]) -> str | None:
    stated = asset.get("file:checksum")
    return stated if isinstance(stated, str) and stated.isascii() and stated.isalnum() else None


def _select_href(asset: Mapping[str, Any], band: str, preferred_scheme: str) -> str:
    """Return the href of an asset: its own, or an alternate one of the preferred scheme."""
    if "zarr" in str(asset.get("type")).lower():
        raise UnusableItemError(
            f"its {band} is a Zarr array: only GeoTIFF and JPEG 2000 are supported"
        )
    stated = asset.get("href")
    alternates = asset.get("alternate")
    entries = alternates.values() if isinstance(alternates, Mapping) else ()
    hrefs = [stated, *(entry.get("href") for entry in entries if isinstance(entry, Mapping))]
    texts = [href for href in hrefs if isinstance(href, str) and href]
    if not texts:
        raise UnusableItemError(f"its {band} has no href")
    return next(
        (href for href in texts if href.lower().startswith(f"{preferred_scheme}://")), texts[0]
    )


def _check_georeferenced(
    item: Item, sensor: Sensor, projections: Sequence[AssetProjection]
) -> None:
    """Raise where assets are in radar geometry or state no coordinate system."""
    if sensor.can_be_in_radar_geometry and any(
        projection.is_radar_geometry(item, asset_projection) for asset_projection in projections
    ):
        raise UnusableItemError(NOT_GEOCODED_REASON)
    if any(asset_projection.epsg is None for asset_projection in projections):
        raise UnusableItemError("it states no coordinate system (proj:epsg or proj:code)")
