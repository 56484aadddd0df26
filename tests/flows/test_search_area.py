"""The ground for which scenes are searched: what the tiles of a region need, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.run import scene_search
from pipeline.grid import grid, window_lattice
from pipeline.grid.window_lattice import Lattice
from tests.support import sparse_regions
from tests.support.sparse_regions import SHAPES, to_lonlat

CONTEXT, TILE = 320.0, 320.0
"""Metres: a window of 32 pixels, and tiles of 32 pixels."""


def _ground(*parts):
    return grid.project(
        scene_search.buffer_region(to_lonlat(shapely.union_all(parts)), [32633], CONTEXT, TILE),
        32633,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("origin", [0.0, 3.25])
def test_it_holds_all_that_the_tiles_read(shape, origin):
    region = to_lonlat(SHAPES[shape])
    searched = scene_search.buffer_region(region, [32633], CONTEXT, TILE)
    projected = grid.project(searched, 32633)
    area = grid.build_covering_grid(region, 32633, 10.0, (origin, origin)).coarsen(8).refine(8)
    tiles = grid.split_into_tiles(area, 32)
    lattice = Lattice(window=32, stride=24, context_width=0)
    for tile in grid.select_tiles(tiles, area, grid.project(region, 32633)):
        tile_grid = area.window(
            row=tile.row, column=tile.column, height=tile.height, width=tile.width
        )
        placement = window_lattice.place_windows(tile_grid, lattice)
        read = shapely.box(*placement.context_grid.bounds)
        outer = shapely.box(*grid.project(region, 32633).bounds).buffer(CONTEXT, join_style="mitre")
        # ^ nothing beyond a window around the region has ever been searched
        assert projected.buffer(0.5).covers(read.intersection(outer))


def test_ground_between_far_fields_is_not_searched():
    first, second = sparse_regions.box(0, 0, 90, 90), sparse_regions.box(9000, 0, 90, 90)
    ground = _ground(first, second)
    assert ground.covers(first.buffer(CONTEXT - 1))
    assert ground.covers(second.buffer(CONTEXT - 1))
    assert not ground.intersects(sparse_regions.box(2000, -300, 5000, 600))


def test_the_hole_of_a_ring_is_not_searched():
    ring = sparse_regions.box(0, 0, 9000, 9000).difference(sparse_regions.box(90, 90, 8820, 8820))
    ground = _ground(ring)
    assert ground.covers(ring)
    assert not ground.intersects(sparse_regions.box(2500, 2500, 4000, 4000))


def test_far_islands_in_two_zones_are_searched_apart():
    west, east = shapely.box(8.0, 46.9, 8.01, 46.91), shapely.box(16.0, 46.9, 16.01, 46.91)
    searched = scene_search.buffer_region(
        shapely.union_all([west, east]), [32632, 32633], CONTEXT, TILE
    )
    assert searched.covers(west)
    assert searched.covers(east)
    assert not searched.intersects(shapely.box(8.1, 46, 15.9, 48))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(0, 3000)] * 2, *[st.floats(20, 900)] * 2), min_size=1, max_size=4
    )
)
def test_a_region_without_empty_tiles_is_searched_as_its_bounding_box(corners):
    """Otherwise the scenes of a plan, and with them its digest, would change."""
    region = to_lonlat(shapely.union_all([sparse_regions.box(*corner) for corner in corners]))
    projected = grid.project(region, 32633)
    area = grid.build_covering_grid(region, 32633, 10.0, (0.0, 0.0)).coarsen(16).refine(16)
    tiles = grid.split_into_tiles(area, 32)
    searched = scene_search.buffer_region(region, [32633], CONTEXT, TILE)
    whole = scene_search.buffer_region(region, [32633], CONTEXT, 1e6)
    if len(grid.select_tiles(tiles, area, projected)) == len(tiles):
        assert searched.equals(whole)
    assert whole.buffer(1e-5).covers(searched)
    assert np.all(searched.covers(region))
