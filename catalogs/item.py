"""One STAC item to one scene: STAC 1.0 and 1.1, by the conventions of its provider."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catalogs import footprint, providers
from catalogs.errors import Wrong
from catalogs.scene import BANDS, ORBIT_STATES, TIMELESS, Asset, Radiometry, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catalogs.providers import Provider
    from catalogs.trust import Trust

    Transform = tuple[float, float, float, float, float, float]

REFLECTANCE_SCALE = 0.0001
"""Scale of Sentinel-2 L2A where the catalog states none. source: product definition, 1/10000."""

_CELL = re.compile(r"(?:^|_)T?(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$)")
_IN_PRODUCT_NAME = re.compile(r"_N(\d{4})_")


class Unusable(Wrong):
    """An item cannot become a scene; the message is the reason, one clause without a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A scene and what the catalog left open about it."""

    scene: Scene
    doubts: tuple[str, ...]


def time_of(item: Mapping[str, Any]) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else start_datetime, else None.

    Raises:
        Unusable: It is stated but is no time with a zone.
    """
    properties = item["properties"]
    stamp = properties.get("datetime") or properties.get("start_datetime")
    return None if stamp is None else _moment(stamp)


def parse(
    item: Mapping[str, Any],
    *,
    provider: Provider,
    modality: str,
    trust: Trust,
    base: str,
    area: Any = None,
) -> Parsed:
    """Return the scene that an item describes.

    Args:
        item: The item as plain JSON.
        provider: Whose conventions hold.
        modality: What its collection holds, a key of BANDS.
        trust: Where its hrefs may point to.
        base: Path or address of the item's own document, for relative hrefs.
        area: Its footprint, where that is already known from footprint.of_item.

    Raises:
        Unusable: It cannot be used, with the reason.
        Untrusted: One of its hrefs points where it may not.
        ValueError, KeyError, TypeError, AttributeError: It is malformed.
    """
    properties = item["properties"]
    moment = time_of(item)
    if moment is None and modality not in TIMELESS:
        raise Unusable("it has neither datetime nor start_datetime")
    baseline = _baseline(item)
    described = [
        _asset(item, band, asset, modality=modality, provider=provider, baseline=baseline)
        for band, asset in _named_assets(item, provider.names[modality])
    ]
    if not described:
        raise Unusable(_nothing_usable(item, provider, modality))
    _refuse_without_grid(modality, [asset for asset, _ in described])
    assets = {
        asset.band: replace(asset, href=trust.settle_raster(asset.href, base))
        for asset, _ in described
    }
    scene = Scene(
        id=item["id"],
        collection=str(item.get("collection", "")),
        provider=provider.name,
        modality=modality,
        datetime=moment,
        footprint=footprint.geojson(footprint.of_item(item) if area is None else area),
        bbox=footprint.box_of(item),
        platform=_lower(properties.get("platform")),
        datatake=_first(properties, "s2:datatake_id", "eopf:datatake_id", "s1:datatake_id"),
        tile=_tile(item),
        baseline=baseline,
        processed=_processed(properties),
        orbit_state=_orbit_state(properties),
        relative_orbit=_whole(properties.get("sat:relative_orbit")),
        cloud_cover=_cloud_cover(properties),
        assets=assets,
    )
    doubts = {doubt for _, doubt in described if doubt}
    return Parsed(scene=scene, doubts=tuple(sorted(doubts)))


def _asset(
    item: Mapping[str, Any],
    band: str,
    asset: Mapping[str, Any],
    *,
    modality: str,
    provider: Provider,
    baseline: str | None,
) -> tuple[Asset, str | None]:
    """Return an asset with its href as the catalog wrote it, and a doubt about its numbers."""
    radiometry, doubt = _radiometry(
        item, asset, band=band, modality=modality, provider=provider, baseline=baseline
    )
    described = Asset(
        band=band,
        href=asset["href"],
        radiometry=radiometry,
        epsg=_epsg(item, asset),
        transform=_transform(_either(item, asset, "proj:transform")),
        shape=_shape(_either(item, asset, "proj:shape")),
        nodata=_nodata(asset, band=band, modality=modality, provider=provider),
        checksum=asset.get("file:checksum"),
    )
    return described, doubt


