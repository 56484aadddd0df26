"""Units: stored numbers → Sentinel-2 DN without offset, Sentinel-1 power → decibel.

Inside the pipeline Sentinel-2 is DN = reflectance × 10 000 without offset (signed), Sentinel-1 is
linear power until the model's door, heights are metres. Each array says its unit in
``attrs["units"]``, and who computes with it asks :func:`expect` first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.errors import Wrong
from catalogs.scene import Radiometry

DN = "1e-4"
"""Unit of Sentinel-2 here: ten-thousandths of reflectance."""

POWER = "m2 m-2"
"""Unit of Sentinel-1 here: backscattered power per area, linear."""

METRE = "m"
UNITS = {"S2L2A": DN, "S1RTC": POWER, "S1GRD": POWER, "DEM": METRE}

QUANTIFICATION = 10_000.0
"""Sentinel-2 DN per unit of reflectance (Products Specification, QUANTIFICATION_VALUE)."""

POWER_FLOOR = 1e-6
"""Minus 60 dB: far below the noise floor of the instrument; keeps the logarithm finite."""


def expect(array: xr.DataArray, unit: str) -> None:
    """Refuse an array whose unit is not the one that the computation is written for.

    Raises:
        Wrong: the unit is another one, or missing.
    """
    found = array.attrs.get("units")
    if found != unit:
        raise Wrong(
            f"{array.name or 'An array'} is in {found!r} where {unit!r} is needed. "
            "Averages and statistics hold in one unit only: convert it first."
        )


def to_dn(stored: NDArray[np.generic], radiometry: Radiometry) -> NDArray[np.float32]:
    """Convert stored Sentinel-2 numbers to DN without offset; values may become negative.

    Whole numbers stay whole: the offset is subtracted as an integer where the product is
    quantised as usual, so that 1…999 with an offset of −1000 neither wraps nor turns to nodata.
    """
    gain = radiometry.scale * QUANTIFICATION
    shift = radiometry.offset * QUANTIFICATION
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


def convert(
    stored: NDArray[np.generic], radiometries: Sequence[Radiometry | None], modality: str
) -> NDArray[np.float32]:
    """Convert a stack of scenes, each by its own radiometry.

    Args:
        stored: (scenes, …) as it lies in the files, missing pixels included.
        radiometries: one per scene; None where the scene lacks the asset.
        modality: which conversion is meant.

    Returns:
        (scenes, …) in the unit of :data:`UNITS`.
    """
    result = np.empty(stored.shape, dtype=np.float32)
    for index, radiometry in enumerate(radiometries):
        if radiometry is None:
            result[index] = np.nan
        elif modality == "S2L2A":
            result[index] = to_dn(stored[index], radiometry)
        elif modality.startswith("S1"):
            result[index] = to_power(stored[index], radiometry)
        else:
            scaled = stored[index].astype(np.float32) * np.float32(radiometry.scale)
            result[index] = scaled + np.float32(radiometry.offset)
    return result
