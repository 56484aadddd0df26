"""UTM zones: each location has one, and the parts of a region add up to the region."""

from __future__ import annotations

import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj import CRS

from pipeline.grid import grid, utm

locations = st.tuples(st.floats(-179.9, 179.9), st.floats(-89.9, 89.9))


def find_zone(longitude, latitude):
    """Return the zone of a location, and check that no other zone contains it."""
    (code,) = [
        code
        for code, area in utm.zone_polygons().items()
        if area.contains(shapely.Point(longitude, latitude))
    ]
    return code


@given(locations)
def test_the_zone_is_the_one_that_pyproj_finds(location):
    longitude, latitude = location
    assume(abs(longitude % 6) > 1e-6 and abs(latitude) > 1e-6)
    assume(all(abs(latitude - edge) > 1e-6 for edge in (-80, 56, 64, 72, 84)))
    code = find_zone(longitude, latitude)
    area_of_use = CRS.from_epsg(code).area_of_use
    if (56 <= latitude < 64 and 0 < longitude < 12) or (latitude >= 72 and 0 <= longitude < 42):
        return  # the exceptions of Norway and Svalbard are tested by name
    assert area_of_use.west - 1e-9 <= longitude <= area_of_use.east + 1e-9
    assert area_of_use.south - 1e-9 <= latitude <= area_of_use.north + 1e-9


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ((5.3, 60.4), 32632),
        ((15.6, 78.2), 32633),
        ((8.9, 78.0), 32631),
        ((-72.5, -38.8), 32718),
        ((0.5, 87.0), 5041),
        ((120.0, -84.0), 5042),
        ((179.9, 10.0), 32660),
        ((-179.9, -10.0), 32701),
    ],
)
def test_exceptional_and_polar_zones(location, code):
    assert find_zone(*location) == code
    assert grid.resolve_epsg_codes("utm", shapely.Point(*location).buffer(0.01)) == (code,)


def test_the_zones_cover_the_world_once():
    polygons = list(utm.zone_polygons().values())
    assert sum(polygon.area for polygon in polygons) == pytest.approx(360 * 180)
    assert shapely.union_all(polygons).area == pytest.approx(360 * 180)


@given(locations, st.floats(0.001, 8), st.floats(0.001, 8))
def test_the_parts_of_a_region_add_up_to_it(location, width, height):
    west, south = location
    region = shapely.box(west, south, min(west + width, 180), min(south + height, 90))
    parts = [utm.clip_to_zone(region, code) for code in utm.find_zones(region)]
    assert sum(part.area for part in parts) == pytest.approx(region.area, rel=1e-9)
    assert all(part.area > 0 for part in parts)


def test_a_zone_that_is_only_touched_is_excluded():
    assert utm.find_zones(shapely.box(6, 45, 12, 46)) == (32632,)
    assert utm.find_zones(shapely.box(6, 45, 12.001, 46)) == (32632, 32633)
    triangle = shapely.Polygon([(11, 45), (12, 45.5), (11, 46)])
    assert utm.find_zones(triangle) == (32632,)
    assert utm.clip_to_zone(triangle, 32633).is_empty
