"""What an item claims its stored numbers to mean: scale, offset, unit and nodata of an asset."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalogs import providers
from catalogs.errors import InvalidInputError
from catalogs.scene import Radiometry

if TYPE_CHECKING:
    from catalogs.providers.schema import ProviderCollection

REFLECTANCE_SCALE = 0.0001
"""Scale of Sentinel-2 where the catalog states none. source: product definition, 1/10000."""

FIRST_OFFSET_BASELINE = (4, 0)
"""Baseline from which ESA adds 1000 to every Sentinel-2 digital number, L1C and L2A alike.

source: Sentinel-2 processing baseline 04.00, RADIO_ADD_OFFSET and BOA_ADD_OFFSET of the product
metadata; products of 25 January 2022 and later, and all of Collection 1.
"""

BASELINE_OFFSET = -0.1
"""Reflectance to add where that 1000 is still in the pixels."""

DECIBEL_UNITS = ("db", "decibel", "decibels")
POWER_UNITS = ("1", "", "power", "linear", "m2 m-2", "m2/m2", "m^2/m^2", "gamma0", "sigma0")
METRE_UNITS = ("m", "metre", "metres", "meter", "meters")
"""Units as catalogs write them, in lower case."""


class UnusableItemError(InvalidInputError):
    """An item cannot become a scene; the message is the reason, one clause without a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRadiometry:
    """What an asset's numbers mean, and how sure we are of it."""

    radiometry: Radiometry
    nodata: float | None

    caveat: str | None = None
    """What the catalog left open or contradicts, in words for the report."""


def parse_asset(
    item: Mapping[str, Any],
    asset: Mapping[str, Any],
    *,
    band: str,
    collection: ProviderCollection,
    baseline: str | None,
) -> AssetRadiometry:
    """Return what the numbers of one asset mean.

    Args:
        item: The item it belongs to.
        asset: As the item has it.
        band: Our name of its band.
        collection: The conventions of its collection.
        baseline: The item's processing baseline.

    Raises:
        Unusable: It states what is no number, or not the unit that must be known.
    """
    stated = _read_raster_fields(asset, band)
    scale, offset = stated.get("scale"), stated.get("offset")
    nodata = stated.get("nodata", collection.nodata)
    if band == "SCL":
        return AssetRadiometry(radiometry=Radiometry(scale=1, offset=0, unit="class"), nodata=0.0)
    if band == "CLD":
        return AssetRadiometry(
            radiometry=Radiometry(scale=1, offset=0, unit="probability"), nodata=None
        )
        # ^ 0 percent is a probability, although some catalogs call it nodata
    if collection.modality in ("S2L2A", "S2L1C"):
        value, doubt = _resolve_offset(item, collection, offset, baseline)
        scale = REFLECTANCE_SCALE if scale is None else scale
        return AssetRadiometry(
            radiometry=_build_radiometry(band, scale, value, "reflectance"),
            nodata=0.0,
            caveat=doubt,
        )
        # ^ nodata: Sentinel-2 product definition; the tag is often missing from catalog and file
    unit = _read_unit(asset, band, collection)
    return AssetRadiometry(
        radiometry=_build_radiometry(band, 1.0 if scale is None else scale, offset or 0.0, unit),
        nodata=nodata,
    )


def parse_number(value: object, label: str, *, finite: bool = True) -> float:
    """Return a number that JSON holds as such or as a word ("nan", "-0.1").

    Raises:
        Unusable: It is none, or not finite where it must be; says what it should have been.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = None
        if found is not None and (math.isfinite(found) or not finite):
            return found
    raise UnusableItemError(f"its {label} is {format_value(value)}, which is no number")


def format_value(value: object) -> str:
    """Return a foreign value for a message: short, and in signs that any terminal can print."""
    text = ascii(value) if isinstance(value, str) else reprlib.repr(value)
    # ^ reprlib stops at a depth, so that a list nested a thousand times can be told of
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}..."


def _read_raster_fields(asset: Mapping[str, Any], band: str) -> dict[str, float]:
    """Return scale, offset and nodata, wherever this version of STAC keeps them."""
    found: dict[str, float] = {}
    for source in _band_and_asset(asset):
        for key in ("scale", "offset", "nodata"):
            value = source.get(f"raster:{key}", source.get(key))
            if value is not None:
                found[key] = parse_number(value, f"{key} of {band}", finite=key != "nodata")
    return found


def _band_and_asset(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the asset's one band and the asset itself, whose word counts more."""
    firsts = [bands[0] for key in ("bands", "raster:bands") if (bands := get_list(asset, key))]
    return [source for source in (*firsts, asset) if isinstance(source, Mapping)]


def get_list(asset: Mapping[str, Any], key: str) -> list[Any]:
    """Return what an asset lists under a key; nothing where it has no list there."""
    value = asset.get(key)
    return value if isinstance(value, list) else []


def _read_unit(asset: Mapping[str, Any], band: str, collection: ProviderCollection) -> str:
    stated = [
        unit for one in _band_and_asset(asset) if (unit := one.get("raster:unit", one.get("unit")))
    ]
    word = str(stated[-1]).strip().lower() if stated else None
    if collection.modality == "DEM":
        if word is None or word in METRE_UNITS:
            return "m"
        raise UnusableItemError(f"its elevation is in {format_value(word)}, and metres are read")
    if word is None and collection.unit is not None:
        return collection.unit
    if word in DECIBEL_UNITS:
        return "dB"
    if word is not None and word in POWER_UNITS:
        return "power"
    what = "states no unit" if word is None else f"states the unit {format_value(word)}"
    raise UnusableItemError(
        f"its {band} {what}: power (1) and dB are read, and a table of one's own can say which"
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
    """Return the reflectance to add, and a doubt about it."""
    if isinstance(collection.offset, float):
        return collection.offset, None
    known = providers.parse_baseline(baseline)
    implied = BASELINE_OFFSET if known is not None and known >= FIRST_OFFSET_BASELINE else 0.0
    if collection.offset == "removed":
        return 0.0, _removed_offset_caveat(item, stated, baseline if implied else None)
    if collection.offset == "stated-or-baseline" and stated is not None:
        if known is None or math.isclose(stated, implied, abs_tol=1e-9):
            return stated, None
        return stated, (
            f"states an offset of {stated:g} although baseline {baseline} implies {implied:g}: "
            "taken as stated"
        )
    if known is None:
        return 0.0, "states neither an offset nor a baseline: taken as 0"
    return implied, None


def _removed_offset_caveat(
    item: Mapping[str, Any], stated: float | None, offset_baseline: str | None
) -> str | None:
    """Return what speaks against an offset that the whole collection is free of."""
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
    claim = f"an offset of {stated:g}" if stated else f"baseline {offset_baseline}"
    return f"{flag} beside {claim}: taken as removed, as in the rest of the collection"
