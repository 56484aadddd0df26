"""Pixels summed up for the coarser cells of an answer: what was seen, how often, and when.

A cell that is one pixel keeps its value. One rule decides what a cell has: a number of
observations that at least half of its pixels reach. So a cell counts as observed if, and only if,
at least half of it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_pixels(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return pixels (..., y, x) by cell: (..., y / cell, x / cell, cell * cell)."""
    *depth, height, width = values.shape
    split = values.reshape(*depth, height // factor, factor, width // factor, factor)
    together = np.moveaxis(split, -3, -2)
    return together.reshape(*depth, height // factor, width // factor, factor * factor)


def upper_median(counts: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the largest count that at least half of each cell's pixels reach: the upper median."""
    size = factor * factor
    return np.partition(group_pixels(counts, factor), size // 2, axis=-1)[..., size // 2]


def latest_day(days: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the latest day of each cell's pixels."""
    last: NDArray[np.uint16] = group_pixels(days, factor).max(axis=-1)
    return last


def earliest_day(days: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the earliest day of each cell's pixels; 0, no day, where none has one."""
    later = group_pixels(days - np.uint16(1), factor).min(axis=-1)
    # ^ no day becomes the largest number, so that it is never the least
    return np.asarray(later + np.uint16(1), dtype=np.uint16)


def any_pixel(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Return where any pixel of a cell is set."""
    return np.asarray(group_pixels(mask, factor).any(axis=-1), dtype=np.bool_)


def mean(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return the mean of each cell's pixels that have a value; NaN where none has."""
    if factor == 1:
        return values
    pixels = group_pixels(values, factor)
    known = np.isfinite(pixels)
    total = np.where(known, pixels, 0).sum(axis=-1, dtype=np.float64)
    count = known.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
