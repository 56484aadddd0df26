"""How good a map is: confusion, overall accuracy, macro-F1, inside parcels and at their edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError

MIN_CLASS_SHARE = 0.005
"""Classes below this share of the truth do not enter macro-F1: a few pixels decide nothing."""


def confusion_matrix(
    truth: NDArray[np.uint8], prediction: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels by truth (rows) and answer (columns); truth outside the classes is left out.

    Raises:
        ModelError: the shapes differ, or an answer where truth is known is no class.
    """
    if truth.shape != prediction.shape:
        raise ModelError(f"truth {truth.shape} and answer {prediction.shape} differ in shape")
    known = truth < classes
    rows, columns = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    if columns.size and not 0 <= columns.min() <= columns.max() < classes:
        raise ModelError(f"the answer holds values outside of 0..{classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def overall_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of right answers; NaN for an empty table."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def f1_by_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 per class; NaN for a class that neither truth nor answer has."""
    twice_right = 2.0 * np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    values = np.full(len(confusion), np.nan)
    np.divide(twice_right, total, out=values, where=total > 0)
    return values


def macro_f1(confusion: NDArray[np.int64], minimum_share: float = MIN_CLASS_SHARE) -> float:
    """Return the mean F1 over the classes with at least this share of the truth."""
    share = confusion.sum(axis=1) / max(int(confusion.sum()), 1)
    chosen = share >= minimum_share
    return float(f1_by_class(confusion)[chosen].mean()) if chosen.any() else float("nan")


def edge_mask(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell the pixels that have another class among their eight neighbours."""
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    edge = np.zeros(labels.shape, bool)
    for row in range(3):
        for column in range(3):
            edge |= padded[row : row + height, column : column + width] != labels
    return edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is said of a map in a card."""

    overall: float
    macro_f1: float
    inside: float
    """Overall accuracy of pixels whose eight neighbours are of their own class."""

    edge: float
    """Overall accuracy of all other pixels."""

    by_class: tuple[float, ...]
    """F1; NaN where a class does not occur."""

    pixels: int

    def to_mapping(self) -> dict[str, object]:
        """Return plain values, rounded; a class that does not occur is None."""
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
    """Score several maps as one."""
    inside = np.zeros((classes, classes), np.int64)
    edge = np.zeros_like(inside)
    for truth, answer in zip(truths, predictions, strict=True):
        rim = edge_mask(truth)
        rim_table = confusion_matrix(truth[rim], answer[rim], classes)
        edge += rim_table
        inside += confusion_matrix(truth, answer, classes) - rim_table
    table = inside + edge
    return Scores(
        overall=overall_accuracy(table),
        macro_f1=macro_f1(table),
        inside=overall_accuracy(inside),
        edge=overall_accuracy(edge),
        by_class=tuple(float(value) for value in f1_by_class(table)),
        pixels=int(table.sum()),
    )
