"""Settle what a catalog states of one asset by the header of its file: docs/files.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from catalogs import href_policy, number_format
from catalogs.scene import Asset, Radiometry, StatedValues
from catalogs.sensors import Sensor
from catalogs.stac import band_names
from catalogs.stac.parsing import UnusableItemError
from catalogs.stac.radiometry import (
    BASELINE_OFFSET,
    DECIBEL_UNITS,
    METRE_UNITS,
    implied_offset,
)
from pipeline.grid.grid import ALIGNMENT_TOLERANCE
from pipeline.reading import raster_header, units
from pipeline.reading.raster_header import RasterHeader
from pipeline.reading.resampling import MASK_UNITS

if TYPE_CHECKING:
    from catalogs.providers import ProviderCollection

POWER_UNIT_TAGS = ("power", "linear", "m2 m-2", "m2/m2", "m^2/m^2")
LENGTH_UNIT_TAGS = ("ft", "foot", "feet", "us-ft", "us survey foot", "cm", "dm", "mm", "km")
"""Unit tags of files that contradict the unit of the sensor, in lower case."""

NO_STATEMENT = StatedValues()

REMEDY = "in a provider table (docs/providers.md)"


@dataclass(slots=True)
class Differences:
    """What the catalog states otherwise than the files: text → bands."""

    bands: dict[str, list[str]] = field(default_factory=dict)

    def add(self, band: str, text: str) -> None:
        """Note a difference of one band."""
        self.bands.setdefault(text, []).append(band)

    def describe(self) -> Iterator[str]:
        """Yield one caveat for all differences."""
        if self.bands:
            parts = "; ".join(f"{', '.join(names)}: {text}" for text, names in self.bands.items())
            yield f"its files are taken as they are: {parts}"


@dataclass(slots=True, kw_only=True)
class AssetRules:
    """What decides beside the catalog and the file, and what was found on the way."""

    sensor: Sensor
    collection: ProviderCollection | None
    """The provider's conventions; None if the scene is of no collection of its table."""

    baseline: str | None
    differences: Differences = field(default_factory=Differences)

    offset_doubt: str | None = None
    """Why the offset may be used only if the pixels confirm it; None if nothing is doubtful."""


def settle_asset(asset: Asset, header: RasterHeader, rules: AssetRules) -> Asset:
    """Return an asset as its file says.

    Raises:
        UnusableItemError: The file cannot be used, or the catalog states what nothing confirms.
    """
    _check_raster(asset, header)
    asset = _settle_georeference(asset, header, rules.differences)
    stated = asset.stated or NO_STATEMENT
    if stated.dtype is not None and stated.dtype != header.dtype:
        rules.differences.add(
            asset.band, f"the catalog states the type {stated.dtype}, the file has {header.dtype}"
        )
    if asset.band not in rules.sensor.mask_bands:
        _check_unit(asset, header)
        radiometry = Radiometry(
            scale=_settle_scale(asset, header, rules),
            offset=_settle_offset(asset, header, rules),
            unit=asset.radiometry.unit,
        )
        asset = replace(asset, radiometry=radiometry)
    nodata, second_nodata = _settle_nodata(asset, header, rules)
    asset = replace(asset, nodata=nodata, second_nodata=second_nodata, stated=None)
    is_unsigned = header.dtype in ("uint8", "uint16") and nodata in (None, 0.0)
    if units.is_unsigned_dn(asset) and not is_unsigned:
        asset = replace(asset, dtype=header.dtype)
    return asset


def _check_raster(asset: Asset, header: RasterHeader) -> None:
    """Raise where a file is no raster of one band with a coordinate system, or of another band."""
    label = f"its {asset.band} ({href_policy.redact(asset.href)})"
    if header.bands != 1:
        raise UnusableItemError(f"{label} has {header.bands} bands: an asset must have one")
    if not raster_header.is_real(header.dtype):
        raise UnusableItemError(
            f"{label} holds complex numbers ({header.dtype}): use a product of intensity"
        )
    if header.crs_wkt is None:
        raise UnusableItemError(
            f"{label} has no coordinate system: an asset must be geocoded (gdalwarp does it by the "
            "ground control points of a file), and side-car files are not read"
        )
    described = band_names.find_bands(header.description) if header.description else frozenset()
    if described and band_names.find_bands(asset.band) and asset.band not in described:
        raise UnusableItemError(f"{label} is the band {header.description} by its own description")


