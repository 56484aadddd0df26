"""The schema of the job file accepts the jobs that terramosaic accepts, and marks mistakes."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from catalogs.errors import InvalidInputError
from flows.cli import main
from flows.config import job, job_schema

ROOT = Path(__file__).parents[2]
SCHEMA = job_schema.generate_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

SMALL = "region: {bbox: [9.0, 56.5, 10.5, 57.5]}\ncatalog: planetary-computer\n"


def _read(text):
    """Read YAML as an editor does: dates are texts."""
    return json.loads(json.dumps(yaml.safe_load(text), default=_format_date))


def _format_date(value):
    assert isinstance(value, dt.date)
    return value.isoformat()


def _errors(text):
    return [error.message for error in VALIDATOR.iter_errors(_read(text))]


def _yaml_blocks():
    """Yield (place, text) of the YAML blocks in the documentation."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]):
        blocks = re.findall(r"```ya?ml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        for number, block in enumerate(blocks):
            yield f"{path.name}-{number}", block


def _is_job(block):
    return all(re.search(rf"^{key}:", block, re.MULTILINE) for key in ("catalog", "region"))


def _shows_keys(block):
    """Return whether a block shows some keys of a job, and not a whole one."""
    values = yaml.safe_load(block) if "…" not in block else None
    return (
        isinstance(values, dict) and set(values) <= set(job.Job.model_fields) and not _is_job(block)
    )


JOBS = [entry for entry in _yaml_blocks() if _is_job(entry[1])]
PARTS = [entry for entry in _yaml_blocks() if _shows_keys(entry[1])]


def test_the_schema_is_valid_and_allows_no_unknown_key():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["required"] == ["region", "catalog"]
    parts = [SCHEMA, *SCHEMA["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts)
    for part in parts:
        for key, entry in part["properties"].items():
            if (
                part.get("description")
                != "Smallest and largest number of workers of an adaptive cluster."
            ):
                assert entry.get("title"), key
                assert not entry["title"].endswith(".")


def _sections():
    """Yield all models of the job file."""
    pending = [job.Job]
    while pending:
        model = pending.pop()
        yield model
        nested = (job_schema.find_model(entry.annotation) for entry in model.model_fields.values())
        pending += [section for section in nested if section is not None]


def test_every_key_is_in_the_reference():
    reference = job_schema.format_reference()
    sections = [section for section in _sections() if section.__name__ != "Weights"]
    assert len(sections) > 15
    for section in sections:
        for name, field in section.model_fields.items():
            assert f"| `{field.alias or name}` | {field.title} |" in reference


@pytest.mark.parametrize(("place", "text"), JOBS, ids=[place for place, _ in JOBS])
def test_the_jobs_of_the_documentation_fit(place, text):
    assert _errors(text) == [], place


def test_the_documentation_holds_jobs():
    places = [place for place, _ in JOBS]
    assert any(place.startswith("README") for place in places)
    assert any(place.startswith("job.md") for place in places)
    assert len(PARTS) > 15


@pytest.mark.parametrize(("place", "text"), PARTS, ids=[place for place, _ in PARTS])
def test_the_sections_of_the_documentation_fit(place, text):
    values = _read(text)
    document = _read(SMALL) | values
    assert [error.message for error in VALIDATOR.iter_errors(document)] == [], place


def test_the_examples_of_the_reference_are_accepted_jobs(tmp_path):
    examples = {name: field.examples for name, field in job.Job.model_fields.items()}
    for name, texts in examples.items():
        for text in texts or ():
            sections = {name: yaml.safe_load(text)}
            if name == "composite":
                sections["output"] = {"composites": True}
            job.parse(yaml.safe_load(SMALL) | sections | {"name": "x"}, folder=tmp_path)


def test_a_small_job_fits_and_sections_may_be_empty():
    assert _errors(SMALL) == []
    assert _errors(SMALL + "grid:\nmask:\nperiod: 2024\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "period: latest",
        "period: 2024-05",
        "period: 2024-05-01",
        "catalog: tables/own.yaml",
        "catalog: {path: catalog.json, provider: stactools}",
        "model: {name: mine.yaml, task: [land_cover, embedding]}",
        "model: {stats: {S2L2A: {mean: [1], std: [1]}}, classes: [a, {name: b}]}",
        "model: {checkpoint: a.ckpt, stats: fit.yaml}",
        "model: {weights: {path: a.pt}}",
        "model: {weights: {random: 7}, tokenizers: {LULC: hub}}",
        "execution: {workers: {min: 1, max: 8}, batch: 4, device: 'cuda:1', engine: 'tls://a:8786'}",
        "qc: {gate: off}",
        "composite: {every: season}",
        "schedule: {from: 2024, cadence: p10d}",
        "grid: {crs: 'epsg:3035', mosaic: ['EPSG:3857']}",
    ],
)
def test_every_form_of_a_value_fits(text):
    assert _errors(yaml.safe_dump(yaml.safe_load(SMALL) | yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "resolution: 10",
        "modell: {name: demo}",
        "name: a/b",
        "region: {box: [1, 1, 2, 2]}",
        "region: {bbox: [1, 1, 2]}",
        "period: May 2024",
        "period: 2024-05..2024-06",
        "catalog: planetary_computer",
        "catalog: {path: catalog.json}",
        "catalog: {url: 'ftp://a.example', provider: stactools}",
        "inputs: [S2]",
        "inputs: []",
        "exclude: S2A_33TWM",
        "grid: 10",
        "grid: {rezolution: 10}",
        "grid: {resolution: '10'}",
        "grid: {resolution: 0.5}",
        "grid: {crs: wgs84}",
        "grid: {align: none}",
        "bands: {S1RTC: [HX]}",
        "mask: {clear_scl: [4, 12]}",
        "mask: {dilate_m: -1}",
        "composite: {method: mode}",
        "composite: {every: monthly}",
        "composite: {max_cloud_cover: 101}",
        "radar: {orbit: up}",
        "radiometry: {proof: true}",
        "model: {name: terramind_v1_bas}",
        "model: {task: landcover}",
        "model: {task: []}",
        "model: {modality: NDWI}",
        "model: {weights: {random: -1}}",
        "model: {tokenizers: {LUCL: hub}}",
        "model: {classes: [one]}",
        "model: {stats: {S2L2A: {mean: [1]}}}",
        "model: {timesteps: 0}",
        "output: {formats: [netcdf]}",
        "output: {composites: 'yes'}",
        "execution: {engine: dask}",
        "execution: {workers: 0}",
        "execution: {batch: 0}",
        "execution: {device: gpu}",
        "qc: {gate: stop}",
        "schedule: {cadence: monthly}",
        "schedule: {form: 2024-01}",
        "prices: {currency: euro, cpu_hour: 1}",
    ],
)
def test_a_mistake_is_marked_by_an_editor_and_refused_by_the_job(tmp_path, text):
    values = yaml.safe_load(SMALL) | yaml.safe_load(text)
    assert _errors(yaml.safe_dump(values))
    with pytest.raises(InvalidInputError):
        job.parse({"name": "x"} | values, folder=tmp_path)


RULES = [
    ("region: {bbox: [1, 1, 2, 2], file: a.geojson}", "give one of two"),
    ("catalog: {provider: stactools}", "has no API address"),
    ("bands: {S1GRD: [VV]}", "not among the inputs"),
    (None, ""),
    ("model: {stats: {DEM: {mean: [1], std: [1], bands: [B01]}}}", "unknown band of DEM 'B01'"),
    ("composite: {every: P1M}", "composites: true"),
    ("model: {task: embedding}\noutput: {probabilities: true}", "no probabilities"),
    ("model: {timesteps: 4}", "timesteps is for"),
    ("model: {checkpoint: job.yaml}", "stats"),
    ("model: {classes: [a, b]}", "for a checkpoint only"),
    ("model: {name: none, weights: hub}", "predicts nothing"),
    (None, ""),
    ("prices: {currency: EUR}", "at least one price"),
    (None, ""),
]
"""A job that breaks each rule of the reference, and words of the message; None: see below.

That at least one input is left and the bands of the model are checked with the model, and the zone
with the catalog.
"""


def test_every_rule_of_the_reference_is_checked(tmp_path):
    assert len(RULES) == len(job_schema.RULES)
    for text, phrase in RULES:
        if text is None:
            continue
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(SMALL) | yaml.safe_load(text)))
        (tmp_path / "a.geojson").write_text("{}")
        with pytest.raises(InvalidInputError, match=re.escape(phrase)):
            job.load(path)


def test_the_command_prints_the_schema(capsys):
    assert main.main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == SCHEMA
    assert len(printed.splitlines()) > 100
    assert main.main(["schema", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == SCHEMA


def test_every_form_belongs_to_a_key():
    keys = {
        (section.__name__, field.alias or name)
        for section in _sections()
        for name, field in section.model_fields.items()
    }
    assert set(job_schema.FORMS) <= keys
