"""What the JSON Schema of the job file says beyond the types of the models.

:data:`FORMS` has the values of single keys that a validator of a model decides, and
:data:`CONDITIONS` what holds between the keys of a section. Both accept all that the validators
accept; what a schema cannot know, such as whether a file exists, they leave to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs import providers
from catalogs.default_class_colors import COLOR_PATTERN
from catalogs.legend import MAX_CLASSES, MAX_NAME_LENGTH
from catalogs.sensors import SENSORS, get_sensor
from flows.config.classes import LAYER_NAME_PATTERN, RESERVED_PREFIXES, list_reserved_names
from flows.config.execution import MAX_WORKERS, PATCH_SIZE
from flows.config.job import LATEST, Job
from flows.config.model import (
    GENERATED_MODALITIES,
    MODEL_NAMES,
    TASKS,
    TOKENIZER_MODALITIES,
    ModelConfig,
)
from flows.config.output import OUTPUT_FORMATS
from flows.config.prices import UNIT_PRICES
from flows.config.schedule import CRON_PATTERN
from model.predictor.input_statistics import list_units

Form = Mapping[str, Any]
"""A JSON Schema, or a part of one."""

NULL: Form = {"type": "null"}

PATH: Form = {"type": "string", "format": "path", "pattern": r"^[^\\]*[^\\\s][^\\]*$"}
"""A path: not blank, and without backslashes."""

_TEXT: Form = {"type": "string"}
YAML_FILE: Form = {**PATH, "pattern": r"^[^\\]*\.[yY][aA]?[mM][lL]$"}
_CADENCE: Form = {
    "type": "string",
    "pattern": r"^\s*([pP][1-9][0-9]{0,3}[dwmyDWMY]|[sS][eE][aA][sS][oO][nN][sS]?)\s*$",
}
_MONTH, _MONTH_DAY = "(0[1-9]|1[0-2])", "(0[1-9]|[12][0-9]|3[01])"
_DAY = f"[0-9]{{4}}(-{_MONTH}(-{_MONTH_DAY})?)?"
_TIME = rf"[0-9]{{4}}-{_MONTH}-{_MONTH_DAY}[Tt\s][^/]*"
_YEAR: Form = {"type": "integer", "minimum": 1000, "maximum": 9999}


def _list_of(items: Form) -> Form:
    return {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}


def _one_or_more(names: Sequence[str]) -> Form:
    return {"anyOf": [{"enum": [*names]}, _list_of({"enum": [*names]})]}


_WEIGHTS: Form = {
    "anyOf": [
        {"const": "hub"},
        PATH,
        {
            "type": "object",
            "properties": {
                "path": PATH,
                "sha256": {"anyOf": [{"type": "string", "pattern": "^[0-9a-f]{64}$"}, NULL]},
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

_LONGITUDE: Form = {"type": "number", "minimum": -360, "maximum": 360}
_LATITUDE: Form = {"type": "number", "minimum": -90, "maximum": 90}

FORMS: Mapping[tuple[str, str], Form] = {
    ("Job", "period"): {
        "anyOf": [
            {"const": LATEST},
            {"type": "string", "pattern": rf"^\s*({_DAY}\s*(/\s*{_DAY}\s*)?|{_TIME})$"},
            _YEAR,
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
    ("Region", "bbox"): {
        "type": "array",
        "prefixItems": [_LONGITUDE, _LATITUDE, _LONGITUDE, _LATITUDE],
        "minItems": 4,
        "maxItems": 4,
    },
    ("Catalog", "provider"): {"anyOf": [{"enum": [*providers.list_names()]}, YAML_FILE]},
    ("GridConfig", "crs"): {
        "type": "string",
        "pattern": "^([uU][tT][mM]|[eE][pP][sS][gG]:[0-9]{4,6})$",
    },
    ("GridConfig", "mosaic"): {
        "type": "array",
        "items": {"type": "string", "pattern": "^[eE][pP][sS][gG]:[0-9]{4,6}$"},
        "uniqueItems": True,
    },
    ("Composite", "every"): _CADENCE,
    ("Schedule", "cadence"): _CADENCE,
    ("Schedule", "from"): {
        "anyOf": [{"type": "string", "pattern": rf"^\s*({_DAY}\s*|{_TIME})$"}, _YEAR]
    },
    ("Schedule", "cron"): {"type": "string", "pattern": f"^{CRON_PATTERN}$"},
    ("Schedule", "timezone"): {"type": "string", "pattern": "^[A-Za-z0-9_+./-]+$"},
    ("ModelConfig", "name"): {"anyOf": [{"enum": [*MODEL_NAMES]}, YAML_FILE]},
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
        "maxItems": MAX_CLASSES,
        "uniqueItems": True,
    },
    ("ModelConfig", "layer"): {
        "type": "string",
        "pattern": f"^{LAYER_NAME_PATTERN}$",
        "not": {
            "anyOf": [
                {"enum": sorted(list_reserved_names())},
                {"pattern": f"^({'|'.join(RESERVED_PREFIXES)})"},
            ]
        },
    },
    ("ModelConfig", "stats"): {
        "anyOf": [
            PATH,
            {
                "type": "object",
                "properties": {
                    name: {
                        "allOf": [
                            {"$ref": "#/$defs/InputStatistics"},
                            {"properties": {"unit": {"enum": [*list_units(name), None]}}},
                        ]
                    }
                    for name in SENSORS
                },
                "additionalProperties": False,
                "minProperties": 1,
            },
        ]
    },
    ("ClassConfig", "name"): {"type": "string", "pattern": r"\S", "maxLength": MAX_NAME_LENGTH},
    ("ClassConfig", "color"): {"type": "string", "pattern": rf"^\s*{COLOR_PATTERN}\s*$"},
    ("Output", "path"): {**PATH, "not": {"pattern": "://"}},
    ("Output", "formats"): _list_of({"enum": [*OUTPUT_FORMATS]}),
    ("Execution", "tile"): {
        "type": "integer",
        "minimum": PATCH_SIZE,
        "maximum": 65_536,
        "multipleOf": PATCH_SIZE,
    },
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
            {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
            {"$ref": "#/$defs/WorkerRange"},
        ]
    },
    ("WorkerRange", "min"): {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
    ("WorkerRange", "max"): {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
    ("Radiometry", "proof"): {"enum": ["refuse", "warn", "off", False]},
    ("QualityGate", "gate"): {"enum": ["refuse", "warn", "off", False]},
    # ^ YAML 1.1 reads a bare ``off`` as false
}
"""Model and key → what may be written in the file, where a validator of the model decides it."""

REPEATABLE_ITEMS = (("InputStatistics", "mean"), ("InputStatistics", "std"), ("Region", "bbox"))
"""Model and key of the lists that may hold a value twice."""


def _has(key: str, form: Form) -> Form:
    """Return the condition that a key is written, and its value has a form."""
    return {"required": [key], "properties": {key: form}}


def _is_set(*keys: str) -> Form:
    """Return the condition that keys are written and not empty."""
    return {"required": [*keys], "properties": {key: {"not": NULL} for key in keys}}


def _is_unset(*keys: str) -> Form:
    return {"properties": dict.fromkeys(keys, NULL)}


def _has_task(task: str) -> Form:
    """Return the condition that a model has a task, if its tasks are written."""
    list_with_task = {"type": "array", "contains": {"const": task}}
    return {"properties": {"task": {"anyOf": [{"const": task}, list_with_task]}}}


def _has_only_task(task: str) -> Form:
    """Return the condition that a model has no other task, if its tasks are written."""
    return {"properties": {"task": {"enum": [task, [task]]}}}


def _is_named(name: str) -> Form:
    """Return the condition that a model has a name, or none if it is the default one."""
    condition = {"properties": {"name": {"const": name}}}
    is_default = name == ModelConfig.model_fields["name"].default
    return condition if is_default else {"required": ["name"], **condition}


def _has_section(section: str, condition: Form) -> Form:
    """Return the condition that a section is written and fulfils a condition."""
    return _has(section, {"type": "object", **condition})


def _has_input(names: Sequence[str]) -> Form:
    """Return the condition that a job has one of some inputs."""
    contains = {"contains": {"enum": [*names]}}
    if set(names) & set(Job.model_fields["inputs"].default):
        return {"properties": {"inputs": contains}}
    return _has("inputs", {"type": "array", **contains})


def _when(condition: Form, consequence: Form) -> Form:
    return {"if": condition, "then": consequence}


_GENERATES: Form = {"required": ["task"], **_has_task("generate")}
_SELECTS_PASSES: Form = {
    "anyOf": [
        _has("orbit", {"enum": ["ascending", "descending"]}),
        _has("relative_orbits", {"type": "array", "minItems": 1}),
    ]
}
_RADAR_INPUTS = tuple(name for name in SENSORS if get_sensor(name).group == "radar")
_PROVIDERS_WITHOUT_API = tuple(
    name for name in providers.list_names() if not providers.get(name).api
)

CONDITIONS: Mapping[str, Sequence[Form]] = {
    "Job": (
        *(_when(_has_section("bands", _is_set(name)), _has_input([name])) for name in SENSORS),
        _when(_has_section("radar", _SELECTS_PASSES), _has_input(_RADAR_INPUTS)),
        _when(
            _has_section("composite", _is_set("every")),
            _has_section("output", _has("composites", {"const": True})),
        ),
        _when(
            _has_section("output", _has("probabilities", {"const": True})),
            {"properties": {"model": _has_task("land_cover")}},
        ),
    ),
    "Region": ({"oneOf": [_is_set("bbox"), _is_set("file")]},),
    "Catalog": (
        {"not": _is_set("path", "url")},
        _when(
            _has("provider", {"enum": [*_PROVIDERS_WITHOUT_API]}),
            {"anyOf": [_is_set("path"), _is_set("url")]},
        ),
    ),
    "ModelConfig": (
        _when(_is_set("checkpoint"), {"oneOf": [_is_set("stats"), _is_set("training")]}),
        _when(_is_set("checkpoint"), _is_unset("weights", "tokenizers")),
        _when(_is_set("checkpoint"), _has_only_task("land_cover")),
        *(_when(_is_set(key), _is_set("checkpoint")) for key in ("classes", "training")),
        _when(_GENERATES, _is_set("modality")),
        *(_when(_is_set(key), _GENERATES) for key in ("modality", "timesteps")),
        *(_when(_is_set(key), _has_task("land_cover")) for key in ("average_below", "layer")),
        _when({"required": ["task"], **_has_only_task("embedding")}, _is_unset("tokenizers")),
        _when(_is_named("none"), _is_unset("weights", "checkpoint", "layer")),
        _when(_is_named("none"), _has_only_task("land_cover")),
        _when(_is_named("demo"), {"properties": {"weights": {"not": {"const": "hub"}}}}),
        _when(_is_named("demo"), {"not": _GENERATES}),
    ),
    "Prices": ({"anyOf": [_has(key, {"exclusiveMinimum": 0}) for key in UNIT_PRICES]},),
}
"""Model → what holds between its keys."""
