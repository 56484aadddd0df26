"""Several documents of one acquisition: nothing that is wanted is lost, in any order of them."""

import dataclasses
import datetime as dt
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.scene import ItemReference, Scene
from catalogs.search import duplicates, scene_selection
from tests.support.scenes import NOON, REGION, a_scene, heights, radar
from tests.support.stac_documents import an_item, dump, find, ids

VISIBLE = ("B02", "B03", "B04")
WANTED = {"S2L2A": VISIBLE}


def select(scenes, **options):
    """Select from scenes, in two orders."""
    first, second = (
        scene_selection.select_scenes(ordered, REGION, **{"bands": WANTED} | options)
        for ordered in (scenes, scenes[::-1])
    )
    assert first == second
    return first


def refusals(selection):
    return {scene.id: scene.reason for scene in selection.refused}


def texts(selection):
    return [caveat.text for caveat in selection.caveats]


# -- uniting ------------------------------------------------------------------------------------


def test_documents_with_different_bands_become_one_scene():
    selection = select(
        [
            a_scene("a", bands=("B02", "SCL")),
            a_scene("b", bands=("B03", "B04"), processed=NOON + dt.timedelta(days=9)),
        ]
    )
    (scene,) = selection.used
    assert list(scene.assets) == ["B02", "B03", "B04", "SCL"]
    assert scene.id == "a"
    assert scene.assets["B03"].href == "/sentinel-2-l2a/b/B03.tif"
    assert scene.assets["B03"].item == ItemReference(collection="sentinel-2-l2a", id="b")
    assert scene.assets["B02"].item is None
    assert refusals(selection) == {"b": "united with a: it supplies B03, B04"}
    assert texts(selection) == ["B03, B04 from b, another document of the acquisition"]


def test_each_band_of_a_united_scene_keeps_its_own_radiometry():
    c1 = a_scene("c1", collection="sentinel-2-c1-l2a", bands=("B02",), offset=-0.1)
    (scene,) = select([c1, a_scene("l2a", bands=("B03", "B04", "SCL"))]).used
    offsets = {band: asset.radiometry.offset for band, asset in scene.assets.items()}
    assert offsets == {"B02": -0.1, "B03": 0.0, "B04": 0.0, "SCL": 0.0}


def test_a_united_scene_is_stored_in_a_plan_and_split_into_its_items():
    c1 = a_scene(
        "same",
        collection="sentinel-2-c1-l2a",
        bands=("B02",),
        offset=-0.1,
        item_href="https://a.example/c1.json",
    )
    l2a = a_scene("same", bands=("B03", "B04", "SCL"), item_href="https://a.example/l2a.json")
    (scene,) = select([c1, l2a]).used
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
    own, other = scene.split_by_item()
    assert (own.collection, list(own.assets)) == ("sentinel-2-l2a", ["B03", "B04", "SCL"])
    assert other == dataclasses.replace(
        c1, assets={"B02": dataclasses.replace(scene.assets["B02"], item=None)}
    )
    assert own.split_by_item() == (own,)
    assert "item" not in json.dumps(own.identity())
    assert [document.item_href for document in (own, other)] == [l2a.item_href, c1.item_href]
    assert "https" not in json.dumps(scene.identity())
    assert scene.identity() != dataclasses.replace(scene, assets=own.assets).identity()


def test_three_documents_become_one_scene():
    selection = select(
        [
            a_scene("a", bands=("B02",)),
            a_scene("b", bands=("B03",)),
            a_scene("c", bands=("B04", "SCL")),
        ]
    )
    assert [list(scene.assets) for scene in selection.used] == [["B02", "B03", "B04", "SCL"]]
    assert len(selection.refused) == 2


def test_a_document_of_a_mask_alone_is_united():
    selection = select([a_scene("pixels", bands=VISIBLE), a_scene("mask", bands=("SCL",))])
    assert [list(scene.assets) for scene in selection.used] == [[*VISIBLE, "SCL"]]
    assert texts(selection) == ["SCL from mask, another document of the acquisition"]


