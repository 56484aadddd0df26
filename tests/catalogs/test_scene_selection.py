"""Selection: duplicates count once, all parts of a granule are kept, in any order of the scenes."""

import dataclasses
import datetime as dt
import json
import os
from pathlib import Path

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs import passes
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.search import scene_selection, search
from catalogs.sensors import SENSORS
from tests.support.scenes import NOON, REGION, a_scene, heights, radar

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")


def select_ids(scenes, **options):
    selection = scene_selection.select_scenes(scenes, options.pop("region", REGION), **options)
    return (
        [scene.id for scene in selection.used],
        {refusal.id: refusal.reason for refusal in selection.refused},
    )


def test_the_newest_baseline_of_a_duplicate_is_kept():
    old = a_scene("old", baseline="02.14", processed=NOON + dt.timedelta(days=900))
    new = a_scene("new", baseline="05.00", datetime=NOON + dt.timedelta(milliseconds=1))
    assert select_ids([old, new]) == (["new"], {"old": "reprocessed as new"})


def test_the_latest_processing_of_a_baseline_is_kept():
    first = a_scene("first")
    later = a_scene("later", processed=NOON + dt.timedelta(days=1, seconds=1))
    unknown = a_scene("unknown", processed=None)
    used, refused = select_ids([later, first, unknown])
    assert used == ["later"]
    assert refused == {"first": "reprocessed as later", "unknown": "reprocessed as later"}


def test_baselines_are_compared_as_numbers():
    assert select_ids([a_scene("a", baseline="4.10"), a_scene("b", baseline="04.09")])[0] == ["a"]


@pytest.mark.parametrize(
    "changed",
    [
        {"platform": "sentinel-2b"},
        {"tile": "32VMH"},
        {"datetime": NOON + dt.timedelta(minutes=100)},
        {"box": (9, 57, 10, 58)},
    ],
)
def test_scenes_of_different_acquisitions_are_not_duplicates(changed):
    used, _ = select_ids([a_scene("a"), a_scene("b", **changed)], region=shapely.box(9, 56, 10, 58))
    assert sorted(used) == ["a", "b"]


def test_the_halves_of_a_split_granule_are_both_kept():
    west = a_scene("west", box=(9, 56, 9.55, 57))
    east = a_scene("east", box=(9.5, 56, 10, 57), processed=NOON + dt.timedelta(days=3))
    assert select_ids([west, east]) == (["east", "west"], {})


def test_two_new_halves_replace_an_old_full_scene():
    full = a_scene("whole", baseline="02.14")
    west, east = a_scene("west", box=(9, 56, 9.6, 57)), a_scene("east", box=(9.6, 56, 10, 57))
    assert select_ids([east, full, west]) == (["east", "west"], {"whole": "reprocessed as west"})


def test_a_new_half_does_not_replace_an_old_full_scene():
    full, west = a_scene("whole", baseline="02.14"), a_scene("west", box=(9, 56, 9.6, 57))
    assert select_ids([full, west])[0] == ["west", "whole"]


def test_a_duplicate_that_is_too_cloudy_does_not_replace_the_other():
    old = a_scene("old", baseline="02.14", cloud_cover=10)
    new = a_scene("new", cloud_cover=90)
    used, refused = select_ids([old, new], max_cloud_cover=60)
    assert used == ["old"]
    assert refused["new"] == "cloud cover 90 % is above 60 %"


def test_a_cloud_cover_just_above_the_limit_looks_different_from_it():
    _, refused = select_ids([a_scene("a", cloud_cover=60.04)], max_cloud_cover=60)
    assert refused["a"] == "cloud cover 60.04 % is above 60 %"


def test_a_scene_without_a_cloud_cover_is_kept():
    scenes = [a_scene("a", cloud_cover=60, tile="A"), a_scene("b", tile="B")]
    assert select_ids(scenes, max_cloud_cover=60) == (["a", "b"], {})


