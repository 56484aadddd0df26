"""The eight symmetries of a square: where a model is unsure, it is asked from all sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.predictor import Predictor

SYMMETRIES = tuple((turn, mirrored) for turn in range(4) for mirrored in (False, True))
"""Quarter turns, and whether a mirror comes first; the first one changes nothing."""


def predict(
    predictor: Predictor,
    chips: Mapping[str, NDArray[np.float32]],
    places: Sequence[tuple[int, int]],
    tta_threshold: float | None,
) -> tuple[NDArray[np.float32], ...]:
    """Predict a batch; land cover that is unsure in a window is the mean over the symmetries.

    Args:
        predictor: the model.
        chips: as :meth:`Predictor.predict` takes them.
        places: as :meth:`Predictor.predict` takes them.
        tta_threshold: mean probability of the most probable class below which a window is unsure; it is
            decided by the window alone. None = no window is.
    """
    answers = predictor.predict(chips, places)
    which = [index for index, said in enumerate(predictor.outputs) if said.task == "land_cover"]
    if tta_threshold is None or not which:
        return answers
    (index,) = which
    sure = np.nan_to_num(answers[index].max(axis=1)).mean(axis=(1, 2))
    given = np.any([np.isfinite(one).any(axis=(1, 2, 3)) for one in chips.values()], axis=0)
    unsure = given & (sure < tta_threshold)
    # ^ what only fills up a batch has no data
    if not unsure.any():
        return answers
    total = answers[index].astype(np.float32, copy=True)
    asked = {
        name: np.where(unsure[:, None, None, None], one, np.float32(np.nan))
        for name, one in chips.items()
    }
    for turn, mirrored in SYMMETRIES[1:]:
        turned = {
            name: np.ascontiguousarray(_apply_symmetry(one, turn, mirrored))
            for name, one in asked.items()
        }
        found = predictor.predict(turned, places)[index]
        total[unsure] += _invert_symmetry(found, turn, mirrored)[unsure]
    total[unsure] /= len(SYMMETRIES)
    return (*answers[:index], total, *answers[index + 1 :])


def _apply_symmetry(values: NDArray[Any], turn: int, mirrored: bool) -> NDArray[Any]:
    return np.rot90(values[..., ::-1] if mirrored else values, turn, axes=(-2, -1))


def _invert_symmetry(values: NDArray[Any], turn: int, mirrored: bool) -> NDArray[Any]:
    straight = np.rot90(values, -turn, axes=(-2, -1))
    return straight[..., ::-1] if mirrored else straight
