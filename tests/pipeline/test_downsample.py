"""Pixels aggregated to cells, and grids that consist of whole cells wherever a region begins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.grid.grid import Grid
from pipeline.inference import downsample

CELL = 4


@given(arrays.arrays(np.uint16, (8, 12), elements=st.integers(0, 5)))
def test_half_of_the_pixels_of_a_cell_reach_its_count(counts):
    medians = downsample.upper_median(counts, CELL)
    for row in range(2):
        for column in range(3):
            pixels = counts[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            count = medians[row, column]
            assert (pixels >= count).mean() >= 0.5
            assert (pixels >= count + 1).mean() < 0.5
            assert (count > 0) == ((pixels > 0).mean() >= 0.5)


@given(arrays.arrays(np.uint16, (5, 7), elements=st.integers(0, 60000)))
def test_cells_of_one_pixel_keep_their_values(counts):
    assert np.array_equal(downsample.upper_median(counts, 1), counts)
    assert np.array_equal(downsample.latest_day(counts, 1), counts)
    assert np.array_equal(downsample.any_pixel(counts > 9, 1), counts > 9)
    values = np.where(counts % 3 == 0, np.nan, counts).astype(np.float32)
    assert np.array_equal(downsample.mean(values, 1), values, equal_nan=True)


def test_days_flags_and_means_of_a_cell():
    days = np.zeros((4, 8), np.uint16)
    days[3, 1], days[0, 0] = 20_000, 19_000
    assert downsample.latest_day(days, CELL).tolist() == [[20_000, 0]]
    assert downsample.any_pixel(days > 0, CELL).tolist() == [[True, False]]
    values = np.full((2, 4, 8), np.nan, np.float32)
    values[0, :2, :4], values[1, 3, 5] = 3.0, 8.0
    values[0, 0, 0] = 11.0
    assert np.array_equal(
        downsample.mean(values, CELL), [[[4.0, np.nan]], [[np.nan, 8.0]]], equal_nan=True
    )


grids = st.builds(
    Grid,
    epsg=st.just(32633),
    resolution=st.sampled_from([10.0, 20.0, 2.5]),
    left=st.integers(-400, 400).map(lambda steps: steps * 2.5),
    top=st.integers(-400, 400).map(lambda steps: steps * 2.5),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
)


@given(grids, st.sampled_from([1, 4, 16]))
def test_cells_cover_their_pixels_and_share_an_origin(grid, cell):
    coarse = grid.coarsen(cell)
    left, bottom, right, top = grid.bounds
    assert coarse.resolution == grid.resolution * cell
    assert coarse.left <= left
    assert coarse.top >= top
    assert coarse.bounds[2] >= right
    assert coarse.bounds[1] <= bottom
    assert coarse.height * cell < grid.height + 2 * cell
    assert coarse.width * cell < grid.width + 2 * cell
    pixels = coarse.refine(cell)
    row, column = pixels.origin_index()
    assert (row % cell, column % cell) == (0, 0)
    assert coarse.origin_index() == (row // cell, column // cell)
    assert (grid.left - pixels.left) / grid.resolution == pytest.approx(
        grid.origin_index()[1] - column
    )


def test_a_cell_size_of_one_keeps_the_grid():
    grid = Grid(epsg=32633, resolution=10.0, left=433.0, top=907.5, height=33, width=47)
    assert grid.coarsen(1) == grid == grid.refine(1)