def test_polarisations_in_separate_documents_are_united():
    selection = select([radar("s1-vv", bands=("VV",)), radar("s1-vh", bands=("VH",))])
    assert [list(scene.assets) for scene in selection.used] == [["VV", "VH"]]
    selection = select(
        [radar("vv-new", bands=("VV",), processed=NOON + dt.timedelta(9)), radar("both")]
    )
    assert [scene.id for scene in selection.used] == ["both"]
    assert refusals(selection) == {"vv-new": "it lacks the polarisation VH: it has VV"}


def test_polarisations_of_different_units_are_not_united_without_a_baseline():
    stated = radar("vh", bands=("VH",)).assets["VH"]
    decibels = dataclasses.replace(
        stated, radiometry=dataclasses.replace(stated.radiometry, unit="dB")
    )
    vh = dataclasses.replace(radar("vh", bands=("VH",)), assets={"VH": decibels})
    selection = select([radar("vv", bands=("VV",)), vh])
    assert selection.used == ()
    assert refusals(selection) == {
        "vv": "it lacks the polarisation VH: it has VV",
        "vh": "it lacks the polarisation VV: it has VH",
    }


def test_parts_of_a_granule_are_not_united():
    west = a_scene("west", bands=VISIBLE, box=(9, 56, 9.55, 57))
    east = a_scene("east", bands=("B02", "SCL"), box=(9.5, 56, 10, 57))
    selection = select([west, east])
    assert {scene.id: list(scene.assets) for scene in selection.used} == {
        "west": [*VISIBLE],
        "east": ["B02", "SCL"],
    }


def test_a_document_of_more_ground_supplies_a_part_and_is_used_beside_it():
    part = a_scene("part", bands=("B02", "B03", "SCL"), box=(9, 56, 9.5, 57))
    selection = select([part, a_scene("whole", bands=("B04",))])
    assert {scene.id: list(scene.assets) for scene in selection.used} == {
        "part": ["B02", "B03", "B04", "SCL"],
        "whole": ["B04"],
    }
    assert selection.refused == ()


def test_a_document_of_another_time_is_not_united():
    later = {"datetime": NOON + dt.timedelta(days=5)}
    selection = select([a_scene("a", bands=("B02", "SCL")), a_scene("b", bands=("B03",), **later)])
    assert [list(scene.assets) for scene in selection.used] == [["B02", "SCL"], ["B03"]]


def test_a_united_scene_has_one_cloud_cover_and_is_one_pass():
    first = a_scene("a", bands=("B02", "B03", "SCL"))
    second = a_scene("b", bands=("B04",), cloud_cover=90)
    selection = select([first, second], max_cloud_cover=60)
    assert refusals(selection)["a"] == "cloud cover 90 % is above 60 %"
    later = a_scene("later", bands=(*VISIBLE, "SCL"), datetime=NOON + dt.timedelta(days=5))
    assert len(select([first, second, later], max_passes=2).used) == 2
    assert len(select([first, second, later], max_passes=1).used) == 1


def test_a_platform_that_one_document_does_not_state_is_no_other_platform():
    selection = select([a_scene("a", bands=VISIBLE), a_scene("b", bands=("SCL",), platform=None)])
    assert [list(scene.assets) for scene in selection.used] == [[*VISIBLE, "SCL"]]


# -- choosing -----------------------------------------------------------------------------------


OLD = {"baseline": "02.14"}


@pytest.mark.parametrize("missing", ["SCL", "B03"])
def test_a_newer_processing_without_a_wanted_band_does_not_win(missing):
    bands = (*VISIBLE, "SCL")
    new = a_scene("new", bands=[band for band in bands if band != missing], offset=-0.1)
    selection = select([a_scene("old", bands=bands, **OLD), new])
    assert [scene.id for scene in selection.used] == ["old"]
    assert refusals(selection) == {"new": f"the same acquisition as old, which also has {missing}"}
    assert texts(selection) == [f"used in place of the newer new, which lacks {missing}"]


