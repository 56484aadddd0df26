"""A job with a checkpoint of TerraTorch: refused when it is planned, before any search, or told."""

from __future__ import annotations

import pytest
import torch
import yaml

from catalogs.errors import InvalidInputError
from flows.cli import main
from flows.config import job as jobs
from flows.run import model_spec
from tests.support.lightning_checkpoints import SIZE, as_stored, whole_model

INPUTS = ["S2L2A", "S1GRD"]
OPTICAL = {"mean": [0.1] * 12, "std": [0.05] * 12}
RADAR = {"mean": [-12.0, -20.0], "std": [5.0, 5.0]}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a job with a checkpoint, and returns its path."""

    def run(args=None, *, inputs=INPUTS, stats=None, bands=None, **options):
        content = as_stored(whole_model(), args, **{"class_names": ["a", "b", "c"], **options})
        torch.save(content, tmp_path / "tuned.ckpt")
        (tmp_path / "micro.yaml").write_text(yaml.safe_dump({"architecture": SIZE}))
        model = {
            "name": "micro.yaml",
            "checkpoint": "tuned.ckpt",
            "stats": stats or {"S2L2A": OPTICAL, "S1GRD": RADAR},
        }
        job = {
            "region": {"bbox": [15.0, 46.0, 15.1, 46.1]},
            "period": "2024-06-01/2024-06-30",
            "catalog": {"path": "absent.json", "provider": "planetary-computer"},
            "inputs": list(inputs),
            "bands": bands or {},
            "model": model,
            "execution": {"device": "cpu", "precision": "fp32", "batch": 1},
        }
        (tmp_path / "catalog.json").write_text("{}")
        job["catalog"]["path"] = "catalog.json"
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return run


REFUSED = {
    "rescale": ({"args": {"rescale": False}}, "no class of a single pixel"),
    "dates": ({"args": {"backbone_use_temporal": True}}, "only models of one date"),
    "task": ({"task": "regression"}, "of the task 'regression'"),
    "inputs": ({"inputs": ["S2L2A"]}, "write inputs: [S2L2A, S1GRD]"),
    "statistics": ({"stats": {"S2L2A": OPTICAL}}, "no statistics of the input S1GRD"),
    "unit": (
        {"stats": {"S2L2A": OPTICAL, "S1GRD": {"mean": [0.1, 0.02], "std": [0.1, 0.1]}}},
        "linear power",
    ),
    "stated unit": (
        {"stats": {"S2L2A": OPTICAL, "S1GRD": {**RADAR, "unit": "reflectance"}}},
        "unknown unit of S1GRD 'reflectance'. Known: dB.",
    ),
    "classes": ({"args": {"num_classes": 4}}, "gives 3 classes"),
    "bands": (
        {"bands": {"S1GRD": ["HH", "HV"]}},
        "bands names HH, HV of S1GRD, but the model tuned takes VV, VH in this order",
    ),
    "order of bands": (
        {"bands": {"S1GRD": ["VH", "VV"]}},
        "bands names VH, VV of S1GRD, but the model tuned takes VV, VH in this order",
    ),
    "unit of another sensor": (
        {"stats": {"S2L2A": {**OPTICAL, "unit": "m"}, "S1GRD": RADAR}},
        "unknown unit of S2L2A 'm'. Known: DN, reflectance.",
    ),
    "spelling of a unit": (
        {"stats": {"S2L2A": {**OPTICAL, "unit": "Reflectance"}, "S1GRD": RADAR}},
        "unknown unit of S2L2A 'Reflectance'. Did you mean 'reflectance'?",
    ),
    "number of a band": (
        {"stats": {"S2L2A": {**OPTICAL, "bands": [*range(1, 13)]}, "S1GRD": RADAR}},
        "unknown band of S2L2A 1. Did you mean 'B01'? Known: B01, B02,",
    ),
    "name of a band": (
        {"stats": {"S2L2A": OPTICAL, "S1GRD": {**RADAR, "bands": ["VV", "VHH"]}}},
        "unknown band of S1GRD 'VHH'. Did you mean 'VH'? Known: VV, VH.",
    ),
    "number of bands": (
        {"stats": {"S2L2A": OPTICAL, "S1GRD": {**RADAR, "bands": ["VV"]}}},
        "1 bands but 2 means",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_cannot_be_mapped_is_refused_when_it_is_planned(write, capsys, case):
    options, message = REFUSED[case]
    path = write(**options)
    assert main.main(["plan", str(path)]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in error


def test_what_was_assumed_is_told_with_the_plan(write):
    path = write(tiled_inference_parameters={"crop": 128, "stride": 96})
    loaded = model_spec.load_model(jobs.load(path))
    assert [caveat.id for caveat in loaded.caveats] == ["tuned"]
    assert "multiplied by 10000" in loaded.caveats[0].text
    assert (loaded.spec.window, loaded.overlap) == (128, 32)


def test_units_and_bands_of_statistics_reach_the_loader(write):
    path = write(stats={"S2L2A": {**OPTICAL, "unit": "reflectance"}, "S1GRD": RADAR})
    loaded = model_spec.load_model(jobs.load(path))
    assert loaded.caveats == ()
    assert loaded.options.stats["S2L2A"]["unit"] == "reflectance"
    swapped = {"bands": ["VH", "VV"], "mean": RADAR["mean"], "std": RADAR["std"]}
    path = write(stats={"S2L2A": OPTICAL, "S1GRD": swapped})
    loaded = model_spec.load_model(jobs.load(path))
    assert loaded.spec.inputs["S1GRD"] == ("VH", "VV")
    assert any("does not name its bands" in caveat.text for caveat in loaded.caveats)


def test_the_bands_of_a_job_may_be_those_of_its_model(write):
    bands = {"S1GRD": ["VV", "VH"]}
    assert model_spec.load_model(jobs.load(write(bands=bands))).spec.inputs["S1GRD"] == (
        *("VV", "VH"),
    )


def test_bands_that_a_shipped_model_does_not_take_are_refused(tmp_path):
    values = {
        "name": "x",
        "region": {"bbox": [15.0, 46.0, 15.1, 46.1]},
        "catalog": "planetary-computer",
        "inputs": ["S2L2A"],
        "bands": {"S2L2A": ["B04", "B08"]},
        "model": {"name": "terramind_v1_tiny", "weights": {"random": 1}, "task": "embedding"},
    }
    with pytest.raises(InvalidInputError, match=r"names B04, B08 of S2L2A.*takes B01, .*B12 in"):
        model_spec.load_model(jobs.parse(values, folder=tmp_path))


def test_a_file_of_statistics_may_have_more_inputs(write, tmp_path):
    values = {"S2L2A": OPTICAL, "S1GRD": RADAR, "DEM": {"mean": [1], "std": [9]}}
    values |= {"RGB": {"mean": [1, 2, 3], "std": [1, 2, 3]}, "LULC": {"mean": [0], "std": [1]}}
    (tmp_path / "stats.yaml").write_text(yaml.safe_dump(values))
    loaded = model_spec.load_model(jobs.load(write(stats="stats.yaml")))
    assert list(loaded.spec.inputs) == INPUTS
