"""Medians over days, in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

COLUMN_CHUNK = 256
"""Columns that are sorted at a time, so that their values stay in the cache of the processor."""


@njit(nogil=True, cache=True)
def compute_daily_median(
    stored: NDArray[Any],
    clear: NDArray[np.bool_],
    days: NDArray[np.int64],
    factors: NDArray[np.float32],
    limits: NDArray[np.float32],
    result: NDArray[np.float32],
) -> None:
    """Compute the median of the days of each pixel; NaN where there is no value.

    The value of a day is that of its first scene that is clear and valid. An even number of values
    gives the mean of the middle two.

    Args:
        stored: (scene, y, x) stored values.
        clear: (scene, y, x) whether the observation is clear.
        days: (scene,) number of the day: 0, 1, 2, …
        factors: (scene, 2): the value is stored * the first + the second.
        limits: (scene, 2): measurements are greater than the first and less than the second.
        result: (y, x), written.
    """
    height, width = result.shape
    daily = np.empty((days.max() + 1, COLUMN_CHUNK), np.float32)
    counts = np.empty(COLUMN_CHUNK, np.int64)
    for row in range(height):
        for first in range(0, width, COLUMN_CHUNK):
            stop = min(first + COLUMN_CHUNK, width)
            daily[:] = np.inf
            for scene in range(len(stored)):
                _add_scene(
                    stored[scene, row, first:stop],
                    clear[scene, row, first:stop],
                    factors[scene],
                    limits[scene],
                    daily[days[scene]],
                )
            counts[:] = 0
            for day in range(len(daily)):
                for column in range(COLUMN_CHUNK):
                    counts[column] += daily[day, column] < np.inf
            _sort_columns(daily)
            for column in range(stop - first):
                count = counts[column]
                if count:
                    middle = daily[(count - 1) // 2, column] + daily[count // 2, column]
                    result[row, first + column] = middle / np.float32(2)
                else:
                    result[row, first + column] = np.nan


@njit(nogil=True, cache=True)
def _add_scene(
    stored: NDArray[Any],
    clear: NDArray[np.bool_],
    factors: NDArray[np.float32],
    limits: NDArray[np.float32],
    daily: NDArray[np.float32],
) -> None:
    """Write the values of a scene where its day has none, which is infinity."""
    factor, offset = factors
    lowest, highest = limits
    for column in range(len(stored)):
        pixel = np.float32(stored[column])
        is_used = clear[column] & (pixel > lowest) & (pixel < highest) & (daily[column] == np.inf)
        daily[column] = pixel * factor + offset if is_used else daily[column]


@njit(nogil=True, cache=True)
def _sort_columns(values: NDArray[np.float32]) -> None:
    """Sort each column, by Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2, algorithm M).

    Which rows are compared does not depend on the values, so that whole rows are compared at once.
    """
    count = len(values)
    largest = 1
    while 2 * largest < count:
        largest *= 2
    step = largest
    while step > 0:
        gap, remainder, distance = largest, 0, step
        while True:
            for row in range(count - distance):
                if row & step == remainder:
                    _exchange(values[row], values[row + distance])
            if gap == step:
                break
            distance, gap, remainder = gap - step, gap // 2, step
        step //= 2


@njit(nogil=True, cache=True)
def _exchange(lower: NDArray[np.float32], upper: NDArray[np.float32]) -> None:
    for column in range(len(lower)):
        first, second = lower[column], upper[column]
        lower[column] = min(second, first)
        upper[column] = max(first, second)
