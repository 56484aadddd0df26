"""The official examples of fine-tuning: each is understood as it is, and makes a map."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import rasterio
import yaml

from catalogs.errors import InvalidInputError
from catalogs.sensors import SENSORS
from catalogs.snapshot import Snapshot
from flows.config import job as jobs
from flows.execution import model_cache
from flows.run import model_spec
from model.errors import ModelError
from model.predictor import registry
from model.terratorch.class_names import find_class_names
from model.terratorch.datamodule import read_training
from model.terratorch.hyperparameters import parse_hyper_parameters, read_task_arguments
from pipeline import tile, tile_layers
from pipeline.product import product_writer
from pipeline.storage import plan_file, zarr_store
from tests.support import small_worlds, stac_schemas
from tests.support.official_trainings import (
    L1C_MEANS,
    OFFICIAL_TRAININGS,
    model_args_of,
    write_training,
)
from tests.support.small_plan import make_plan

FLOODS = [name for name in OFFICIAL_TRAININGS if name.startswith("sen1floods11")]
MAPPED = ["burn_scars", "sen1floods11_tiny"]
CLASSES = {"burn_scars": ["Others", "Burned"], "sen1floods11_tiny": ["Others", "Flood"]}


def write_yaml(folder, name):
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(OFFICIAL_TRAININGS[name], sort_keys=False))
    return path


def parse_job(folder, section, **sections):
    """Parse a job that maps with a model."""
    values = {
        "name": "official",
        "region": {"bbox": [15.0, 46.0, 15.1, 46.1]},
        "period": "2024-06-01/2024-06-30",
        "catalog": "planetary-computer",
        "model": section,
        "output": {"path": str(folder / "out")},
        "execution": {"device": "cpu", "precision": "fp32", "batch": 1},
        **sections,
    }
    return jobs.parse(values, folder=folder)


@pytest.mark.parametrize("name", [name for name in OFFICIAL_TRAININGS if name != "crops"])
def test_the_model_section_is_understood_as_it_is(tmp_path, name):
    training = OFFICIAL_TRAININGS[name]
    arguments = read_task_arguments(write_yaml(tmp_path, name))
    settings = parse_hyper_parameters(arguments)
    stated = model_args_of(training)
    assert settings.backbone == stated["backbone"].removesuffix("_tim")
    assert settings.tim_modalities == (("LULC",) if name.endswith("tim") else None)
    assert list(settings.modalities) == stated["backbone_modalities"]
    assert (settings.num_classes, settings.decoder) == (2, "UNetDecoder")
    assert settings.decoder_options == {"channels": stated["decoder_channels"]}
    names = find_class_names(arguments)
    assert list(names) == training["model"]["init_args"]["class_names"]


@pytest.mark.parametrize("name", FLOODS)
def test_the_statistics_of_the_data_module_are_read(tmp_path, name):
    training = read_training(write_yaml(tmp_path, name))
    assert training.get_input("S2L1C", is_only=False).mean == tuple(L1C_MEANS)
    assert training.get_input("S1GRD", is_only=False).std == (5.195, 5.89)


@pytest.mark.parametrize("name", [name for name in OFFICIAL_TRAININGS if name != "crops"])
def test_a_checkpoint_is_loaded_with_all_that_its_training_states(tmp_path, name):
    training = OFFICIAL_TRAININGS[name]
    section = write_training(tmp_path, training)
    inputs = model_args_of(training)["backbone_modalities"]
    loaded = model_spec.load_model(parse_job(tmp_path, section, inputs=inputs))
    assert list(loaded.spec.inputs) == inputs
    assert (
        list(loaded.spec.class_output.class_names)
        == (training["model"]["init_args"]["class_names"])
    )
    assert loaded.spec.class_output.codes == (0, 1)
    assert loaded.spec.class_output.layer_name == "classes"
    statistics = registry.load(
        **loaded.options.to_dict(), inputs=inputs, device="cpu"
    ).spec.statistics
    told = " ".join(caveat.text for caveat in loaded.caveats)
    if name == "burn_scars":
        assert loaded.spec.inputs["S2L2A"] == ("B02", "B03", "B04", "B8A", "B11", "B12")
        assert statistics["S2L2A"].mean[0] == pytest.approx(333.497)
        assert "reflectance" in told
    else:
        assert loaded.spec.inputs["S1GRD"] == ("VV", "VH")
        assert statistics["S2L1C"].mean == tuple(L1C_MEANS)
        assert told == ""


def test_the_training_itself_names_the_classes_of_a_checkpoint_without_names(tmp_path):
    training = copy.deepcopy(OFFICIAL_TRAININGS["burn_scars"])
    unnamed = copy.deepcopy(training)
    del unnamed["model"]["init_args"]["class_names"]
    section = write_training(tmp_path, unnamed)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(training))
    loaded = model_spec.load_model(parse_job(tmp_path, section, inputs=["S2L2A"]))
    assert loaded.spec.class_output.class_names == ("Others", "Burned")


def make_scenes(folder, modalities):
    """Write two scenes of random pixels for each input, with all of its bands."""
    rng = np.random.default_rng(5)
    scenes = []
    for modality in modalities:
        sensor = SENSORS[modality]
        for number in (1, 2):
            assets = {}
            for band in sensor.default_bands:
                values = rng.integers(100, 6000, (80, 80)).astype(np.uint16)
                radiometry, nodata = small_worlds.REFLECTANCE, 0.0
                if sensor.group == "radar":
                    values = rng.uniform(0.001, 0.5, (80, 80)).astype(np.float32)
                    radiometry, nodata = small_worlds.POWER, float("nan")
                path = folder / f"{modality}-{number}" / f"{band}.tif"
                small_worlds.raster(path, values)
                assets[band] = small_worlds.asset(path, band, radiometry, nodata)
            when = f"2024-06-{number:02d}T10:00:00+00:00"
            scenes.append(small_worlds.scene(f"{modality}-{number}", modality, assets, when=when))
    return tuple(scenes)


def build_map(folder, name, **section):
    """Map the small region of `make_plan` with the checkpoint of a training."""
    section = write_training(folder, OFFICIAL_TRAININGS[name]) | section
    inputs = model_args_of(OFFICIAL_TRAININGS[name])["backbone_modalities"]
    loaded = model_spec.load_model(parse_job(folder, section, inputs=inputs))
    spec = loaded.spec
    plan = make_plan(folder, tile=64)
    recipe = dataclasses.replace(
        plan.recipe, inputs=tuple(inputs), stride=spec.window - 16, margin=0, probabilities=True
    )
    snapshot = Snapshot(scenes=make_scenes(folder, inputs))
    plan = dataclasses.replace(plan, model=spec, recipe=recipe, snapshot=snapshot)
    product_dir = folder / "product" / "2024-06-01_2024-06-30"
    plan_dir = product_dir / plan.short_digest
    plan_dir.mkdir(parents=True)
    plan_file.write_plan_file(plan_dir / "plan.json", plan)
    zarr_store.create(plan_dir, plan, tile_layers.list_layer_bands(plan))
    predictor = model_cache.find_predictor(plan)
    for entry in plan.tiles:
        tile.build_tile(plan, entry, predictor, plan_dir, threads=1)
    item = product_writer.publish_product(plan, product_dir)
    return plan, product_dir, json.loads((product_dir / item).read_text())


@pytest.mark.parametrize("name", MAPPED)
def test_a_checkpoint_of_an_official_training_makes_a_map_with_its_own_classes(tmp_path, name):
    plan, product_dir, item = build_map(tmp_path, name, layer=name.partition("_")[0])
    first, second = CLASSES[name]
    layer_name = name.partition("_")[0]
    assert plan.model.class_output.class_names == (first, second)
    assert (
        plan_file.read_plan_file(product_dir / plan.short_digest / "plan.json").model == plan.model
    )

    asset = item["assets"][layer_name]
    stac_schemas.check(item, stac_schemas.validator())
    classes = {entry["value"]: entry for entry in asset["classification:classes"]}
    assert [classes[code]["name"] for code in (0, 1, 255)] == [first, second, "nodata"]
    assert classes[255]["nodata"] is True
    assert [band["name"] for band in item["assets"]["probabilities"]["bands"]] == [first, second]
    with rasterio.open(product_dir / asset["href"]) as cog:
        codes = set(np.unique(cog.read(1)).tolist())
        colors = cog.colormap(1)
        assert cog.nodata == 255
    assert codes <= {0, 1, 255}
    assert codes & {0, 1}
    for code in (0, 1):
        assert "{:02X}{:02X}{:02X}".format(*colors[code][:3]) == classes[code]["color_hint"]
    report = (product_dir / item["assets"]["report"]["href"]).read_text()
    assert f"A map of {first} and {second}" in report
    mapped = [classes[code] for code in sorted(codes - {255})]
    for entry in mapped:
        assert f"#{entry['color_hint']}" in report
        assert entry["title"] in report
    for text in (report, json.dumps(item)):
        assert "land cover" not in text.lower()
        assert "land-cover" not in text.lower()


@pytest.mark.parametrize("stated", [False, True])
def test_a_training_with_several_dates_is_refused_with_the_reason(tmp_path, stated):
    training = copy.deepcopy(OFFICIAL_TRAININGS["crops"])
    section = write_training(tmp_path, training)
    if stated:
        section["stats"] = {"S2L2A": {"mean": [1000.0] * 6, "std": [500.0] * 6}}
    with pytest.raises((InvalidInputError, ModelError), match="trained on 3 dates of each input"):
        model_spec.load_model(parse_job(tmp_path, section, inputs=["S2L2A"]))
