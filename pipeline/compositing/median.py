"""Medians over days, in compiled loops.

They run over whole rows, so that the compiler makes one instruction of many pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.compiled_loops import compile_loop

NO_VALUE = np.float32(np.inf)
"""Value of a day without an observation; it is sorted behind all others."""


@compile_loop
def add_scene(
    stored: NDArray[Any],
    clear: NDArray[np.bool_],
    factors: NDArray[np.float32],
    limits: NDArray[np.float32],
    day: NDArray[np.float32],
) -> None:
    """Write the values of a scene into those of its day, where these are :data:`NO_VALUE`.

    Args:
        stored: (y, x) stored values.
        clear: (y, x) whether the observation is clear.
        factors: the value is stored * the first + the second.
        limits: measurements are greater than the first stored value and less than the second.
        day: (y, x) values of the day, written.
    """
    factor, offset = factors
    lowest, highest = limits
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            pixel = np.float32(stored[row, column])
            is_used = (
                clear[row, column]
                & (pixel > lowest)
                & (pixel < highest)
                & (day[row, column] == NO_VALUE)
            )
            day[row, column] = pixel * factor + offset if is_used else day[row, column]


@compile_loop
def compute_median(days: NDArray[np.float32], result: NDArray[np.float32]) -> None:
    """Compute the median over the days; NaN where there is no value.

    An even number of values gives the mean of the middle two.

    Args:
        days: (day, y, x) values or :data:`NO_VALUE`; sorted in place.
        result: (y, x), written.
    """
    count, height, width = days.shape
    counts = np.empty(width, np.int64)
    for row in range(height):
        counts[:] = 0
        for day in range(count):
            for column in range(width):
                counts[column] += days[day, row, column] < NO_VALUE
        _sort_columns(days[:, row])
        for column in range(width):
            values = counts[column]
            if values:
                middle = days[(values - 1) // 2, row, column] + days[values // 2, row, column]
                result[row, column] = middle / np.float32(2)
            else:
                result[row, column] = np.nan


@compile_loop
def _sort_columns(values: NDArray[np.float32]) -> None:
    """Sort each column, by Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2, algorithm M).

    Which rows are compared does not depend on the values.
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


@compile_loop
def _exchange(lower: NDArray[np.float32], upper: NDArray[np.float32]) -> None:
    for column in range(len(lower)):
        first, second = lower[column], upper[column]
        lower[column] = min(first, second)
        upper[column] = max(first, second)
