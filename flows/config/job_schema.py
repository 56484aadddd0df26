"""The JSON Schema of the job file, and its reference in Markdown: both come from the models.

An editor checks a job against the schema while it is written; ``terramosaic`` then checks what a
schema cannot say: files that must exist, and keys that depend on each other (:data:`RULES`).
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from catalogs import providers
from catalogs.sensors import SENSORS, get_sensor
from flows.config.job import LATEST, Job
from flows.config.model import (
    GENERATED_MODALITIES,
    MODEL_NAMES,
    TASKS,
    TOKENIZER_MODALITIES,
    ModelConfig,
)
from flows.config.output import OUTPUT_FORMATS
from flows.config.weights import Weights

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEXT = {"type": "string"}
_YAML_FILE = {"type": "string", "pattern": r"\.ya?ml$"}
_FILE = {"type": "string", "format": "path"}
_CADENCE = {
    "type": "string",
    "pattern": r"^\s*([pP][1-9][0-9]{0,3}[dwmyDWMY]|[sS][eE][aA][sS][oO][nN][sS]?)\s*$",
}
_DAY = r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?"
_WEIGHTS = {
    "anyOf": [
        {"const": "hub"},
        _FILE,
        {
            "type": "object",
            "properties": {
                "path": _FILE,
                "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
            },
            "required": ["path"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"random": {"type": "integer", "minimum": 0}},
            "required": ["random"],
            "additionalProperties": False,
        },
    ]
}
"""Forms of the weights of a model: the models hold them parsed."""


def _one_or_more(names: typing.Sequence[str]) -> dict[str, Any]:
    return {"anyOf": [{"enum": [*names]}, _list_of({"enum": [*names]})]}


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}


FORMS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("Job", "period"): {
        "anyOf": [
            {"const": LATEST},
            {"type": "string", "pattern": rf"^\s*{_DAY}\s*(/\s*{_DAY}\s*)?$"},
            {"type": "integer", "minimum": 1000, "maximum": 9999},
        ]
    },
    ("Job", "inputs"): _list_of({"enum": [*SENSORS]}),
    ("Job", "bands"): {
        "type": "object",
        "properties": {
            name: _list_of({"enum": [*get_sensor(name).measured_bands]}) for name in SENSORS
        },
        "additionalProperties": False,
    },
    ("Catalog", "provider"): {"anyOf": [{"enum": [*providers.list_names()]}, _YAML_FILE]},
    ("GridConfig", "crs"): {
        "type": "string",
        "pattern": "^([uU][tT][mM]|[eE][pP][sS][gG]:[0-9]+)$",
    },
    ("GridConfig", "mosaic"): {
        "type": "array",
        "items": {"type": "string", "pattern": "^[eE][pP][sS][gG]:[0-9]+$"},
        "uniqueItems": True,
    },
    ("Composite", "every"): _CADENCE,
    ("Schedule", "cadence"): _CADENCE,
    ("Schedule", "from"): {
        "anyOf": [
            {"type": "string", "pattern": f"^{_DAY}$"},
            {"type": "integer", "minimum": 1000, "maximum": 9999},
        ]
    },
    ("ModelConfig", "name"): {"anyOf": [{"enum": [*MODEL_NAMES]}, _YAML_FILE]},
    ("ModelConfig", "task"): _one_or_more(TASKS),
    ("ModelConfig", "modality"): _one_or_more(GENERATED_MODALITIES),
    ("ModelConfig", "weights"): _WEIGHTS,
    ("ModelConfig", "tokenizers"): {
        "type": "object",
        "properties": dict.fromkeys(TOKENIZER_MODALITIES, _WEIGHTS),
        "additionalProperties": False,
        "minProperties": 1,
    },
    ("ModelConfig", "classes"): {
        "type": "array",
        "items": {"anyOf": [_TEXT, {"$ref": "#/$defs/ClassConfig"}]},
        "minItems": 2,
    },
    ("ModelConfig", "stats"): {
        "anyOf": [
            _YAML_FILE,
            {
                "type": "object",
                "properties": {name: {"$ref": "#/$defs/InputStatistics"} for name in SENSORS},
                "additionalProperties": False,
                "minProperties": 1,
            },
        ]
    },
    ("Output", "path"): _FILE,
    ("Output", "formats"): _list_of({"enum": [*OUTPUT_FORMATS]}),
    ("Execution", "engine"): {
        "anyOf": [
            {"enum": ["threads", "distributed"]},
            {"type": "string", "pattern": r"^(tcp|tls)://[^\s/:]+:[0-9]{1,5}$"},
        ]
    },
    ("Execution", "device"): {
        "anyOf": [
            {"enum": ["auto", "cpu", "cuda"]},
            {"type": "string", "pattern": "^cuda:[0-9]{1,3}$"},
        ]
    },
    ("Execution", "batch"): {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]},
    ("Execution", "workers"): {
        "anyOf": [
            {"const": "auto"},
            {"type": "integer", "minimum": 1},
            {"$ref": "#/$defs/WorkerRange"},
        ]
    },
    ("WorkerRange", "min"): {"type": "integer", "minimum": 1},
    ("WorkerRange", "max"): {"type": "integer", "minimum": 1},
    ("Radiometry", "proof"): {"enum": ["refuse", "warn", "off", False]},
    ("QualityGate", "gate"): {"enum": ["refuse", "warn", "off", False]},
    # ^ YAML 1.1 reads a bare ``off`` as false
}
"""Model and key → what may be written in the file, where a validator of the model decides it."""

RULES = (
    "`region` needs either `bbox` or `file`.",
    "`catalog` needs `path` or `url` if its provider has no API, and never both.",
    "`bands` may name only inputs of the job; `radar` needs a Sentinel-1 input.",
    (
        "`bands` of an input that the model takes must be the model's bands in its order; a plan "
        "of another list is refused, and names both."
    ),
    (
        "`bands` in `model.stats` say which band each number is of. Where the checkpoint names its "
        "bands, the numbers are put in its order; where it does not, the list is that of its "
        "channels. What differs from the checkpoint or from TerraMind is a warning of the plan; "
        "an unknown band, or another number of them than the checkpoint has channels, is refused."
    ),
    "`composite.every` and `model: {name: none}` need `output: {composites: true}`.",
    "`output.probabilities` needs the task `land_cover`.",
    "The task `generate` needs `modality`; `modality` and `timesteps` are for this task only.",
    (
        "A `checkpoint` needs its statistics (`stats` or `training`, not both), takes no "
        "`weights`, and has the task `land_cover` only."
    ),
    "`classes` and `training` are for a `checkpoint` only.",
    (
        "`name: none` takes no weights, checkpoint or task; `name: demo` has its own weights and "
        "generates nothing."
    ),
    "An input that the model generates is not given to the model; at least one other is needed.",
    "`prices` needs at least one price.",
    (
        "With `grid: {crs: utm, align: auto}`, all scenes over the region decide on the zone, also "
        "cloudy ones, excluded ones and those of the year before the period; see `crs`."
    ),
)
"""What holds between keys; Markdown."""

SECTIONS = tuple(
    name
    for name, field in Job.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
)
"""Keys of a job whose values have keys of their own."""


def generate_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file as JSON-ready values."""
    schema = Job.model_json_schema(mode="validation")
    definitions = schema["$defs"]
    definitions.pop(Weights.__name__, None)
    for model, values in {**definitions, Job.__name__: schema}.items():
        values.pop("title", None)
        for key, entry in values.get("properties", {}).items():
            values["properties"][key] = _build_property(model, key, entry)
    _parse_examples(schema)
    properties = schema["properties"]
    required = [key for key in ("region", "catalog") if key in properties]
    for key in properties.keys() - set(required):
        properties[key] = _allow_null(properties[key])
        # ^ a section whose keys are all commented out counts as absent
    catalog = properties["catalog"]
    properties["catalog"] = {
        **{key: catalog[key] for key in catalog if key != "$ref"},
        "anyOf": [
            {"enum": [name for name in providers.list_names() if providers.get(name).api]},
            _YAML_FILE,
            {"$ref": "#/$defs/Catalog"},
        ],
    }
    return {
        "$schema": DIALECT,
        "title": "terramosaic job",
        "type": "object",
        "description": schema["description"],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _build_property(model: str, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a key: title, description, default, and what may be written."""
    texts = {name: entry[name] for name in ("title", "description", "examples") if name in entry}
    default = entry.get("default")
    if default is not None and not isinstance(default, dict):
        texts["default"] = default
    form = FORMS.get((model, key))
    if form is None:
        form = {
            name: value
            for name, value in entry.items()
            if name not in ("title", "description", "examples", "default")
        }
    optional = {"anyOf": [form, {"type": "null"}]} if _is_nullable(entry) else form
    return {**texts, **(optional if FORMS.get((model, key)) else form)}


def _is_nullable(entry: Mapping[str, Any]) -> bool:
    return "default" in entry and entry["default"] is None


def _allow_null(entry: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: entry[name] for name in entry if name in _TEXTS}
    form = {name: entry[name] for name in entry if name not in _TEXTS}
    if {"type": "null"} in form.get("anyOf", ()):
        return dict(entry)
    return {**texts, "anyOf": [form, {"type": "null"}]}


_TEXTS = ("title", "description", "examples", "default")


def _parse_examples(schema: Mapping[str, Any]) -> None:
    """Replace examples, which are texts of YAML, by their values."""
    for entry in schema["properties"].values():
        if "examples" in entry:
            entry["examples"] = [yaml.safe_load(text) for text in entry["examples"]]


def format_schema() -> str:
    """Return the text of the schema's file."""
    return json.dumps(generate_schema(), indent=2, ensure_ascii=False) + "\n"


def format_reference() -> str:
    """Return the reference of the job file as Markdown."""
    return "\n".join([_INTRODUCTION, *_job_keys(), *_section_keys(), *_rules()]) + "\n"


_INTRODUCTION = """\
# The job file

<!-- Generated from the models in flows/config by `make schemas`. -->

A job is a YAML file that describes one product, or one product for each period of a schedule. Only
`region` and `catalog` are required. All keys are checked before the catalog is searched; wrong ones
are reported together, and nothing is made. Relative paths start at the folder of the job file.

```yaml
# yaml-language-server: $schema=job.schema.json
name: jutland-2024
region: {bbox: [9.0, 56.5, 10.5, 57.5]}
period: 2024-05-01/2024-09-30
catalog: planetary-computer
inputs: [S2L2A, S1RTC, DEM]
grid: {crs: utm, resolution: 10}
composite: {method: medoid, max_cloud_cover: 60}
model: {name: terramind_v1_base}
output: {path: out, composites: true}
execution: {tile: 2048}
```

The first line is for editors with the YAML language server, such as Visual Studio Code with the
extension YAML of Red Hat: they complete keys, show what they mean, and mark mistakes. This writes
the schema of the installed version beside the job:

```sh
terramosaic schema > job.schema.json
```

The schema knows keys, types and choices. What it cannot know, such as files that must exist and the
[rules between keys](#rules-between-keys), is checked by every command that reads the job.
"""


def _job_keys() -> Iterator[str]:
    yield "## Keys of the job"
    yield ""
    yield from _table(Job)
    yield ""
    for name, field in Job.model_fields.items():
        if name not in SECTIONS:
            for example in field.examples or ():
                yield from _example(f"{name}: {example}")
    yield ""


def _section_keys() -> Iterator[str]:
    for name, field in Job.model_fields.items():
        section = find_model(field.annotation)
        if section is None or name not in {*SECTIONS, "prices"}:
            continue
        yield f"## {name}"
        yield ""
        forms = f" Written as {field.description}." if field.description else ""
        yield f"{field.title}.{forms}"
        yield ""
        yield from _table(section)
        yield ""
        for example in field.examples or ():
            yield from _example(f"{name}: {example}")
        for key, nested in _nested_sections(section):
            yield f"### {name}.{key}"
            yield ""
            yield from _table(nested)
            yield ""


def _nested_sections(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in section.model_fields.items():
        nested = find_model(field.annotation)
        if nested is not None and any(entry.title for entry in nested.model_fields.values()):
            yield key, nested


def find_model(annotation: object) -> type[BaseModel] | None:
    """Return the model of a section in the type of a key; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(find_model, typing.get_args(annotation))), None)


def _example(text: str) -> Iterator[str]:
    yield "```yaml"
    yield text
    yield "```"
    yield ""


def _table(model: type[BaseModel]) -> Iterator[str]:
    """Yield a table of the keys of a section."""
    yield "| key | meaning | values | default |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        key = field.alias or name
        if model is Job and name in {*SECTIONS, "prices"}:
            values = f"[below](#{key})"
        else:
            values = _escape(field.description or "")
        yield f"| `{key}` | {_escape(field.title or '')} | {values} | {_default(model, name)} |"


def _default(model: type[BaseModel], name: str) -> str:
    """Return the default of a key as it would be written in YAML."""
    field = model.model_fields[name]
    if model is Job and name == "name":
        return "name of the file"
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), {}):
        return LATEST if (model, name) == (Job, "period") else ""
    if isinstance(value, BaseModel):
        return ""
    if model is ModelConfig and name == "task":
        value = value[0]
    return f"`{_to_yaml(value)}`"


def _to_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, str):
        return plain
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    )


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rules() -> Iterator[str]:
    yield "## Rules between keys"
    yield ""
    for rule in RULES:
        yield f"- {rule}"
