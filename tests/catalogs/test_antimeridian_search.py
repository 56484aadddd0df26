"""Search in regions across 180 degrees, around the poles and across the edge of a UTM zone."""

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs import lonlat_geometry
from catalogs.errors import NothingFoundError
from tests.support.stac_documents import (
    an_item,
    dump,
    find,
    ids,
)

DOCUMENTS = [
    an_item(
        f"{west}_{south}",
        geometry=lonlat_geometry.to_geojson(lonlat_geometry.from_bbox(box)),
        bbox=list(box),
    )
    for west in (170, 176, 178.5, 179.9, -180, -178, -172, 5, 5.5, 12)
    for south in (-90, -70, -1, 0, 56, 71, 83.5, 88)
    for box in [(west, south, west + 2 if west <= 178 else west - 358, min(south + 2, 90))]
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    path = tmp_path_factory.mktemp("scattered") / "items.json"
    return dump(path, {"type": "FeatureCollection", "features": DOCUMENTS})


def find_ids(catalog, region):
    try:
        return set(ids(find(catalog, region=region)))
    except NothingFoundError:
        return set()


@settings(max_examples=60)
@given(
    st.floats(160, 179.99) | st.floats(4, 13),
    st.sampled_from([-90.0, -80.0, -1.0, 55.0, 70.0, 83.0, 84.0, 88.0]),
    st.floats(0.1, 30),
    st.floats(0.1, 2),
)
def test_a_region_finds_the_same_items_as_its_halves(catalog, west, south, width, height):
    north, east = min(south + height, 90), west + width
    middle = min(180.0, west + width / 2) if east > 180 else (6.0 if west < 6 < east else east)
    halves = [shapely.box(west, south, middle, north)]
    if middle < east:
        halves.append(shapely.box(middle, south, east, north))
    actual = find_ids(catalog, shapely.box(west, south, east, north))
    assert actual == set().union(*(find_ids(catalog, half) for half in halves))
    expected = {
        document["id"]
        for document in DOCUMENTS
        if any(
            shapely.box(*corners).intersects(shapely.box(west + turn, south, east + turn, north))
            for turn in (-360, 0, 360)
            for box in [document["bbox"]]
            for corners in [[box[0], box[1], box[2] + 360 * (box[0] > box[2]), box[3]]]
        )
    }
    assert actual == expected


def test_a_polar_region_finds_all_items_around_the_pole(catalog):
    item_ids = find_ids(catalog, shapely.box(-180, 88, 180, 90))
    assert len(item_ids) == 10
    assert all(item_id.endswith("_88") for item_id in item_ids)