def test_a_newer_processing_without_a_band_that_is_not_wanted_wins():
    old = a_scene("old", bands=(*VISIBLE, "B09", "SCL", "CLD"), **OLD)
    new = a_scene("new", bands=(*VISIBLE, "SCL"))
    assert [scene.id for scene in select([old, new]).used] == ["new"]
    assert [scene.id for scene in select([old, new], mask_bands=("SCL", "CLD")).used] == ["old"]


def test_of_different_baselines_the_fuller_is_used_and_the_rest_is_told():
    old, new = a_scene("old", bands=("B02", "SCL"), **OLD), a_scene("new", bands=VISIBLE)
    selection = select([old, new])
    assert [scene.id for scene in selection.used] == ["new"]
    assert texts(selection) == [
        "SCL of old not used: another processing of the acquisition",
        "no SCL: clouds are not masked",
    ]


def test_of_as_many_bands_those_with_a_classification_are_used():
    old, new = a_scene("old", bands=("B02", "B03", "SCL"), **OLD), a_scene("new", bands=VISIBLE)
    assert [scene.id for scene in select([old, new]).used] == ["old"]


def test_a_complete_union_replaces_a_complete_older_document():
    selection = select(
        [
            a_scene("old", bands=(*VISIBLE, "SCL"), **OLD),
            a_scene("pixels", bands=VISIBLE),
            a_scene("mask", bands=("SCL",)),
        ]
    )
    assert [scene.id for scene in selection.used] == ["pixels"]
    assert refusals(selection) == {
        "old": "reprocessed as pixels",
        "mask": "united with pixels: it supplies SCL",
    }


def test_equal_ids_of_two_collections_are_told_apart():
    new = a_scene("same", collection="c1", bands=VISIBLE)
    old = a_scene("same", collection="c0", bands=(*VISIBLE, "SCL"), **OLD)
    selection = select([new, old])
    assert [scene.collection for scene in selection.used] == ["c0"]
    (refusal,) = selection.refused
    assert (refusal.collection, refusal.reason) == (
        "c1",
        "the same acquisition as same of c0, which also has SCL",
    )


def test_smaller_pixels_are_used():
    bands = (*VISIBLE, "SCL")
    coarse = a_scene("coarse", bands=bands, pixel_sizes=dict.fromkeys(VISIBLE, 20.0))
    fine = a_scene("fine", bands=bands, pixel_sizes=dict.fromkeys(VISIBLE, 10.0), **OLD)
    assert [scene.id for scene in select([coarse, fine]).used] == ["fine"]
    unstated = a_scene("unstated", bands=bands)
    assert [scene.id for scene in select([unstated, fine]).used] == ["unstated"]
    one_band = a_scene("one-band", bands=("B02",), pixel_sizes={"B02": 10.0})
    (scene,) = select([coarse, one_band]).used
    sizes = [asset.transform[0] for band, asset in scene.assets.items() if band != "SCL"]
    assert (scene.id, sizes) == ("coarse", [10.0, 20.0, 20.0])


def test_of_two_elevation_models_the_finer_is_used():
    glo90 = heights("z-glo-90", collection="cop-dem-glo-90", pixel_sizes={"DEM": 90.0})
    glo30 = heights("glo-30", collection="cop-dem-glo-30", pixel_sizes={"DEM": 30.0})
    assert [scene.id for scene in select([glo90, glo30]).used] == ["glo-30"]


@pytest.mark.parametrize(
    ("bands", "mask_bands", "text"),
    [
        (("B02", "SCL"), ("SCL",), None),
        (("B02",), ("SCL",), "no SCL: clouds are not masked"),
        (("B02",), ("SCL", "CLD"), "no SCL: clouds are not masked"),
        (
            ("B02", "CLD"),
            ("SCL", "CLD"),
            "no SCL: clouds are masked by their probability (CLD) alone",
        ),
        (("B02", "CLD"), ("SCL",), "no SCL: clouds are not masked"),
        (("B02", "SCL"), ("SCL", "CLD"), "no CLD: clouds are masked by SCL alone"),
    ],
)
def test_a_missing_mask_is_told(bands, mask_bands, text):
    selection = select([a_scene("a", bands=bands)], bands={"S2L2A": ["B02"]}, mask_bands=mask_bands)
    assert texts(selection) == ([text] if text else [])


