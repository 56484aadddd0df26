"""The schema of the job file accepts the jobs that terramosaic accepts, and marks mistakes."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError
from flows.config import job, job_reference, job_schema

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
    reference = job_reference.format_reference()
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
        "model: {checkpoint: a.ckpt, stats: {DEM: {mean: [1], std: [1]}}, classes: [a, {name: b}]}",
        "model: {checkpoint: a.ckpt, stats: fit.yaml}",
        "model: {weights: {path: a.pt}}",
        "model: {weights: {random: 7}, tokenizers: {LULC: hub}}",
        "execution: {workers: {min: 1, max: 8}, batch: 4, device: 'cuda:1', engine: 'tls://a:8786'}",
        "qc: {gate: off}",
        "{composite: {every: season}, output: {composites: true}}",
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
        "region: {}",
        "region: {bbox: [1, 1, 2, 2], file: area.geojson}",
        "region: {bbox: [1, 1, 2, 95]}",
        "region: {file: 'data\\area.geojson'}",
        "region: {file: ' '}",
        "period: 2024-13",
        "period: '2024-05-32'",
        "catalog: {provider: stactools}",
        "catalog: {path: a.json, url: 'https://a.example', provider: stactools}",
        "allow: [a.example, a.example]",
        "inputs: [S2L2A, S2L2A]",
        "include: [S2A_33TWM, S2A_33TWM]",
        "include: []",
        "bands: {S1GRD: [VV]}",
        "{inputs: [S2L2A], bands: {S1RTC: [VV]}}",
        "{inputs: [S2L2A], radar: {orbit: ascending}}",
        "{inputs: [DEM], radar: {relative_orbits: [44]}}",
        "composite: {every: P1M}",
        "{composite: {every: P1M}, output: {composites: false}}",
        "{output: {probabilities: true}, model: {name: terramind_v1_tiny, task: embedding}}",
        "grid: {crs: 'EPSG:1'}",
        "mask: {clear_scl: [4, 4]}",
        "model: {checkpoint: job.yaml}",
        "model: {checkpoint: job.yaml, stats: s.yaml, weights: hub}",
        "model: {checkpoint: job.yaml, stats: s.yaml, task: embedding}",
        "model: {checkpoint: job.yaml, stats: s.yaml, tokenizers: {LULC: hub}}",
        "model: {classes: [a, b]}",
        "model: {training: fit.yaml}",
        "model: {name: terramind_v1_tiny, task: generate}",
        "model: {name: terramind_v1_tiny, modality: NDVI}",
        "model: {name: terramind_v1_tiny, timesteps: 4}",
        "model: {name: terramind_v1_tiny, task: embedding, average_below: 0.5}",
        "model: {name: terramind_v1_tiny, task: embedding, tokenizers: {LULC: hub}}",
        "model: {task: generate, modality: NDVI}",
        "model: {name: demo, weights: hub}",
        "model: {name: none, weights: hub}",
        "model: {name: none, layer: burned}",
        "model: {name: none, task: embedding}",
        "model: {layer: burn-scars}",
        "model: {layer: 2024_crops}",
        "model: {layer: quicklook}",
        "model: {layer: series_crops}",
        "model: {weights: {path: a.pt, sha256: abc}}",
        "model: {stats: {S2L2A: {mean: [1], std: [1], unit: m}}}",
        "model: {stats: {S2L2A: {mean: [1], std: [1], unit: Reflectance}}}",
        "model: {stats: {S1RTC: {mean: [1], std: [1], unit: reflectance}}}",
        "model: {stats: {S2L2A: {mean: [1], std: [1], bands: [2]}}}",
        "model: {stats: {S1RTC: {mean: [1, 2], std: [1, 1], bands: [VV, VV]}}}",
        "model: {checkpoint: job.yaml, stats: s.yaml, classes: [a, {name: b, color: orange}]}",
        "model: {checkpoint: job.yaml, stats: s.yaml, classes: [a, {name: b, color: '#fff'}]}",
        "model: {checkpoint: job.yaml, stats: s.yaml, classes: [a, {name: b, code: 255}]}",
        "model: {checkpoint: job.yaml, stats: s.yaml, classes: [a, a]}",
        "output: {path: 's3://bucket/maps'}",
        "output: {path: 'C:\\maps'}",
        "execution: {tile: 1000}",
        "execution: {workers: 5000}",
        "execution: {workers: {min: 0, max: 2}}",
        "schedule: {cron: '0 6 * *'}",
        "schedule: {cron: daily}",
        "schedule: {from: 2024-05/2024-06}",
        "schedule: {timezone: 'central european time'}",
        "prices: {currency: EUR}",
        "prices: {cpu_hour: 0}",
    ],
)
def test_a_mistake_is_marked_by_an_editor_and_refused_by_the_job(tmp_path, text):
    values = yaml.safe_load(SMALL) | yaml.safe_load(text)
    assert _errors(yaml.safe_dump(values))
    (tmp_path / "job.yaml").write_text("")
    (tmp_path / "s.yaml").write_text("DEM: {mean: [1], std: [1]}")
    with pytest.raises(InvalidInputError):
        job.parse({"name": "x"} | values, folder=tmp_path)


ACCEPTED = {
    "region": ["{bbox: [170, -10, -170, 90], file: null}", "{file: area.geojson, bbox: null}"],
    "region.file": ["'file:area.geojson'", "./area.geojson", "area"],
    "period": [
        *("latest", "2024", "2024-05", "'2024'", "' 2024-05 / 2024-06-30 '", "null"),
        *("2024-05-01T12:30:00Z", "2024-05-01 12:30:00", "2024-12-31"),
    ],
    "catalog": ["earth-search", "own.yaml", "OWN.YML", "{provider: earth-search, path: null}"],
    "catalog.url": ["https://stac.example/v1", "null"],
    "allow": ["[]", "[a.example, 's3://bucket', .]", "null"],
    "inputs": ["[DEM]", "[S2L1C, S1GRD]", "[S2L2A, S1RTC, DEM]", "null"],
    "include": ["[a]", "[a, b]", "null"],
    "exclude": ["[c]"],
    "bands": ["{}", "{S2L2A: [B04, B02]}", "{S1GRD: [HH, HV]}", "{S1RTC: [VH], DEM: [DEM]}"],
    "grid.crs": ["UTM", "epsg:3035", "EPSG:32632", "EPSG:003035"],
    "grid.resolution": ["1", "20.5"],
    "grid.mosaic": ["[]", "['epsg:3035']"],
    "mask.clear_scl": ["[0, 11]"],
    "mask.dilate_scl": ["[]"],
    "mask.max_cloud_probability": ["null", "0", "40.5"],
    "composite": ["null", "{}"],
    "composite.every": ["null", "' season '", "Seasons", "p3w", "P9999D"],
    "composite.max_passes": ["null", "3"],
    "radar": ["null", "{}", "{orbit: both, relative_orbits: []}"],
    "radar.orbit": ["ascending"],
    "radar.relative_orbits": ["[1, 175]"],
    "radiometry.proof": ["off", "warn"],
    "model": ["null", "{}"],
    "model.name": ["terramind_v1_tiny", "none", "demo", "card.yaml", "card.yml"],
    "model.task": [
        *("embedding", "[embedding]", "[land_cover]", "generate", "[generate, land_cover]"),
        "[embedding, land_cover]",
    ],
    "model.modality": ["NDVI", "[DEM, S2L2A]", "null"],
    "model.weights": [
        *("hub", "w.pt", "{path: w.pt}", "{path: w.pt, sha256: null}", "{random: 0}", "null"),
        f"{{path: w.pt, sha256: {'a1' * 32}}}",
    ],
    "model.tokenizers": ["{LULC: hub, NDVI: {random: 1}}", "null"],
    "model.timesteps": ["1"],
    "model.overlap": ["0", "null"],
    "model.average_below": ["1", "null"],
    "model.checkpoint": ["w.pt", "null"],
    "model.classes": [
        *("[a, b]", "[{name: a}, {name: b, color: ' D55E00 ', code: 254, gap: true}]", "null"),
        "[a, {name: b, title: null, color: null, code: null}]",
    ],
    "model.layer": ["Burned_2024", "bands", "null", "land_cover", "Classes"],
    "model.stats": [
        *("stats.yaml", "stats", "fit.yaml", "null", "{S2L2A: {mean: [0, 0], std: [1, 1]}}"),
        "{S1RTC: {mean: [1, 1.5], std: [1, 1], bands: [vv, VH], unit: dB}}",
        "{S2L2A: {mean: [1], std: [1], bands: [NIR_BROAD], unit: reflectance}}",
        "{DEM: {mean: [1], std: [1], bands: null, unit: null}}",
    ],
    "model.training": ["fit.yaml", "null"],
    "output.path": ["maps", "~/maps", "/tmp/maps", "./a b/c"],
    "output.formats": ["[zarr]", "[zarr, cog]"],
    "output.probabilities": ["true", "false"],
    "output.composites": ["true", "false"],
    "execution.tile": ["16", "65536", "1024"],
    "execution.engine": ["distributed", "tcp://host:8786"],
    "execution.workers": ["1", "4096", "{min: 1, max: 8}"],
    "execution.device": ["cuda:12", "cpu"],
    "execution.batch": ["1", "auto"],
    "execution.slot": ["gpu-1", "null"],
    "execution.max_hours": ["0.5", "null"],
    "qc.gate": ["off", "refuse"],
    "schedule.cadence": ["p1y", "' P2M '", "SEASON"],
    "schedule.from": ["2024", "2024-05", "' 2024-05-01 '", "2024-05-01T00:00:00Z", "null"],
    "schedule.cron": ["'@daily'", "' 0  6 * * 1-5 '", "'*/5 0-6,12 * jan mon'"],
    "schedule.timezone": ["Europe/Copenhagen", "Etc/GMT+1", "America/Port-au-Prince"],
    "prices": ["null", "{cpu_hour: 0.04, currency: DKK}", "{gb_month: 1, cpu_hour: 0}"],
}
"""Keys and values of a job that a validator may accept, alone or with others."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the files that :data:`ACCEPTED` names."""
    folder = tmp_path_factory.mktemp("jobs")
    ring = [[9, 56], [10, 56], [10, 57], [9, 56]]
    for name in ("area.geojson", "area"):
        (folder / name).write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    provider = (ROOT / "catalogs/providers/earth-search.yaml").read_text()
    for name in ("own.yaml", "OWN.YML"):
        (folder / name).write_text(provider)
    for name in ("stats.yaml", "stats"):
        (folder / name).write_text("DEM: {mean: [1], std: [1]}")
    (folder / "fit.yaml").write_text("data: {means: [1], stds: [1]}")
    for name in ("card.yaml", "card.yml", "w.pt"):
        (folder / name).write_text("{}")
    return folder


