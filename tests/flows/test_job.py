"""The job, its region and its period: what is taken, and what each refusal says."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError
from catalogs.sensors import SENSORS
from flows.config import (
    job,
    period,
    prices,
    region,
    schedule,
    validation_messages,
    yaml_file,
)
from flows.config import model as model_config
from flows.config.base import ConfigModel
from flows.config.compositing import Composite, Mask, Radar
from flows.config.execution import Execution
from flows.config.grid import GridConfig
from flows.config.output import Output
from flows.config.quality import QualityGate, Radiometry
from model.terramind import architectures
from model.tools import model_list

SMALL = """
name: jutland-2024
region: {bbox: [9.0, 56.5, 10.5, 57.5]}
period: 2024-05-01/2024-09-30
catalog: planetary-computer
"""


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def get_refusal(folder: Path, text: str) -> str:
    with pytest.raises(InvalidInputError) as caught:
        job.load(write(folder, text))
    return str(caught.value)


def geojson(folder: Path, document: object) -> Path:
    path = folder / "region.geojson"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return path


def polygon(*ring: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*map(list, ring), list(ring[0])]]}


SQUARE = polygon((9, 56), (10, 56), (10, 57), (9, 57))


# --- the job ---------------------------------------------------------------------------------


def test_small_job_has_every_default(tmp_path: Path) -> None:
    loaded = job.load(write(tmp_path, SMALL))
    assert loaded.inputs == ("S2L2A", "S1RTC", "DEM")
    assert (loaded.model.name, loaded.model.tasks) == ("demo", ("land_cover",))
    assert loaded.model.effective_weights.source == "shipped"
    assert loaded.model.effective_weights.to_source() is None
    assert (loaded.grid.crs, loaded.grid.epsg, loaded.grid.resolution) == ("utm", None, 10.0)
    assert loaded.mask.clear_scl == (2, 4, 5, 6, 7, 11)
    assert loaded.output.folder == tmp_path / "out"
    assert loaded.output.formats == ("cog", "zarr")
    assert loaded.execution.tile == 2048
    assert loaded.catalog.location is None
    assert loaded.geometry.bounds == (9.0, 56.5, 10.5, 57.5)


FULL = """
name: jutland-2024
region: {file: region.geojson}
period: 2024-05/2024-09
catalog: {path: catalog.json, provider: planetary-computer}
allow: [data, tiles.example.com, s3://bucket]
include: [S2B_33TWM_20230813_0_L2A, S2B_33TWM_20230810_0_L2A]
exclude: [sentinel-2-l2a/S2A_33TWM_20230818_0_L2A]
inputs: [S2L2A, S1RTC]
grid: {crs: EPSG:32632, resolution: 60, align: auto}
bands: {S2L2A: [B04]}
mask: {clear_scl: [4, 5], dilate_m: 0, dilate_scl: [3], max_cloud_probability: 40}
composite: {method: medoid, max_cloud_cover: 30, max_passes: 12, every: P1M}
radar: {orbit: ascending, relative_orbits: [44]}
radiometry: {proof: warn}
model: {name: model.yaml, task: land_cover, weights: {random: 7}}
output: {path: ../maps, formats: [cog], probabilities: true, composites: true}
execution: {tile: 512, engine: tcp://127.0.0.1:8786, workers: 1, device: cuda:1, precision: bf16,
  batch: 8, slot: gpu-1, max_hours: 12}
qc: {gate: refuse, max_seam_z: 4.5, max_disagreement: 0.2}
schedule: {cadence: P10D, cron: "30 5 * * 1", timezone: Europe/Rome, latency_days: 3}
prices: {currency: CHF, cpu_hour: 0.05}
"""


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("my scenes/cat älog.json", "my scenes/cat älog.json"),
        ("my scenes", "my scenes/catalog.json"),
        ("collection only", "collection only/collection.json"),
        ("file://{}/my%20scenes/cat%20%C3%A4log.json", "my scenes/cat älog.json"),
        ("file://localhost{}/my scenes/catalog.json", "my scenes/catalog.json"),
    ],
)
def test_a_catalog_is_named_by_path_folder_or_file_url(
    tmp_path: Path, written: str, resolved: str
) -> None:
    (tmp_path / "my scenes").mkdir()
    (tmp_path / "collection only").mkdir()
    write(tmp_path / "my scenes", "{}", "catalog.json")
    write(tmp_path / "my scenes", "{}", "cat älog.json")
    write(tmp_path / "collection only", "{}", "collection.json")
    catalog = json.dumps({"path": written.format(tmp_path), "provider": "stactools"})
    loaded = job.load(write(tmp_path, change_key(SMALL, f"catalog: {catalog}")))
    assert loaded.catalog.location == str(tmp_path / resolved)


@pytest.mark.parametrize(
    ("written", "phrase"),
    [
        (r"scenes\catalog.json", "write it with slashes"),
        (r"C:\scenes\catalog.json", "write it with slashes"),
        ("file://server/scenes/catalog.json", "a file on another machine"),
        ("file:///scenes/catalog#1.json", "a # in a name is written %23"),
        ("empty", "no catalog file"),
        ("x" * 300, "more than 255 bytes"),
        ("~nobody-of-this-name/catalog.json", "no file"),
    ],
)
def test_a_catalog_path_that_cannot_be_meant_is_refused(
    tmp_path: Path, written: str, phrase: str
) -> None:
    (tmp_path / "empty").mkdir()
    catalog = json.dumps({"path": written, "provider": "stactools"})
    assert phrase in get_refusal(tmp_path, change_key(SMALL, f"catalog: {catalog}"))


OWN = "collections: {a: {modality: S2L2A, names: {B02: blue}}}"


@pytest.mark.parametrize(
    ("table", "catalog", "location"),
    [
        (f"{OWN}\napi: https://a.example/v1", "tables/own.yaml", None),
        (OWN, "{url: 'https://a.example/v1', provider: tables/own.yaml}", "https://a.example/v1"),
    ],
)
def test_a_catalog_may_have_a_table_of_its_own(
    tmp_path: Path, table: str, catalog: str, location: str | None
) -> None:
    (tmp_path / "tables").mkdir()
    write(tmp_path, table, "tables/own.yaml")
    loaded = job.load(write(tmp_path, SMALL.replace("planetary-computer", catalog)))
    assert loaded.catalog.provider == str(tmp_path / "tables" / "own.yaml")
    assert loaded.catalog.location == location


def test_every_key_of_the_design_is_taken_and_relative_to_the_job(tmp_path: Path) -> None:
    home = tmp_path / "jobs"
    (home / "data").mkdir(parents=True)
    geojson(home, SQUARE)
    write(home, "{}", "catalog.json")
    write(home, "{}", "model.yaml")
    loaded = job.load(write(home, FULL))
    assert loaded.region.file == home / "region.geojson"
    assert loaded.catalog.location == str(home / "catalog.json")
    assert loaded.allow == (str(home / "data"), "tiles.example.com", "s3://bucket")
    assert loaded.grid.epsg == 32632
    assert loaded.model.config_path == home / "model.yaml"
    assert loaded.model.effective_weights.to_source() == {"random": 7}
    assert loaded.output.folder == tmp_path / "maps"
    assert loaded.execution.batch == 8
    assert loaded.period.end == dt.date(2024, 9, 30)
    assert loaded.schedule.latency_days == 3
    assert loaded.prices.currency == "CHF"


def test_every_key_of_the_example_is_a_field() -> None:
    example = yaml.safe_load(FULL)
    fields = job.Job.model_fields
    assert set(example) == set(fields)
    for name, part in section_types().items():
        assert set(example[name]) <= set(part.model_fields), name


def section_types() -> dict[str, type[ConfigModel]]:
    return {
        "grid": GridConfig,
        "mask": Mask,
        "composite": Composite,
        "radar": Radar,
        "radiometry": Radiometry,
        "model": model_config.ModelConfig,
        "output": Output,
        "execution": Execution,
        "qc": QualityGate,
        "schedule": schedule.Schedule,
        "prices": prices.Prices,
    }


def test_defaults_hold_when_a_section_is_commented_out(tmp_path: Path) -> None:
    assert job.load(write(tmp_path, SMALL + "grid:\n  # resolution: 20\n")).grid.resolution == 10


def test_name_is_the_file_where_none_is_given(tmp_path: Path) -> None:
    text = SMALL.replace("name: jutland-2024", "")
    assert job.load(write(tmp_path, text, "skagen.yaml")).name == "skagen"


def test_output_to_an_object_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"can only be written to a local folder"):
        job.load(write(tmp_path, SMALL + "output: {path: s3://maps/out}\n"))


def test_weights_with_a_pinned_digest(tmp_path: Path) -> None:
    write(tmp_path, "", "head.safetensors")
    digest = "a" * 64
    weights = f"model: {{weights: {{path: head.safetensors, sha256: {digest}}}}}\n"
    source = job.load(write(tmp_path, SMALL + weights)).model.effective_weights.to_source()
    assert source == {"path": str(tmp_path / "head.safetensors"), "sha256": digest}


def test_checkpoint_brings_classes_and_statistics_from_a_file(tmp_path: Path) -> None:
    write(tmp_path, "", "tuned.ckpt")
    write(tmp_path, "S2L2A: {mean: [1000, 900.5], std: [1, 2]}", "stats.yaml")
    model = "model: {checkpoint: tuned.ckpt, classes: [water, trees], stats: stats.yaml}\n"
    chosen = job.load(write(tmp_path, SMALL + model)).model
    assert chosen.to_options().to_dict()["stats"] == {
        "S2L2A": {"mean": [1000.0, 900.5], "std": [1.0, 2.0]}
    }
    assert chosen.class_names == ["water", "trees"]


def test_statistics_come_from_the_configuration_of_a_training(tmp_path: Path) -> None:
    write(tmp_path, "", "tuned.ckpt")
    data = "{means: {S2L2A: [1000, 900.5], DEM: [300]}, stds: {S2L2A: [1, 2], DEM: [50]}}"
    write(tmp_path, f"data: {{class_path: a.b, init_args: {data}}}\n", "fit.yaml")
    model = "model: {checkpoint: tuned.ckpt, classes: [water, trees], stats: fit.yaml}\n"
    chosen = job.load(write(tmp_path, SMALL + model)).model
    assert chosen.to_options().to_dict() == {
        "name": "demo",
        "task": "land_cover",
        "checkpoint": str(tmp_path / "tuned.ckpt"),
        "classes": ["water", "trees"],
        "stats": str(tmp_path / "fit.yaml"),
    }
    assert chosen.label == "tuned"
    assert "add its checkpoint" in get_refusal(tmp_path, SMALL + "model: {stats: fit.yaml}\n")
    write(tmp_path, "data: {}", "fit.yaml")
    assert "has no `means`" in get_refusal(tmp_path, SMALL + model)


def test_options_of_a_model_reach_its_loader(tmp_path: Path) -> None:
    write(tmp_path, "", "ndvi.pt")
    model = (
        "model: {name: terramind_v1_base, task: generate, modality: NDVI, timesteps: 4, "
        "weights: {random: 3}, tokenizers: {NDVI: ndvi.pt}}\n"
    )
    chosen = job.load(write(tmp_path, SMALL + model)).model
    assert chosen.to_options().to_dict() == {
        "name": "terramind_v1_base",
        "task": "generate",
        "modality": "NDVI",
        "timesteps": 4,
        "weights": {"random": 3},
        "tokenizers": {"NDVI": {"path": str(tmp_path / "ndvi.pt")}},
    }
    assert json.loads(json.dumps(chosen.to_options().to_dict())) == chosen.to_options().to_dict()
    embed = "model: {name: terramind_v1_base, task: embedding}\n"
    assert job.load(write(tmp_path, SMALL + embed)).model.to_options().to_dict() == {
        "name": "terramind_v1_base",
        "task": "embedding",
        "weights": "hub",
    }


@pytest.mark.parametrize(
    "order", ["[embedding, generate, land_cover]", "[land_cover, generate, embedding]"]
)
def test_several_tasks_have_one_order(tmp_path: Path, order: str) -> None:
    section = f"{{name: terramind_v1_base, task: {order}, modality: [NDVI, DEM]}}"
    chosen = job.load(write(tmp_path, SMALL + f"model: {section}\n")).model
    assert chosen.tasks == ("land_cover", "embedding", "generate")
    assert chosen.modalities == ("DEM", "NDVI")
    assert chosen.to_options().to_dict() == {
        "name": "terramind_v1_base",
        "task": ["land_cover", "embedding", "generate"],
        "modality": ["DEM", "NDVI"],
        "timesteps": model_config.DEFAULT_TIMESTEPS,
        "weights": "hub",
    }
    config = job.load(write(tmp_path, SMALL + "model: {task: [embedding]}\n")).model
    assert config.to_options().to_dict()["task"] == "embedding"


def test_the_job_and_the_model_know_the_same_tasks_in_the_same_order() -> None:
    tasks = pytest.importorskip("model.predictor.task_options")
    assert model_config.TASKS == tasks.TASKS
    assert tuple(tasks.GENERATED_MODALITIES) == model_config.GENERATED_MODALITIES


def test_job_is_frozen(tmp_path: Path) -> None:
    loaded = job.load(write(tmp_path, SMALL))
    with pytest.raises(ValueError, match="frozen"):
        loaded.grid.resolution = 20.0  # type: ignore[misc]


WRONG = [
    # key, YAML that is added or that replaces, words that the message must hold
    ("unknown-key", "resolution: 10", ["unknown key 'resolution'", "Known keys: name"]),
    ("near-key", "modell: {name: demo}", ["Did you mean 'model'?"]),
    ("inner-key", "grid: {rezolution: 10}", ["in grid", "Did you mean 'resolution'?"]),
    ("number-key", "mask: {1: 2}", ["unknown key '1' in mask"]),
    ("text-for-number", "grid: {resolution: ten}", ["grid.resolution is 'ten'", "1 or more"]),
    ("resolution-of-a-millimetre", "grid: {resolution: 0.001}", ["grid.resolution", "1 or more"]),
    ("quoted-number", "grid: {resolution: '10'}", ["grid.resolution is '10'"]),
    ("infinite", "grid: {resolution: .inf}", ["grid.resolution is inf"]),
    ("negative", "grid: {resolution: -10}", ["grid.resolution is -10"]),
    ("section", "grid: 10", ["grid is 10", "crs, resolution, align"]),
    ("crs", "grid: {crs: wgs84}", ["'wgs84' is neither utm"]),
    ("degrees", "grid: {crs: 'EPSG:4326'}", ["EPSG:4326", "not projected in metres"]),
    ("feet", "grid: {crs: 'EPSG:2263'}", ["not projected in metres"]),
    ("no-crs", "grid: {crs: 'EPSG:99999'}", ["EPSG:99999 does not exist"]),
    ("scl", "mask: {clear_scl: [4, 12]}", ["mask.clear_scl[1] is 12", "0 to 11"]),
    ("scl-none", "mask: {clear_scl: []}", ["mask.clear_scl is []"]),
    ("scl-twice", "mask: {clear_scl: [4, 4]}", ["4 is listed twice"]),
    ("dilate", "mask: {dilate_m: -1}", ["mask.dilate_m is -1"]),
    ("method", "composite: {method: mode}", ["composite.method is 'mode'", "median"]),
    ("passes", "composite: {max_passes: 0}", ["composite.max_passes is 0"]),
    ("every", "composite: {every: monthly}", ["'monthly' cannot be read", "P1M"]),
    ("every-none", "composite: {every: P1M}", ["output: {composites: true}"]),
    ("orbit", "radar: {orbit: up}", ["radar.orbit is 'up'", "ascending"]),
    ("radar-none", "inputs: [S2L2A]\nradar: {orbit: ascending}", ["no Sentinel-1 input is among"]),
    ("proof", "radiometry: {proof: yes}", ["radiometry.proof"]),
    ("bands", "bands: {S1RTC: [HX]}", ["'HX'", "VV, VH, HH, HV"]),
    ("bands-scl", "bands: {S2L2A: [SCL]}", ["'SCL'"]),
    ("bands-strange", "bands: {S1GRD: [VV]}", ["S1GRD", "not among the inputs"]),
    ("cloud", "composite: {max_cloud_cover: 101}", ["101", "0 to 100"]),
    ("model", "model: {name: terramind_v1_bas}", ["unknown model", "'terramind_v1_base'?"]),
    ("model-file", "model: {name: mine.yaml}", ["model.name", "no file", "mine.yaml"]),
    ("task", "model: {task: landcover}", ["unknown task", "'land_cover'?"]),
    ("task-of-list", "model: {task: [land_cover, embeding]}", ["unknown task", "'embedding'?"]),
    ("task-twice", "model: {task: [embedding, embedding]}", ["'embedding' is listed twice"]),
    ("task-none", "model: {task: []}", ["model.task", "a list of them"]),
    ("task-number", "model: {task: 3}", ["model.task"]),
    ("weights", "model: {weights: lost.pt}", ["no weights at", "lost.pt"]),
    ("seed", "model: {weights: {random: -1}}", ["{'random': -1} is not hub"]),
    ("seed-true", "model: {weights: {random: true}}", ["is not hub"]),
    ("digest", "model: {weights: {path: job.yaml, sha256: abc}}", ["'abc' is not 64 hex"]),
    ("hub-demo", "model: {name: demo, weights: hub}", ["shipped, not on the hub"]),
    ("none-weights", "model: {name: none, weights: hub}", ["'none' predicts nothing"]),
    ("modality", "model: {name: terramind_v1_base, task: generate}", ["needs a modality", "NDVI"]),
    ("modality-lulc", "model: {name: terramind_v1_base, task: generate, modality: LULC}",
     ["model.modality", "{task: land_cover}"]),
    ("modality-rgb", "model: {name: terramind_v1_base, task: generate, modality: RGB}",
     ["cannot generate RGB", "S2L2A"]),
    ("modality-name", "model: {name: terramind_v1_base, task: generate, modality: NDWI}",
     ["unknown modality 'NDWI'", "'NDVI'?"]),
    ("modality-twice", "model: {name: terramind_v1_base, task: generate, modality: [DEM, DEM]}",
     ["'DEM' is listed twice"]),
    ("modality-of-list", "model: {name: terramind_v1_base, task: generate, modality: [DEM, NDWI]}",
     ["unknown modality 'NDWI'"]),
    ("modality-of-two", "model: {task: [land_cover, embedding], modality: NDVI}",
     ["modality is for {task: generate}, not for land_cover, embedding"]),
    ("demo-generates-too", "model: {task: [land_cover, generate], modality: NDVI}",
     ["'demo' maps land cover"]),
    ("modality-of-map", "model: {modality: NDVI}", ["modality is for {task: generate}"]),
    ("steps-of-map", "model: {timesteps: 4}", ["timesteps is for {task: generate}"]),
    ("steps", "model: {name: terramind_v1_base, task: generate, modality: DEM, timesteps: 0}",
     ["model.timesteps is 0", "1 to 1000"]),
    ("steps-many", "model: {name: terramind_v1_base, timesteps: 1001}",
     ["model.timesteps is 1001"]),
    ("tokenizer", "model: {name: terramind_v1_base, tokenizers: {LUCL: hub}}",
     ["model.tokenizers", "unknown tokenizer 'LUCL'", "'LULC'?"]),
    ("tokenizer-lost", "model: {name: terramind_v1_base, tokenizers: {LULC: lost.pt}}",
     ["model.tokenizers", "no weights at", "lost.pt"]),
    ("tokenizer-idle", "model: {name: terramind_v1_base, task: embedding, tokenizers: {LULC: hub}}",
     ["tokenizers are not used by this task"]),
    ("none-task", "model: {name: none, task: embedding}", ["'none' predicts nothing"]),
    ("demo-generates", "model: {task: generate, modality: NDVI}", ["'demo' maps land cover"]),
    ("idle-classes", "model: {classes: [water, trees]}", ["classes are for a checkpoint only"]),
    ("checkpoint-task",
     "model: {checkpoint: job.yaml, task: [embedding], classes: [water, trees], stats: s.yaml}",
     ["a checkpoint maps classes only: remove it, or the task embedding"]),
    ("idle-probabilities", "model: {task: embedding}\noutput: {probabilities: true}",
     ["the task embedding has no probabilities"]),
    ("bare-checkpoint", "model: {checkpoint: job.yaml}", ["a checkpoint contains no stats"]),
    ("both", "model: {checkpoint: job.yaml, weights: hub, classes: [water, trees], stats: s.yaml}",
     ["not both"]),
    ("class-twice", "model: {classes: [Burned, Others, Burned]}",
     ["the class 'Burned' is named more than once"]),
    ("class-case", "model: {classes: [Burned, burned]}",
     ["the classes 'Burned' and 'burned' differ only by case"]),
    ("class-truth", "model: {classes: [No, Maybe]}",
     ["the class name False is not a text: write it in quotes"]),
    ("class-number", "model: {classes: [1, two]}", ["the class name 1 is not a text"]),
    ("class-blank", "model: {classes: ['', Burned]}", ["the class name ''"]),
    ("class-alone", "model: {classes: [Burned]}", ["a list in the checkpoint's order"]),
    ("class-color", "model: {classes: [{name: a, color: red}, b]}",
     ["the colour 'red' is not of the form '#d55e00': write six digits"]),
    ("class-color-short", "model: {classes: [{name: a, color: '#f00'}, b]}",
     ["the colour '#f00'", "write six digits from 0 to f, in quotes"]),
    ("include-none", "include: []", ["include is []", "one or more scene ids"]),
    ("class-code", "model: {classes: [{name: a, code: 255}, b]}", ["code is 255", "0 to 254"]),
    ("class-codes", "model: {classes: [{name: a, code: 1}, b]}", ["one comes more than once"]),
    ("class-key", "model: {classes: [{name: a, colour: '#d55e00'}, b]}",
     ["unknown key 'colour' in model.classes[0]", "'color'"]),
    ("classes-many", f"model: {{classes: {[f'c{i}' for i in range(255)]}}}",
     ["255 classes: a map has 2 to 254"]),
    ("layer", "model: {layer: burn scars}", ["the layer 'burn scars' must begin with a letter"]),
    ("layer-taken", "model: {layer: Confidence}", ["the name 'Confidence' is taken"]),
    ("layer-file", "model: {layer: report}", ["the name 'report' is taken"]),
    ("layer-idle", "model: {name: none, layer: burn_scars}", ["layer names a map of classes"]),
    ("stats-input", "model: {stats: {S3: {mean: [1], std: [1]}}}", ["unknown input 'S3'"]),
    ("stats-pair", "model: {stats: {DEM: {mean: [1, 2], std: [1]}}}", ["2 means but 1"]),
    ("stats-zero", "model: {stats: {DEM: {mean: [1], std: [0]}}}", ["std[0] is 0"]),
    ("format", "output: {formats: [geotiff]}", ["unknown format 'geotiff'", "cog, zarr"]),
    ("scheme", "output: {path: 'gs://maps'}", ["'gs://maps' is a URL"]),
    ("output-file", "output: {path: job.yaml}", ["is a file; the output must be a folder"]),
    ("flag", "output: {probabilities: 1}", ["output.probabilities is 1", "true or false"]),
    ("tile", "execution: {tile: 100}", ["100 is not a multiple of 16", "96 or 112"]),
    ("tile-zero", "execution: {tile: 0}", ["execution.tile is 0", "multiple of 16"]),
    ("workers", "execution: {workers: 0}", ["execution.workers", "0 is neither auto"]),
    ("workers-true", "execution: {workers: true}", ["True is neither auto"]),
    ("workers-min", "execution: {workers: {min: 1}}", ["{'min': 1} is neither", "{min: 1, max"]),
    ("workers-max", "execution: {workers: {min: 3, max: 2}}", ["min 3 is more than max 2"]),
    ("workers-text", "execution: {workers: {min: 1, max: two}}", ["nor a range of them"]),
    ("engine", "execution: {engine: thread}", ["Did you mean 'threads'?"]),
    ("port", "execution: {engine: 'tcp://127.0.0.1:99999'}", ["99999"]),
    ("averaged", "model: {name: terramind_v1_base, task: embedding, average_below: 0.5}",
     ["average_below is for the task land_cover"]),
    ("device", "execution: {device: gpu}", ["unknown device 'gpu'", "cuda:N"]),
    ("precision", "execution: {precision: fp16}", ["execution.precision is 'fp16'", "bf16"]),
    ("batch", "execution: {batch: 0}", ["0 is neither auto nor"]),
    ("batch-true", "execution: {batch: true}", ["True is neither auto nor"]),
    ("allow", "allow: [../nowhere]", ["'../nowhere' is neither a host nor a folder"]),
    ("input", "inputs: [S2L2A, S2]", ["unknown input 'S2'", "S1RTC"]),
    ("input-twice", "inputs: [DEM, DEM]", ["'DEM' is listed twice"]),
    ("input-text", "inputs: S2L2A", ["inputs is 'S2L2A'", "a list out of"]),
    ("no-input", "inputs: []", ["inputs is []"]),
    ("name", "name: Jütland 2024!", ["name is 'Jütland 2024!'", '"jutland-2024"']),
    ("name-path", "name: ../maps", ["name is '../maps'"]),
    ("name-dot", "name: .hidden", ["name is '.hidden'"]),
    ("name-line", 'name: "maps\\n"', ["name is"]),
    ("name-number", "name: 2024", ["name is 2024", '"2024"']),
    ("provider", "catalog: planetary", ["unknown catalog provider", "'planetary-computer'?"]),
    ("lost-table", "catalog: own.yaml", ["catalog.provider", "there is no file", "own.yaml"]),
    ("no-table", "catalog: {url: 'https://a.example', provider: job.yaml}", ["docs/providers.md"]),
    ("bare-demo", "catalog: demo", ["'demo' has no API address", "path: catalog.json"]),
    ("bare-path", "catalog: data/catalog.json", ["{path: data/catalog.json, provider: NAME}"]),
    ("bare-url", "catalog: 'https://a.example/v1'", ["{url: https://a.example/v1, provider"]),
    ("lost-catalog", "catalog: {path: c.json, provider: cdse}", ["catalog.path", "no file"]),
    ("no-provider", "catalog: {url: 'https://a.example'}", ["catalog.provider is missing"]),
    ("ftp", "catalog: {url: 'ftp://a.example', provider: cdse}", ["an https:// address"]),
    ("no-catalog", "catalog:", ["catalog is missing", "planetary-computer"]),
    ("no-region", "region:", ["region is missing", "bbox"]),
    ("region-text", "region: jutland", ["region is 'jutland'"]),
    ("region-empty", "region: {}", ["give one of two"]),
    ("three", "region: {bbox: [1, 2, 3]}", ["region.bbox is [1, 2, 3]", "four numbers"]),
    ("five", "region: {bbox: [1, 2, 3, 4, 5]}", ["region.bbox is [1, 2, 3, 4, 5]"]),
    ("bbox-text", "region: {bbox: [1, 2, 3, x]}", ["region.bbox[3] is 'x'"]),
    ("lost-region", "region: {file: r.geojson}", ["region.file", "no file"]),
    ("west-east", "region: {bbox: [10, 2, 9, 3]}", ["west > east", "swap west and east"]),
    ("south", "region: {bbox: [1, 4, 3, 2]}", ["south >= north"]),
    ("thin", "region: {bbox: [1, 2, 1, 3]}", ["no width"]),
    ("metres", "region: {bbox: [500000, 6200000, 510000, 6210000]}", ["projected metres"]),
    ("swapped", "region: {bbox: [56, 100, 57, 110]}", ["latitude seems to be before"]),
    ("reversed", "period: 2024-09-30/2024-05-01", ["ends (2024-05-01) before it starts"]),
    ("february", "period: 2024-02-30", ["'2024-02-30', a date that does not exist"]),
    ("month-13", "period: 2024-13", ["does not exist"]),
    ("words", "period: last summer", ["cannot be read", "YYYY-MM-DD/YYYY-MM-DD"]),
    ("three-dates", "period: 2024/2025/2026", ["3 parts"]),
    ("open", "period: 2024-01-01/..", ["cannot be read at '..'"]),
    ("period-number", "period: 20240501", ["cannot be read at '20240501'"]),
    ("period-true", "period: true", ["True is not a date"]),
    ("period-list", "period: [2024]", ["[2024] is not a date"]),
]  # fmt: skip


def change_key(text: str, change: str) -> str:
    key = change.partition(":")[0]
    lines = [line for line in text.strip().splitlines() if not line.startswith(f"{key}:")]
    return "\n".join([*lines, change, ""])


@pytest.mark.parametrize(
    ("change", "phrases"), [case[1:] for case in WRONG], ids=[c[0] for c in WRONG]
)
def test_wrong_key_is_refused_with_its_name(
    tmp_path: Path, change: str, phrases: list[str]
) -> None:
    write(tmp_path, "DEM: {mean: [1], std: [1]}", "s.yaml")
    message = get_refusal(tmp_path, change_key(SMALL, change))
    assert message.startswith(str(tmp_path / "job.yaml") + ": ")
    assert "\n" not in message
    for phrase in phrases:
        assert phrase in message


def test_several_wrong_keys_are_in_one_message(tmp_path: Path) -> None:
    message = get_refusal(
        tmp_path, change_key(change_key(SMALL, "grid: {resolution: x}"), "inputs: [S9]")
    )
    assert "2 keys are wrong" in message
    assert "grid.resolution" in message
    assert "S9" in message


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a: [1", "is not YAML"),
        ("a: 1\na: 2", "the key 'a' is repeated"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("? [a, b]\n: 1\n? {c: d}\n: 2", "is not YAML"),
        ("", "contains nothing"),
        ("- name: x", "contains a list"),
        ("just words", "contains a str"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(
    tmp_path: Path, text: str, phrase: str
) -> None:
    message = get_refusal(tmp_path, text)
    assert phrase in message
    assert "job.yaml" in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no file .*lost\.yaml"):
        job.load(tmp_path / "lost.yaml")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        job.load(tmp_path)
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        job.load(tmp_path / "job.yaml")


def test_dates_are_read_as_text(tmp_path: Path) -> None:
    assert yaml_file.read(write(tmp_path, "a: 2024-05-01\nb: 2024"))["a"] == "2024-05-01"


def test_job_is_loaded_without_torch_and_raster_libraries(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    code = (
        "import sys, pathlib; from flows.config import job; job.load(pathlib.Path(sys.argv[1]));"
        "print([m for m in ('torch', 'rasterio', 'xarray', 'prefect', 'dask', 'rich', 'pyproj')"
        " if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[]"


def test_suggested_name_keeps_its_own_spelling() -> None:
    assert validation_messages.suggest_name("s2l2a", tuple(SENSORS)) == " Did you mean 'S2L2A'?"
    assert validation_messages.suggest_name("zzzzzz", tuple(SENSORS)) == ""


# --- the period ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-05-01/2024-09-30", "2024-05-01", "2024-09-30"),
        ("2024-05/2024-09", "2024-05-01", "2024-09-30"),
        ("2024-02/2024-02", "2024-02-01", "2024-02-29"),
        ("2023-02", "2023-02-01", "2023-02-28"),
        ("2024", "2024-01-01", "2024-12-31"),
        ("2023/2024", "2023-01-01", "2024-12-31"),
        ("2024-05-01", "2024-05-01", "2024-05-01"),
        (" 2024-05-01 / 2024-06 ", "2024-05-01", "2024-06-30"),
    ],
)
def test_period_forms(text: str, start: str, end: str) -> None:
    assert str(period.parse(text)) == f"{start}/{end}"


@pytest.mark.parametrize("text", ["2024", "2024-05-01", "2024-05/2024-06"])
def test_period_in_a_job_without_quotes(tmp_path: Path, text: str) -> None:
    loaded = job.load(write(tmp_path, change_key(SMALL, f"period: {text}")))
    assert loaded.period == period.parse(text)


EAST_OF_UTC = dt.timezone(dt.timedelta(hours=9))
DAYS = [
    dt.date(2024, 5, 1),
    dt.datetime(2024, 5, 1, 12, 30),  # noqa: DTZ001
    # ^ as YAML reads a time without a zone
    dt.datetime(2024, 5, 1, 23, 59, 59, tzinfo=dt.UTC),
    dt.datetime(2024, 5, 2, 8, 59, tzinfo=EAST_OF_UTC),
    "2024-05-01T12:30:00Z",
    "2024-05-01 12:30:00.5",
    "2024-05-02T08:59:00+09:00",
]
"""Forms of the first of May 2024, UTC."""


@pytest.mark.parametrize("value", DAYS, ids=str)
def test_dates_and_times_stand_for_their_day(tmp_path: Path, value: object) -> None:
    values = yaml.safe_load(SMALL) | {"name": "x", "period": value, "schedule": {"from": value}}
    loaded = job.parse(values, folder=tmp_path)
    assert str(loaded.period) == "2024-05-01/2024-05-01"
    assert loaded.schedule.since == dt.date(2024, 5, 1)
    assert type(loaded.schedule.since) is dt.date
    text = change_key(SMALL, f"period: {value}") + f"schedule: {{from: {value}}}\n"
    from_file = job.load(write(tmp_path, text))
    assert (from_file.period, from_file.schedule.since) == (loaded.period, loaded.schedule.since)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("period", "2024-05-01T25:00:00Z", "cannot be read at '2024-05-01T25"),
        ("period", "2024-05-01T00:00:00Z/2024-06-01T00:00:00Z", "cannot be read at"),
        ("period", "0001-01-01T00:00:00+09:00", "cannot be read at"),
        ("period", 2024.5, "is not a date"),
        ("from", "2024-05/2024-06", "is a period, and the series begins on a day"),
        ("from", True, "True is not a day"),
    ],
)
def test_other_forms_of_dates_are_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    values = yaml.safe_load(SMALL) | {"name": "x"}
    values |= {"schedule": {"from": value}} if key == "from" else {"period": value}
    with pytest.raises(InvalidInputError, match=message):
        job.parse(values, folder=tmp_path)


@given(a=st.dates(), b=st.dates())
def test_period_round_trip(a: dt.date, b: dt.date) -> None:
    first, last = sorted((a, b))
    parsed = period.parse(f"{first.isoformat()}/{last.isoformat()}")
    assert (parsed.start, parsed.end) == (first, last)
    start, end = parsed.interval
    assert start.tzinfo is dt.UTC
    assert end.date() == last
    assert (end - start).total_seconds() == ((last - first).days + 1) * 86_400 - 1


@given(st.text(max_size=30))
def test_period_never_fails_otherwise(text: str) -> None:
    try:
        parsed = period.parse(text)
    except InvalidInputError:
        return
    assert parsed.start <= parsed.end


# --- the region ------------------------------------------------------------------------------


def feature(geometry: object) -> dict[str, object]:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def collection(*geometries: object) -> dict[str, object]:
    return {"type": "FeatureCollection", "features": [feature(g) for g in geometries]}


def crs_member(crs: str) -> dict[str, object]:
    return {"type": "name", "properties": {"name": crs}}


FAR = polygon((20, 56), (21, 56), (21, 57), (20, 57))
POINT = {"type": "Point", "coordinates": [9, 56]}
EAST = polygon((10, 56), (11, 56), (11, 57), (10, 57))


@pytest.mark.parametrize(
    ("drawn", "bounds", "area"),
    [
        (SQUARE, (9, 56, 10, 57), 1),
        (feature(SQUARE), (9, 56, 10, 57), 1),
        (collection(SQUARE), (9, 56, 10, 57), 1),
        (collection(SQUARE, EAST), (9, 56, 11, 57), 2),
        (collection(SQUARE, SQUARE), (9, 56, 10, 57), 1),
        (polygon((9, 56, 5), (10, 56, 5), (10, 57, 5), (9, 57, 5)), (9, 56, 10, 57), 1),
        ({**SQUARE, "crs": crs_member("urn:ogc:def:crs:OGC:1.3:CRS84")}, (9, 56, 10, 57), 1),
        ({"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], EAST["coordinates"]]},
         (9, 56, 11, 57), 2),
        ({"type": "GeometryCollection", "geometries": [SQUARE, EAST]}, (9, 56, 11, 57), 2),
        (feature({"type": "GeometryCollection", "geometries": [SQUARE]}), (9, 56, 10, 57), 1),
        (polygon((170, 1), (190, 1), (190, 2), (170, 2)), (-180, 1, 180, 2), 20),
        (polygon((-190, 1), (-170, 1), (-170, 2), (-190, 2)), (-180, 1, 180, 2), 20),
        (polygon((-179, 1), (179, 1), (179, 2), (-179, 2)), (-180, 1, 180, 2), 2),
        (collection(polygon((179, 1), (180, 1), (180, 2), (179, 2)),
                    polygon((-180, 1), (-179, 1), (-179, 2), (-180, 2))), (-180, 1, 180, 2), 2),
        (polygon((-180, 80), (180, 80), (180, 90), (-180, 90)), (-180, 80, 180, 90), 3600),
        (polygon((-150, 80), (-60, 80), (60, 80), (150, 80)), (-180, 80, 180, 90), 3600),
        (polygon((-180, -80), (-60, -80), (60, -80), (180, -80)), (-180, -90, 180, -80), 3600),
    ],
)  # fmt: skip
def test_region_from_a_file(
    tmp_path: Path, drawn: object, bounds: tuple[float, ...], area: float
) -> None:
    shape = region.from_file(geojson(tmp_path, drawn))
    assert shape.bounds == bounds
    assert shape.area == pytest.approx(area)
    assert shape.is_valid
    assert not shape.has_z


def test_region_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert region.from_file(geojson(tmp_path, "\ufeff" + json.dumps(SQUARE))).area == 1


@pytest.mark.parametrize(
    "crs",
    [
        None,
        {},
        {"type": "name", "properties": {}},
        {"type": "name", "properties": None},
        {"type": "name", "properties": {"name": None}},
        "EPSG:4326",
        {"type": "EPSG", "properties": {"code": 4326}},
        {"type": "link", "properties": {"href": "http://spatialreference.org/ref/epsg/4326/"}},
        *(
            crs_member(name)
            for name in (
                "urn:ogc:def:crs:OGC:1.3:CRS84",
                "urn:ogc:def:crs:OGC::CRS84",
                "OGC:CRS84",
                "CRS:84",
                "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
                "https://www.opengis.net/def/crs/OGC/0/CRS84h",
                "urn:ogc:def:crs:EPSG::4326",
                "urn:x-ogc:def:crs:EPSG:4326",
                "urn:ogc:def:crs:EPSG:9.0:4326",
                "EPSG:9.0:4326",
                "epsg:4326",
                "http://www.opengis.net/def/crs/EPSG/0/4326",
                "http://www.opengis.net/def/crs/EPSG/9.9.1/4326",
                "http://www.opengis.net/gml/srs/epsg.xml#4326",
                "https://epsg.io/4326",
                "urn:ogc:def:crs:EPSG::4979",
                "WGS 84",
                "GCS_WGS_1984",
                "urn:ogc:def:crs:OGC:2:84",
                "+proj=longlat +datum=WGS84 +no_defs",
                (
                    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
                    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]'
                ),
            )
        ),
    ],
    ids=str,
)
def test_every_name_of_wgs_84_is_accepted_in_every_member(tmp_path: Path, crs: object) -> None:
    named = {**SQUARE, "crs": crs}
    for drawn in (
        named,
        {**collection(SQUARE), "crs": crs},
        collection(named),
        {"type": "FeatureCollection", "features": [{**feature(SQUARE), "crs": crs}]},
        {"type": "GeometryCollection", "geometries": [named]},
    ):
        assert region.from_file(geojson(tmp_path, drawn)).bounds == (9, 56, 10, 57)
        # ^ longitude stays first, whatever the axis order of the authority


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:32633",
        "urn:ogc:def:crs:EPSG::3857",
        "http://www.opengis.net/def/crs/EPSG/0/4258",
        "urn:ogc:def:crs:EPSG::14326",
        "ETRS89",
        "urn:ogc:def:crs:OGC:1.3:CRS83",
        "+proj=utm +zone=33 +datum=WGS84",
        "local grid",
    ],
)
def test_another_crs_is_refused_in_every_member(tmp_path: Path, name: str) -> None:
    named = {**SQUARE, "crs": crs_member(name)}
    for drawn in (
        named,
        collection(named),
        {"type": "FeatureCollection", "features": [{**feature(SQUARE), "crs": crs_member(name)}]},
        {"type": "GeometryCollection", "geometries": [SQUARE, named]},
    ):
        with pytest.raises(InvalidInputError, match=f"is in {re.escape(name)}.*-t_srs EPSG:4326"):
            region.from_file(geojson(tmp_path, drawn))


@pytest.mark.parametrize(
    "crs",
    [
        ["EPSG:3857"],
        3857,
        {"init": "epsg:3857"},
        {"type": "proj4", "properties": {"proj": "+proj=merc"}},
    ],
)
def test_a_crs_in_a_form_of_its_own_is_refused(tmp_path: Path, crs: object) -> None:
    with pytest.raises(InvalidInputError, match="must be in longitude and latitude"):
        region.from_file(geojson(tmp_path, {**SQUARE, "crs": crs}))


@pytest.mark.skipif(shutil.which("ogr2ogr") is None, reason="no ogr2ogr here")
def test_the_advice_for_a_projected_region_works(tmp_path: Path) -> None:
    ring = [(500_000, 5_200_000), (510_000, 5_200_000), (510_000, 5_210_000), (500_000, 5_210_000)]
    path = geojson(tmp_path, {**polygon(*ring), "crs": crs_member("urn:ogc:def:crs:EPSG::32633")})
    with pytest.raises(InvalidInputError) as caught:
        region.from_file(path)
    command = re.search("`(ogr2ogr [^`]*)`", str(caught.value))
    assert command
    names = {"old.geojson": str(path), "new.geojson": str(tmp_path / "new.geojson")}
    subprocess.run([names.get(word, word) for word in command[1].split()], check=True)
    west, south, east, north = region.from_file(tmp_path / "new.geojson").bounds
    assert (west, south) == pytest.approx((15, 46.95), abs=0.01)
    assert (east, north) == pytest.approx((15.13, 47.04), abs=0.01)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["region.json", "Gebiet (größer) #1.GEOJSON"])
def test_a_region_file_of_any_name_and_unicode_encoding(
    tmp_path: Path, name: str, encoding: str
) -> None:
    document = {**collection(SQUARE), "name": "Fünen"}
    (tmp_path / name).write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    loaded = job.load(write(tmp_path, change_key(SMALL, f"region: {{file: {json.dumps(name)}}}")))
    assert loaded.geometry.bounds == (9, 56, 10, 57)


def test_a_region_file_in_another_encoding_is_refused_with_advice(tmp_path: Path) -> None:
    document = {**collection(SQUARE), "name": "Fünen"}
    path = tmp_path / "r.geojson"
    path.write_bytes(json.dumps(document, ensure_ascii=False).encode("cp1252"))
    with pytest.raises(InvalidInputError, match="Save it as GeoJSON in UTF-8"):
        region.from_file(path)


def test_an_unclosed_ring_is_closed(tmp_path: Path) -> None:
    drawn = {**SQUARE, "coordinates": [SQUARE["coordinates"][0][:-1]]}
    assert region.from_file(geojson(tmp_path, drawn)).bounds == (9, 56, 10, 57)


BAD_REGIONS = [
    ("not-json", "{", "is not JSON"),
    ("shapefile", "PK\x03\x04", "is not JSON"),
    ("deep", "[" * 100_000, "is not JSON"),
    ("json", {"bbox": [1, 2, 3, 4]}, "not GeoJSON"),
    ("list", [1, 2], "not GeoJSON"),
    ("number", "5", "not GeoJSON"),
    ("topology", {"type": "Topology", "objects": {}}, "is a Topology"),
    ("no-features", {"type": "FeatureCollection"}, "no list of 'features'"),
    ("empty", collection(), "holds no geometry"),
    ("null", collection(None), "feature 1 has no geometry"),
    ("second-null", collection(SQUARE, None), "feature 2 has no geometry"),
    ("odd-feature", {"type": "FeatureCollection", "features": [7]}, "feature 1 has no geometry"),
    ("point", feature(POINT), "is a Point"),
    ("line", {"type": "LineString", "coordinates": [[9, 56], [10, 57]]}, "is a LineString"),
    ("bag", {"type": "GeometryCollection", "geometries": 7}, "without a list of 'geometries'"),
    ("no-rings", {"type": "Polygon", "coordinates": []}, "is an empty Polygon"),
    ("no-parts", {"type": "MultiPolygon", "coordinates": []}, "is an empty MultiPolygon"),
    ("no-coordinates", {"type": "Polygon"}, "no list of 'coordinates'"),
    ("two-points", {"type": "Polygon", "coordinates": [[[9, 56], [10, 57]]]}, "not a Polygon as"),
    ("flat", {"type": "Polygon", "coordinates": [9, 56, 10, 57]}, "not a Polygon as"),
    ("text", {"type": "Polygon", "coordinates": [[["9", "56"]]]}, "not two numbers"),
    ("bow-tie", polygon((9, 56), (10, 57), (10, 56), (9, 57)),
     "is self-intersecting (Self-intersection at longitude, latitude 9.5, 56.5)"),
    ("hole", {**SQUARE, "coordinates": [*SQUARE["coordinates"], *FAR["coordinates"]]},
     "is not a valid area"),
    ("line-like", polygon((9, 56), (10, 57), (9, 56)), "is not a valid area"),
    ("metres", polygon((5e5, 6.2e6), (5.1e5, 6.2e6), (5.1e5, 6.3e6)), "projected metres"),
    ("swapped", polygon((56, 100), (57, 100), (57, 101)), "latitude seems to be before"),
    ("infinite", '{"type": "Polygon", "coordinates": [[[NaN, 1], [2, 3]]]}', "not on Earth"),
    ("bag-of-points", {"type": "GeometryCollection", "geometries": [SQUARE, POINT]},
     "the geometry, geometry 2 is a Point"),
    ("nested", {"type": "Polygon", "coordinates": [[[[[9, 56]]]]]}, "no list of 'coordinates'"),
    ("beyond", polygon((350, 1), (370, 1), (370, 2), (350, 2)), "not on Earth"),
    ("crs", {**SQUARE, "crs": crs_member("EPSG:32632")}, "is in EPSG:32632"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("drawn", "phrase"), [c[1:] for c in BAD_REGIONS], ids=[c[0] for c in BAD_REGIONS]
)
def test_bad_region_file(tmp_path: Path, drawn: object, phrase: str) -> None:
    path = geojson(tmp_path, drawn)
    with pytest.raises(InvalidInputError) as caught:
        region.from_file(path)
    assert phrase in str(caught.value)
    assert str(path) in str(caught.value)
    message = get_refusal(tmp_path, change_key(SMALL, "region: {file: region.geojson}"))
    assert "region: " in message
    assert phrase in message


@given(
    st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90)
)  # fmt: skip
def test_bbox_is_a_box_or_refused(a: float, b: float, c: float, d: float) -> None:
    try:
        shape = region.from_bbox((a, b, c, d))
    except InvalidInputError:
        assert b >= d or a == c or c + 360 - a > 180
    else:
        halves = [shapely.box(a, b, c, d)] if a < c else [
            shapely.box(a, b, 180, d), shapely.box(-180, b, c, d)
        ]  # fmt: skip
        assert shape.symmetric_difference(shapely.union_all(halves)).area < 1e-9


@pytest.mark.parametrize(
    "bbox", [(175, -20, 185, -15), (-185, -20, -175, -15), (175, -20, -175, -15)]
)
def test_bbox_across_the_antimeridian(bbox: tuple[float, ...]) -> None:
    shape = region.from_bbox(bbox)
    assert shape.equals(
        shapely.union_all([shapely.box(175, -20, 180, -15), shapely.box(-180, -20, -175, -15)])
    )


def test_region_of_parts_with_holes(tmp_path: Path) -> None:
    outer = [[170, 0], [190, 0], [190, 10], [170, 10], [170, 0]]
    hole = [[-178, 4], [-176, 4], [-176, 6], [-178, 6], [-178, 4]]
    drawn = {"type": "Polygon", "coordinates": [outer, hole]}
    shape = region.from_file(geojson(tmp_path, collection(drawn, SQUARE, SQUARE)))
    assert shape.area == pytest.approx(200 - 4 + 1)
    assert not shape.covers(shapely.Point(-177, 5))
    assert shape.covers(shapely.Point(-175, 5))
    ring = [[-180, 70], [-60, 70], [60, 70], [180, 70], [-180, 70]]
    inner = [[x, 80] for x, _ in ring]
    round_the_pole = {"type": "Polygon", "coordinates": [ring, inner]}
    assert region.from_file(geojson(tmp_path, round_the_pole)).bounds == (-180, 70, 180, 80)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bbox_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidInputError, match="not on Earth"):
        region.from_bbox((value, 1, 2, 3))


@pytest.mark.parametrize(
    ("bbox", "text"),
    [
        ((9, 56, 10, 90.000001), "(10, 90.000001)"),
        ((9, 56.1234567, 10, 56.1234561), "[9, 56.1234567, 10, 56.1234561]"),
    ],
)
def test_a_bbox_is_refused_with_the_digits_that_are_wrong(
    bbox: tuple[float, ...], text: str
) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        region.from_bbox(bbox)


# --- the registry ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_parameters_are_those_of_the_module(name: str) -> None:
    torch = pytest.importorskip("torch")
    import model

    with torch.device("meta"):
        module = model.backbone(name, list(model_list.COUNTED_INPUTS))
    counted = sum(parameter.numel() for parameter in module.parameters())
    assert model_list.count_encoder_parameters(architectures.resolve_architecture(name)) == counted


def test_registry_lists_the_models_of_a_job() -> None:
    models = {model.name for model in model_list.list_models() if model.kind == "model"}
    assert models == set(model_config.MODEL_NAMES)


def test_fetched_weights_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    states = {model.name: model.weights for model in model_list.list_models()}
    assert states["terramind_v1_base"] == "on the hub"
    folder = tmp_path / "models--ibm-esa-geospatial--TerraMind-1.0-base"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "TerraMind_v1_base.pt").touch()
    states = {model.name: model.weights for model in model_list.list_models()}
    assert states["terramind_v1_base"] == "fetched"
    assert states["terramind_v1_tiny"] == "on the hub"


@pytest.mark.parametrize("value", ["off", '"off"', "false"])
def test_a_bare_off_is_off(tmp_path: Path, value: str) -> None:
    """YAML 1.1 reads it as false."""
    text = f"{SMALL}\nqc: {{gate: {value}}}\nradiometry: {{proof: {value}}}\n"
    path = write(tmp_path, text, "job.yaml")
    loaded = job.load(path)
    assert (loaded.qc.gate, loaded.radiometry.proof) == ("off", "off")
