"""The run settings of a plan: their form in the plan file, and their defaults."""

from __future__ import annotations

import dataclasses
import json

import pytest

from catalogs.errors import InvalidInputError
from flows.config.quality import QualityGate
from pipeline.plan.plan import hash_json
from pipeline.plan.settings import (
    ExecutionSettings,
    ModelOptions,
    PriceList,
    QualityLimits,
    RunSettings,
)
from pipeline.storage import plan_file
from tests.support.small_plan import make_plan

STORED = {
    "model": {"name": "demo", "task": "land_cover", "weights": None},
    "request": "f1bc",
    "output": {"path": "/data/out", "formats": ["cog", "zarr"]},
    "execution": {
        "tile": 1024,
        "engine": "threads",
        "workers": {"min": 1, "max": 8},
        "device": "auto",
        "precision": "auto",
        "batch": "auto",
        "slot": "gpu",
        "max_hours": None,
    },
    "qc": {
        "gate": "refuse",
        "max_seam_z": 3.0,
        "max_disagreement": 0.1,
        "min_agreement": 0.995,
    },
    "prices": {
        "currency": "CHF",
        "cpu_hour": 0.05,
        "gpu_hour": 0.0,
        "gb_read": 0.0,
        "thousand_requests": 0.0,
        "gb_month": 0.0,
        "months": 12.0,
    },
}


def test_the_form_in_a_plan_file_is_kept():
    settings = RunSettings.from_dict(STORED)
    assert json.loads(json.dumps(settings.to_dict())) == STORED
    assert settings.execution.slot == "gpu"
    assert settings.prices == PriceList(currency="CHF", cpu_hour=0.05)


def test_sections_missing_in_an_older_plan_have_defaults():
    settings = RunSettings.from_dict({"output": {"path": "/out"}, "model": {}, "execution": {}})
    assert settings == RunSettings(output_dir="/out")
    assert settings.formats == ("cog", "zarr")
    assert (settings.prices, settings.request_digest) == (None, None)


def test_default_limits_are_those_of_a_job():
    assert dataclasses.asdict(QualityLimits()) == QualityGate().model_dump()


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        (ModelOptions(), {}),
        (ModelOptions(name="demo"), {"name": "demo", "weights": None}),
        (
            ModelOptions(name="a.yaml", checkpoint="a.ckpt", classes=["water"]),
            {"name": "a.yaml", "checkpoint": "a.ckpt", "classes": ["water"]},
        ),
    ],
)
def test_unset_options_are_left_to_the_loader(options, stored):
    assert options.to_dict() == stored
    assert ModelOptions(**stored) == options


def test_a_plan_keeps_its_settings(tmp_path):
    settings = RunSettings(
        output_dir="/out",
        formats=("cog",),
        execution=ExecutionSettings(engine="tcp://host:8786", max_hours=2.5),
        quality_limits=QualityLimits(gate="off"),
    )
    plan = dataclasses.replace(make_plan(tmp_path), settings=settings)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    assert plan_file.read_plan_file(tmp_path / "plan.json").settings == settings


@pytest.mark.parametrize(
    "job", [None, {}, {"output": None}, {**STORED, "execution": {"engines": "threads"}}]
)
def test_settings_in_another_form_are_refused(tmp_path, job):
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, make_plan(tmp_path))
    values = json.loads(path.read_text()) | {"job": job}
    del values["sha256"]
    path.write_text(json.dumps({**values, "sha256": hash_json(values)}))
    with pytest.raises(InvalidInputError, match="not a plan"):
        plan_file.read_plan_file(path)
