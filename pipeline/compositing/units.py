"""Units: stored numbers → Sentinel-2 DN without offset, Sentinel-1 power → decibel.

Inside the pipeline Sentinel-2 is DN = reflectance × 10 000 without offset (signed), Sentinel-1 is
linear power until the model's door, heights are metres. Each array says its unit in
``attrs["units"]``, and who computes with it asks :func:`check_unit` first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.errors import InvalidInputError
from catalogs.scene import Radiometry
from catalogs.sensors import DECIBEL as DECIBEL
from catalogs.sensors import DN as DN
from catalogs.sensors import METRE as METRE
from catalogs.sensors import POWER as POWER
from catalogs.sensors import get_sensor

ValuesAndMask = tuple[NDArray[np.float32], NDArray[np.bool_]]
# ^ values, and where they are measurements

QUANTIFICATION_VALUE = 10_000.0
"""Sentinel-2 DN per unit of reflectance (Products Specification, QUANTIFICATION_VALUE)."""

SATURATED_DN = 65535
"""Sentinel-2 DN of a saturated detector (Products Specification, SPECIAL_VALUE): no measurement."""

POWER_FLOOR = 1e-6
"""Minus 60 dB: far below the noise floor of the instrument; keeps the logarithm finite."""

VALID_HEIGHT_RANGE = (-500.0, 9000.0)
"""Metres between which the land lies: the Dead Sea's shore at -430, Everest at 8849."""

CONVERTIBLE_UNITS = {DN: ("reflectance",), POWER: ("power", "dB"), METRE: ("m",)}
"""Units of files that can become each of ours."""


def check_unit(array: xr.DataArray, unit: str) -> None:
    """Refuse an array whose unit is not the one that the computation is written for.

    Raises:
        InvalidInputError: the unit is another one, or missing.
    """
    found = array.attrs.get("units")
    if found != unit:
        raise InvalidInputError(
            f"{array.name or 'An array'} is in {found!r} where {unit!r} is needed. "
            "Averages and statistics hold in one unit only: convert it first."
        )


def is_stored_as_dn(radiometry: Radiometry) -> bool:
    """Return whether reflectance is stored in counts (DN) rather than as itself."""
    return abs(radiometry.scale) < 1
    # ^ 1e-4 a count, against 1


def valid_reflectance_mask(stored: NDArray[Any], radiometry: Radiometry) -> NDArray[np.bool_]:
    """Return where stored Sentinel-2 numbers are measurements.

    Counts of 0 are nodata and of 65535 saturated, whatever the offset; a count below 0 is
    somebody's mark of nodata. Reflectance that is stored as itself may be negative.
    """
    if is_stored_as_dn(radiometry):
        return np.asarray((stored > 0) & (stored < SATURATED_DN))
    return np.asarray(np.isfinite(stored))


def to_dn(stored: NDArray[np.generic], radiometry: Radiometry) -> NDArray[np.float32]:
    """Convert stored Sentinel-2 numbers to DN without offset; values may become negative.

    Whole numbers stay whole: the offset is subtracted as an integer where the product is
    quantised as usual, so that 1…999 with an offset of −1000 neither wraps nor turns to nodata.
    """
    gain = radiometry.scale * QUANTIFICATION_VALUE
    shift = radiometry.offset * QUANTIFICATION_VALUE
    gain, shift = (
        (round(gain, 6), round(shift, 6))
        # ^ 0.0001 and 0.1 have no finite binary form: 1e-4 × 1e4 must be 1
    )
    result = stored.astype(np.float32)
    if gain != 1.0:
        result *= np.float32(gain)
    if shift != 0.0:
        result += np.float32(shift)
    return result


def to_power(stored: NDArray[np.generic], radiometry: Radiometry) -> NDArray[np.float32]:
    """Convert stored Sentinel-1 numbers, linear or decibel, to linear power."""
    values = stored.astype(np.float32) * np.float32(radiometry.scale)
    values += np.float32(radiometry.offset)
    if radiometry.unit == "dB":
        return from_decibel(values)
    return values


def to_decibel(power: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert linear power to decibel; NaN stays NaN, power at or below zero gives −60 dB."""
    floored = np.maximum(power, POWER_FLOOR)
    return np.asarray(10.0 * np.log10(floored), dtype=np.float32)


def from_decibel(decibel: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert decibel to linear power."""
    return np.asarray(10.0 ** (decibel / 10.0), dtype=np.float32)


def to_model_unit(array: xr.DataArray, modality: str) -> xr.DataArray:
    """Return a composite in the unit that models are fed: power becomes decibel, here only.

    Raises:
        InvalidInputError: it is not in the unit of its sensor.
    """
    sensor = get_sensor(modality)
    check_unit(array, sensor.unit)
    if sensor.model_unit != DECIBEL:
        return array
    return array.copy(data=to_decibel(array.values)).assign_attrs(units=DECIBEL)


def convert(
    stored: NDArray[np.generic], radiometries: Sequence[Radiometry | None], unit: str
) -> NDArray[np.float32]:
    """Convert a stack of scenes, each by its own radiometry.

    Args:
        stored: (scenes, …) as it lies in the files, missing pixels included.
        radiometries: one per scene; None where the scene lacks the asset.
        unit: unit of the result: DN, POWER or METRE.

    Returns:
        (scenes, …) in this unit; NaN where nothing was measured.

    Raises:
        InvalidInputError: a scene's numbers are in a unit that cannot be converted to it.
    """
    result = np.empty(stored.shape, dtype=np.float32)
    for index, radiometry in enumerate(radiometries):
        if radiometry is None:
            result[index] = np.nan
            continue
        if radiometry.unit not in CONVERTIBLE_UNITS[unit]:
            raise InvalidInputError(
                f"An asset in {radiometry.unit!r} cannot be converted to {unit!r}, which needs "
                f"{' or '.join(CONVERTIBLE_UNITS[unit])}. Correct the provider's table."
            )
        values, measured = _CONVERSIONS[unit](stored[index], radiometry)
        values[~measured] = np.nan
        result[index] = values
    return result


def _convert_reflectance(stored: Any, radiometry: Radiometry) -> ValuesAndMask:
    return to_dn(stored, radiometry), valid_reflectance_mask(stored, radiometry)


def _convert_backscatter(stored: Any, radiometry: Radiometry) -> ValuesAndMask:
    power = to_power(stored, radiometry)
    return power, power > POWER_FLOOR
    # ^ zeros fill the edges of swaths; below the floor nothing is measured


def _convert_height(stored: Any, radiometry: Radiometry) -> ValuesAndMask:
    height = stored.astype(np.float32) * np.float32(radiometry.scale)
    height += np.float32(radiometry.offset)
    return height, (height > VALID_HEIGHT_RANGE[0]) & (height < VALID_HEIGHT_RANGE[1])
    # ^ −9999, −32768 and other voids whose tag was lost


_CONVERSIONS: Mapping[str, Callable[[Any, Radiometry], ValuesAndMask]] = {
    DN: _convert_reflectance,
    POWER: _convert_backscatter,
    METRE: _convert_height,
}
