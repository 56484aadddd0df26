"""Accuracy of a map: confusion matrix, overall accuracy, macro-F1, inside parcels and at edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError

MIN_CLASS_SHARE = 0.005
"""Minimum share of a class in the truth to enter macro-F1: scores of rarer ones are too noisy."""


def confusion_matrix(
    truth: NDArray[np.uint8], prediction: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels by truth (rows) and prediction (columns); truth outside the classes is left out.

    Raises:
        ModelError: the shapes differ, or a prediction where the truth is known is not a class.
    """
    if truth.shape != prediction.shape:
        raise ModelError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    known = truth < classes
    rows, columns = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    if columns.size and not 0 <= columns.min() <= columns.max() < classes:
        raise ModelError(f"the prediction holds values outside of 0..{classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def overall_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of correct pixels; NaN for an empty matrix."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def f1_by_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 per class; NaN for a class in neither truth nor prediction."""
    twice_correct = 2.0 * np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    values = np.full(len(confusion), np.nan)
    np.divide(twice_correct, total, out=values, where=total > 0)
    return values


def macro_f1(confusion: NDArray[np.int64], minimum_share: float = MIN_CLASS_SHARE) -> float:
    """Return the mean F1 over the classes with at least a minimum share of the truth."""
    share = confusion.sum(axis=1) / max(int(confusion.sum()), 1)
    included = share >= minimum_share
    return float(f1_by_class(confusion)[included].mean()) if included.any() else float("nan")


def edge_mask(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that have another class among their eight neighbours."""
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    edge = np.zeros(labels.shape, bool)
    for row in range(3):
        for column in range(3):
            edge |= padded[row : row + height, column : column + width] != labels
    return edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a map, for the model card."""

    overall: float
    macro_f1: float
    inside: float
    """Overall accuracy of pixels whose eight neighbours have the same true class."""

    edge: float
    """Overall accuracy of all other pixels."""

    by_class: tuple[float, ...]
    """F1; NaN where a class does not occur."""

    pixels: int

    def to_mapping(self) -> dict[str, object]:
        """Return rounded JSON-ready values; a class that does not occur is None."""
        return {
            "overall": round(self.overall, 4),
            "macro_f1": round(self.macro_f1, 4),
            "inside": round(self.inside, 4),
            "edge": round(self.edge, 4),
            "by_class": [None if np.isnan(v) else round(v, 4) for v in self.by_class],
            "pixels": self.pixels,
        }


def compute_scores(
    truths: Sequence[NDArray[np.uint8]], predictions: Sequence[NDArray[np.integer]], classes: int
) -> Scores:
    """Return the scores of several maps together.

    Args:
        truths: (H, W) of each map; values outside the classes are left out.
        predictions: (H, W) of each map.
        classes: their number.
    """
    inside = np.zeros((classes, classes), np.int64)
    edge = np.zeros_like(inside)
    for truth, prediction in zip(truths, predictions, strict=True):
        mask = edge_mask(truth)
        at_edges = confusion_matrix(truth[mask], prediction[mask], classes)
        edge += at_edges
        inside += confusion_matrix(truth, prediction, classes) - at_edges
    confusion = inside + edge
    return Scores(
        overall=overall_accuracy(confusion),
        macro_f1=macro_f1(confusion),
        inside=overall_accuracy(inside),
        edge=overall_accuracy(edge),
        by_class=tuple(float(value) for value in f1_by_class(confusion)),
        pixels=int(confusion.sum()),
    )
