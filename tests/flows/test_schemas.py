"""The JSON Schemas in docs/json are those of the results that the commands print."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from flows.run import command_results, model_results, schemas

DOCS = Path(__file__).parents[2] / "docs"
OPTIONAL = {"fits", "bands", "unit", "mean", "std"}
"""Keys of a model's card that are absent where they do not apply."""


@pytest.mark.parametrize("name", schemas.format_documents())
def test_a_committed_document_is_the_generated_one(name):
    committed = (DOCS / name).read_text(encoding="utf-8")
    assert committed == schemas.format_documents()[name], "run: make schemas"


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_a_schema_names_every_key_and_allows_no_other(name):
    schema = schemas.generate(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["additionalProperties"] is False
        optional = OPTIONAL if name == "models-card" else set()
        assert part["required"] == [key for key in part["properties"] if key not in optional]
        assert part["description"]


def test_every_committed_schema_is_generated():
    committed = {f"json/{path.name}" for path in (DOCS / "json").iterdir()}
    assert committed | {"job.md"} == {*schemas.format_documents()}


def test_a_card_lacks_the_keys_that_do_not_apply():
    modality = model_results.CardModality(name="LULC", form="tokens", size=4375)
    assert modality.to_dict() == {"name": "LULC", "form": "tokens", "size": 4375}


def test_an_accuracy_without_compared_pixels_is_null():
    accuracy = command_results.Accuracy(overall=float("nan"), macro_f1=float("nan"), n=0)
    assert accuracy.to_dict() == {"overall": None, "macro_f1": None, "n": 0}
