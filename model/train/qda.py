"""The honest baseline: every pixel by itself, one Gaussian per class (quadratic discriminant)."""

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
    """Means, full covariances and priors of the classes."""

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
            ModelError: no usable sample.
        """
        used = np.isfinite(features).all(axis=1) & (labels >= 0) & (labels < classes)
        x, y = np.asarray(features[used], np.float64), labels[used]
        if not len(x):
            raise ModelError("no complete sample with a known class to fit the baseline to")
        width = x.shape[1]
        means, covariances = np.zeros((classes, width)), np.zeros((classes, width, width))
        counts = np.bincount(y.astype(np.int64), minlength=classes)
        ridge = _RIDGE * np.diag(x.var(axis=0) + 1e-12)
        for kind in np.flatnonzero(counts):
            own = x[y == kind]
            means[kind] = own.mean(axis=0)
            centred = own - means[kind]
            covariances[kind] = centred.T @ centred / len(own) + ridge
        return cls(means=means, covariances=covariances, priors=counts / counts.sum())

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the most probable class (N,); missing features are integrated out."""
        answer = np.empty(len(features), np.int64)
        for start in range(0, len(features), _CHUNK_SIZE):
            part = np.asarray(features[start : start + _CHUNK_SIZE], np.float64)
            answer[start : start + _CHUNK_SIZE] = self._log_posteriors(part).argmax(axis=1)
        return answer

    def _log_posteriors(self, x: FloatArray) -> FloatArray:
        here = np.isfinite(x)
        patterns, which = np.unique(here, axis=0, return_inverse=True)
        result = np.empty((len(x), len(self.priors)))
        for index, pattern in enumerate(patterns):
            rows = np.flatnonzero(which.ravel() == index)
            result[rows] = self._score_complete(x[np.ix_(rows, np.flatnonzero(pattern))], pattern)
        return result

    def _score_complete(self, x: FloatArray, features: NDArray[np.bool_]) -> FloatArray:
        """Return log density plus log prior for samples that have exactly these features."""
        scores = np.full((len(x), len(self.priors)), -np.inf)
        for kind in np.flatnonzero(self.priors):
            scores[:, kind] = np.log(self.priors[kind])
            if features.any():
                root = np.linalg.cholesky(self.covariances[kind][np.ix_(features, features)])
                white = np.linalg.solve(root, (x - self.means[kind][features]).T)
                scores[:, kind] -= 0.5 * (white**2).sum(axis=0) + np.log(np.diag(root)).sum()
        return scores
