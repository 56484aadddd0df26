"""The lattice of windows, and the weights of blending."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid import window_lattice
from pipeline.grid.grid import Grid
from pipeline.grid.window_lattice import Lattice
from pipeline.inference import blend

lattices = st.builds(
    lambda context, ramp, flat: Lattice(
        window=2 * context + 2 * ramp + flat, stride=ramp + flat, context_width=context
    ),
    st.integers(0, 8),
    st.integers(0, 20),
    st.integers(1, 40),
)


@given(lattices, st.integers(-500, 500), st.integers(1, 200))
def test_the_weights_sum_to_one_everywhere(lattice, first, count):
    weight_sum = np.zeros(count)
    for start in lattice.window_starts(first, count):
        for index, weight in enumerate(blend.compute_axis_weights(lattice)):
            if first <= start + index < first + count:
                weight_sum[start + index - first] += weight
    assert weight_sum == pytest.approx(1.0, abs=1e-6)


@given(lattices, st.integers(-500, 500), st.integers(1, 200))
def test_every_window_of_a_tile_has_weight_in_it(lattice, first, count):
    for start in lattice.window_starts(first, count):
        assert start % lattice.stride == 0
        weighted_positions = np.flatnonzero(blend.compute_axis_weights(lattice)) + start
        assert ((weighted_positions >= first) & (weighted_positions < first + count)).any()


def test_a_lattice_with_gaps_is_refused():
    with pytest.raises(ValueError, match="left out"):
        Lattice(window=64, stride=60, context_width=4)


@given(st.integers(-30, 30), st.integers(-30, 30))
def test_tiles_and_crops_share_their_windows(row, column):
    lattice = Lattice(window=32, stride=20, context_width=2)
    grid = Grid(epsg=32633, resolution=10.0, left=503.25, top=907.5, height=90, width=80)
    crop = grid.window(row=row, column=column, height=40, width=40)

    def find_windows(window_grid):
        placement = window_lattice.place_windows(window_grid, lattice)
        top, left = placement.context_grid.origin_index()
        return {(top + row, left + column) for row, column in placement.window_origins}

    all_windows = find_windows(grid.window(row=-30, column=-30, height=160, width=160))
    assert find_windows(crop) <= all_windows


def test_the_context_contains_every_window():
    lattice = Lattice(window=32, stride=20, context_width=2)
    grid = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=50, width=50)
    placement = window_lattice.place_windows(
        grid.window(row=16, column=16, height=16, width=16), lattice
    )
    for row, column in placement.window_origins:
        assert 0 <= row <= placement.context_grid.height - 32
        assert 0 <= column <= placement.context_grid.width - 32
    x = placement.context_grid.left + placement.tile_offset[1] * 10
    y = placement.context_grid.top - placement.tile_offset[0] * 10
    assert (x, y) == (160.0, -160.0)


def test_the_ramp_has_the_smallest_possible_step():
    lattice = Lattice(window=224, stride=208, context_width=0)
    assert np.diff(blend.compute_axis_weights(lattice)).max() == pytest.approx(1 / 16)


def test_a_coarse_lattice_covers_the_same_area():
    lattice = Lattice(window=224, stride=192, context_width=16)
    assert lattice.coarsen(16) == Lattice(window=14, stride=12, context_width=1)
    with pytest.raises(ValueError, match="cells of 16"):
        Lattice(window=224, stride=200, context_width=0).coarsen(16)