def test_a_scene_without_any_requested_band_is_refused():
    scenes = [
        a_scene("full", tile="A"),
        a_scene("only-classes", tile="B", bands=("SCL",)),
        a_scene("one-missing", tile="C", bands=("B04", "SCL")),
    ]
    used, refused = select_ids(scenes, bands={"S2L2A": ("B02", "B04")})
    assert used == ["full", "one-missing"]
    assert refused == {"only-classes": "it has none of B02, B04"}


def test_radar_needs_both_polarisations():
    both = a_scene("both", modality="S1RTC", bands=("VV", "VH"), tile=None)
    single = a_scene("single", modality="S1RTC", bands=("VV",), tile=None, platform="sentinel-1b")
    used, refused = select_ids([single, both])
    assert used == ["both"]
    assert refused == {"single": "it lacks the polarisation VH: it has VV"}
    assert select_ids([single], bands={"S1RTC": ("VV",)})[0] == ["single"]


def test_one_elevation_tile_of_two_catalogs_counts_once():
    glo30_scene = heights(
        "N56_E009", collection="cop-dem-glo-30", tile="CDEM-N56E009", platform="tandem-x"
    )
    dem_scene = heights("N56_E009", collection="dem", box=(9, 56, 10, 57.0003))
    neighbour = heights("N56_E010", box=(9.9999, 56, 11, 57))
    used, refused = select_ids(
        [glo30_scene, neighbour, dem_scene], region=shapely.box(9, 56, 11, 57)
    )
    assert used == ["N56_E009", "N56_E010"]
    assert refused == {"N56_E009": "the same acquisition as N56_E009 of dem"}


def test_a_fine_elevation_grid_is_no_duplicate_of_the_coarse_one_around_it():
    fine = heights("a-fine", box=(9.2, 56.2, 9.3, 56.3))
    assert select_ids([fine, heights("coarse")])[0] == ["a-fine", "coarse"]


