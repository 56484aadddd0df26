"""The JSON Schema of the job file: the models, with :mod:`flows.config.schema_forms`.

An editor checks a job against the schema while it is written; ``terramosaic`` then checks what a
schema cannot say, such as whether files exist.
"""

from __future__ import annotations

import json
import typing
from typing import Any

import yaml
from pydantic import BaseModel

from catalogs import providers
from flows.config import schema_forms
from flows.config.job import Job
from flows.config.schema_forms import NULL, Form
from flows.config.weights import Weights

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PARSED_MODELS = (Weights.__name__, "Period")
# ^ models of what a job writes in another form

_TEXTS = ("title", "description", "examples", "default")
# ^ what a schema says of a key without restricting it


def generate_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file as JSON-ready values."""
    schema = Job.model_json_schema(mode="validation")
    definitions = schema["$defs"]
    for model in _PARSED_MODELS:
        definitions.pop(model, None)
    for model, values in {**definitions, Job.__name__: schema}.items():
        values.pop("title", None)
        for key, entry in values.get("properties", {}).items():
            values["properties"][key] = _build_property(model, key, entry)
        if model in schema_forms.CONDITIONS:
            values["allOf"] = list(schema_forms.CONDITIONS[model])
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
            schema_forms.YAML_FILE,
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
        "allOf": schema["allOf"],
        "$defs": definitions,
    }


def _build_property(model: str, key: str, entry: Form) -> Form:
    """Return the schema of a key: title, description, default, and what may be written."""
    texts, form = _split_texts(entry)
    is_nullable = "default" in texts and texts["default"] is None
    if texts.get("default") is None or isinstance(texts["default"], dict):
        texts.pop("default", None)
    if (model, key) in schema_forms.FORMS:
        form = schema_forms.FORMS[model, key]
        form = {"anyOf": [form, NULL]} if is_nullable else form
    elif (model, key) not in schema_forms.REPEATABLE_ITEMS:
        form = _refine_form(form)
    return {**texts, **form}


def _refine_form(form: Form) -> Form:
    """Return what a model allows, where no list holds an item twice and paths have their form."""
    if form.get("type") == "array":
        return {**form, "uniqueItems": True}
    if form.get("format") == "path":
        return schema_forms.PATH
    if "anyOf" in form:
        return {**form, "anyOf": [_refine_form(option) for option in form["anyOf"]]}
    return form


def _allow_null(entry: Form) -> Form:
    texts, form = _split_texts(entry)
    return entry if NULL in form.get("anyOf", ()) else {**texts, "anyOf": [form, NULL]}


def _split_texts(entry: Form) -> tuple[dict[str, Any], Form]:
    """Return title, description, examples and default of a key, and the rest of its schema."""
    return (
        {name: value for name, value in entry.items() if name in _TEXTS},
        {name: value for name, value in entry.items() if name not in _TEXTS},
    )


def _parse_examples(schema: Form) -> None:
    """Replace examples, which are texts of YAML, by their values."""
    for entry in schema["properties"].values():
        if "examples" in entry:
            entry["examples"] = [yaml.safe_load(text) for text in entry["examples"]]


def format_schema() -> str:
    """Return the text of the schema's file."""
    return json.dumps(generate_schema(), indent=2, ensure_ascii=False) + "\n"


def find_model(annotation: object) -> type[BaseModel] | None:
    """Return the model of a section in the type of a key; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(find_model, typing.get_args(annotation))), None)
