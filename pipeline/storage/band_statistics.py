"""Compute statistics of each band and a checksum of a raster, strip by strip."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.layer_table import Layer


@dataclass(frozen=True, kw_only=True)
class BandStatistics:
    """Statistics of one band, in stored values (before the layer's scale)."""

    valid: int
    """Pixels that are not nodata."""

    total: int
    """All pixels."""

    minimum: float | None
    """Smallest valid value; None without valid pixels."""

    maximum: float | None
    """Largest valid value; None without valid pixels."""

    mean: float | None
    """Mean of the valid values; None for labels and without valid pixels."""

    stddev: float | None
    """Population standard deviation of the valid values; None where the mean is."""

    counts: Mapping[int, int] | None
    """Value → pixels, nodata included, for 8-bit and 16-bit unsigned layers; else None."""

    @property
    def valid_percent(self) -> float:
        """Return the percentage of pixels that are not nodata."""
        return 100.0 * self.valid / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        counts = self.counts
        return {
            "valid": self.valid,
            "total": self.total,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "mean": self.mean,
            "stddev": self.stddev,
            "counts": None if counts is None else {str(key): counts[key] for key in counts},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BandStatistics:
        """Build the statistics from the values of :meth:`to_dict`."""
        counts = values["counts"]
        integer_counts = None if counts is None else {int(key): int(counts[key]) for key in counts}
        return cls(**{**values, "counts": integer_counts})


class RasterStatistics:
    """Statistics and checksum of a raster that is passed strip by strip."""

    def __init__(self, layer: Layer, band_count: int) -> None:
        self.layer = layer
        self.count = band_count
        self.checksum = 0
        self.bands = [RunningBandStatistics(layer) for _ in range(band_count)]

    def add(self, strip: NDArray[Any]) -> None:
        """Add a strip, (bands, rows, columns)."""
        self.checksum = zlib.crc32(np.ascontiguousarray(strip).data, self.checksum)
        for band, values in zip(self.bands, strip, strict=True):
            band.add(values)

    def statistics(self) -> tuple[BandStatistics, ...]:
        """Return the statistics of each band."""
        return tuple(band.statistics() for band in self.bands)


class RunningBandStatistics:
    """Running statistics of one band.

    source: Chan, Golub, LeVeque (1979), updating formulae for means and variances of groups.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.total = self.valid = 0
        self.minimum, self.maximum = np.inf, -np.inf
        self.mean = self.squares = 0.0
        dtype = np.dtype(layer.dtype)
        self.counts = (
            np.zeros(1 << (8 * dtype.itemsize), np.int64)
            if dtype.kind == "u" and dtype.itemsize <= 2
            else None
        )

    def add(self, values: NDArray[Any]) -> None:
        """Add the values of one strip."""
        self.total += values.size
        if self.counts is not None:
            self.counts += np.bincount(values.ravel(), minlength=self.counts.size)
        valid = values[self.layer.valid_mask(values)]
        if valid.size == 0:
            return
        self.minimum = min(self.minimum, float(valid.min()))
        self.maximum = max(self.maximum, float(valid.max()))
        if not self.layer.is_categorical:
            self._merge(valid.astype(np.float64))
        self.valid += valid.size

    def _merge(self, values: NDArray[np.float64]) -> None:
        """Merge the mean and the sum of squared deviations of a group into the running ones."""
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        total = self.valid + values.size
        step = mean - self.mean
        self.mean += step * values.size / total
        self.squares += squares + step * step * self.valid * values.size / total

    def statistics(self) -> BandStatistics:
        """Return the statistics of the values added so far."""
        has_values = self.valid > 0
        has_moments = has_values and not self.layer.is_categorical
        return BandStatistics(
            valid=self.valid,
            total=self.total,
            minimum=self.minimum if has_values else None,
            maximum=self.maximum if has_values else None,
            mean=self.mean if has_moments else None,
            stddev=float(np.sqrt(self.squares / self.valid)) if has_moments else None,
            counts=None
            if self.counts is None
            else {int(value): int(self.counts[value]) for value in np.flatnonzero(self.counts)},
        )
