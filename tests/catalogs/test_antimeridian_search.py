"""Search over regions across 180 degrees, round the poles and over a zone's edge."""

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

SCATTERED = [
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
def scattered(tmp_path_factory):
    path = tmp_path_factory.mktemp("scattered") / "items.json"
    return dump(path, {"type": "FeatureCollection", "features": SCATTERED})


def ids_over(catalog, region):
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
def test_a_region_finds_what_its_halves_find(scattered, west, south, width, height):
    north, east = min(south + height, 90), west + width
    middle = min(180.0, west + width / 2) if east > 180 else (6.0 if west < 6 < east else east)
    halves = [shapely.box(west, south, middle, north)]
    if middle < east:
        halves.append(shapely.box(middle, south, east, north))
    whole = ids_over(scattered, shapely.box(west, south, east, north))
    assert whole == set().union(*(ids_over(scattered, half) for half in halves))
    own = {
        document["id"]
        for document in SCATTERED
        if any(
            shapely.box(*corners).intersects(shapely.box(west + turn, south, east + turn, north))
            for turn in (-360, 0, 360)
            for box in [document["bbox"]]
            for corners in [[box[0], box[1], box[2] + 360 * (box[0] > box[2]), box[3]]]
        )
    }
    assert whole == own


def test_a_cap_finds_what_lies_round_the_pole(scattered):
    found = ids_over(scattered, shapely.box(-180, 88, 180, 90))
    assert len(found) == 10
    assert all(name.endswith("_88") for name in found)