def test_a_scene_outside_the_region_is_refused():
    assert select_ids([a_scene("a")], region=shapely.box(20, 56, 21, 57)) == (
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
                bands=draw(st.sampled_from([SENSORS[modality].bands, SENSORS[modality].bands[:1]])),
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
def test_the_order_of_scenes_does_not_matter(scenes, chance):
    shuffled = list(scenes)
    chance.shuffle(shuffled)
    selection = scene_selection.select_scenes(scenes, REGION, 60)
    assert scene_selection.select_scenes(shuffled, REGION, 60) == selection
    assert len(selection.used) + len(selection.refused) == len(scenes)
    second_selection = scene_selection.select_scenes(selection.used, REGION, 60)
    assert second_selection.used == selection.used
    # ^ selecting from a selection refuses nothing more


EDGES = st.sampled_from([9, 9.25, 9.5, 9.75, 10])


@st.composite
def strips(draw, **changes):
    """Draw parts of one granule of full height, with edges at quarters of a degree."""
    scenes = []
    for number in range(draw(st.integers(1, 7))):
        west, east = sorted(draw(st.lists(EDGES, min_size=2, max_size=2, unique=True)))
        drawn = {name: draw(values) for name, values in changes.items()}
        scenes.append(a_scene(f"s{number}", box=(west, 56, east, 57), **drawn))
    return scenes


def union_footprints(scenes):
    return shapely.union_all([shapely.geometry.shape(scene.footprint) for scene in scenes])


@settings(max_examples=150)
@given(
    strips(
        baseline=st.sampled_from(["02.14", "05.00"]),
        processed=st.sampled_from([None, NOON, NOON + dt.timedelta(days=1)]),
        datetime=st.sampled_from([NOON, NOON + dt.timedelta(minutes=7)]),
    ),
    st.randoms(use_true_random=False),
)
def test_the_selection_covers_all_the_ground(scenes, chance):
    used = scene_selection.select_scenes(scenes, REGION).used
    assert union_footprints(scenes).difference(union_footprints(used)).area < 1e-9
    for scene in used:
        newer = [
            other
            for other in used
            if scene_selection.recency_key(other) > scene_selection.recency_key(scene)
        ]
        assert (
            not newer or union_footprints([scene]).difference(union_footprints(newer)).area > 1e-3
        )
    shuffled = list(scenes)
    chance.shuffle(shuffled)
    assert scene_selection.select_scenes(shuffled, REGION).used == used


def count_passes(scenes, x):
    """Return the number of passes that cover a meridian."""
    intersecting = [
        scene for scene in scenes if union_footprints([scene]).intersects(shapely.Point(x, 56.5))
    ]
    return len({scene.datetime for scene in intersecting})


@settings(max_examples=150)
@given(
    strips(
        cloud_cover=st.sampled_from([None, 0, 10, 80]),
        datetime=st.integers(0, 4).map(lambda day: NOON + dt.timedelta(days=day)),
    ),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_a_limit_of_passes_keeps_the_possible_depth_everywhere(scenes, max_passes, chance):
    unlimited = scene_selection.select_scenes(scenes, REGION)
    limited = scene_selection.select_scenes(scenes, REGION, max_passes=max_passes)
    for x in (9.1, 9.4, 9.6, 9.9):
        assert count_passes(limited.used, x) >= min(max_passes, count_passes(unlimited.used, x))
    shuffled = list(scenes)
    chance.shuffle(shuffled)
    assert (
        scene_selection.select_scenes(shuffled, REGION, max_passes=max_passes).used == limited.used
    )
    assert (
        scene_selection.select_scenes(limited.used, REGION, max_passes=max_passes).used
        == limited.used
    )


def test_a_limit_of_passes_keeps_the_clearest_of_each_tile():
    scenes = [
        a_scene(
            f"{tile}-{day}",
            tile=tile,
            cloud_cover=cover,
            datetime=NOON + dt.timedelta(days=day),
        )
        for tile, covers in (("32VNH", (50, None, 0, 10)), ("32VMH", (0, 50, 50, 90)))
        for day, cover in enumerate(covers)
    ]
    used, refused = select_ids(scenes, max_passes=2)
    assert sorted(used) == ["32VMH-0", "32VMH-1", "32VNH-2", "32VNH-3"]
    assert refused["32VNH-1"] == (
        "composite.max_passes is 2: that many clearer passes cover its area"
    )


def test_a_cloudy_pass_is_kept_where_no_other_covers_the_ground():
    clear = a_scene("clear", box=(9, 56, 9.8, 57), cloud_cover=0)
    full = a_scene("full", cloud_cover=90, datetime=NOON + dt.timedelta(days=3))
    assert select_ids([clear, full], max_passes=1)[0] == ["clear", "full"]


def test_both_halves_of_a_granule_count_as_one_pass():
    west = a_scene("west", box=(9, 56, 9.55, 57), cloud_cover=0)
    east = a_scene("east", box=(9.5, 56, 10, 57), cloud_cover=20)
    later = a_scene("later", cloud_cover=15, datetime=NOON + dt.timedelta(days=3))
    assert select_ids([west, east, later], max_passes=1)[0] == ["east", "west"]


def test_passes_of_radar_are_not_limited():
    scenes = [radar(f"r{day}", datetime=NOON + dt.timedelta(days=day)) for day in range(3)]
    assert len(select_ids(scenes, max_passes=1)[0]) == 3


def test_a_scene_dated_by_its_datatake_is_a_duplicate():
    original = a_scene("own", datatake="GS2A_20240601T101031_046700_N05.10")
    dated_by_datatake = a_scene(
        "start",
        datetime=NOON - dt.timedelta(minutes=10),
        collection="other",
        processed=NOON,
        tile="32VNH",
    )
    assert select_ids([original, dated_by_datatake]) == (["own"], {"start": "reprocessed as own"})
    one_digit = [a_scene("a", tile="1CCV"), a_scene("b", tile="01CCV")]
    assert select_ids(one_digit) == (["b"], {"a": "the same acquisition as b"})


def test_a_scene_that_alone_covers_a_strip_is_kept():
    old = a_scene("old", baseline="02.14", box=(9, 56, 10, 57))
    new = a_scene("new", box=(9.05, 56, 10, 57))
    assert select_ids([old, new])[0] == ["new", "old"]
    sliver = a_scene("new", box=(9.01, 56, 10, 57))
    assert select_ids([old, sliver])[0] == ["new"]


def test_slices_are_kept_and_their_reprocessing_counts_once():
    south = radar("first", box=(9, 56, 10, 56.6), relative_orbit=51)
    north = radar("second", box=(9, 56.5, 10, 57), datetime=NOON + dt.timedelta(seconds=25))
    reprocessed = radar("first-again", box=(9, 56, 10, 56.6), processed=NOON + dt.timedelta(days=9))
    used, refused = select_ids([south, north, reprocessed])
    assert used == ["first-again", "second"]
    assert refused == {"first": "reprocessed as first-again"}


def test_scenes_are_selected_by_orbit():
    scenes = [
        radar("up", orbit_state="ascending", relative_orbit=44),
        radar("down", orbit_state="descending", relative_orbit=51),
        radar("unsaid", platform="sentinel-1c"),
    ]
    assert len(select_ids(scenes)[0]) == 3
    assert select_ids(scenes, orbit_states=["ascending"]) == (
        ["up"],
        {
            "down": "its orbit direction is descending; ascending is requested",
            "unsaid": "its orbit direction is not stated; ascending is requested",
        },
    )
    assert select_ids(scenes, relative_orbits=[51, 80]) == (
        ["down"],
        {
            "up": "its relative orbit is 44; 51 or 80 is requested",
            "unsaid": "its relative orbit is not stated; 51 or 80 is requested",
        },
    )
    optical = a_scene("optical", orbit_state="descending")
    assert select_ids([optical], orbit_states=["ascending"], relative_orbits=[1])[0] == ["optical"]


def test_other_polarisations_are_used_where_requested():
    polar = radar("polar", bands=("HH", "HV"))
    assert select_ids([polar])[1] == {
        "polar": "it lacks the polarisation VV and VH: it has HH and HV"
    }
    assert select_ids([polar], bands={"S1RTC": ("HH", "HV")})[0] == ["polar"]


def test_a_scene_without_some_bands_is_used_with_a_caveat():
    selection = scene_selection.select_scenes(
        [a_scene("some")], REGION, bands={"S2L2A": ("B02", "B03", "B8A")}
    )
    assert selection.caveats == (Caveat(id="some", text="it lacks B03, B8A: used for the others"),)
    assert (
        scene_selection.select_scenes([a_scene("all")], REGION, bands={"S2L2A": ("B02",)}).caveats
        == ()
    )


def test_a_refused_scene_has_its_day_and_its_share_of_the_region():
    scene = a_scene("half", box=(9, 56, 9.5, 57), cloud_cover=90)
    (refusal,) = scene_selection.select_scenes([scene], REGION, 60).refused
    assert (refusal.collection, refusal.modality) == ("sentinel-2-l2a", "S2L2A")
    assert (refusal.day, refusal.share) == ("2024-06-01", 0.5)
    assert RejectedScene(id="a", reason="b").share is None
    # ^ as an older plan file has it


def test_a_pass_across_180_degrees_and_midnight_is_one_day():
    start = dt.datetime(2024, 6, 1, 23, 59, 50, tzinfo=dt.UTC)
    east_time = {"datetime": start + dt.timedelta(seconds=20)}
    for datatake in ("GS2A_20240601T235031_046700_N05.10", None):
        west = a_scene("west", box=(179, 60, 180, 61), tile="60VXM", datatake=datatake)
        west = dataclasses.replace(west, datetime=start)
        east_datatake = datatake and datatake.replace("N05.10", "N05.11")
        east = a_scene(
            "east", box=(-180, 60, -179, 61), tile="01VCG", datatake=east_datatake, **east_time
        )
        next_day = a_scene(
            "next",
            box=(-180, 60, -179, 61),
            tile="01VCG",
            datetime=start + dt.timedelta(days=1),
        )
        assert west.solar_day != east.solar_day
        region = shapely.union_all([shapely.box(179, 60, 180, 61), shapely.box(-180, 60, -179, 61)])
        used = scene_selection.select_scenes([next_day, east, west], region).used
        days = [scene.solar_day for scene in used]
        assert days == [dt.date(2024, 6, 1), dt.date(2024, 6, 1), dt.date(2024, 6, 2)]
        assert [Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) for scene in used] == [
            *used
        ]
        assert scene_selection.select_scenes(used, region).used == used
        assert scene_selection.select_scenes([used[0]], region).used == (west,)


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({}, 1),
        ({"platform": "sentinel-2b"}, 2),
        ({"orbit_state": "ascending"}, 2),
        ({"datetime": NOON + dt.timedelta(minutes=40)}, 1),
        ({"datetime": NOON + dt.timedelta(minutes=98)}, 2),
        ({"datatake": "GS2A_20240601T101031_046700_N05.10"}, 2),
    ],
)
def test_scenes_are_grouped_into_passes(changed, count):
    first_scene = a_scene("first", orbit_state="descending", relative_orbit=51)
    other_scene = a_scene(
        "other", tile="32VMH", **{"orbit_state": "descending", "relative_orbit": 51} | changed
    )
    assert len(passes.group_passes([other_scene, first_scene])) == count
    assert passes.group_passes([heights("dem")]) == ()