def _settle_georeference(asset: Asset, header: RasterHeader, differences: Differences) -> Asset:
    """Return an asset with the georeference of its file."""
    epsg = asset.epsg
    if epsg is None or not header.has_crs(epsg):
        if epsg is not None:
            actual = "no EPSG code" if header.epsg is None else f"EPSG:{header.epsg}"
            differences.add(asset.band, f"the catalog states EPSG:{epsg}, the file has {actual}")
        epsg = header.epsg
    transform = asset.transform
    shift = 0.0 if transform is None else header.corner_shift(transform)
    if transform is None or not shift <= ALIGNMENT_TOLERANCE:
        if transform is not None and not shift <= raster_header.MAX_CORNER_SHIFT:
            stated, actual = number_format.format_lists_apart(
                transform, header.transform, digits=10
            )
            differences.add(
                asset.band, f"the catalog states the transform {stated}, the file has {actual}"
            )
        transform = header.transform
    if asset.shape is not None and asset.shape != header.shape:
        differences.add(
            asset.band,
            f"the catalog states the shape {list(asset.shape)}, the file has {list(header.shape)}",
        )
    return replace(asset, epsg=epsg, transform=transform, shape=header.shape)


def _check_unit(asset: Asset, header: RasterHeader) -> None:
    """Raise where the unit tag or the vertical system of a file contradicts the unit."""
    tag, unit = header.unit.strip(), asset.radiometry.unit
    label = f"its {asset.band} ({href_policy.redact(asset.href)})"
    if unit == "m":
        vertical = header.vertical_unit
        if tag.lower() in LENGTH_UNIT_TAGS or (
            vertical is not None and not tag and vertical.lower() not in METRE_UNITS
        ):
            raise UnusableItemError(
                f"{label} has heights in {tag or vertical} by its own unit; only metres are "
                "supported"
            )
    other_tags = {"dB": POWER_UNIT_TAGS, "power": DECIBEL_UNITS}.get(unit, ())
    if tag.lower() in other_tags:
        raise UnusableItemError(
            f"the unit of {label} is {tag} by its own tag, but {unit} by the catalog or the "
            f"provider's table: correct `unit:` of the collection {REMEDY}"
        )


def _settle_scale(asset: Asset, header: RasterHeader, rules: AssetRules) -> float:
    """Return the scale: the provider's, the file's, or a confirmed one of the catalog."""
    used, stated = asset.radiometry.scale, (asset.stated or NO_STATEMENT).scale
    sensor, collection = rules.sensor, rules.collection
    if collection is not None and collection.scale is not None:
        return used
    if header.scale not in (0.0, 1.0):
        if math.isclose(header.scale, used, rel_tol=1e-6):
            return used
        rules.differences.add(asset.band, _describe_tag("scale", stated, header.scale))
        return header.scale
    is_float = not header.dtype.startswith(("int", "uint"))
    allowed = [sensor.stored_scale, *([1.0] if sensor.group == "optical" and is_float else [])]
    if stated is None or any(math.isclose(stated, value, rel_tol=1e-6) for value in allowed):
        return used
    stated_text, defined_text = number_format.format_apart(stated, allowed[0])
    raise UnusableItemError(
        f"the scale of its {asset.band} is {stated_text} by the catalog, which neither a tag of "
        f"the file nor the definition of {sensor.name} ({defined_text}) confirms: set `scale:` of "
        f"the collection {REMEDY}"
    )