def _named_assets(
    item: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (our band, asset), the first candidate that is there and holds one band."""
    for band, candidates in names.items():
        for name in candidates:
            asset = item["assets"].get(name)
            if asset is not None and _count_of_bands(asset) == 1:
                yield band, asset
                break


def _count_of_bands(asset: Mapping[str, Any]) -> int:
    return max(1, *(len(asset.get(key) or ()) for key in ("bands", "raster:bands", "eo:bands")))


def _nothing_usable(item: Mapping[str, Any], provider: Provider, modality: str) -> str:
    there = ", ".join(sorted(item["assets"])[:8]) or "none"
    wanted = ", ".join(names[0] for names in provider.names[modality].values())
    return f"no usable {modality} asset: it has {there}; {provider.name} calls them {wanted}"


def _band_fields(asset: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return scale, offset, unit and nodata, wherever this version of STAC keeps them."""
    merged: dict[str, Any] = {}
    for source in (*(asset.get("bands") or ())[:1], *(asset.get("raster:bands") or ())[:1], asset):
        for key in ("scale", "offset", "unit", "nodata"):
            value = source.get(f"raster:{key}", source.get(key))
            if value is not None:
                merged[key] = value
    return merged


def _radiometry(
    item: Mapping[str, Any],
    asset: Mapping[str, Any],
    *,
    band: str,
    modality: str,
    provider: Provider,
    baseline: str | None,
) -> tuple[Radiometry, str | None]:
    """Return what the numbers mean, and a doubt about it."""
    stated = _band_fields(asset)
    scale, offset = stated.get("scale"), stated.get("offset")
    if band == "SCL":
        return Radiometry(scale=1, offset=0, unit="class"), None
    if modality == "S2L2A":
        settled = provider.offset(item, None if offset is None else float(offset), baseline)
        scale = REFLECTANCE_SCALE if scale is None else float(scale)
        return Radiometry(scale=scale, offset=settled.value, unit="reflectance"), settled.doubt
    unit = "m" if modality == "DEM" else _radar_unit(stated.get("unit"))
    scale, offset = (1.0 if scale is None else float(scale)), float(offset or 0)
    return Radiometry(scale=scale, offset=offset, unit=unit), None


def _radar_unit(stated: str | None) -> str:
    return "dB" if str(stated).lower() in ("db", "decibel", "decibels") else "power"


def _nodata(
    asset: Mapping[str, Any], *, band: str, modality: str, provider: Provider
) -> float | None:
    if modality == "S2L2A":
        return 0.0
        # ^ source: Sentinel-2 product definition; the tag is often missing from catalog and file
    stated = _band_fields(asset).get("nodata")
    if stated is not None:
        return float(stated)
        # ^ also the words "nan" and "inf", as STAC writes them
    return provider.radar_nodata if band in BANDS["S1RTC"] else None


def _either(item: Mapping[str, Any], asset: Mapping[str, Any], key: str) -> Any:
    value = asset.get(key)
    return item["properties"].get(key) if value is None else value


def _epsg(item: Mapping[str, Any], asset: Mapping[str, Any]) -> int | None:
    for source in (asset, item["properties"]):
        for key in ("proj:epsg", "proj:code"):
            value = source.get(key)
            if value is not None:
                return _epsg_number(value)
    return None


def _epsg_number(value: int | str) -> int:
    found = re.fullmatch(r"(?:EPSG:)?(\d+)", str(value))
    if found is None:
        raise Unusable(f"unknown coordinate system {value!r}: only EPSG codes are known here")
    return int(found[1])


def _transform(values: Sequence[float] | None) -> Transform | None:
    """Return six numbers; a third row of the matrix (0, 0, 1) is dropped."""
    if values is None:
        return None
    a, b, c, d, e, f = values[:6]
    return (a, b, c, d, e, f)


def _shape(values: Sequence[int] | None) -> tuple[int, int] | None:
    return None if values is None else (values[0], values[1])


def _refuse_without_grid(modality: str, assets: Sequence[Asset]) -> None:
    """Refuse radar geometry, and rasters without a stated coordinate system."""
    codes = {asset.epsg for asset in assets}
    unplaced = any(asset.transform is None for asset in assets)
    if modality == "S1GRD" and (codes & {None, 4326} or unplaced):
        # ^ catalogs claim EPSG:4326 for GRD whose pixels still lie along the orbit
        raise Unusable("not geocoded (GRD in radar geometry): use S1RTC")
    if None in codes:
        raise Unusable("it states no coordinate system (proj:epsg or proj:code)")


def _moment(stamp: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(stamp)
    except (TypeError, ValueError) as error:
        raise Unusable(f"its time {stamp!r} is no time") from error
    if moment.tzinfo is None:
        raise Unusable(f"its time {stamp!r} has no zone, so it could be any of 26 hours")
    return moment.astimezone(dt.UTC)


def _processed(properties: Mapping[str, Any]) -> dt.datetime | None:
    stamp = _first(properties, "s2:generation_time", "processing:datetime")
    return None if stamp is None else _moment(stamp)


def _baseline(item: Mapping[str, Any]) -> str | None:
    properties = item["properties"]
    for key in ("s2:processing_baseline", "processing:version"):
        if providers.number_of(_text(properties.get(key))):
            return str(properties[key])
    for name in (properties.get("s2:product_uri"), item["id"]):
        found = _IN_PRODUCT_NAME.search(name or "")
        if found:
            return f"{found[1][:2]}.{found[1][2:]}"
    return None


def _tile(item: Mapping[str, Any]) -> str | None:
    properties = item["properties"]
    if properties.get("s2:mgrs_tile"):
        return str(properties["s2:mgrs_tile"]).removeprefix("T")
    if properties.get("grid:code"):
        return str(properties["grid:code"]).removeprefix("MGRS-")
    found = _CELL.search(item["id"])
    return None if found is None else found[1]


def _orbit_state(properties: Mapping[str, Any]) -> str | None:
    state = _lower(properties.get("sat:orbit_state"))
    return state if state in ORBIT_STATES else None


def _cloud_cover(properties: Mapping[str, Any]) -> float | None:
    """Return percent, or None where it is not stated or is no percentage."""
    value = properties.get("eo:cloud_cover")
    return float(value) if isinstance(value, int | float) and 0 <= value <= 100 else None


def _first(properties: Mapping[str, Any], *keys: str) -> str | None:
    return next((str(properties[key]) for key in keys if properties.get(key)), None)


def _lower(value: str | None) -> str | None:
    return None if value is None else str(value).lower()


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _whole(value: int | str | None) -> int | None:
    return None if value is None else int(value)
