"""Baseline classifier of single pixels: quadratic discriminant analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError

FloatArray = NDArray[np.float64]
_RIDGE = 1e-6
_CHUNK_SIZE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Qda:
    """Quadratic discriminant analysis: means, full covariances and priors of the classes."""

    means: FloatArray
    """(K, F)."""

    covariances: FloatArray
    """(K, F, F)."""

    priors: FloatArray
    """(K,), zero for a class without samples."""

    @classmethod
    def fit(cls, features: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> Qda:
        """Estimate the classes from complete samples (N, F) with labels (N,).

        Samples with a missing feature or a label outside of the classes are left out.

        Raises:
            ModelError: there is no complete sample with a valid label.
        """
        complete = np.isfinite(features).all(axis=1) & (labels >= 0) & (labels < classes)
        x, y = np.asarray(features[complete], np.float64), labels[complete]
        if not len(x):
            raise ModelError("no complete sample with a known class to fit the baseline to")
        width = x.shape[1]
        means, covariances = np.zeros((classes, width)), np.zeros((classes, width, width))
        counts = np.bincount(y.astype(np.int64), minlength=classes)
        ridge = _RIDGE * np.diag(x.var(axis=0) + 1e-12)
        for label in np.flatnonzero(counts):
            samples = x[y == label]
            means[label] = samples.mean(axis=0)
            centred = samples - means[label]
            covariances[label] = centred.T @ centred / len(samples) + ridge
        return cls(means=means, covariances=covariances, priors=counts / counts.sum())

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the most probable class (N,) of features (N, F); NaN features are marginalised."""
        predicted = np.empty(len(features), np.int64)
        for start in range(0, len(features), _CHUNK_SIZE):
            chunk = np.asarray(features[start : start + _CHUNK_SIZE], np.float64)
            predicted[start : start + _CHUNK_SIZE] = self._log_posteriors(chunk).argmax(axis=1)
        return predicted

    def _log_posteriors(self, x: FloatArray) -> FloatArray:
        valid = np.isfinite(x)
        patterns, pattern_indices = np.unique(valid, axis=0, return_inverse=True)
        scores = np.empty((len(x), len(self.priors)))
        for index, pattern in enumerate(patterns):
            rows = np.flatnonzero(pattern_indices.ravel() == index)
            scores[rows] = self._score_complete(x[np.ix_(rows, np.flatnonzero(pattern))], pattern)
        return scores

    def _score_complete(self, x: FloatArray, features: NDArray[np.bool_]) -> FloatArray:
        """Return log density plus log prior (N, K) of samples that have exactly some features."""
        scores = np.full((len(x), len(self.priors)), -np.inf)
        for label in np.flatnonzero(self.priors):
            scores[:, label] = np.log(self.priors[label])
            if features.any():
                root = np.linalg.cholesky(self.covariances[label][np.ix_(features, features)])
                whitened = np.linalg.solve(root, (x - self.means[label][features]).T)
                scores[:, label] -= 0.5 * (whitened**2).sum(axis=0) + np.log(np.diag(root)).sum()
        return scores
