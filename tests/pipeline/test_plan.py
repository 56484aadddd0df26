"""The plan: what changes its digest, and what does not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from catalogs.errors import InvalidInputError
from catalogs.snapshot import Snapshot
from pipeline import resource_estimate
from pipeline.grid import window_lattice
from pipeline.plan.plan import hash_json
from pipeline.plan.recipe import ModelSpec
from pipeline.plan.settings import ModelOptions, RunSettings
from pipeline.storage import plan_file
from tests.support import small_worlds
from tests.support.small_plan import FEATURES, MODEL, NDVI, RECIPE, SEVERAL, make_plan


def test_a_plan_survives_its_file(tmp_path):
    plan = make_plan(tmp_path)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    restored = plan_file.read_plan_file(tmp_path / "plan.json")
    assert restored.digest == plan.digest
    assert [restored.tile_key(tile) for tile in restored.tiles] == [
        plan.tile_key(tile) for tile in plan.tiles
    ]


@pytest.mark.parametrize(
    "model", [FEATURES, NDVI, SEVERAL], ids=["embedding", "generate", "several"]
)
def test_a_plan_with_another_output_survives_its_file(tmp_path, model):
    plan = make_plan(tmp_path, model=model)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    restored = plan_file.read_plan_file(tmp_path / "plan.json")
    assert restored.model == model
    assert restored.digest == plan.digest != make_plan(tmp_path).digest


def test_a_model_survives_json():
    for model in (MODEL, FEATURES, NDVI, SEVERAL):
        assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert SEVERAL.primary_output.layer_name == "land_cover"


def test_cells_are_whole_patches_of_the_windows(tmp_path):
    plan = make_plan(tmp_path, model=FEATURES)
    assert plan.grid.resolution == 80.0
    assert plan.lattice == window_lattice.Lattice(window=32, stride=24, context_width=0)
    for tile in plan.tiles:
        context, area = plan.context_grid(tile), plan.pixel_grid(plan.tile_grid(tile))
        assert context.resolution == area.resolution == 10.0
        assert [index % 8 for index in (*context.origin_index(), *area.origin_index())] == [0] * 4
        assert context.height % 8 == context.width % 8 == 0
    shifted = dataclasses.replace(plan.grid, left=plan.grid.left + 10.0)
    with pytest.raises(ValueError, match="multiples of 8 px"):
        dataclasses.replace(plan, grids=(shifted,))
    with pytest.raises(ValueError, match="multiples of 8 px"):
        dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, stride=20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "crops"}, "unknown task"),
        ({"task": "generate"}, "needs a modality"),
        ({"class_names": ()}, "needs class_names or bands"),
        ({"stride": 5}, "whole cells"),
    ],
)
def test_invalid_model_outputs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MODEL, outputs=(dataclasses.replace(MODEL.primary_output, **change),))


@pytest.mark.parametrize(("count", "message"), [(0, "at least one output"), (2, "more than once")])
def test_a_model_needs_distinct_outputs(count, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MODEL, outputs=MODEL.outputs * count)


def test_paths_do_not_enter_the_digest(tmp_path):
    assert make_plan(tmp_path / "a").digest == make_plan(tmp_path / "elsewhere").digest


@pytest.mark.parametrize(
    "change",
    [
        {"tile_size": 64},
        {"period": ("2024-06-01", "2024-06-29")},
        {"recipe": dataclasses.replace(RECIPE, dilate_m=20.0)},
        {"model": dataclasses.replace(MODEL, digest="e" * 64)},
        {"model": dataclasses.replace(MODEL, batch=8)},
        {"snapshot": Snapshot(scenes=())},
    ],
)
def test_everything_that_decides_a_pixel_changes_the_digest(tmp_path, change):
    plan = make_plan(tmp_path)
    assert dataclasses.replace(plan, **change).digest != plan.digest


def test_run_settings_do_not_enter_the_digest(tmp_path):
    plan = make_plan(tmp_path)
    assert (
        dataclasses.replace(plan, settings=RunSettings(output_dir="/other")).digest == plan.digest
    )


def test_a_new_scene_changes_only_the_tiles_that_it_intersects(tmp_path):
    plan = make_plan(tmp_path)
    small_scene = small_worlds.optical(
        tmp_path,
        "small",
        {"B02": np.ones((4, 4), np.uint16)},
        left=small_worlds.LEFT + 600,
        top=small_worlds.TOP - 600,
        when="2024-06-20T10:00:00+00:00",
    )
    extended = dataclasses.replace(
        plan, snapshot=Snapshot(scenes=(*plan.snapshot.scenes, small_scene))
    )
    changed = {tile.id for tile in plan.tiles if plan.tile_key(tile) != extended.tile_key(tile)}
    assert "r000c000" not in changed
    assert changed
    for tile in plan.tiles:
        intersects = "small" in {scene.id for scene in extended.tile_scenes(tile)}
        assert intersects == (tile.id in changed)


def test_a_plan_of_other_numerics_can_be_read(tmp_path):
    """Products stay valid: only new ones get other pixels. Older plan files do not state them."""
    plan = dataclasses.replace(make_plan(tmp_path), numerics=5)
    assert plan.digest != make_plan(tmp_path).digest
    values = {key: value for key, value in plan.to_dict().items() if key != "numerics"}
    values["sha256"] = hash_json({key: value for key, value in values.items() if key != "sha256"})
    (tmp_path / "plan.json").write_text(json.dumps(values))
    restored = plan_file.read_plan_file(tmp_path / "plan.json")
    assert restored.numerics == 5
    assert [restored.tile_key(tile) for tile in restored.tiles] == [
        plan.tile_key(tile) for tile in plan.tiles
    ]


def test_an_edited_plan_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, make_plan(tmp_path))
    values = json.loads(path.read_text())
    values["recipe"]["dilate_m"] = 500.0
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidInputError, match="edited"):
        plan_file.read_plan_file(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"plan": 1}'])
def test_a_file_that_is_not_a_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError):
        plan_file.read_plan_file(path)


@pytest.mark.parametrize("name", ["../../evil", "", "a/b", ".hidden"])
def test_a_plan_name_cannot_lead_to_another_folder(tmp_path, name):
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, make_plan(tmp_path))
    values = json.loads(path.read_text())
    values["name"] = name
    del values["sha256"]
    path.write_text(json.dumps({**values, "sha256": hash_json(values)}))
    with pytest.raises(InvalidInputError, match="folder"):
        plan_file.read_plan_file(path)


def test_the_estimate_depends_on_the_outputs(tmp_path):
    ndvi = make_plan(tmp_path, model=NDVI)
    diffusion = dataclasses.replace(ndvi.settings, model=ModelOptions(timesteps=10))
    slow_plan = dataclasses.replace(ndvi, settings=diffusion)
    plans = (
        make_plan(tmp_path, model=None),
        make_plan(tmp_path),
        make_plan(tmp_path, model=FEATURES),
        ndvi,
        slow_plan,
    )
    seconds = [resource_estimate.estimate_resources(plan, workers=1).seconds for plan in plans]
    assert seconds == sorted(set(seconds))
    outputs = (dataclasses.replace(FEATURES.primary_output, bands=tuple(map(str, range(768)))),)
    wide_model = dataclasses.replace(FEATURES, outputs=outputs)
    plan_of_3_bands, plan_of_768_bands = (
        make_plan(tmp_path, model=model) for model in (FEATURES, wide_model)
    )
    memory = [
        resource_estimate.estimate_resources(plan, workers=1).peak_memory_bytes
        for plan in (plan_of_3_bands, plan_of_768_bands)
    ]
    width = max(plan_of_3_bands.context_grid(tile).width for tile in plan_of_3_bands.tiles)
    sums, stored = 2 * 4 * 32 * width / 64, 4 * plan_of_3_bands.tile_size**2
    assert memory[1] - memory[0] == pytest.approx((768 - 3) * (sums + stored), rel=1e-3)


def test_the_estimate_of_memory_does_not_grow_with_the_height(tmp_path):
    """Only the stored layers of a tile grow; strips and windows are not kept in memory."""
    short_plan, tall_plan = make_plan(tmp_path), make_plan(tmp_path)
    tall_plan = dataclasses.replace(
        tall_plan, grids=(dataclasses.replace(tall_plan.grid, height=60_000),)
    )
    memory = [
        resource_estimate.estimate_resources(plan, workers=1).peak_memory_bytes
        for plan in (short_plan, tall_plan)
    ]
    assert memory[1] == pytest.approx(memory[0], rel=0.1)


@pytest.mark.parametrize(
    "edit",
    [
        {"job": None},
        {"job": {"execution": {"workers": -5}}},
        {"proof": {"agrees": 99}},
        {"doubts": [{"note": "none"}]},
        {"format": 99},
        {"tiles": []},
        {"more": 1},
        {"period": ["2024-05-02", "2024-05-31"]},
    ],
    ids=str,
)
def test_a_plan_with_any_edited_value_is_refused(tmp_path, edit):
    path = tmp_path / "plan.json"
    plan = make_plan(tmp_path)
    plan_file.write_plan_file(path, plan)
    assert plan_file.read_plan_file(path) == plan
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(InvalidInputError, match=r"plan\.json: .*edited"):
        plan_file.read_plan_file(path)
