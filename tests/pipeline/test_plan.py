"""The frozen plan: what decides a product's identity, and what does not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import shapely

from catalogs.errors import InvalidInputError
from catalogs.snapshot import Snapshot
from pipeline import resource_estimate
from pipeline.grid import grid, window_lattice
from pipeline.plan.plan import Plan, hash_json, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.plan.settings import ModelOptions, RunSettings
from pipeline.storage import plan_file
from tests.support import small_worlds
from tests.support.fake_predictors import (
    Brightness,
    Painter,
    Patches,
    Several,
)

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
MODEL = ModelSpec(
    name="fake",
    digest="d" * 64,
    window=32,
    inputs={"S2L2A": ("B02",)},
    precision="fp32",
    batch=4,
    outputs=(*Brightness.outputs,),
)
FEATURES = dataclasses.replace(MODEL, outputs=(*Patches.outputs,))
NDVI = dataclasses.replace(MODEL, outputs=(*Painter.outputs,))
SEVERAL = dataclasses.replace(MODEL, outputs=(*Several.outputs,))


def make(folder, *, scenes=2, model=MODEL, tile=32, size=80):
    """Plan a product of scenes with random pixels."""
    rng = np.random.default_rng(5)
    optical = tuple(
        small_worlds.optical(
            folder,
            f"scene-{number}",
            {"B02": rng.integers(1, 8000, (size, size)).astype(np.uint16)},
            rng.choice([4, 9], (size // 2, size // 2), p=[0.9, 0.1]).astype(np.uint8),
            when=f"2024-06-{number + 1:02d}T10:00:00+00:00",
        )
        for number in range(scenes)
    )
    box = shapely.box(
        small_worlds.LEFT + 53,
        small_worlds.TOP - 707,
        small_worlds.LEFT + 703,
        small_worlds.TOP - 67,
    )
    back = grid.Transformer.from_crs(small_worlds.EPSG, 4326, always_xy=True)
    region = shapely.transform(box, back.transform, interleaved=False)
    finest, coarsest = (model.output_stride, model.max_output_stride) if model else (1, 1)
    lattice = {"stride": 20, "margin": 2} if coarsest == 1 else {"stride": 24, "margin": 0}
    whole = grid.build_covering_grid(region, small_worlds.EPSG, 10.0, (0.0, 0.0)).coarsen(coarsest)
    return Plan(
        name="test",
        period=("2024-06-01", "2024-06-30"),
        region=to_geojson(region),
        grids=(whole.refine(coarsest // finest),),
        tile_size=tile // finest,
        snapshot=Snapshot(scenes=optical),
        recipe=dataclasses.replace(RECIPE, **(lattice if model else {"stride": 0, "margin": 0})),
        model=model,
        settings=RunSettings(output_dir=str(folder)),
    )


def test_a_plan_survives_its_file(tmp_path):
    plan = make(tmp_path)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    again = plan_file.read_plan_file(tmp_path / "plan.json")
    assert again.digest == plan.digest
    assert [again.tile_key(tile) for tile in again.tiles] == [
        plan.tile_key(tile) for tile in plan.tiles
    ]


@pytest.mark.parametrize(
    "model", [FEATURES, NDVI, SEVERAL], ids=["embedding", "generate", "several"]
)
def test_a_plan_with_another_output_survives_its_file(tmp_path, model):
    plan = make(tmp_path, model=model)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    again = plan_file.read_plan_file(tmp_path / "plan.json")
    assert again.model == model
    assert again.digest == plan.digest != make(tmp_path).digest


def test_a_model_survives_json():
    for model in (MODEL, FEATURES, NDVI, SEVERAL):
        assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert SEVERAL.primary_output.layer_name == "land_cover"


def test_cells_are_whole_patches_of_the_windows(tmp_path):
    plan = make(tmp_path, model=FEATURES)
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
def test_models_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MODEL, outputs=(dataclasses.replace(MODEL.primary_output, **change),))


@pytest.mark.parametrize(("count", "message"), [(0, "at least one output"), (2, "more than once")])
def test_a_model_needs_distinct_outputs(count, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MODEL, outputs=MODEL.outputs * count)


def test_paths_do_not_enter_the_digest(tmp_path):
    assert make(tmp_path / "a").digest == make(tmp_path / "elsewhere").digest


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
def test_whatever_decides_a_pixel_changes_the_digest(tmp_path, change):
    plan = make(tmp_path)
    assert dataclasses.replace(plan, **change).digest != plan.digest


def test_run_settings_do_not_enter_the_digest(tmp_path):
    plan = make(tmp_path)
    assert (
        dataclasses.replace(plan, settings=RunSettings(output_dir="/other")).digest == plan.digest
    )


def test_a_new_scene_changes_the_tiles_that_it_touches_and_no_other(tmp_path):
    plan = make(tmp_path)
    small = small_worlds.optical(
        tmp_path,
        "small",
        {"B02": np.ones((4, 4), np.uint16)},
        left=small_worlds.LEFT + 600,
        top=small_worlds.TOP - 600,
        when="2024-06-20T10:00:00+00:00",
    )
    extended = dataclasses.replace(plan, snapshot=Snapshot(scenes=(*plan.snapshot.scenes, small)))
    changed = {tile.id for tile in plan.tiles if plan.tile_key(tile) != extended.tile_key(tile)}
    assert "r000c000" not in changed
    assert changed
    for tile in plan.tiles:
        intersects = "small" in {scene.id for scene in extended.tile_scenes(tile)}
        assert intersects == (tile.id in changed)


def test_an_edited_plan_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, make(tmp_path))
    values = json.loads(path.read_text())
    values["recipe"]["dilate_m"] = 500.0
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidInputError, match="edited"):
        plan_file.read_plan_file(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"plan": 1}'])
def test_what_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError):
        plan_file.read_plan_file(path)


@pytest.mark.parametrize("name", ["../../evil", "", "a/b", ".hidden"])
def test_a_plan_cannot_name_a_folder_elsewhere(tmp_path, name):
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, make(tmp_path))
    values = json.loads(path.read_text())
    values["name"] = name
    del values["sha256"]
    path.write_text(json.dumps({**values, "sha256": hash_json(values)}))
    with pytest.raises(InvalidInputError, match="folder"):
        plan_file.read_plan_file(path)


def test_the_estimate_depends_on_the_outputs(tmp_path):
    ndvi = make(tmp_path, model=NDVI)
    diffusion = dataclasses.replace(ndvi.settings, model=ModelOptions(timesteps=10))
    slow = dataclasses.replace(ndvi, settings=diffusion)
    plans = (make(tmp_path, model=None), make(tmp_path), make(tmp_path, model=FEATURES), ndvi, slow)
    seconds = [resource_estimate.estimate_resources(plan, workers=1).seconds for plan in plans]
    assert seconds == sorted(set(seconds))
    outputs = (dataclasses.replace(FEATURES.primary_output, bands=tuple(map(str, range(768)))),)
    wide = dataclasses.replace(FEATURES, outputs=outputs)
    coarse, many = (make(tmp_path, model=model) for model in (FEATURES, wide))
    memory = [
        resource_estimate.estimate_resources(plan, workers=1).peak_memory_bytes
        for plan in (coarse, many)
    ]
    width = max(coarse.context_grid(tile).width for tile in coarse.tiles)
    sums, stored = 2 * 4 * 32 * width / 64, 4 * coarse.tile_size**2
    assert memory[1] - memory[0] == pytest.approx((768 - 3) * (sums + stored), rel=1e-3)


def test_the_estimate_of_memory_does_not_grow_with_the_height(tmp_path):
    """Only the stored layers of a tile do; strips and windows do not stay in memory."""
    small, tall = make(tmp_path), make(tmp_path)
    tall = dataclasses.replace(tall, grids=(dataclasses.replace(tall.grid, height=60_000),))
    memory = [
        resource_estimate.estimate_resources(plan, workers=1).peak_memory_bytes
        for plan in (small, tall)
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
def test_an_edited_plan_is_refused_whatever_was_edited(tmp_path, edit):
    path = tmp_path / "plan.json"
    plan = make(tmp_path)
    plan_file.write_plan_file(path, plan)
    assert plan_file.read_plan_file(path) == plan
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(InvalidInputError, match=r"plan\.json: .*edited"):
        plan_file.read_plan_file(path)
