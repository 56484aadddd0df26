"""Whole runs of everything that a model can be asked for, with small networks."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
import yaml
from rio_cogeo import cog_validate

import model
from catalogs import demo as country
from catalogs.legend import LAND_COVER
from catalogs.sensors import SENTINEL_2
from flows.cli import text_output
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.orchestration import launch
from flows.run import planning, stored_plan, verify
from flows.run.command_results import RunResult
from model.terramind import modalities
from model.weights import loading
from pipeline import layer_table
from pipeline.compositing import composite_block
from pipeline.inference import blend
from pipeline.product import descriptions, model_provenance
from pipeline.product.report import report_images
from pipeline.storage import plan_file, receipt
from tests.support import lightning_checkpoints, stac_schemas

ROOT = Path(__file__).parents[2]
INPUTS = ("S2L2A", "S1RTC", "DEM")
SIZE = {"dim": 32, "heads": 2, "depth": 2, "decoder_depth": 1}
MICRO = {
    "architecture": SIZE,
    "inputs": list(INPUTS),
    "tokenizer": {
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "image_size": 64,
        "unet": {"channels": 32, "blocks": 1},
    },
    "window": 64,
}
SEED = 3
KINDS = {
    "land_cover": {"name": "micro.yaml", "weights": {"random": SEED}},
    "embedding": {"name": "micro.yaml", "task": "embedding", "weights": {"random": SEED}},
    "generate": {
        "name": "micro.yaml",
        "task": "generate",
        "modality": "NDVI",
        "timesteps": 2,
        "weights": {"random": SEED},
    },
    "several": {
        "name": "micro.yaml",
        "task": ["land_cover", "embedding", "generate"],
        "modality": "NDVI",
        "timesteps": 2,
        "weights": {"random": SEED},
    },
    "checkpoint": {
        "name": "micro.yaml",
        "checkpoint": "tuned.ckpt",
        "classes": ["water", "trees", "crops"],
        "stats": "stats.yaml",
    },
}
ANSWER = {
    "land_cover": "land_cover",
    "embedding": "embedding",
    "generate": "generated_NDVI",
    "several": "land_cover",
    "checkpoint": "land_cover",
}
ARGS = {
    "backbone": "micro",
    "backbone_modalities": list(INPUTS),
    "num_classes": 3,
    "necks": [{"name": "ReshapeTokensToImage", "remove_cls_token": False}],
    "decoder": "FCNDecoder",
    "decoder_channels": 8,
    "decoder_num_convs": 1,
}


STATS = {name: modalities.get_raster_modality(name).statistics.to_mapping() for name in INPUTS}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Write a network's configuration, a fine-tuned checkpoint, and its statistics."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "micro.yaml").write_text(yaml.safe_dump(MICRO))
    tuned = lightning_checkpoints.build_model(
        SIZE,
        list(INPUTS),
        3,
        necks=ARGS["necks"],
        decoder="FCNDecoder",
        decoder_options={"channels": 8, "num_convs": 1},
    )
    state = loading.initialise(tuned, SEED).state_dict()
    told = {"task": "segmentation", "model_factory": "EncoderDecoderFactory", "model_args": ARGS}
    content = {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "hyper_parameters": told,
    }
    torch.save(content, folder / "tuned.ckpt")
    (folder / "stats.yaml").write_text(yaml.safe_dump(STATS))
    return folder


@pytest.fixture(scope="module")
def land(home):
    return country.build(home / "country", seed=11, size=512)


def write(home, land, kind, **changes):
    """Write a job over a few tiles of the country."""
    points = np.array(land.region["coordinates"][0])
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    shares = ((west, east, 0.42), (south, north, 0.42), (west, east, 0.56), (south, north, 0.56))
    values = {
        "name": kind.replace("_", "-"),
        "region": {"bbox": [float(low + share * (high - low)) for low, high, share in shares]},
        "period": "2021-06-01/2021-06-30",
        "catalog": {"path": str(land.catalog), "provider": "demo"},
        "inputs": list(INPUTS),
        "grid": {"crs": f"EPSG:{land.epsg}"},
        "model": KINDS[kind],
        "output": {"path": "out", "composites": True},
        "execution": {"tile": 96, "device": "cpu", "precision": "fp32"},
    }
    path = home / f"job-{changes.get('name', kind)}.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def run(job):
    return launch.run_file(
        job, allow_partial=False, max_cost=None, progress=NullProgress()
    ).to_dict()


@pytest.fixture(scope="module")
def made(home, land):
    """Return a function that runs a kind of job once and gives the job and its result."""
    known = {}

    def make(kind):
        if kind not in known:
            job = write(home, land, kind)
            known[kind] = job, run(job)
        return known[kind]

    return make


def plan_of(result):
    return plan_file.read_plan_file(Path(result["map"]).parents[1] / "plan.json")


def hashes(result):
    folder = Path(result["item"]).parent
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*/*.tif"))
    }


def cube(result, factor=1):
    group = None if factor == 1 else f"cells_{factor}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(
            Path(result["map"]).parents[1] / "cube.zarr",
            group=group,
            mask_and_scale=False,
            decode_times=False,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_makes_a_product_that_opens_everywhere(made, kind):
    _, result = made(kind)
    assert result["status"] == "complete"
    assert result["tiles"]["total"] == result["tiles"]["done"] > 1
    assert Path(result["map"]).stem == ANSWER[kind]
    item, plan = json.loads(Path(result["item"]).read_text()), plan_of(result)
    stac_schemas.check(item, stac_schemas.validator())
    assert {ANSWER[kind], "observations", "quicklook", "zarr", "report"} <= set(item["assets"])
    assert item["properties"]["terramosaic:answer"] == ANSWER[kind]
    assert item["properties"]["gsd"] == plan.grid.resolution
    for path in Path(result["item"]).parent.glob("*/*/*.tif"):
        assert cog_validate(path, strict=True, quiet=True) == (True, [], []), path
        layer = layer_table.get(path.stem)
        factor = plan.coarsening_factor(path.stem)
        with rasterio.open(path) as file:
            assert file.transform == plan.grid.coarsen(factor).transform
            assert file.dtypes[0] == layer.dtype
            stored = cube(result, factor)[path.stem].values
            values = file.read() if stored.ndim == 3 else file.read(1)
            assert np.array_equal(stored, values, equal_nan=layer.dtype == "float32")
    assert verify.verify(Path(result["item"]), NullProgress()).ok


@pytest.mark.parametrize("kind", ["land_cover", "embedding", "generate"])
def test_several_answers_of_one_pass_are_those_of_each_by_itself(made, home, land, kind):
    """Where windows step by whole patches, as they do for the features' sake."""
    _, several = made("several")
    assert plan_of(several).recipe.stride == 48
    # ^ an eleventh of a window is less than half a patch, and windows must overlap
    job = write(home, land, kind, name=f"{kind[:5]}-alone", model=KINDS[kind] | {"overlap": 16})
    single = run(job)
    path = Path(several["map"]).parent / f"{ANSWER[kind]}.tif"
    with rasterio.open(path) as one, rasterio.open(single["map"]) as other:
        window = one.window(*other.bounds).round_offsets().round_lengths()
        left, right = one.read(window=window), other.read()
    assert np.isfinite(right).any()
    assert left == pytest.approx(right, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("kind", ["embedding", "generate", "several"])
def test_a_second_run_has_nothing_to_do_and_a_lost_tile_is_made_anew(made, kind):
    job, result = made(kind)
    before = hashes(result)
    again = run(job)
    assert (again["status"], again["tiles"]["done"]) == ("unchanged", 0)
    plan = plan_of(result)
    receipt.delete(Path(result["map"]).parents[1], plan.tiles[1])
    resumed = run(job)
    assert (resumed["status"], resumed["tiles"]["done"]) == ("complete", 1)
    assert hashes(resumed) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_says_what_a_task_takes(home, land, kind):
    schema = json.loads((ROOT / "docs" / "json" / "plan.schema.json").read_text())
    told = stored_plan.make_plan(
        jobs.load(write(home, land, kind, name="planned")), NullProgress(), home / "plan.json"
    ).to_dict()
    jsonschema.validate(told, schema)
    assert told["tiles"]["new"] == told["tiles"]["total"] > 1
    assert told["peak_memory_bytes"] > 0
    frozen = plan_file.read_plan_file(home / "plan.json")
    assert frozen.grid.resolution == (160.0 if kind == "embedding" else 10.0)
    assert frozen.settings.model.timesteps == KINDS[kind].get("timesteps")


def test_an_embedding_is_what_the_encoder_says_of_the_composite(made):
    _, result = made("embedding")
    plan = plan_of(result)
    with rasterio.open(result["map"]) as file:
        stored = file.read()
        assert file.transform.a == 160.0
        assert file.descriptions == tuple(f"e{index:03d}" for index in range(SIZE["dim"]))
    one = plan.tiles[0]
    area, placed = plan.context_grid(one), plan.window_placement(one)
    seen = composite_block.compose(plan, plan.tile_scenes(one), area, threads=1)
    chips = composite_block.to_model_inputs(plan, seen)
    given = {}
    for name in plan.model.inputs:
        mean, std = (
            np.array(values, np.float32)[:, None, None]
            for values in modalities.get_raster_modality(name).statistics.to_mapping().values()
        )
        given[name] = np.nan_to_num((chips[name] - mean) / std)
    encoder = model.backbone(SIZE, list(plan.model.inputs), weights={"random": SEED}).eval()
    lattice = plan.lattice.coarsen(plan.output_stride)
    side = plan.lattice.window
    flat = np.flatnonzero(blend.compute_axis_weights(lattice) == 1)
    checked = 0
    for row, column in placed.window_origins:
        place = (slice(None), slice(row, row + side), slice(column, column + side))
        with torch.inference_mode():
            tokens = encoder({name: torch.from_numpy(v[place])[None] for name, v in given.items()})
        features = tokens[0].T.reshape(-1, lattice.window, lattice.window).numpy()
        begin = [
            (first - offset) // plan.output_stride
            for first, offset in zip((row, column), placed.tile_offset, strict=True)
        ]
        for y in flat:
            for x in flat:
                # ^ where one window alone decides
                at = (begin[0] + y, begin[1] + x)
                inside = 0 <= at[0] < one.height and 0 <= at[1] < one.width
                if inside and np.isfinite(stored[(0, *at)]):
                    assert stored[(slice(None), *at)] == pytest.approx(features[:, y, x], abs=1e-5)
                    checked += 1
    assert checked >= 4


def test_generated_values_are_told_with_their_unit_and_their_limits(made):
    _, result = made("generate")
    with rasterio.open(result["map"]) as file:
        values = file.read(1)
        assert file.units == ("1",)
        assert file.descriptions == ("NDVI",)
    mean, std = (
        getattr(modalities.TARGET_MODALITIES["NDVI"].statistics, name)[0]
        for name in ("mean", "std")
    )
    known = values[np.isfinite(values)]
    assert known.size > 0.8 * values.size
    assert mean - std - 1e-5 <= known.min() < known.max() <= mean + std + 1e-5
    item = json.loads(Path(result["item"]).read_text())
    assert any("not a measurement" in note for note in item["properties"]["terramosaic:notes"])
    page = (Path(result["map"]).parents[1] / "report.html").read_text()
    assert "NDVI" in page
    assert "land cover" not in page.lower()
    assert {"style", "sld"} <= set(item["assets"])


def test_observations_are_the_scenes_whatever_the_model(made):
    first, other = (cube(made(kind)[1]) for kind in ("land_cover", "checkpoint"))
    for name in ("observations", "last_observed", "inputs_used"):
        assert np.array_equal(first[name].values, other[name].values), name


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_told_everywhere_and_real_ones_nowhere(made, kind):
    _, result = made(kind)
    plan, properties = plan_of(result), json.loads(Path(result["item"]).read_text())["properties"]
    random = kind != "checkpoint"
    assert (descriptions.RANDOM_WEIGHTS_WARNING in result["warnings"]) == random
    assert properties["description"].startswith(descriptions.RANDOM_WEIGHTS_WARNING) == random
    assert (
        report_images.build_heading(plan).subtitle.startswith(descriptions.RANDOM_WEIGHTS_WARNING)
        == random
    )
    assert (
        any(
            descriptions.RANDOM_WEIGHTS_WARNING in line
            for line in text_output.format_run(RunResult.model_validate(result))
        )
        == random
    )
    options = properties["terramosaic:model_options"]
    assert options["inputs"] == list(INPUTS)
    assert options.get("weights") == ({"random": SEED} if random else None)
    assert options.get("timesteps") == KINDS[kind].get("timesteps")
    if not random:
        assert (options["checkpoint"], options["stats"]["DEM"]) == ("tuned.ckpt", STATS["DEM"])


def test_the_weights_of_a_configuration_are_told_as_its_own(home, land):
    (home / "own.yaml").write_text(yaml.safe_dump(MICRO | {"weights": {"random": 5}}))
    job = jobs.load(write(home, land, "land_cover", name="own", model={"name": "own.yaml"}))
    assert model_provenance.is_random(planning.create_plan(job))


@pytest.mark.parametrize("composites", [True, False])
def test_what_is_generated_is_not_shown_to_the_model(home, land, composites):
    choice = KINDS["generate"] | {"modality": "S2L2A"}
    output = {"path": "out", "composites": composites}
    job = write(home, land, "generate", name="blind", model=choice, output=output)
    result = run(job)
    assert result["status"] == "complete"
    plan = plan_of(result)
    assert set(plan.model.inputs) == set(plan.model_inputs) == {"S1RTC", "DEM"}
    assert ("S2L2A" in plan.recipe.inputs) == composites
    data = cube(result)
    assert ("composite_S2L2A" in data) == composites
    used = np.unique(data["inputs_used"].values)
    assert used.any()
    assert not (used & SENTINEL_2.bit).any()
    text = (Path(result["map"]).parents[1] / "report.html").read_text()
    assert "as the model generates it from S1RTC and DEM" in text
    assert "The modality that is generated is never among the model&#39;s inputs." in text


def test_generating_an_input_from_itself_is_refused(home, land, capfd):
    from flows.cli import main

    choice = KINDS["generate"] | {"modality": "DEM"}
    job = write(home, land, "generate", name="itself", model=choice, inputs=["DEM"])
    assert main.main(["run", str(job)]) == 2
    assert "To generate DEM, the model needs other inputs" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["land_cover", "checkpoint"])
