"""How far a map agrees with a known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogs import legend

MIN_CLASS_SHARE = 0.005
"""Classes of the truth below this share are left out of the mean F1: too few pixels decide them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyMetrics:
    """Agreement over the pixels where both map and truth have a class."""

    overall: float
    """Share of the pixels with the same class, 0 to 1."""

    macro_f1: float
    """Mean F1 over the truth's classes that hold at least half a percent of the pixels."""

    n: int
    """Pixels compared."""

    f1: dict[str, float]
    """F1 of each such class."""


def compare_maps(predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> AccuracyMetrics:
    """Compare a map with the truth, pixel by pixel, where both have a class.

    Args:
        predicted: codes of the legend, 0 = no answer.
        reference: codes of the legend on the same grid, 0 = unknown; clouds count as unknown.
    """
    return compute_accuracy(confusion_matrix(predicted, reference))


def confusion_matrix(
    predicted: NDArray[np.uint8], reference: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count the pixels by their code in the truth and on the map, where both have a class.

    Args:
        predicted: codes of the legend, 0 = no answer.
        reference: codes of the legend on the same grid, 0 = unknown; clouds count as unknown.

    Returns:
        (256, 256), codes of the truth down; parts of a map add up.
    """
    clouds = legend.CLASS_BY_NAME["clouds"].code
    both = (predicted != legend.NODATA) & (reference != legend.NODATA) & (reference != clouds)
    size = 256
    flat = reference[both].astype(np.int64) * size + predicted[both]
    return np.bincount(flat, minlength=size * size).reshape(size, size).astype(np.int64)


def compute_accuracy(matrix: NDArray[np.int64]) -> AccuracyMetrics:
    """Return what a matrix of :func:`confusion_matrix` says.

    Returns:
        Overall accuracy and macro F1 (van Rijsbergen, Information Retrieval, 1979, ch. 7).
    """
    total = int(matrix.sum())
    if total == 0:
        return AccuracyMetrics(overall=float("nan"), macro_f1=float("nan"), n=0, f1={})
    hits, actual, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = {
        entry.name: float(2 * hits[entry.code] / (actual[entry.code] + said[entry.code]))
        for entry in legend.CLASSES
        if actual[entry.code] >= MIN_CLASS_SHARE * total
    }
    return AccuracyMetrics(
        overall=float(hits.sum() / total),
        macro_f1=float(np.mean(list(f1.values()))),
        n=total,
        f1=f1,
    )
