"""Scene records: validation, JSON and identity."""

import copy
import datetime as dt
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.scene import UNITS, Asset, Radiometry, Scene
from catalogs.sensors import SENSORS

NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
NAIVE = NOON.replace(tzinfo=None)
SQUARE = {"type": "Polygon", "coordinates": [[[9, 56], [10, 56], [10, 57], [9, 57], [9, 56]]]}
REFLECTANCE = Radiometry(scale=0.0001, offset=-0.1, unit="reflectance")


def an_asset(band="B02", **changed):
    return Asset(**{"band": band, "href": f"/data/{band}.tif", "radiometry": REFLECTANCE} | changed)


def a_scene(**changed):
    values = {
        "id": "S2A_1",
        "collection": "sentinel-2-l2a",
        "provider": "demo",
        "modality": "S2L2A",
        "datetime": NOON,
        "footprint": SQUARE,
        "bbox": (9, 56, 10, 57),
        "assets": {"B02": an_asset()},
    }
    return Scene(**values | changed)


numbers = st.floats(-1e6, 1e6, allow_nan=False)
texts = st.text(min_size=1, max_size=8)
times = st.datetimes(
    min_value=NAIVE.replace(year=1990),
    max_value=NAIVE.replace(year=2100),
    timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=9, minutes=30))]),
)
radiometries = st.builds(
    Radiometry,
    scale=numbers.filter(lambda value: value != 0),
    offset=numbers,
    unit=st.sampled_from(UNITS),
)


@st.composite
def assets(draw, band):
    return Asset(
        band=band,
        href=draw(texts),
        radiometry=draw(radiometries),
        epsg=draw(st.none() | st.integers(2000, 33000)),
        transform=draw(st.none() | st.tuples(*[numbers] * 6)),
        shape=draw(st.none() | st.tuples(st.integers(1, 20000), st.integers(1, 20000))),
        nodata=draw(st.none() | st.floats(width=32)),
        checksum=draw(st.none() | texts),
    )


@st.composite
def scenes(draw):
    modality = draw(st.sampled_from(sorted(SENSORS)))
    bands = draw(st.sets(st.sampled_from(SENSORS[modality].bands)))
    moment = draw(st.none() | times) if modality == "DEM" else draw(times)
    west, south = draw(st.floats(-180, 178)), draw(st.floats(-89, 88))
    ring = [[west, south], [west + 1, south], [west, south + 1], [west, south]]
    return Scene(
        id=draw(texts),
        collection=draw(texts),
        provider=draw(texts),
        modality=modality,
        datetime=moment,
        footprint={"type": "Polygon", "coordinates": [ring]},
        bbox=(west, south, west + 1, south + 1),
        platform=draw(st.none() | texts),
        datatake=draw(st.none() | texts),
        tile=draw(st.none() | texts),
        baseline=draw(st.none() | texts),
        processed=draw(st.none() | times),
        orbit_state=draw(st.sampled_from([None, "ascending", "descending"])),
        relative_orbit=draw(st.none() | st.integers(1, 175)),
        cloud_cover=draw(st.none() | st.floats(0, 100)),
        item_href=draw(st.none() | texts),
        assets={band: draw(assets(band)) for band in bands},
    )


@given(scenes())
def test_a_scene_survives_json(scene):
    text = json.dumps(scene.to_dict(), allow_nan=False)
    restored = Scene.from_dict(json.loads(text))
    assert restored == scene
    assert json.dumps(restored.to_dict()) == text
    assert restored.identity() == scene.identity()


@given(scenes(), st.text(min_size=1))
def test_identity_is_independent_of_hrefs(scene, href):
    changed = scene.to_dict()
    for asset in changed["assets"].values():
        asset["href"] = href
    changed = Scene.from_dict(changed | {"item_href": href})
    assert changed.identity() == scene.identity()
    assert "item_href" not in scene.identity()
    assert all("href" not in asset for asset in scene.identity()["assets"].values())


def test_an_unknown_item_href_is_absent_from_json():
    """Plans of earlier releases have none."""
    assert "item_href" not in a_scene().to_dict()
    assert a_scene(item_href="https://a.org/items/1").to_dict()["item_href"]


def test_identity_holds_the_name_of_a_table_without_its_folder():
    tables = ["/a/own.yaml", "/b/c/own.yaml", "own"]
    identities = [a_scene(provider=provider).identity() for provider in tables]
    assert identities[0] == identities[1] == identities[2]
    assert a_scene(provider="earth-search-v0").identity()["provider"] == "earth-search-v0"


