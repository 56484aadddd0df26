"""Convert stored values to physical units, and check the unit of arrays.

Inside the pipeline Sentinel-2 is DN = reflectance × 10 000 without offset (signed), Sentinel-1 is
linear power and becomes decibel only as an input of a model, heights are metres. Each array states
its unit in ``attrs["units"]``; code that depends on the unit calls :func:`check_unit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, Radiometry
from catalogs.sensors import DECIBEL, DN, METRE, POWER, get_sensor

if TYPE_CHECKING:
    import xarray as xr
# ^ slow to import, and a run that finds its product finished does not need it

ValuesAndMask = tuple[NDArray[np.float32], NDArray[np.bool_]]
# ^ values, and which of them are measurements

QUANTIFICATION_VALUE = 10_000.0
"""Sentinel-2 DN per unit of reflectance (Products Specification, QUANTIFICATION_VALUE)."""

SATURATED_DN = 65535
"""Sentinel-2 DN of a saturated detector (Products Specification, SPECIAL_VALUE): no measurement."""

VALID_REFLECTANCE_RANGE = (-0.2, 2.5)
"""Lowest and highest valid reflectance.

Atmospheric correction goes slightly below zero, and what marks missing pixels far below. The upper
limit is above any cloud's. Fires and mirrors exceed it, so it only tells evident nodata values.
"""

VALID_POWER_RANGE = (1e-6, 1e4)
"""Lowest and highest valid backscatter: -60 dB, and 40 dB, above any corner reflector's."""

POWER_FLOOR = VALID_POWER_RANGE[0]
"""-60 dB: far below the noise floor of the instrument; keeps the logarithm finite."""

VALID_HEIGHT_RANGE = (-500.0, 9000.0)
"""Lowest and highest valid height in metres: the Dead Sea's shore is at -430, Everest at 8849."""

CONVERTIBLE_UNITS = {DN: ("reflectance",), POWER: ("power", "dB"), METRE: ("m",)}
"""Unit in the pipeline -> units of stored values that can be converted to it."""


def check_unit(array: xr.DataArray, unit: str) -> None:
    """Raise an error if an array is not in the expected unit.

    Raises:
        InvalidInputError: the unit is another one, or missing.
    """
    array_unit = array.attrs.get("units")
    if array_unit != unit:
        raise InvalidInputError(
            f"{array.name or 'An array'} has the unit {array_unit!r}, but {unit!r} is needed. "
            "Convert it first: averages and statistics in another unit are wrong."
        )


def is_stored_as_dn(radiometry: Radiometry) -> bool:
    """Return whether reflectance is stored as DN (scale 1e-4) rather than as itself (scale 1)."""
    return abs(radiometry.scale) < 1


def is_unsigned_dn(asset: Asset) -> bool:
    """Return whether an asset holds reflectance as unsigned DN of 16 bits in which 0 is nodata."""
    radiometry = asset.radiometry
    return radiometry.unit == "reflectance" and is_stored_as_dn(radiometry) and asset.dtype is None


