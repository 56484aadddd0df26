"""Validation of STAC documents with the vendored schemas, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystac
from pystac.validation.stac_validator import JsonSchemaSTACValidator

SCHEMAS = Path(__file__).parents[1] / "schemas"


def validator() -> JsonSchemaSTACValidator:
    """Return a validator with the schemas of all declared extensions."""
    checker = JsonSchemaSTACValidator()
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        checker.schema_cache[schema["$id"].rstrip("#")] = schema
    return checker


def check(document: Mapping[str, Any], checker: JsonSchemaSTACValidator) -> None:
    """Validate an item or a collection against the core and every extension it declares."""
    stac_class = pystac.Item if document["type"] == "Feature" else pystac.Collection
    schema_uris = stac_class.from_dict(dict(document)).validate(validator=checker)
    assert len(schema_uris) == 1 + len(document["stac_extensions"])