def test_maps_hold_codes_of_the_legend_they_were_asked_for(made, kind):
    _, result = made(kind)
    plan = plan_of(result)
    with rasterio.open(result["map"]) as file:
        codes = set(np.unique(file.read(1)).tolist())
        assert file.colormap(1)[1][:3] == LAND_COVER.by_code[1].color
    legend = {LAND_COVER.by_name[name].code for name in plan.model.primary_output.class_names}
    assert codes <= legend | {LAND_COVER.nodata}
    assert LAND_COVER.by_name["clouds"].code not in codes
    if kind == "checkpoint":
        assert plan.model.primary_output.class_names == ("water", "trees", "crops")
        assert plan.model.name == "tuned"
    else:
        assert plan.model.name == "micro"
        assert len(legend) == 10
    assert not any(str(Path(result["item"]).parents[3]) in text for text in _texts(result))


def test_a_map_of_other_classes_can_be_run_verified_and_recoloured(home, land):
    own = {**KINDS["checkpoint"], "classes": ["Others", "Burned", "Wälder"], "layer": "burn_scars"}
    result = run(write(home, land, "checkpoint", name="own", model=own))
    assert result["status"] == "complete"
    assert Path(result["map"]).name == "burn_scars.tif"
    checked = verify.verify(Path(result["item"]), NullProgress())
    assert checked.ok
    recoloured = own | {
        "classes": ["Others", {"name": "Burned", "color": "#102030"}, "Wälder"],
    }
    again = run(write(home, land, "checkpoint", name="own", model=recoloured))
    assert again["status"] == "complete"
    assert again["tiles"]["done"] == 0 < again["tiles"]["total"]
    with rasterio.open(result["map"]) as old, rasterio.open(again["map"]) as new:
        assert np.array_equal(old.read(), new.read())
        assert new.colormap(1)[1][:3] == (16, 32, 48) != old.colormap(1)[1][:3]
    for text in _texts(again):
        assert "Wälder" in text
        assert "land cover" not in text.lower()