BASES = {
    "small": {},
    "composites": {"model.name": "none", "output.composites": "true"},
    "checkpoint": {"model.checkpoint": "w.pt", "model.stats": "stats.yaml"},
    "training": {"model.checkpoint": "w.pt", "model.training": "fit.yaml"},
    "generated": {
        "model.name": "terramind_v1_tiny",
        "model.task": "[generate, land_cover]",
        "model.modality": "NDVI",
    },
    "card": {"model.name": "card.yaml", "model.task": "embedding"},
    "inputs": {"inputs": "[S2L2A, S2L1C, S1RTC, S1GRD, DEM]", "catalog.path": "area.geojson"},
}
"""Jobs that values are added to."""


def _build_job(entries):
    """Return the job with some values, by dotted key."""
    values = yaml.safe_load(SMALL)
    for key, text in entries.items():
        section, _, name = key.partition(".")
        if not name:
            values[section] = _read(text)
            continue
        inner = values.get(section)
        values[section] = (inner if isinstance(inner, dict) else {}) | {name: _read(text)}
        if section == "region":
            values[section].pop("bbox", None)
        if section == "catalog":
            values[section].setdefault("provider", "stactools")
    return values


def _is_accepted(values, folder):
    try:
        job.parse({"name": "x"} | values, folder=folder)
    except InvalidInputError:
        return False
    return True


ENTRIES = [(key, text) for key, texts in ACCEPTED.items() for text in texts]


def test_what_the_job_accepts_fits_value_by_value(folder):
    accepted, misfits = set(), []
    for key, text in ENTRIES:
        for base in BASES.values():
            values = _build_job(base | {key: text})
            if _is_accepted(values, folder):
                accepted.add((key, text))
                misfits += [(values, error.message) for error in VALIDATOR.iter_errors(values)]
    assert misfits == []
    assert [entry for entry in ENTRIES if entry not in accepted] == []


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    base=st.sampled_from(list(BASES)),
    entries=st.lists(st.sampled_from(ENTRIES), min_size=2, max_size=3),
)
def test_what_the_job_accepts_fits_in_any_combination(folder, base, entries):
    values = _build_job(BASES[base] | dict(entries))
    errors = [error.message for error in VALIDATOR.iter_errors(values)]
    if errors:
        assert not _is_accepted(values, folder), errors
