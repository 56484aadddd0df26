"""The frozen plan: what decides a product's identity, and what does not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import shapely

from catalogs.errors import Wrong
from catalogs.snapshot import Snapshot
from pipeline import grid
from pipeline.plan import Model, Plan, Recipe, geojson
from tests import worlds

RECIPE = Recipe(
    inputs=("S2L2A",),
    clear_scl=(4, 5),
    dilate_m=0.0,
    method="median",
    stride=20,
    margin=2,
    probabilities=False,
    composites=True,
)
MODEL = Model(
    name="fake",
    digest="d" * 64,
    window=32,
    inputs={"S2L2A": ("B02",)},
    class_names=("water", "bare", "clouds"),
    precision="fp32",
    batch=4,
)


def make(folder, *, scenes=2, model=MODEL, tile=32, size=80):
    """Plan some scenes of random pixels."""
    rng = np.random.default_rng(5)
    made = tuple(
        worlds.optical(
            folder,
            f"scene-{number}",
            {"B02": rng.integers(1, 8000, (size, size)).astype(np.uint16)},
            rng.choice([4, 9], (size // 2, size // 2), p=[0.9, 0.1]).astype(np.uint8),
            when=f"2024-06-{number + 1:02d}T10:00:00+00:00",
        )
        for number in range(scenes)
    )
    box = shapely.box(worlds.LEFT + 53, worlds.TOP - 707, worlds.LEFT + 703, worlds.TOP - 67)
    back = grid.Transformer.from_crs(worlds.EPSG, 4326, always_xy=True)
    region = shapely.transform(box, back.transform, interleaved=False)
    return Plan(
        name="test",
        period=("2024-06-01", "2024-06-30"),
        region=geojson(region),
        grid=grid.covering(region, worlds.EPSG, 10.0, (0.0, 0.0)),
        tile=tile,
        snapshot=Snapshot(scenes=made),
        recipe=RECIPE if model else dataclasses.replace(RECIPE, stride=0, margin=0),
        model=model,
        job={"output": {"path": str(folder)}, "model": {}, "execution": {}},
    )


def test_a_plan_survives_its_file(tmp_path):
    plan = make(tmp_path)
    plan.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    assert again.digest == plan.digest
    assert [again.key(tile) for tile in again.tiles] == [plan.key(tile) for tile in plan.tiles]


def test_paths_do_not_enter_the_digest(tmp_path):
    assert make(tmp_path / "a").digest == make(tmp_path / "elsewhere").digest


@pytest.mark.parametrize(
    "change",
    [
        {"tile": 64},
        {"period": ("2024-06-01", "2024-06-29")},
        {"recipe": dataclasses.replace(RECIPE, dilate_m=20.0)},
        {"model": dataclasses.replace(MODEL, digest="e" * 64)},
        {"model": dataclasses.replace(MODEL, batch=8)},
        {"snapshot": Snapshot(scenes=())},
    ],
)
def test_whatever_decides_a_pixel_changes_the_digest(tmp_path, change):
    plan = make(tmp_path)
    assert dataclasses.replace(plan, **change).digest != plan.digest


def test_where_it_goes_does_not_change_the_digest(tmp_path):
    plan = make(tmp_path)
    assert dataclasses.replace(plan, job={"output": {"path": "/other"}}).digest == plan.digest


def test_a_new_scene_changes_the_tiles_that_it_touches_and_no_other(tmp_path):
    plan = make(tmp_path)
    small = worlds.optical(
        tmp_path,
        "small",
        {"B02": np.ones((4, 4), np.uint16)},
        left=worlds.LEFT + 600,
        top=worlds.TOP - 600,
        when="2024-06-20T10:00:00+00:00",
    )
    more = dataclasses.replace(plan, snapshot=Snapshot(scenes=(*plan.snapshot.scenes, small)))
    changed = {tile.id for tile in plan.tiles if plan.key(tile) != more.key(tile)}
    assert "r000c000" not in changed
    assert changed
    for tile in plan.tiles:
        touched = "small" in {scene.id for scene in more.scenes(tile)}
        assert touched == (tile.id in changed)


def test_an_edited_plan_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    make(tmp_path).write(path)
    values = json.loads(path.read_text())
    values["recipe"]["dilate_m"] = 500.0
    path.write_text(json.dumps(values))
    with pytest.raises(Wrong, match="edited"):
        Plan.read(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"plan": 1}'])
def test_what_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(Wrong):
        Plan.read(path)


@pytest.mark.parametrize("name", ["../../evil", "", "a/b", ".hidden"])
def test_a_plan_cannot_name_a_folder_elsewhere(tmp_path, name):
    path = tmp_path / "plan.json"
    make(tmp_path).write(path)
    values = json.loads(path.read_text())
    values["name"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(Wrong, match="folder"):
        Plan.read(path)