def _settle_offset(asset: Asset, header: RasterHeader, rules: AssetRules) -> float:
    """Return the offset: by the provider's rule, the file's, or a confirmed one of the catalog."""
    used, stated = asset.radiometry.offset, (asset.stated or NO_STATEMENT).offset
    sensor, rule = rules.sensor, rules.collection.offset if rules.collection else None
    if isinstance(rule, float) or (sensor.group == "optical" and rule in ("removed", "baseline")):
        return used
    if header.offset != 0.0 and not math.isclose(header.offset, used, rel_tol=1e-6):
        rules.differences.add(asset.band, _describe_tag("offset", stated, header.offset))
        used = header.offset
    if stated is None and header.offset == 0.0:
        return used
    if sensor.group != "optical":
        _check_offset(asset, used, (0.0, header.offset), sensor)
    elif sensor.has_baseline:
        _check_offset(asset, used, (0.0, BASELINE_OFFSET), sensor)
        implied = implied_offset(rules.baseline)
        if implied is not None and not math.isclose(used, implied, abs_tol=1e-9):
            stated_text, implied_text = number_format.format_apart(used, implied)
            rules.offset_doubt = (
                f"its offset is stated as {stated_text}, but baseline {rules.baseline} implies "
                f"{implied_text}"
            )
    return used


def _check_offset(asset: Asset, used: float, allowed: Sequence[float], sensor: Sensor) -> None:
    if any(math.isclose(used, value, abs_tol=1e-9) for value in allowed):
        return
    confirming = " or ".join(f"{value:g}" for value in dict.fromkeys(allowed))
    raise UnusableItemError(
        f"the offset of its {asset.band} is stated as {used:g}, which the definition of "
        f"{sensor.name} ({confirming}) does not confirm: set `offset:` of the collection {REMEDY}"
    )


def _settle_nodata(
    asset: Asset, header: RasterHeader, rules: AssetRules
) -> tuple[float | None, float | None]:
    """Return the nodata value, and a second one that the catalog states of an untagged file."""
    used, stated = asset.nodata, (asset.stated or NO_STATEMENT).nodata
    if header.nodata is not None:
        catalog_value = used if stated is None else stated
        if catalog_value is not None and not raster_header.is_same_value(
            catalog_value, header.nodata
        ):
            rules.differences.add(asset.band, _describe_tag("nodata", stated, header.nodata))
        if used is None:
            return None, None
        return header.nodata, _define_second_nodata(asset, header, rules.sensor)
    is_mask = asset.radiometry.unit in MASK_UNITS
    if is_mask or stated is None or not raster_header.can_hold(header.dtype, stated):
        return used, None
    if math.isnan(stated):
        return used, None
        # ^ missing anyway
    return _settle_untagged_nodata(asset, stated, rules)


def _define_second_nodata(asset: Asset, header: RasterHeader, sensor: Sensor) -> float | None:
    """Return the nodata value of the sensor's definition beside another tag of an unsigned file.

    A file of signed integers or floats can hold a reflectance of 0. In one of unsigned integers, 0
    fills the edge of the granule also where the tag is that of saturated pixels, 65535.
    """
    is_measured = asset.radiometry.unit not in MASK_UNITS
    is_defined = sensor.stored_nodata is not None and sensor.stored_nodata != header.nodata
    is_unsigned = header.dtype in ("uint8", "uint16", "uint32")
    return sensor.stored_nodata if is_measured and is_defined and is_unsigned else None


def _settle_untagged_nodata(
    asset: Asset, stated: float, rules: AssetRules
) -> tuple[float | None, float | None]:
    """Return the nodata values of a file without a tag for which the catalog states one."""
    table = rules.collection.nodata if rules.collection else None
    confirmed = rules.sensor.stored_nodata if table is None else table
    if confirmed is not None and raster_header.is_same_value(stated, confirmed):
        return confirmed, None
    if not units.is_plausible(stated, asset.radiometry):
        return (stated, None) if confirmed is None else (confirmed, stated)
    if table is not None:
        stated_text, table_text = number_format.format_apart(stated, table)
        rules.differences.add(
            asset.band,
            f"the catalog states nodata {stated_text}, the provider's table {table_text}",
        )
        return table, None
    definition = "none" if confirmed is None else f"{confirmed:g}"
    raise UnusableItemError(
        f"the nodata value of its {asset.band} is {stated:g} by the catalog, which could be a "
        f"measurement, and neither a tag of the file nor the definition of {rules.sensor.name} "
        f"({definition}) confirms it: set `nodata:` of the collection {REMEDY}"
    )


def _describe_tag(name: str, stated: float | None, tag: float) -> str:
    if stated is None:
        return f"{name} is {tag:g} by the tag of the file"
    stated_text, tag_text = number_format.format_apart(stated, tag)
    return f"the catalog states {name} {stated_text}, the file has {tag_text}"
