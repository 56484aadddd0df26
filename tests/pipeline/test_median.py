"""Medians over days, beside NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compositing import median


@pytest.mark.parametrize("days", [*range(1, 20), 31, 32, 33, 64, 100])
def test_the_median_is_that_of_numpy(days):
    rng = np.random.default_rng(days)
    values = rng.integers(-1000, 20, (days, 7, 300)).astype(np.float32)
    values[rng.random(values.shape) < rng.random((7, 300))] = np.nan
    values[:, 0, :10] = np.nan
    expected = np.full((7, 300), np.nan, np.float32)
    has_values = ~np.isnan(values).all(axis=0)
    expected[has_values] = np.nanmedian(values[:, has_values], axis=0)
    result = np.empty((7, 300), np.float32)
    median.compute_median(np.where(np.isnan(values), median.NO_VALUE, values), result)
    assert np.array_equal(result, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_first_clear_and_valid_scene_is_that_of_its_day(dtype):
    rng = np.random.default_rng(1)
    stored = rng.integers(0, 200, (3, 20, 30)).astype(dtype)
    clear = rng.random(stored.shape) < 0.6
    day = np.full((20, 30), median.NO_VALUE)
    factors, limits = np.array([2, -10], np.float32), np.array([5, 150], np.float32)
    for scene in range(3):
        median.add_scene(stored[scene], clear[scene], factors, limits, day)
    expected = np.full((20, 30), np.inf, np.float32)
    for scene in (2, 1, 0):
        is_used = clear[scene] & (stored[scene] > 5) & (stored[scene] < 150)
        expected[is_used] = stored[scene][is_used].astype(np.float32) * 2 - 10
    assert np.array_equal(day, expected)


def test_nan_is_no_value():
    day = np.full((1, 2), median.NO_VALUE)
    stored = np.array([[np.nan, 3]], np.float32)
    factors, limits = np.array([1, 0], np.float32), np.array([-np.inf, np.inf], np.float32)
    median.add_scene(stored, np.ones((1, 2), np.bool_), factors, limits, day)
    assert day.tolist() == [[np.inf, 3]]
