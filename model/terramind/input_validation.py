"""Checks of what a caller passes in: types, token ids, finite values, standardised values, units.

They run once, where data enter: when an encoder is called, when a generator gets a request, in the
tokenizers and in the predictors. The `forward` of every module trusts its arguments. Shapes are
checked by the embeddings (`check_input`), which know them.

A wrong unit does not fail by itself: the values are standardised like any others, and the map is
nonsense. The rules for units look at each window alone, and are wide enough for every real scene:
dark water of a few DN, snow above 16 000 DN, bright towns above 0 dB. What values alone do not tell
(an offset, feet instead of metres) is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.modalities import MODALITIES_BY_KEY, RasterModality

ValueArray = NDArray[np.generic]
Float32Array = NDArray[np.float32]

_MAX_STANDARDISED_MEAN = 50.0
"""Largest mean of standardised pixels, in standard deviations; real scenes stay far below it."""

VALUE_RANGES: Mapping[str, tuple[float, float]] = {
    "DN": (-5_000.0, 100_000.0),
    "dB": (-100.0, 100.0),
    "m": (-9_000.0, 10_000.0),
    "count": (-256.0, 512.0),
}
"""Widest range of valid values by unit, with a reserve for resampling; fill values exceed it."""

_UNIT_DESCRIPTIONS = {
    "DN": "DN (reflectance x 10 000, without offset)",
    "dB": "decibel, 10 * log10(power)",
    "m": "metres",
    "count": "display values of 0 to 255",
}

_SAMPLE_SIDE = 56
"""Number of pixels along a side that a window is thinned to before its unit is guessed."""

_MIN_VALUES = 64
"""Number of values below which no unit is guessed."""


# --- tensors --------------------------------------------------------------------------------------


def check_is_mapping(inputs: object, names: Iterable[str]) -> None:
    """Refuse inputs that are not given by name.

    Args:
        inputs: what the caller passed.
        names: the names that are known, for the message.

    Raises:
        ModelError: not a mapping.
    """
    if not isinstance(inputs, Mapping):
        raise ModelError(
            f"tensors by name expected, not {type(inputs).__name__}; the names: "
            f"{join_names(names, 9)}"
        )


def check_tensor(name: str, value: object) -> None:
    """Refuse a value that is not a torch tensor.

    Raises:
        ModelError: with the call that makes a tensor of it.
    """
    if not isinstance(value, Tensor):
        kind = type(value)
        how = "torch.from_numpy(array)" if kind.__module__ == "numpy" else "torch.as_tensor(values)"
        raise ModelError(f"{name}: a torch tensor expected, not {kind.__name__}; {how} makes one")


def check_batch_sizes(inputs: Mapping[str, Tensor]) -> None:
    """Refuse inputs with different numbers of samples, or with none.

    Raises:
        ModelError: with the size of each input.
    """
    sizes = {name: len(value) if value.ndim else 0 for name, value in inputs.items()}
    if len(set(sizes.values())) != 1 or not min(sizes.values()):
        raise ModelError(f"the batch sizes differ, or are zero: {sizes}")


def check_token_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    """Refuse token ids that are not whole numbers from 0 to `vocab_size` - 1.

    Raises:
        ModelError: another number type, or an id outside the vocabulary.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ModelError(
            f"{name}: token ids must be whole numbers, not {ids.dtype}; encode a raster of this "
            "modality with its tokenizer first"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ModelError(
            f"{name}: token ids must lie in 0..{vocab_size - 1}, not in "
            f"{int(ids.min())}..{int(ids.max())}"
        )


def check_finite(name: str, value: Tensor) -> None:
    """Refuse pixels that are NaN or infinite; whole numbers pass.

    Raises:
        ModelError: with the modality's name and the remedy.
    """
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ModelError(
            f"{name} holds NaN or infinite pixels: attention would spread them to every token; "
            "fill them first (0 after standardisation = the mean)"
        )


def check_standardised(name: str, key: str, value: Tensor) -> None:
    """Refuse raw pixels where standardised ones are expected.

    Args:
        name: the modality, as the caller names it.
        key: its official key; new modalities, token ids and classes pass.
        value: (B, C, H, W).

    Raises:
        ModelError: the mean is too far from zero.
    """
    if isinstance(MODALITIES_BY_KEY.get(key), RasterModality) and value.numel():
        mean = float(value.float().mean().abs())
        if _MAX_STANDARDISED_MEAN < mean < inf:
            raise ModelError(
                f"{name}: the mean is {mean:.0f}, but standardised pixels are expected, around 0: "
                "subtract the modality's mean and divide by its standard deviation first (a "
                "generator does so with standardize=True)"
            )


# --- units ----------------------------------------------------------------------------------------


def check_units(name: str, key: str, value: Tensor) -> None:
    """Refuse pixels (B, C, H, W) that are clearly in another unit than the modality's own.

    Args:
        name: the modality, as the caller names it.
        key: its official key.
        value: pixels; token ids and classes pass.

    Raises:
        ModelError: with the unit that is expected.
    """
    modality = MODALITIES_BY_KEY.get(key)
    if isinstance(modality, RasterModality) and value.ndim == 4:
        pixels = value.detach().cpu()
        pixels = pixels.float() if pixels.is_floating_point() else pixels
        check_window_units(modality, pixels.numpy())
    elif modality is not None and modality.name == "NDVI" and bool((value.abs() > 1).any()):
        raise ModelError(f"{name}: values of -1 to 1 expected, (B08 - B04) / (B08 + B04)")


def check_window_units(modality: RasterModality, values: ValueArray) -> None:
    """Refuse windows (B, C, H, W) whose values cannot be in the modality's unit; NaN = missing.

    Raises:
        ModelError: infinite, outside the physical range, or in another unit that is recognised; the
            message tells which unit is expected and how to convert.
    """
    bytes_for_measurements = values.dtype.itemsize == 1 and modality.unit != "count"
    if values.dtype.kind not in "fiu" or bytes_for_measurements:
        raise ModelError(
            f"{modality.name}: values of type {values.dtype}; expected is "
            f"{_describe_unit(modality)} as float32 (bytes are a picture of a measurement, not the "
            "measurement)"
        )
    if not values.size:
        return
    flat = values.reshape(len(values), -1)
    low, high = np.fmin.reduce(flat, axis=1), np.fmax.reduce(flat, axis=1)
    # ^ (B,), without NaN; NaN where a window has no values
    _check_limits(modality, low, high)
    step = max(1, min(values.shape[2:]) // _SAMPLE_SIDE)
    thinned = values[:, :, ::step, ::step].astype(np.float32)
    for index, sample in enumerate(thinned):
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
                f"{_describe_unit(modality)}, and NaN for missing values (the logarithm of zero "
                "power is infinite: set a floor before)"
            )
        if lowest < least or highest > most:
            raise ModelError(
                f"{modality.name}, window {index}: values of {lowest:.6g} to {highest:.6g}; "
                f"expected is {_describe_unit(modality)}, which stay within {least:.6g} to "
                f"{most:.6g}. Give NaN for fill values such as -9999 or -32768, and convert the "
                "rest"
            )


def _describe_unit(modality: RasterModality) -> str:
    return _UNIT_DESCRIPTIONS[modality.unit]


def _guess_unit(unit: str, sample: Float32Array) -> str:
    """Name the other unit that a window's values (C, h, w) are clearly in; empty if none."""
    valid = sample[np.isfinite(sample)]
    if valid.size < _MIN_VALUES:
        return ""
    if unit == "dB" and (valid < 0).mean() < 0.02:
        # ^ nearly all values of a real window are below 0 dB; of a town's window, more than half
        return "linear power or amplitudes (nothing below zero): take 10 * log10(power)"
    if unit == "DN" and _is_fraction(valid, 2.0):
        return "reflectance of 0 to 1, or standardised already: multiply reflectance by 10 000"
    if unit == "DN" and _is_8bit(sample):
        return "an 8-bit picture (bands that end at 255 exactly): give the measured DN"
    if unit == "count" and _is_fraction(valid, 1.5):
        return "brightness of 0 to 1, or standardised already: multiply brightness by 255"
    return ""


def _is_fraction(values: Float32Array, limit: float) -> bool:
    """Tell fractions around zero from a few DN over dark water.

    DN are whole numbers, or halves where two dates were averaged; zeros may be missing values.
    """
    nonzero = values[values != 0]
    if nonzero.size < _MIN_VALUES:
        return False
    small = (np.abs(nonzero) <= limit).mean()
    fractional = (2 * nonzero != np.rint(2 * nonzero)).mean()
    return bool(small >= 0.999 and fractional >= 0.5)


def _is_8bit(sample: Float32Array) -> bool:
    """Tell bytes: whole, not below zero, and several bands that are cut off at 255."""
    bands = [band[np.isfinite(band)] for band in sample]
    if not all(band.size and band.min() >= 0 and band.max() <= 255 for band in bands):
        return False
    saturated = [band for band in bands if (band == 255).sum() >= 8]
    whole = all((band == np.rint(band)).all() for band in bands)
    return whole and len(saturated) >= min(3, len(bands))