def test_identity_depends_on_everything_else():
    original = a_scene()
    variants = [
        a_scene(id="S2A_2"),
        a_scene(baseline="05.10"),
        a_scene(datetime=NOON + dt.timedelta(milliseconds=1)),
        a_scene(assets={"B02": an_asset(nodata=0)}),
        a_scene(assets={"B02": an_asset(checksum="1220ab")}),
        a_scene(
            assets={
                "B02": an_asset(
                    radiometry=Radiometry(scale=0.0001, offset=0, unit="reflectance"),
                )
            }
        ),
        a_scene(assets={"B02": an_asset(transform=(10, 0, 5, 0, -10, 5))}),
    ]
    identities = {json.dumps(scene.identity(), sort_keys=True) for scene in [original, *variants]}
    assert len(identities) == len(variants) + 1


def test_a_scene_can_be_sent_to_a_worker():
    scene = a_scene(assets={"B02": an_asset(nodata=math.nan)})
    assert pickle.loads(pickle.dumps(scene)).to_dict() == scene.to_dict()
    assert copy.deepcopy(scene).to_dict() == scene.to_dict()


def test_a_scene_is_independent_of_later_changes_to_its_arguments():
    footprint = copy.deepcopy(SQUARE)
    bands = {"B02": an_asset()}
    scene = a_scene(footprint=footprint, assets=bands)
    footprint["coordinates"][0][0][0] = 0
    bands.clear()
    assert scene.footprint == SQUARE
    assert list(scene.assets) == ["B02"]


def test_times_are_converted_to_utc_and_assets_sorted():
    east = dt.timezone(dt.timedelta(hours=2))
    scene = a_scene(
        datetime=dt.datetime(2024, 6, 1, 14, tzinfo=east),
        assets={band: an_asset(band) for band in ("SCL", "B12", "B01")},
    )
    assert scene.datetime == NOON
    assert scene.datetime.tzinfo is dt.UTC
    assert list(scene.assets) == ["B01", "B12", "SCL"]
    assert list(scene.select_bands(["SCL", "B01"]).assets) == ["B01", "SCL"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"datetime": NAIVE}, "no time with a time zone"),
        ({"datetime": None}, "without a time of sensing"),
        ({"processed": NAIVE}, "no time with a time zone"),
        ({"id": ""}, "has no id"),
        ({"modality": "S3"}, "unknown modality 'S3'"),
        ({"footprint": {"type": "Point", "coordinates": [9, 56]}}, "no polygon"),
        ({"footprint": {"type": "Polygon", "coordinates": []}}, "no polygon"),
        ({"bbox": (9, 57, 10, 56)}, "upside down"),
        ({"bbox": (9, 57, 10, math.nan)}, "four finite numbers"),
        ({"bbox": (9, 57, 0, 10, 58, 100)}, "four finite numbers"),
        ({"assets": {"B02": an_asset("B03")}}, "under the key 'B02'"),
        ({"assets": {"VV": an_asset("VV")}}, "the bands of S2L2A are"),
        ({"orbit_state": "sideways"}, "unknown orbit state"),
        ({"cloud_cover": 101}, "cloud cover of 101"),
    ],
)
def test_an_invalid_scene_is_refused(changed, reason):
    with pytest.raises(ValueError, match=reason):
        a_scene(**changed)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"href": ""}, "empty href"),
        ({"transform": (10, 0, 0, 0, -10)}, "six finite numbers"),
        ({"transform": (10, 0, 0, 0, -10, math.inf)}, "six finite numbers"),
        ({"shape": (0, 5)}, r"\(rows, columns\)"),
    ],
)
def test_an_invalid_asset_is_refused(changed, reason):
    with pytest.raises(ValueError, match=reason):
        an_asset(**changed)


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 0, "offset": 0, "unit": "m"},
        {"scale": math.nan, "offset": 0, "unit": "m"},
        {"scale": 1, "offset": math.inf, "unit": "m"},
        {"scale": 1, "offset": 0, "unit": "feet"},
    ],
)
def test_an_invalid_radiometry_is_refused(values):
    with pytest.raises(ValueError, match=r"unit|finite"):
        Radiometry(**values)


def test_a_pandas_nat_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="no time with a time zone"):
        a_scene(datetime=pandas.NaT)


def test_elevation_needs_no_time():
    height = Radiometry(scale=1, offset=0, unit="m")
    dem = a_scene(modality="DEM", datetime=None, assets={"DEM": an_asset("DEM", radiometry=height)})
    assert dem.datetime is None
    with pytest.raises(ValueError, match="has no time"):
        _ = dem.solar_day


@pytest.mark.parametrize(
    ("ring", "hour", "day"),
    [
        ([[9, 56], [10, 56], [10, 57], [9, 56]], 12, 1),
        ([[178, 60], [179, 60], [179, 61], [178, 60]], 22, 2),
        ([[-179, 60], [-178, 60], [-178, 61], [-179, 60]], 2, 31),
        ([[179, 60], [-179.5, 60], [-179.5, 61], [179, 60]], 22, 2),
    ],
)
def test_the_solar_day_follows_the_sun(ring, hour, day):
    scene = a_scene(
        datetime=NOON.replace(hour=hour), footprint={"type": "Polygon", "coordinates": [ring]}
    )
    assert scene.solar_day.day == day
