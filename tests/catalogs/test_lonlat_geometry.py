"""Footprints: valid areas within the world, also where they cross 180 degrees."""

import json
import os
from pathlib import Path

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from catalogs import lonlat_geometry

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")


FLAT = [[0, 0], [1, 1], [2, 2], [0, 0]]


def a_ring(west, south, width=2.0, height=1.0):
    east, north = west + width, south + height
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def wrap_ring(ring):
    return [[(x + 180) % 360 - 180, y] for x, y in ring]


@given(st.floats(-180, 180), st.floats(-85, 84), st.floats(0.1, 20))
def test_a_ring_covers_the_same_ground_in_every_style(west, south, width):
    ring = a_ring(west, south, width)
    styles = [ring, wrap_ring(ring)]
    areas = [
        lonlat_geometry.from_item({"geometry": {"type": "Polygon", "coordinates": [style]}})
        for style in styles
    ]
    for area in areas:
        assert area.is_valid
        assert lonlat_geometry.WORLD.covers(area)
        assert area.area == pytest.approx(width, rel=1e-6)
    assert areas[0].symmetric_difference(areas[1]).area < 1e-6


def test_three_styles_of_one_granule_across_180_degrees():
    polygons = [a_ring(178.5, 65, 1.5), a_ring(-180, 65, 1.0)]
    split = {"geometry": {"type": "MultiPolygon", "coordinates": [[ring] for ring in polygons]}}
    jumping = {"geometry": {"type": "Polygon", "coordinates": [wrap_ring(a_ring(178.5, 65, 2.5))]}}
    boxed = {"geometry": None, "bbox": [178.5, 65, -179, 66]}
    areas = [lonlat_geometry.from_item(item) for item in (split, jumping, boxed)]
    for area in areas:
        assert area.area == pytest.approx(2.5)
        assert area.intersects(shapely.Point(179, 65.5))
        assert area.intersects(shapely.Point(-179.5, 65.5))
        assert not area.intersects(shapely.Point(0, 65.5))
        assert lonlat_geometry.to_geojson(area)["type"] == "MultiPolygon"


def test_a_ring_round_the_pole_becomes_a_cap():
    ring = [[-150, 84], [-60, 84], [60, 84], [150, 84], [-150, 84]]
    item = {"geometry": {"type": "Polygon", "coordinates": [ring]}}
    assert lonlat_geometry.from_item(item).bounds == (-180, 84, 180, 90)


def test_a_ring_round_the_pole_is_exact_and_keeps_its_holes():
    ring = [[-150, 84], [-60, 80], [60, 84], [150, 80], [-150, 84]]
    hole = [[-170, 86], [170, 86], [170, 88], [-170, 88], [-170, 86]]
    area = lonlat_geometry.from_item({"geometry": {"type": "Polygon", "coordinates": [ring, hole]}})
    for longitude, latitude, inside in (
        (-60, 81, True),
        (-150, 83, False),
        (0, 89.9, True),
        (180, 87, False),
        (0, 87, True),
        (-105, 82.5, True),
    ):
        assert area.intersects(shapely.Point(longitude, latitude)) is inside  # fmt: skip
    south = [[-180, -75], [0, -75], [180, -75], [-180, -75]]
    cap = lonlat_geometry.from_item({"geometry": {"type": "Polygon", "coordinates": [south]}})
    assert cap.equals(shapely.box(-180, -90, 180, -75))


def test_a_box_round_the_world_is_not_a_ring_round_a_pole():
    item = {"geometry": {"type": "Polygon", "coordinates": [a_ring(-180, 10, 360, 20)]}}
    assert lonlat_geometry.from_item(item).equals(shapely.box(-180, 10, 180, 30))


@given(
    st.floats(-360, 360), st.floats(-89, 80), st.floats(0.01, 170), st.floats(0.01, 9),
    st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), max_size=20),
)  # fmt: skip
def test_longitudes_of_a_region_are_wrapped_modulo_360(west, south, width, height, points):
    area = lonlat_geometry.wrap_longitudes(shapely.box(west, south, west + width, south + height))
    assert lonlat_geometry.WORLD.covers(area)
    assert area.is_valid
    for longitude, latitude in points:
        degrees_east = (longitude - west) % 360
        distance_to_edge = min(abs(degrees_east - edge) for edge in (0, width, 360))
        if (
            distance_to_edge > 1e-6
            and min(abs(latitude - south), abs(latitude - south - height)) > 1e-6
        ):
            inside = degrees_east < width and south < latitude < south + height
            assert area.intersects(shapely.Point(longitude, latitude)) is inside


def test_a_self_intersecting_ring_is_repaired():
    ring = [[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]
    area = lonlat_geometry.from_item({"geometry": {"type": "Polygon", "coordinates": [ring]}})
    assert area.is_valid
    assert area.area == pytest.approx(2)


def test_z_coordinates_are_dropped():
    item = {"geometry": None, "bbox": [9, 56, 0, 10, 57, 120]}
    assert lonlat_geometry.read_bbox(item) == (9, 56, 10, 57)
    assert lonlat_geometry.from_item(item).bounds == (9, 56, 10, 57)
    ring = [[x, y, 5.0] for x, y in a_ring(9, 56)]
    assert not lonlat_geometry.from_item(
        {"geometry": {"type": "Polygon", "coordinates": [ring]}}
    ).has_z


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"geometry": None}, "neither a geometry nor a bbox"),
        ({"geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}, "LineString"),
        ({"geometry": {"type": "Polygon", "coordinates": [FLAT]}}, "no area"),
    ],
)  # fmt: skip
def test_an_invalid_footprint_is_refused(item, reason):
    with pytest.raises(ValueError, match=reason):
        lonlat_geometry.from_item(item)


@pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")
def test_real_footprints_across_180_degrees():
    items = [
        json.loads(path.read_text())
        for path in Path(REALDATA or "").glob(
            "stac/stactools-from-real-SAFE/sentinel-2-l2a/*_T01*.json"
        )
    ]
    assert items
    for item in items:
        area = lonlat_geometry.from_item(item)
        assert area.is_valid
        assert lonlat_geometry.WORLD.covers(area)
        assert 0 < area.area < 6
        # ^ a granule is at most some 4 degrees wide and 1 high, never a belt round the world


def test_the_bounds_of_an_area_are_the_narrowest():
    both = shapely.union_all([shapely.box(179, 1, 180, 2), shapely.box(-180, 1, -178, 3)])
    assert lonlat_geometry.to_bbox(both) == (179, 1, -178, 3)
    assert lonlat_geometry.to_bbox(shapely.box(-10, 1, 10, 2)) == (-10, 1, 10, 2)
    assert lonlat_geometry.to_bbox(shapely.box(-170, 1, -160, 2)) == (-170, 1, -160, 2)
    assert lonlat_geometry.to_bbox(shapely.box(-180, 80, 180, 90)) == (-180, 80, 180, 90)
