"""Average predictions over the eight symmetries of a square where the model is uncertain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.predictor_protocol import Predictor

SYMMETRIES = tuple((turn, mirrored) for turn in range(4) for mirrored in (False, True))
"""Number of quarter turns, and whether the image is mirrored first; the first is the identity."""


def predict(
    predictor: Predictor,
    chips: Mapping[str, NDArray[np.float32]],
    origins: Sequence[tuple[int, int]],
    tta_threshold: float | None,
) -> tuple[NDArray[np.float32], ...]:
    """Predict a batch; average the classes of uncertain windows over the symmetries.

    Args:
        predictor: the model.
        chips: as in :meth:`Predictor.predict`.
        origins: as in :meth:`Predictor.predict`.
        tta_threshold: a window is uncertain if the probability of the most probable class, averaged
            over the window, is lower; None = no window is uncertain.

    Returns:
        As :meth:`Predictor.predict`.
    """
    outputs = predictor.predict(chips, origins)
    indices = [index for index, spec in enumerate(predictor.outputs) if spec.task == "land_cover"]
    if tta_threshold is None or not indices:
        return outputs
    (index,) = indices
    confidence = np.nan_to_num(outputs[index].max(axis=1)).mean(axis=(1, 2))
    has_data = np.any([np.isfinite(chip).any(axis=(1, 2, 3)) for chip in chips.values()], axis=0)
    uncertain = has_data & (confidence < tta_threshold)
    # ^ windows that only fill up the batch have no data
    if not uncertain.any():
        return outputs
    total = outputs[index].astype(np.float32, copy=True)
    uncertain_chips = {
        modality: np.where(uncertain[:, None, None, None], chip, np.float32(np.nan))
        for modality, chip in chips.items()
    }
    for turns, mirrored in SYMMETRIES[1:]:
        transformed = {
            modality: np.ascontiguousarray(_apply_symmetry(chip, turns, mirrored))
            for modality, chip in uncertain_chips.items()
        }
        output = predictor.predict(transformed, origins)[index]
        total[uncertain] += _invert_symmetry(output, turns, mirrored)[uncertain]
    total[uncertain] /= len(SYMMETRIES)
    return (*outputs[:index], total, *outputs[index + 1 :])


def _apply_symmetry(values: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    return np.rot90(values[..., ::-1] if mirrored else values, turns, axes=(-2, -1))


def _invert_symmetry(values: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    rotated = np.rot90(values, -turns, axes=(-2, -1))
    return rotated[..., ::-1] if mirrored else rotated