def reflectance_limits(radiometry: Radiometry, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the stored Sentinel-2 values between which measurements lie, without the limits.

    In unsigned integers, a DN of 0 is nodata. In floating point, NaN is: values that are nodata in
    a file are NaN there, 0 and negative values are measurements, and only values far below any
    reflectance are missing (-9999 in a file without a nodata tag). A DN of 65535 is saturated.
    """
    if np.issubdtype(dtype, np.integer):
        return 0, SATURATED_DN
    lowest = (VALID_REFLECTANCE_RANGE[0] - radiometry.offset) / radiometry.scale
    return lowest, SATURATED_DN if is_stored_as_dn(radiometry) else math.inf


def valid_reflectance_mask(stored: NDArray[Any], radiometry: Radiometry) -> NDArray[np.bool_]:
    """Return where stored Sentinel-2 values are measurements; see :func:`reflectance_limits`."""
    lowest, highest = reflectance_limits(radiometry, stored.dtype)
    return np.asarray((stored > lowest) & (stored < highest))


def dn_factors(radiometry: Radiometry) -> tuple[float, float]:
    """Return (factor, offset): DN without offset is stored * factor + offset.

    Of a product with the usual scale the offset is an integer, so that whole numbers stay whole.
    """
    # 0.0001 and 0.1 are no exact binary numbers: 1e-4 × 1e4 must be 1
    scale = round(radiometry.scale * QUANTIFICATION_VALUE, 6)
    return scale, round(radiometry.offset * QUANTIFICATION_VALUE, 6)


def is_plausible(stored: float, radiometry: Radiometry) -> bool:
    """Return whether a stored value could be a measurement, so that it is no evident nodata."""
    value = stored * radiometry.scale + radiometry.offset
    if radiometry.unit == "reflectance":
        saturated = is_stored_as_dn(radiometry) and stored >= SATURATED_DN
        return not saturated and VALID_REFLECTANCE_RANGE[0] <= value <= VALID_REFLECTANCE_RANGE[1]
    if radiometry.unit == "m":
        return VALID_HEIGHT_RANGE[0] <= value <= VALID_HEIGHT_RANGE[1]
    lowest, highest = VALID_POWER_RANGE
    if radiometry.unit == "dB":
        lowest, highest = 10 * np.log10(lowest), 10 * np.log10(highest)
    return bool(lowest <= value <= highest)


def to_dn(stored: NDArray[np.generic], radiometry: Radiometry) -> NDArray[np.float32]:
    """Convert stored Sentinel-2 values to DN without offset; values may become negative.

    With an offset of -1000, 1…999 neither wrap around nor become nodata.
    """
    scale, offset = dn_factors(radiometry)
    result = stored.astype(np.float32)
    if scale != 1.0:
        result *= np.float32(scale)
    if offset != 0.0:
        result += np.float32(offset)
    return result


def to_power(stored: NDArray[np.generic], radiometry: Radiometry) -> NDArray[np.float32]:
    """Convert stored Sentinel-1 values, linear or decibel, to linear power."""
    values = stored.astype(np.float32) * np.float32(radiometry.scale)
    values += np.float32(radiometry.offset)
    if radiometry.unit == "dB":
        return from_decibel(values)
    return values


def to_decibel(power: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert linear power to decibel; NaN stays NaN, power at or below zero gives -60 dB."""
    floored = np.maximum(power, POWER_FLOOR)
    return np.asarray(10.0 * np.log10(floored), dtype=np.float32)


def from_decibel(decibel: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert decibel to linear power."""
    return np.asarray(10.0 ** (decibel / 10.0), dtype=np.float32)


def to_model_unit(array: xr.DataArray, modality: str) -> xr.DataArray:
    """Convert a composite to the unit of model inputs: power becomes decibel.

    Raises:
        InvalidInputError: the composite is not in the unit of its sensor.
    """
    sensor = get_sensor(modality)
    check_unit(array, sensor.unit)
    if sensor.model_unit != DECIBEL:
        return array
    return array.copy(data=to_decibel(array.values)).assign_attrs(units=DECIBEL)


def convert(
    stored: NDArray[np.generic], radiometries: Sequence[Radiometry | None], unit: str
) -> NDArray[np.float32]:
    """Convert stored values of several scenes, each by its own radiometry.

    Args:
        stored: (scene, ...) stored values, nodata included.
        radiometries: radiometry of each scene; None if the scene lacks the asset.
        unit: unit of the result: DN, POWER or METRE.

    Returns:
        (scene, ...) in that unit; NaN = no measurement.

    Raises:
        InvalidInputError: the unit of a scene's values cannot be converted to it.
    """
    result = np.empty(stored.shape, dtype=np.float32)
    for index, radiometry in enumerate(radiometries):
        if radiometry is None:
            result[index] = np.nan
            continue
        check_convertible(radiometry, unit)
        values, measured = _CONVERSIONS[unit](stored[index], radiometry)
        values[~measured] = np.nan
        result[index] = values
    return result


def check_convertible(radiometry: Radiometry, unit: str) -> None:
    """Raise an error if stored values cannot be converted to a unit.

    Raises:
        InvalidInputError: they cannot.
    """
    if radiometry.unit not in CONVERTIBLE_UNITS[unit]:
        raise InvalidInputError(
            f"The unit of an asset is {radiometry.unit!r}, but a composite in {unit!r} needs "
            f"{' or '.join(CONVERTIBLE_UNITS[unit])}. Correct the table of the provider."
        )


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
    # ^ other values are voids such as -9999 and -32768 in files without a nodata tag


_CONVERSIONS: Mapping[str, Callable[[Any, Radiometry], ValuesAndMask]] = {
    DN: _convert_reflectance,
    POWER: _convert_backscatter,
    METRE: _convert_height,
}
