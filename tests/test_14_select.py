"""Selection: twins count once, split granules are kept whole, and order does not matter."""

import dataclasses
import datetime as dt
import json
import os
from pathlib import Path

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs import search, select
from catalogs.scene import BANDS, Asset, Radiometry, Scene

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
REGION = shapely.box(9, 56, 10, 57)
NOON = dt.datetime(2024, 6, 1, 10, 20, 21, tzinfo=dt.UTC)
UNIT = {"S2L2A": "reflectance", "S1RTC": "power", "DEM": "m"}


def a_scene(name, *, bands=("B02", "B04", "SCL"), box=(9, 56, 10, 57), **changed):
    modality = changed.get("modality", "S2L2A")
    radiometry = Radiometry(scale=1, offset=0, unit=UNIT[modality])
    values = {
        "id": name,
        "collection": "sentinel-2-l2a",
        "provider": "demo",
        "modality": modality,
        "datetime": NOON,
        "footprint": shapely.geometry.mapping(shapely.box(*box)),
        "bbox": box,
        "platform": "sentinel-2a",
        "tile": "32VNH",
        "baseline": "05.10",
        "processed": NOON + dt.timedelta(days=1),
        "assets": {
            band: Asset(band=band, href=f"/{name}/{band}.tif", radiometry=radiometry)
            for band in bands
        },
    }
    return Scene(**values | changed)


def chosen(scenes, **how):
    selection = select.choose(scenes, how.pop("region", REGION), **how)
    return (
        [scene.id for scene in selection.used],
        {refusal.id: refusal.reason for refusal in selection.refused},
    )


def test_the_newest_baseline_of_a_twin_stays():
    old = a_scene("old", baseline="02.14", processed=NOON + dt.timedelta(days=900))
    new = a_scene("new", baseline="05.00", datetime=NOON + dt.timedelta(milliseconds=1))
    assert chosen([old, new]) == (["new"], {"old": "reprocessed as new"})


def test_the_latest_processing_of_one_baseline_stays():
    first = a_scene("first")
    later = a_scene("later", processed=NOON + dt.timedelta(days=1, seconds=1))
    unknown = a_scene("unknown", processed=None)
    used, refused = chosen([later, first, unknown])
    assert used == ["later"]
    assert refused == {"first": "reprocessed as later", "unknown": "reprocessed as later"}


def test_baselines_are_compared_as_numbers():
    assert chosen([a_scene("a", baseline="4.10"), a_scene("b", baseline="04.09")])[0] == ["a"]


@pytest.mark.parametrize(
    "other",
    [
        {"platform": "sentinel-2b"},
        {"tile": "32VMH"},
        {"datetime": NOON + dt.timedelta(minutes=100)},
        {"box": (9, 57, 10, 58)},
    ],
)
def test_what_is_no_twin(other):
    used, _ = chosen([a_scene("a"), a_scene("b", **other)], region=shapely.box(9, 56, 10, 58))
    assert sorted(used) == ["a", "b"]


def test_the_halves_of_a_split_granule_are_both_kept():
    west = a_scene("west", box=(9, 56, 9.55, 57))
    east = a_scene("east", box=(9.5, 56, 10, 57), processed=NOON + dt.timedelta(days=3))
    assert chosen([west, east]) == (["east", "west"], {})


def test_two_new_halves_replace_an_old_whole():
    whole = a_scene("whole", baseline="02.14")
    west, east = a_scene("west", box=(9, 56, 9.6, 57)), a_scene("east", box=(9.6, 56, 10, 57))
    assert chosen([east, whole, west]) == (["east", "west"], {"whole": "reprocessed as west"})


def test_a_new_half_does_not_replace_an_old_whole():
    whole, west = a_scene("whole", baseline="02.14"), a_scene("west", box=(9, 56, 9.6, 57))
    assert chosen([whole, west])[0] == ["west", "whole"]


def test_a_twin_that_is_too_cloudy_does_not_take_the_other_with_it():
    old = a_scene("old", baseline="02.14", cloud_cover=10)
    new = a_scene("new", cloud_cover=90)
    used, refused = chosen([old, new], max_cloud_cover=60)
    assert used == ["old"]
    assert refused["new"] == "cloud cover 90.0 % is above 60 %"


def test_a_cover_that_is_not_stated_is_kept():
    scenes = [a_scene("a", cloud_cover=60, tile="A"), a_scene("b", tile="B")]
    assert chosen(scenes, max_cloud_cover=60) == (["a", "b"], {})


def test_wanted_bands_decide():
    scenes = [
        a_scene("full", tile="A"),
        a_scene("only-classes", tile="B", bands=("SCL",)),
        a_scene("one-missing", tile="C", bands=("B04", "SCL")),
    ]
    used, refused = chosen(scenes, bands={"S2L2A": ("B02", "B04")})
    assert used == ["full", "one-missing"]
    assert refused == {"only-classes": "it has none of B02, B04"}


