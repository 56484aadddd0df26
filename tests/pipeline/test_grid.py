"""Geometry of grids, tiles and zones."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.features import geometry_mask

from catalogs.errors import InvalidInputError
from pipeline.grid import grid
from pipeline.grid.grid import Grid
from tests.support import small_worlds

SMALL = Grid(epsg=32633, resolution=10.0, left=500_000.0, top=5_200_000.0, height=70, width=50)


def test_a_grid_without_pixels_cannot_be_made():
    with pytest.raises(ValueError, match="at least one row"):
        Grid(epsg=32633, resolution=10.0, left=0, top=0, height=0, width=1)
    with pytest.raises(ValueError, match="positive resolution"):
        Grid(epsg=32633, resolution=float("nan"), left=0, top=0, height=1, width=1)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 64, 128]))
def test_tiles_cover_every_pixel_once(height, width, size):
    area = Grid(epsg=32633, resolution=10.0, left=0, top=0, height=height, width=width)
    count = np.zeros(area.shape, int)
    for tile in grid.split_into_tiles(area, size):
        count[tile.row : tile.row + tile.height, tile.column : tile.column + tile.width] += 1
        assert tile.row % size == 0
        assert tile.column % size == 0
    assert (count == 1).all()


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_a_pixel_on_the_ground_has_the_same_index_in_every_grid(row, column):
    shifted = SMALL.window(row=row, column=column, height=5, width=5)
    origin = SMALL.origin_index()
    assert shifted.origin_index() == (origin[0] + row, origin[1] + column)


def test_geographic_and_unknown_systems_are_refused():
    with pytest.raises(InvalidInputError, match="metres"):
        grid.resolve_epsg_codes("EPSG:4326", shapely.box(0, 0, 1, 1))
    with pytest.raises(InvalidInputError, match="not a known"):
        grid.resolve_epsg_codes("EPSG:99999999", shapely.box(0, 0, 1, 1))


def test_the_alignment_of_the_scenes_is_kept_if_they_share_it(tmp_path):
    values = np.ones((20, 20), np.uint16)
    shifted = small_worlds.optical(tmp_path, "a", {"B02": values}, left=500_003.25, top=5_200_007.5)
    assert grid.common_alignment([shifted], 32633, 10.0) == pytest.approx((3.25, 7.5))
    assert grid.common_alignment([shifted], 32632, 10.0) == (0.0, 0.0)
    differently_shifted = small_worlds.optical(
        tmp_path, "b", {"B02": values}, left=500_004.0, top=5_200_007.5
    )
    assert grid.common_alignment([shifted, differently_shifted], 32633, 10.0) == (0.0, 0.0)


def test_a_region_is_covered_by_whole_aligned_pixels():
    region = shapely.box(15.01, 46.9, 15.03, 46.92)
    area = grid.build_covering_grid(region, 32633, 10.0, (3.25, 7.5))
    west, south, east, north = grid.project(region, 32633).bounds
    left, bottom, right, top = area.bounds
    assert left <= west < left + 10
    assert bottom <= south < bottom + 10
    assert right - 10 < east <= right
    assert top - 10 < north <= top
    assert (area.left - 3.25) % 10 == pytest.approx(0, abs=1e-6)
    assert (area.top - 7.5) % 10 == pytest.approx(0, abs=1e-6)


def test_a_parallel_is_projected_as_a_curve():
    region = shapely.box(12.0, 47.0, 14.0, 48.0)
    projected = grid.project(region, 32632)
    middle = Transformer.from_crs(4326, 32632, always_xy=True).transform(13.0, 47.0)
    assert shapely.Point(middle).distance(projected.boundary) < 1.0


def test_a_rasterized_region_agrees_with_gdal():
    region = shapely.Polygon([(500_000, 5_199_400), (500_500, 5_199_990), (500_100, 5_199_300)])
    expected = ~geometry_mask([region], SMALL.shape, SMALL.transform)
    assert np.array_equal(grid.rasterize_region(region, SMALL), expected)
    assert grid.rasterize_region(shapely.box(*SMALL.bounds).buffer(10), SMALL).all()
    assert not grid.rasterize_region(shapely.box(0, 0, 1, 1), SMALL).any()


@pytest.mark.parametrize(
    ("box", "epsg"),
    [((-180, -90, 180, 90), 32631), ((0, 40, 20, 60), 32632), ((12, 47, 13, 48), 32755)],
)
def test_a_region_outside_the_area_of_use_is_refused(box, epsg):
    with pytest.raises(InvalidInputError, match="is defined for"):
        grid.build_covering_grid(shapely.box(*box), epsg, 10.0, (0.0, 0.0))


def test_a_region_across_180_degrees_lies_on_one_grid():
    region = shapely.union_all(
        [shapely.box(179.9, -17.0, 180, -16.8), shapely.box(-180, -17.0, -179.9, -16.8)]
    )
    assert grid.resolve_epsg_codes("utm", region) == (32701, 32760)
    covering_grid = grid.build_covering_grid(region, 3832, 100.0, (0.0, 0.0))
    assert covering_grid.width * 100 < 30_000
    inside = grid.rasterize_region(grid.project(region, 3832), covering_grid)
    assert inside.mean() > 0.98


def test_a_polar_cap_lies_on_the_polar_grid():
    cap = shapely.box(-180, 88.5, 180, 90)
    assert grid.resolve_epsg_codes("utm", cap) == (5041,)
    covering_grid = grid.build_covering_grid(cap, 5041, 500.0, (0.0, 0.0))
    assert grid.rasterize_region(grid.project(cap, 5041), covering_grid).mean() == pytest.approx(
        np.pi / 4, abs=0.01
    )


def test_a_region_far_from_the_central_meridian_is_refused():
    with pytest.raises(InvalidInputError, match="is defined for"):
        grid.build_covering_grid(shapely.box(100, 45, 101, 46), 32632, 10.0, (0.0, 0.0))