# -- times at the edges -------------------------------------------------------------------------

CHUKCHI = {"tile": "01WCQ", "datatake": None}


def chukchi(name, stamp, *, side=0.0, **changed):
    """Build a scene over 180 degrees, with its middle so many degrees east of it."""
    west, east = 180 + side - 0.7, side - 180 + 0.7
    area = shapely.union_all([shapely.box(west, 66.8, 180, 67), shapely.box(-180, 66.8, east, 67)])
    return a_scene(
        name,
        datetime=dt.datetime.fromisoformat(stamp),
        footprint=shapely.geometry.mapping(area),
        **CHUKCHI | {"bbox": (west, 66.8, east, 67)} | changed,
    )


def solar_days(scenes):
    unified = passes.unify_solar_days(scenes)
    assert {scene.id: scene.day for scene in passes.unify_solar_days(scenes[::-1])} == {
        scene.id: scene.day for scene in unified
    }
    return {scene.id: scene.solar_day.isoformat() for scene in unified}


def test_passes_on_consecutive_days_at_180_degrees_are_of_two_days():
    first = chukchi("first", "2023-06-02T00:07:37Z", side=-0.3, relative_orbit=16)
    second = chukchi("second", "2023-06-02T23:37:44Z", side=0.3, relative_orbit=30)
    assert first.solar_day == second.solar_day
    assert solar_days([first, second]) == {"first": "2023-06-02", "second": "2023-06-03"}
    third = chukchi("third", "2023-06-03T23:07:50Z", side=0.3, relative_orbit=44)
    assert solar_days([first, second, third])["third"] == "2023-06-04"
    later = chukchi("later", "2023-06-07T00:07:37Z", side=-0.3, relative_orbit=16)
    assert solar_days([first, second, later])["later"] == "2023-06-07"


