"""The snapshot: one digest for the same scenes, and no half-written file."""

import dataclasses
import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs import scene_selection, snapshot
from catalogs.errors import InvalidInputError
from catalogs.scene import Asset, Radiometry, Scene
from catalogs.scene_selection import RejectedScene
from catalogs.snapshot import Snapshot
from tests.support.documents import WORLD, find


def a_scene(name, **changed):
    metres = Radiometry(scale=1, offset=0, unit="m")
    values = {
        "id": name,
        "collection": "cop-dem-glo-30",
        "provider": "demo",
        "modality": "DEM",
        "datetime": None,
        "footprint": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        "bbox": (0, 0, 1, 1),
        "assets": {
            "DEM": Asset(
                band="DEM", href=f"/here/{name}.tif", radiometry=metres, nodata=float("nan")
            )
        },
    }
    return Scene(**values | changed)


SCENES = tuple(a_scene(f"d{number}") for number in range(5))


def moved(scene):
    asset = dataclasses.replace(scene.assets["DEM"], href="/there/else.tif")
    return dataclasses.replace(scene, assets={"DEM": asset})


def test_the_digest_knows_neither_order_nor_place():
    shuffled = list(SCENES)
    random.Random(1).shuffle(shuffled)
    digest = Snapshot(scenes=SCENES).digest
    assert Snapshot(scenes=tuple(shuffled)).digest == digest
    assert Snapshot(scenes=tuple(map(moved, SCENES))).digest == digest
    assert Snapshot(scenes=SCENES, refused=(RejectedScene(id="x", reason="y"),)).digest == digest
    assert Snapshot(scenes=SCENES[1:]).digest != digest
    changed = (a_scene("d0", baseline="1.0"), *SCENES[1:])
    assert Snapshot(scenes=changed).digest != digest
    assert len(digest) == 64


def test_the_digest_stays_what_it_was():
    assert Snapshot(scenes=SCENES[:1]).digest == (
        "e70ca704f32f118b90551b5c7cba872e810e84abe9ff752e60fe2921b3341efe"
    )
    # ^ a change here makes the receipts of finished tiles stale: make it knowingly


def test_a_snapshot_survives_its_file(tmp_path):
    path = tmp_path / "deep" / "snapshot.json"
    written = Snapshot(scenes=SCENES, refused=(RejectedScene(id="x", reason="too cloudy"),))
    written.write(path)
    read = snapshot.read(path)
    assert read == written
    assert read.digest == written.digest
    assert read.scenes[0].assets["DEM"].href == "/here/d0.tif"
    assert [entry.name for entry in path.parent.iterdir()] == ["snapshot.json"]
    first = path.read_bytes()
    read.write(path)
    assert path.read_bytes() == first


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "snapshot.json"
    Snapshot(scenes=SCENES).write(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Snapshot(scenes=SCENES[1:]).write(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot.json"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda values: values["scenes"].pop(), "was changed after it was written"),
        (lambda values: values["scenes"][0].update(tile="32VNH"), "was changed after"),
        (lambda values: values.update(version=99), "is no terramosaic-snapshot of version 1"),
        (lambda values: values.update(format="plan"), "is no terramosaic-snapshot"),
        (lambda values: values.pop("scenes"), "no snapshot that can be read"),
        (lambda values: values["scenes"][0].update(bbox=[0, 0]), "no snapshot that can be read"),
        (lambda values: values["scenes"].append(values["scenes"][0]), "stands twice"),
    ],
)
def test_a_spoiled_file_is_refused(tmp_path, spoil, reason):
    path = tmp_path / "snapshot.json"
    Snapshot(scenes=SCENES).write(path)
    values = json.loads(path.read_text())
    spoil(values)
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidInputError, match=reason):
        snapshot.read(path)


@pytest.mark.parametrize("text", [None, "", "[]", "{", "7"])
def test_what_is_no_snapshot(tmp_path, text):
    path = tmp_path / "snapshot.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInputError, match="no snapshot that can be read"):
        snapshot.read(path)


def test_the_difference_names_ids():
    before = Snapshot(scenes=SCENES)
    after = Snapshot(scenes=(a_scene("new"), a_scene("d1", tile="X"), moved(SCENES[2]), SCENES[3]))
    difference = snapshot.diff(before, after)
    assert difference.added == ("cop-dem-glo-30/new",)
    assert difference.removed == ("cop-dem-glo-30/d0", "cop-dem-glo-30/d4")
    assert difference.changed == ("cop-dem-glo-30/d1",)
    assert difference
    assert not snapshot.diff(before, Snapshot(scenes=tuple(map(moved, SCENES))))


REAL = (
    ("earth-search-v1", "earth-search", ("S2L2A", "DEM")),
    ("planetary-computer", "planetary-computer", ("S2L2A", "S1RTC", "DEM")),
    ("cdse", "cdse", ("S2L2A",)),
)


@pytest.mark.parametrize(("folder", "provider", "modalities"), REAL)
def test_any_order_of_real_documents_gives_one_digest(
    realdata, tmp_path, folder, provider, modalities
):
    paths = sorted((realdata / "stac" / folder).glob("**/*.json"))
    documents = [json.loads(path.read_text()) for path in paths]
    items = [one for one in documents if one.get("type") == "Feature"]
    items += [one for many in documents for one in many.get("features", ())]
    items += [
        one | {"properties": one["properties"] | {"eo:cloud_cover": 99, "updated": "2026-01-01"}}
        for one in items[::3]
    ]
    # ^ the catalog moved while it was being read: two documents of one id

    @settings(max_examples=12)
    @given(st.permutations(items))
    def check(order):
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": order}))
        found = find(path, modalities, region=WORLD, period=None, provider=provider)
        chosen = scene_selection.select_scenes(found.scenes, WORLD)
        whole = Snapshot(scenes=found.scenes, refused=found.refused)
        answers.add((whole.digest, whole.refused, found.caveats,
                     Snapshot(scenes=chosen.used, refused=chosen.refused).digest))  # fmt: skip

    answers = set()
    check()
    assert len(answers) == 1
