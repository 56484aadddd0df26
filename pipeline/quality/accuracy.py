"""Measure the accuracy of a map of classes against a reference map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogs.legend import LAND_COVER, Legend

MIN_CLASS_SHARE = 0.005
"""Classes with a smaller share of the reference are left out of the mean F1: too few pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyMetrics:
    """Agreement over the pixels that have a class on both maps."""

    overall: float
    """Share of the pixels with the same class, 0 to 1."""

    macro_f1: float
    """Mean F1 over the classes with at least :data:`MIN_CLASS_SHARE` of the reference."""

    n: int
    """Number of pixels compared."""

    f1: dict[str, float]
    """Class name → F1."""


def confusion_matrix(
    predicted: NDArray[np.uint8], reference: NDArray[np.uint8], legend: Legend = LAND_COVER
) -> NDArray[np.int64]:
    """Count the pixels by reference class and predicted class, where both have one.

    Args:
        predicted: codes of the legend.
        reference: codes of the legend on the same grid; its gaps, such as clouds, count as unknown.
        legend: the legend of both.

    Returns:
        (256, 256): row = code of the reference, column = predicted code. Matrices of the parts of
        a map can be added.
    """
    unknown = [legend.nodata, *(entry.code for entry in legend.classes if entry.is_gap)]
    both = (predicted != legend.nodata) & ~np.isin(reference, unknown)
    size = 256
    flat = reference[both].astype(np.int64) * size + predicted[both]
    return np.bincount(flat, minlength=size * size).reshape(size, size).astype(np.int64)


def compute_accuracy(matrix: NDArray[np.int64], legend: Legend = LAND_COVER) -> AccuracyMetrics:
    """Compute overall accuracy and F1 from a matrix of :func:`confusion_matrix`.

    source: van Rijsbergen, Information Retrieval, 1979, ch. 7.
    """
    total = int(matrix.sum())
    if total == 0:
        return AccuracyMetrics(overall=float("nan"), macro_f1=float("nan"), n=0, f1={})
    correct, actual, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = {
        entry.name: float(2 * correct[entry.code] / (actual[entry.code] + predicted[entry.code]))
        for entry in legend.classes
        if actual[entry.code] >= MIN_CLASS_SHARE * total
    }
    return AccuracyMetrics(
        overall=float(correct.sum() / total),
        macro_f1=float(np.mean(list(f1.values()))),
        n=total,
        f1=f1,
    )