def test_passes_at_180_degrees_at_the_end_of_a_year_and_on_a_leap_day():
    first = chukchi("first", "2024-02-28T00:07:37Z", side=-0.3)
    second = chukchi("second", "2024-02-28T23:37:44Z", side=0.3)
    assert solar_days([first, second]) == {"first": "2024-02-28", "second": "2024-02-29"}
    first = chukchi("first", "2024-12-31T00:07:37Z", side=-0.3)
    second = chukchi("second", "2024-12-31T23:37:44Z", side=0.3)
    assert solar_days([first, second]) == {"first": "2024-12-31", "second": "2025-01-01"}


def test_all_scenes_of_the_later_pass_are_of_its_day():
    first = chukchi("first", "2023-06-02T00:07:37Z", side=-0.3)
    second = chukchi("second", "2023-06-02T23:37:44Z", side=0.3)
    south = a_scene("south", box=(-179, 65, -178, 66.8), tile="01WCP",
                    datetime=second.datetime + dt.timedelta(seconds=14))  # fmt: skip
    days = solar_days([first, second, south])
    assert (days["second"], days["south"]) == ("2023-06-03", "2023-06-03")
    elsewhere = dataclasses.replace(south, id="elsewhere")
    assert solar_days([first, elsewhere]) == {"first": "2023-06-02", "elsewhere": "2023-06-02"}