def test_a_sensor_without_a_classification_lacks_none():
    scene = a_scene("l1c", modality="S2L1C", bands=("B02",))
    assert select([scene], bands={"S2L1C": ["B02"]}).caveats == ()


# -- twins --------------------------------------------------------------------------------------


def find_twin_ids(*scenes):
    return {scene.id for scene in duplicates.find_twins(scenes)}


def test_documents_of_one_acquisition_and_ground_are_twins():
    old, new = a_scene("old", bands=VISIBLE, **OLD), a_scene("new", bands=VISIBLE)
    later = a_scene("later", bands=VISIBLE, datetime=NOON + dt.timedelta(days=5))
    assert find_twin_ids(old, new, later) == {"old", "new"}
    west = a_scene("west", bands=VISIBLE, box=(9, 56, 9.55, 57))
    east = a_scene("east", bands=VISIBLE, box=(9.5, 56, 10, 57))
    assert find_twin_ids(west, east) == set()
    assert find_twin_ids(west, east, new) == {"west", "east", "new"}
    assert find_twin_ids() == set()


def sampled(scene, **shares):
    """Return a scene of whose bands some were sampled, with their shares of valid pixels."""
    assets = {
        band: dataclasses.replace(asset, valid_share=shares.get(band))
        for band, asset in scene.assets.items()
    }
    return dataclasses.replace(scene, assets=assets)


@pytest.mark.parametrize(
    ("shares", "used"),
    [
        ({"B02": 0.0}, "old"),
        ({"SCL": 0.0}, "old"),
        ({"B02": 0.5}, "old"),
        ({"B02": 0.99}, "new"),
        ({"B02": 1.0, "SCL": 1.0}, "new"),
    ],
)
def test_bands_without_valid_pixels_do_not_count(shares, used):
    bands = (*VISIBLE, "SCL")
    old, new = a_scene("old", bands=bands, **OLD), a_scene("new", bands=bands)
    selection = select([old, sampled(new, **shares)])
    assert [scene.id for scene in selection.used] == [used]
    (refused,) = selection.refused
    assert refused.replaced_by == used


def test_an_empty_classification_masks_all_bands():
    old, new = a_scene("old", bands=("B02", "SCL"), **OLD), a_scene("new", bands=(*VISIBLE, "SCL"))
    assert [scene.id for scene in select([old, new]).used] == ["new"]
    selection = select([old, sampled(new, SCL=0.0)])
    assert [scene.id for scene in selection.used] == ["old"]
    assert "B03, B04 of new not used: another processing of the acquisition" in texts(selection)


# -- any documents ------------------------------------------------------------------------------


@st.composite
def documents(draw):
    """Draw documents of one acquisition, of one ground or of two halves of it."""
    names = st.sets(st.sampled_from([*VISIBLE, "SCL"]), min_size=1)
    return [
        a_scene(
            f"d{draw(st.integers(0, 2))}",
            collection=f"c{number}",
            bands=sorted(draw(names)),
            offset=draw(st.sampled_from([0.0, -0.1])),
            baseline=draw(st.sampled_from([None, "02.14", "05.10"])),
            platform=draw(st.sampled_from([None, "sentinel-2a"])),
            datetime=NOON + dt.timedelta(seconds=draw(st.sampled_from([0, 0.001, 600]))),
            cloud_cover=draw(st.sampled_from([None, 10.0])),
            pixel_sizes=draw(st.sampled_from([None, {"B02": 10.0}, {"B02": 20.0}])),
            box=draw(st.sampled_from([(9, 56, 10, 57), (9, 56, 10, 57), (9, 56, 9.5, 57)])),
        )
        for number in range(draw(st.integers(1, 6)))
    ]