def test_radar_needs_both_polarisations():
    both = a_scene("both", modality="S1RTC", bands=("VV", "VH"), tile=None)
    single = a_scene("single", modality="S1RTC", bands=("VV",), tile=None, platform="sentinel-1b")
    used, refused = chosen([single, both])
    assert used == ["both"]
    assert refused == {"single": "it lacks the polarisation VH"}
    assert chosen([single], bands={"S1RTC": ("VV",)})[0] == ["single"]


def test_elevation_tiles_are_no_twins():
    heights = [
        a_scene(name, modality="DEM", bands=("DEM",), datetime=None, processed=None)
        for name in ("d1", "d2")
    ]
    assert chosen(heights)[0] == ["d1", "d2"]


def test_what_is_off_the_region():
    assert chosen([a_scene("a")], region=shapely.box(20, 56, 21, 57)) == (
        [],
        {"a": "it does not touch the region"},
    )


@st.composite
def archives(draw):
    scenes = []
    for number in range(draw(st.integers(1, 7))):
        modality = draw(st.sampled_from(["S2L2A", "S1RTC"]))
        west = draw(st.sampled_from([9, 9.05, 9.5]))
        scenes.append(
            a_scene(
                f"s{number}",
                modality=modality,
                bands=draw(st.sampled_from([BANDS[modality], BANDS[modality][:1]])),
                box=(west, 56, draw(st.sampled_from([west + 0.5, west + 1])), 57),
                datetime=NOON + dt.timedelta(seconds=draw(st.sampled_from([0, 0.001, 40, 90]))),
                platform=draw(st.sampled_from([None, "sentinel-2a"])),
                baseline=draw(st.sampled_from([None, "02.14", "05.00"])),
                processed=draw(st.sampled_from([None, NOON])),
                cloud_cover=draw(st.sampled_from([None, 10, 80])),
            )
        )
    return scenes


@settings(max_examples=150)
@given(archives(), st.randoms(use_true_random=False))
def test_shuffling_changes_nothing(scenes, chance):
    shuffled = list(scenes)
    chance.shuffle(shuffled)
    once = select.choose(scenes, REGION, 60)
    assert select.choose(shuffled, REGION, 60) == once
    assert len(once.used) + len(once.refused) == len(scenes)
    again = select.choose(once.used, REGION, 60)
    assert again.used == once.used
    # ^ and choosing from what was chosen refuses nothing more


@given(archives())
def test_no_ground_is_lost_to_a_twin(scenes):
    whole = tuple(
        dataclasses.replace(scene, platform="sentinel-2a", cloud_cover=None, datetime=NOON)
        for scene in scenes
        if len(scene.assets) > 1
    )
    used = select.choose(whole, REGION).used
    for modality in ("S2L2A", "S1RTC"):
        before = [shapely.geometry.shape(s.footprint) for s in whole if s.modality == modality]
        after = [shapely.geometry.shape(s.footprint) for s in used if s.modality == modality]
        for area in before:
            seen = area.intersection(shapely.union_all(after)).area
            assert seen >= select.COVERED * area.area - 1e-9


@pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")
def test_real_twins_of_earth_search():
    pages = [
        Path(REALDATA or "")
        / f"stac/earth-search-v1/_api/search_s2_duplicates_page{page}.response.json"
        for page in (1, 2)
    ]
    features = [one for page in pages for one in json.loads(page.read_text())["features"]]
    assert len(features) == 16
    scenes = []
    for page in pages:
        source = search.Source(provider="earth-search", location=str(page))
        scenes += search.find(source, ["S2L2A"], shapely.box(9, 47, 10, 48), None).scenes
    used, refused = chosen(scenes, region=shapely.box(9, 47, 10, 48))
    assert len(used) == len(refused) == 8
    assert all(name.endswith("_1_L2A") for name in used)
    assert refused["S2A_32TMT_20200305_0_L2A"] == "reprocessed as S2A_32TMT_20200305_1_L2A"


@pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")
def test_real_granules_of_one_pass_are_no_twins():
    source = search.Source(
        provider="earth-search",
        location=str(Path(REALDATA or "") / "catalog/earth-search"),
        allow=(REALDATA or "",),
    )
    found = search.find(source, ["S2L2A"], shapely.box(14, 45, 16, 47), None)
    used, refused = chosen(found.scenes, region=shapely.box(14, 45, 16, 47))
    assert len(used) == 6
    assert refused == {}
    days = {scene.solar_day for scene in found.scenes}
    assert sorted(day.day for day in days) == [10, 13, 18]
