"""Scale, offset, unit and nodata of an asset, as its STAC item states them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalogs import providers
from catalogs.number_format import format_apart
from catalogs.scene import Radiometry, StatedValues
from catalogs.sensors import get_sensor
from catalogs.stac.parsing import UnusableItemError, format_value, get_list, parse_number

if TYPE_CHECKING:
    from catalogs.providers.schema import ProviderCollection

FIRST_OFFSET_BASELINE = (4, 0)
"""Baseline from which ESA adds 1000 to every Sentinel-2 digital number, L1C and L2A alike.

source: Sentinel-2 processing baseline 04.00, RADIO_ADD_OFFSET and BOA_ADD_OFFSET of the product
metadata; products of 25 January 2022 and later, and all of Collection 1.
"""

BASELINE_OFFSET = -0.1
"""Reflectance that is added where those 1000 digital numbers are still in the pixels."""

DECIBEL_UNITS = ("db", "decibel", "decibels")
POWER_UNITS = ("1", "", "power", "linear", "m2 m-2", "m2/m2", "m^2/m^2", "gamma0", "sigma0")
METRE_UNITS = ("m", "metre", "metres", "meter", "meters")
"""Units as catalogs write them, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRadiometry:
    """Scale, offset, unit and nodata of an asset, with a caveat where the catalog is unclear."""

    radiometry: Radiometry
    nodata: float | None

    stated: StatedValues
    """What the item itself states."""

    caveat: str | None = None
    """What the catalog leaves open or contradicts, as text for the report."""


def parse_asset(
    item: Mapping[str, Any],
    asset: Mapping[str, Any],
    *,
    band: str,
    collection: ProviderCollection,
    baseline: str | None,
) -> AssetRadiometry:
    """Return the radiometry of one asset.

    Args:
        item: The STAC item that the asset belongs to.
        asset: The asset's object in the item.
        band: Name of its band in terramosaic.
        collection: The conventions of its collection.
        baseline: The item's processing baseline.

    Raises:
        UnusableItemError: A field is no number, or the unit is missing or unknown.
    """
    sensor = get_sensor(collection.modality)
    stated = _read_stated_values(asset, band)
    scale = next(
        value
        for value in (collection.scale, stated.scale, sensor.stored_scale)
        if value is not None
    )
    nodata = collection.nodata if stated.nodata is None else stated.nodata
    if sensor.stored_nodata is not None:
        nodata = sensor.stored_nodata if collection.nodata is None else collection.nodata
    if band == "SCL":
        return AssetRadiometry(
            radiometry=Radiometry(scale=1, offset=0, unit="class"), nodata=0.0, stated=stated
        )
    if band == "CLD":
        return AssetRadiometry(
            radiometry=Radiometry(scale=1, offset=0, unit="probability"), nodata=None, stated=stated
        )
        # ^ 0 percent is a probability, although some catalogs call it nodata
    if sensor.group == "optical":
        offset, caveat = _resolve_offset(item, collection, stated.offset, baseline)
        return AssetRadiometry(
            radiometry=_build_radiometry(band, scale, offset, "reflectance"),
            nodata=nodata,
            stated=stated,
            caveat=caveat,
        )
    unit = _read_unit(asset, band, collection)
    offset = collection.offset if isinstance(collection.offset, float) else stated.offset or 0.0
    return AssetRadiometry(
        radiometry=_build_radiometry(band, scale, offset, unit), nodata=nodata, stated=stated
    )


def implied_offset(baseline: str | None) -> float | None:
    """Return the reflectance offset that a processing baseline implies; None where unknown."""
    numbers = providers.parse_baseline(baseline)
    if numbers is None:
        return None
    return BASELINE_OFFSET if numbers >= FIRST_OFFSET_BASELINE else 0.0


def _read_stated_values(asset: Mapping[str, Any], band: str) -> StatedValues:
    """Return scale, offset, nodata and type, wherever the item's version of STAC keeps them."""
    values: dict[str, float] = {}
    dtype = None
    for source in _band_and_asset(asset):
        for key in ("scale", "offset", "nodata"):
            value = source.get(f"raster:{key}", source.get(key))
            if value is not None:
                values[key] = parse_number(value, f"{key} of {band}", finite=key != "nodata")
        dtype = source.get("raster:data_type", source.get("data_type", dtype))
    return StatedValues(**values, dtype=dtype if isinstance(dtype, str) else None)


def _band_and_asset(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the asset's one band and the asset itself, whose fields take precedence."""
    first_bands = [bands[0] for key in ("bands", "raster:bands") if (bands := get_list(asset, key))]
    return [source for source in (*first_bands, asset) if isinstance(source, Mapping)]


def _read_unit(asset: Mapping[str, Any], band: str, collection: ProviderCollection) -> str:
    units = [
        unit
        for source in _band_and_asset(asset)
        if (unit := source.get("raster:unit", source.get("unit")))
    ]
    unit_name = str(units[-1]).strip().lower() if units else None
    if get_sensor(collection.modality).group == "elevation":
        if unit_name is None or unit_name in METRE_UNITS:
            return "m"
        raise UnusableItemError(
            f"its elevation is in {format_value(unit_name)}; only metres are supported"
        )
    if unit_name is None and collection.unit is not None:
        return collection.unit
    if unit_name in DECIBEL_UNITS:
        return "dB"
    if unit_name is not None and unit_name in POWER_UNITS:
        return "power"
    statement = (
        "states no unit" if unit_name is None else f"states the unit {format_value(unit_name)}"
    )
    raise UnusableItemError(
        f"its {band} {statement}: power (1) and dB are supported; set `unit:` of the collection in "
        "a provider table (docs/providers.md)"
    )


def _build_radiometry(band: str, scale: float, offset: float, unit: str) -> Radiometry:
    if scale == 0:
        raise UnusableItemError(f"its scale of {band} is 0")
    return Radiometry(scale=scale, offset=offset, unit=unit)


def _resolve_offset(
    item: Mapping[str, Any],
    collection: ProviderCollection,
    stated: float | None,
    baseline: str | None,
) -> tuple[float, str | None]:
    """Return the reflectance offset, and a caveat where the catalog is unclear about it."""
    if isinstance(collection.offset, float):
        return collection.offset, None
    implied = implied_offset(baseline)
    if collection.offset == "removed":
        return 0.0, _removed_offset_caveat(item, stated, baseline if implied else None)
    if collection.offset == "stated-or-baseline" and stated is not None:
        if implied is None or math.isclose(stated, implied, abs_tol=1e-9):
            return stated, None
        stated_text, implied_text = format_apart(stated, implied)
        return stated, (
            f"states an offset of {stated_text} although baseline {baseline} implies "
            f"{implied_text}: taken as stated"
        )
    if implied is None:
        return 0.0, "states neither an offset nor a baseline: taken as 0"
    return implied, None


def _removed_offset_caveat(
    item: Mapping[str, Any], stated: float | None, offset_baseline: str | None
) -> str | None:
    """Return a caveat where an item contradicts that its collection has no offset."""
    flags = {
        key: value
        for key, value in item["properties"].items()
        if key.endswith(":boa_offset_applied")
    }
    if any(value is True for value in flags.values()) or not (stated or offset_baseline):
        return None
    flag = next(
        (f"{key} is {format_value(value)}" for key, value in flags.items()), "no flag of removal"
    )
    statement = f"an offset of {stated:g}" if stated else f"baseline {offset_baseline}"
    return f"{flag} beside {statement}: taken as removed, as in the rest of the collection"