def test_two_directions_and_neighbouring_orbits_are_of_one_day():
    descending = radar("down", datetime=NOON.replace(hour=5), orbit_state="descending")
    ascending = radar("up", datetime=NOON.replace(hour=17), orbit_state="ascending")
    assert set(solar_days([descending, ascending]).values()) == {"2024-06-01"}
    neighbour = a_scene("next", datetime=NOON + dt.timedelta(minutes=98))
    assert set(solar_days([a_scene("a"), neighbour]).values()) == {"2024-06-01"}


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.floats(-0.69, 0.69), st.integers(-45, 45)),
        min_size=1, max_size=8, unique_by=lambda drawn: drawn[0],
    )
)  # fmt: skip
def test_any_passes_at_180_degrees_are_of_one_day_each(drawn):
    noon = dt.datetime(2023, 12, 25, 0, 0, tzinfo=dt.UTC)
    scenes = [
        chukchi(
            f"s{day}",
            (noon + dt.timedelta(days=day, minutes=minutes)).isoformat(),
            side=side,
            relative_orbit=day + 1,
        )
        for day, side, minutes in drawn
    ]
    days = [
        scene.solar_day for scene in passes.unify_solar_days(sorted(scenes, key=passes.sort_key))
    ]
    assert days == sorted(set(days))


@pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")
def test_real_duplicates_of_earth_search():
    pages = [
        Path(REALDATA or "")
        / f"stac/earth-search-v1/_api/search_s2_duplicates_page{page}.response.json"
        for page in (1, 2)
    ]
    features = [item for page in pages for item in json.loads(page.read_text())["features"]]
    count = len({item["id"] for item in features}) // 2
    scenes = []
    for page in pages:
        source = search.CatalogSource(provider="earth-search", location=str(page))
        scenes += search.find_scenes(source, ["S2L2A"], shapely.box(9, 47, 10, 48), None).scenes
    used, refused = select_ids(scenes, region=shapely.box(9, 47, 10, 48))
    assert len(used) == len(refused) == count
    assert all(name.endswith("_1_L2A") for name in used)
    assert refused["S2A_32TMT_20200305_0_L2A"] == "reprocessed as S2A_32TMT_20200305_1_L2A"


@pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")
def test_real_granules_of_one_pass_are_not_duplicates():
    source = search.CatalogSource(
        provider="earth-search",
        location=str(Path(REALDATA or "") / "catalog/earth-search"),
        allow=(REALDATA or "",),
    )
    result = search.find_scenes(source, ["S2L2A"], shapely.box(14, 45, 16, 47), None)
    used, refused = select_ids(result.scenes, region=shapely.box(14, 45, 16, 47))
    granules = {scene.id: (scene.tile, scene.solar_day) for scene in result.scenes}
    assert {granules[name] for name in used} == set(granules.values())
    for name, reason in refused.items():
        assert granules[name] == granules[reason.split(" as ")[1].split(" of ")[0]]
    tiles_by_day = {}
    for tile, day in granules.values():
        tiles_by_day.setdefault(day, set()).add(tile)
    assert max(map(len, tiles_by_day.values())) > 1
