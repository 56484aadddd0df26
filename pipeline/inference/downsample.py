"""Downsample layers to the stride of a model output: ``factor`` x ``factor`` pixels make a cell.

With a factor of 1 all values stay as they are. The number of observations of a cell is one that at
least half of its pixels reach. So a cell is observed if, and only if, at least half of it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_pixels(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Group pixels (..., y, x) by cell: (..., y / factor, x / factor, factor * factor)."""
    *depth, height, width = values.shape
    split = values.reshape(*depth, height // factor, factor, width // factor, factor)
    by_cell = np.moveaxis(split, -3, -2)
    return by_cell.reshape(*depth, height // factor, width // factor, factor * factor)


def upper_median(counts: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the upper median of each cell: the largest count that half of its pixels reach."""
    size = factor * factor
    return np.partition(group_pixels(counts, factor), size // 2, axis=-1)[..., size // 2]


def latest_day(days: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the latest day of each cell; 0 = no day."""
    latest: NDArray[np.uint16] = group_pixels(days, factor).max(axis=-1)
    return latest


def earliest_day(days: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the earliest day of each cell; 0 = no day."""
    shifted = group_pixels(days - np.uint16(1), factor).min(axis=-1)
    # ^ 0 wraps around to the largest number, so that it is never the minimum beside a day
    return np.asarray(shifted + np.uint16(1), dtype=np.uint16)


def any_pixel(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Return where any pixel of a cell is True."""
    return np.asarray(group_pixels(mask, factor).any(axis=-1), dtype=np.bool_)


def mean(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return the mean of each cell without NaN; NaN if all pixels are NaN."""
    if factor == 1:
        return values
    pixels = group_pixels(values, factor)
    finite = np.isfinite(pixels)
    total = np.where(finite, pixels, 0).sum(axis=-1, dtype=np.float64)
    count = finite.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
