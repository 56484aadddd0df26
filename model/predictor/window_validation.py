"""Validation of input windows, done before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError, join_names
from model.terramind.input_validation import check_window_units
from model.terramind.modalities import PATCH_SIZE, RASTER_MODALITIES

Chips = Mapping[str, NDArray[np.float32]]
"""Windows (B, C, H, W) by modality."""

InputBands = Mapping[str, tuple[str, ...]]
"""Bands by modality."""

NanPolicy = Literal["refuse", "fill"]


def validate_chips(
    chips: Chips, inputs: InputBands, nan_policy: NanPolicy
) -> tuple[Chips, tuple[int, int, int]]:
    """Check windows against the inputs of a model, and return them with their B, H and W.

    With the policy "fill" infinity becomes NaN: radar without an echo is 10 * log10(0).

    Args:
        chips: windows (B, C, H, W) by modality.
        inputs: the bands of the model's inputs.
        nan_policy: whether NaN is an error or a missing pixel.

    Raises:
        ModelError: no or an unknown modality, a wrong shape or unit, or NaN that is refused.
    """
    unknown = [name for name in chips if name not in inputs]
    if unknown or not chips:
        raise ModelError(
            f"inputs {join_names(chips)}: the model was loaded for {join_names(inputs)}"
        )
    shapes = {name: np.shape(values) for name, values in chips.items()}
    for name, shape in shapes.items():
        _check_shape(name, inputs[name], shape)
    batch, _, height, width = next(iter(shapes.values()))
    if any((shape[0], *shape[2:]) != (batch, height, width) for shape in shapes.values()):
        raise ModelError(f"the inputs differ in batch size or in height and width: {shapes}")
    if height % PATCH_SIZE or width % PATCH_SIZE or not height * width:
        raise ModelError(f"windows must be multiples of {PATCH_SIZE} px, not {height} x {width}")
    if nan_policy == "fill":
        chips = {name: _infinity_to_nan(values) for name, values in chips.items()}
    for name, values in chips.items():
        if name in RASTER_MODALITIES:
            check_window_units(RASTER_MODALITIES[name], np.asarray(values))
        if nan_policy == "refuse" and not np.isfinite(values).all():
            raise ModelError(
                f"{name} holds NaN: every pixel is expected to have a value. Leave out a "
                "modality that is missing, fill the pixels, or load the model with "
                'nan_policy="fill", which takes NaN as the mean of the training data'
            )
    return chips, (batch, height, width)


def compute_data_mask(chips: Chips, inputs: InputBands) -> NDArray[np.bool_]:
    """Return which windows have data of which modalities.

    Returns:
        (B, modalities of the chips, in the order of the inputs).
    """
    ordered = [chips[name] for name in inputs if name in chips]
    return np.stack([np.isfinite(values).any(axis=(1, 2, 3)) for values in ordered], axis=1)


def _infinity_to_nan(values: NDArray[np.float32]) -> NDArray[np.float32]:
    infinite = np.isinf(values)
    return np.where(infinite, np.float32(np.nan), values) if infinite.any() else values


def _check_shape(name: str, bands: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(shape) == 4 and shape[1] == len(bands):
        return
    if len(shape) in (3, 4) and shape[-1] == len(bands):
        hint = ". The channels are last: move them before height and width"
    elif len(shape) == 3 and shape[0] == len(bands):
        hint = ". One window is a batch of one: values[None]"
    else:
        hint = ""
    raise ModelError(
        f"{name}: (B, {len(bands)}, H, W) expected, not {shape}: {join_names(bands, 13)}{hint}"
    )