def _texts(result):
    folder = Path(result["map"]).parents[1]
    yield Path(result["item"]).read_text()
    yield (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"name": "bare.yaml", "task": "generate", "modality": "NDVI", "weights": {"random": 1}},
         "tokenizer"),
        ({**KINDS["checkpoint"], "classes": ["water", "trees"]}, "2 class names"),
        ({**KINDS["checkpoint"], "stats": {"DEM": {"mean": [1.0], "std": [1.0]}}}, "S2L2A, S1RTC"),
        ({**KINDS["generate"], "tokenizers": {"DEM": {"random": 1}}}, "DEM"),
        ({"task": "generate", "modality": "NDVI"}, "'demo'"),
        ({"name": "terramind_v1_tiny", "task": "embedding", "checkpoint": "tuned.ckpt"}, "stats"),
    ],
    ids=["generate", "classes", "stats", "tokenizers", "demo", "checkpoint"],
)  # fmt: skip
def test_what_a_model_cannot_do_is_said_once(home, land, capfd, choice, said):
    from flows.cli import main

    (home / "bare.yaml").write_text(
        yaml.safe_dump({key: MICRO[key] for key in ("architecture", "inputs", "window")})
    )
    job = write(home, land, "land_cover", name="refused", model=choice)
    assert main.main(["run", str(job)]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert said in told[0]
    assert "Traceback" not in error
    assert not (home / "out" / "refused").exists()


def test_the_demo_model_has_features(home, land):
    result = run(write(home, land, "embedding", name="demo", model={"task": "embedding"}))
    assert result["status"] == "complete"
    plan = plan_of(result)
    assert (plan.model.name, plan.model.primary_output.task, plan.grid.resolution) == (
        "demo",
        "embedding",
        160.0,
    )