@settings(max_examples=200)
@given(documents(), st.randoms(use_true_random=False))
def test_what_is_used_does_not_depend_on_the_order_of_documents(scenes, chance):
    selection = scene_selection.select_scenes(scenes, REGION, 60, bands=WANTED)
    shuffled = list(scenes)
    chance.shuffle(shuffled)
    assert scene_selection.select_scenes(shuffled, REGION, 60, bands=WANTED) == selection
    assert len(selection.used) + len(selection.refused) == len(scenes)
    again = scene_selection.select_scenes(selection.used, REGION, 60, bands=WANTED)
    assert again.used == selection.used


@settings(max_examples=200)
@given(documents())
def test_assets_of_a_used_scene_are_those_of_their_items(scenes):
    by_item = {(scene.collection, scene.id): scene for scene in scenes}
    for scene in scene_selection.select_scenes(scenes, REGION, bands=WANTED).used:
        for document in scene.split_by_item():
            original = by_item[document.collection, document.id]
            assert document.assets.items() <= original.assets.items()
            assert original.baseline == scene.baseline


@settings(max_examples=200)
@given(documents())
def test_no_document_beside_a_used_scene_of_its_ground_has_more(scenes):
    """Of one ground and baseline nothing is lost; of another baseline no fuller one is left out."""
    whole = [scene for scene in scenes if scene.bbox == (9, 56, 10, 57)]
    for scene in scene_selection.select_scenes(whole, REGION, bands=WANTED).used:
        for document in whole:
            if document.baseline == scene.baseline is not None:
                assert set(document.assets) <= set(scene.assets)
            assert len(document.assets) <= len(scene.assets)


# -- documents of one id ------------------------------------------------------------------------


def search_features(folder, *features):
    return find(dump(folder / "items.json", {"type": "FeatureCollection", "features": [*features]}))


def item_of(*bands, **changed):
    properties = {
        "datetime": "2024-06-10T10:00:00Z",
        "proj:epsg": 32632,
        "s2:mgrs_tile": "32VNH",
        "s2:processing_baseline": "05.10",
    } | changed
    assets = {band: {"href": f"./{band}.tif"} for band in bands}
    return an_item("same", properties=properties, assets=assets)


def test_an_item_that_is_listed_twice_is_one_scene(tmp_path):
    result = search_features(tmp_path, item_of("B02", "SCL"), item_of("B02", "SCL"))
    assert ids(result) == ["same"]
    assert result.caveats == ()


def test_documents_of_one_id_are_united(tmp_path):
    parts = [item_of("B02", "SCL"), item_of("B03")]
    for features in (parts, parts[::-1]):
        result = search_features(tmp_path, *features)
        assert [list(scene.assets) for scene in result.scenes] == [["B02", "B03", "SCL"]]
        assert [asset.item for asset in result.scenes[0].assets.values()] == [None] * 3
        assert [caveat.text for caveat in result.caveats] == [
            "B03 from same of sentinel-2-l2a, another document of the acquisition"
        ]


def test_of_documents_of_one_id_the_fuller_is_used(tmp_path):
    old = item_of("B02", "SCL", **{"s2:processing_baseline": "02.14"})
    new = item_of("B02", "B03", "B04")
    for features in ([old, new], [new, old]):
        result = search_features(tmp_path, *features)
        assert [list(scene.assets) for scene in result.scenes] == [["B02", "B03", "B04"]]
        (caveat,) = result.caveats
        assert caveat.text == (
            "another document of this id is not used: it also has SCL, but of another processing "
            "or ground"
        )


def test_two_acquisitions_of_one_id_are_told(tmp_path):
    other = item_of("B02", datetime="2024-06-15T10:00:00Z")
    result = search_features(tmp_path, item_of("B02", "SCL"), other)
    assert [scene.datetime.day for scene in result.scenes] == [10]
    (caveat,) = result.caveats
    assert caveat.text == (
        "another document of this id is not used: it is of another acquisition "
        "(2024-06-15T10:00:00Z)"
    )
