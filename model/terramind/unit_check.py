"""Whether numbers are in the unit that the statistics hold for: asked before they are standardised.

A wrong unit does not fail by itself: standardised it looks like weather, and the map is nonsense.
The rules see one window at a time, so that no window is judged by its neighbours, and each is wide
enough for every real scene: dark water of a few DN, snow above 16 000 DN, bright towns above 0 dB.
What cannot be known from the numbers (an offset, feet for metres) is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.terramind.modalities import RasterModality

ValueArray = NDArray[np.generic]
Float32Array = NDArray[np.float32]

VALUE_RANGES: Mapping[str, tuple[float, float]] = {
    "DN": (-5_000.0, 100_000.0),
    "dB": (-100.0, 100.0),
    "m": (-9_000.0, 10_000.0),
    "count": (-256.0, 512.0),
}
"""What no datum of a unit exceeds, with room for resampling; fill values such as -9999 do."""

_UNIT_DESCRIPTIONS = {
    "DN": "DN (reflectance x 10 000, without offset)",
    "dB": "decibel, 10 * log10(power)",
    "m": "metres",
    "count": "display values of 0 to 255",
}

_SAMPLE_SIDE = 56
"""A window is looked at on every n-th pixel: about this many along a side."""

_MIN_VALUES = 64
"""Fewer numbers than these say nothing about their unit."""


def check_window_units(modality: RasterModality, values: ValueArray) -> None:
    """Refuse windows (B, C, H, W) whose numbers cannot be in the modality's unit; NaN = missing.

    Raises:
        ModelError: infinite, outside of any physical range, or in a unit that is recognised; the
            message says which was expected and how to get there.
    """
    picture = values.dtype.itemsize == 1 and modality.unit != "count"
    if values.dtype.kind not in "fiu" or picture:
        raise ModelError(
            f"{modality.name}: values of type {values.dtype}; expected is {_describe_unit(modality)} as "
            "float32 (bytes are a picture of a measurement, not the measurement)"
        )
    if not values.size:
        return
    flat = values.reshape(len(values), -1)
    low, high = np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)
    # ^ (B,), NaN left out; NaN where nothing is there
    _check_limits(modality, low, high)
    step = max(1, min(values.shape[2:]) // _SAMPLE_SIDE)
    thin = values[:, :, ::step, ::step].astype(np.float32)
    for index, sample in enumerate(thin):
        guess = _guess_unit(modality.unit, sample)
        if guess:
            raise ModelError(
                f"{modality.name}, window {index}: values of {low[index]:.4g} to "
                f"{high[index]:.4g} look like {guess}; expected is {_describe_unit(modality)}"
            )


def _check_limits(modality: RasterModality, low: ValueArray, high: ValueArray) -> None:
    least, most = VALUE_RANGES[modality.unit]
    for index, (lowest, highest) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if np.isinf(lowest) or np.isinf(highest):
            raise ModelError(
                f"{modality.name}, window {index}: infinite values; expected is "
                f"{_describe_unit(modality)}, and NaN for what is missing (the logarithm of zero power is "
                "infinite: set a floor before)"
            )
        if lowest < least or highest > most:
            raise ModelError(
                f"{modality.name}, window {index}: values of {lowest:.6g} to {highest:.6g}; "
                f"expected is {_describe_unit(modality)}, which stay within {least:.6g} to {most:.6g}. "
                "Give NaN for fill values such as -9999 or -32768, and convert the rest"
            )


def _describe_unit(modality: RasterModality) -> str:
    return _UNIT_DESCRIPTIONS[modality.unit]


def _guess_unit(unit: str, sample: Float32Array) -> str:
    """Say in which other unit a window's values (C, h, w) clearly are; empty if in none."""
    there = sample[np.isfinite(sample)]
    if there.size < _MIN_VALUES:
        return ""
    if unit == "dB" and (there < 0).mean() < 0.02:
        # ^ of a real window nearly all is below 0 dB, of a town's still more than half
        return "linear power or amplitudes (nothing below zero): take 10 * log10(power)"
    if unit == "DN" and _is_fraction(there, 2.0):
        return "reflectance of 0 to 1, or standardised already: multiply reflectance by 10 000"
    if unit == "DN" and _is_8bit(sample):
        return "an 8-bit picture (bands that end at 255 exactly): give the measured DN"
    if unit == "count" and _is_fraction(there, 1.5):
        return "brightness of 0 to 1, or standardised already: multiply brightness by 255"
    return ""


def _is_fraction(values: Float32Array, limit: float) -> bool:
    """Tell numbers around zero with digits behind the point from a few DN over dark water.

    DN are whole, and halves where two dates were averaged; zeros may be what was not seen.
    """
    told = values[values != 0]
    if told.size < _MIN_VALUES:
        return False
    small = (np.abs(told) <= limit).mean()
    broken = (2 * told != np.rint(2 * told)).mean()
    return bool(small >= 0.999 and broken >= 0.5)


def _is_8bit(sample: Float32Array) -> bool:
    """Tell bytes: whole, not below zero, and several bands that are cut off at the same 255."""
    bands = [band[np.isfinite(band)] for band in sample]
    if not all(band.size and band.min() >= 0 and band.max() <= 255 for band in bands):
        return False
    cut = [band for band in bands if (band == 255).sum() >= 8]
    whole = all((band == np.rint(band)).all() for band in bands)
    return whole and len(cut) >= min(3, len(bands))
