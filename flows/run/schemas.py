"""JSON Schemas of the commands' results and of the job file, and the job file's reference.

They are generated from :mod:`flows.run.command_results`, :mod:`flows.run.model_results` and
:mod:`flows.config.job`; ``make schemas`` writes them to docs/json and docs/job.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import job_reference, job_schema
from flows.run import command_results, model_results
from flows.run.command_results import Result

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of one command's output."""

    title: str
    """The commands that print it."""

    result: type[Result]


SCHEMAS: Mapping[str, Schema] = {
    "run": Schema("terramosaic run --json, terramosaic demo --json", command_results.RunResult),
    "search": Schema("terramosaic search --json", command_results.SearchResult),
    "plan": Schema("terramosaic plan --json", command_results.PlanResult),
    "backfill": Schema("terramosaic backfill --json", command_results.BackfillResult),
    "refresh": Schema("terramosaic refresh --json", command_results.BackfillResult),
    "deploy": Schema("terramosaic deploy --json", command_results.DeployResult),
    "verify": Schema("terramosaic verify --json", command_results.VerifyResult),
    "models": Schema("terramosaic models list --json", model_results.ListResult),
    "models-fetch": Schema("terramosaic models fetch --json", model_results.FetchResult),
    "models-check": Schema("terramosaic models check --json", model_results.CheckResult),
    "models-convert": Schema("terramosaic models convert --json", model_results.ConvertResult),
    "models-card": Schema("terramosaic models card --json", model_results.CardResult),
    "error": Schema("terramosaic … --json of a command that fails", command_results.ErrorResult),
}
"""Name of the schema's file → schema."""


def generate(name: str) -> dict[str, Any]:
    """Return a schema as JSON-ready values."""
    schema = SCHEMAS[name]
    values = _drop_titles(schema.result.model_json_schema(mode="serialization"))
    return {"$schema": DIALECT, "title": schema.title, **values}


def _drop_titles(value: Any) -> Any:
    """Return a schema without the titles that pydantic derives from the names of its fields."""
    if isinstance(value, list):
        return [_drop_titles(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _drop_titles(entry)
        for key, entry in value.items()
        if key != "title" or not isinstance(entry, str)
    }


def format_schema(name: str) -> str:
    """Return the text of a schema's file."""
    return json.dumps(generate(name), indent=2, ensure_ascii=False) + "\n"


def format_documents() -> dict[str, str]:
    """Return all generated files of the folder of the documentation: path → text."""
    return {
        **{f"json/{name}.schema.json": format_schema(name) for name in SCHEMAS},
        "json/job.schema.json": job_schema.format_schema(),
        "job.md": job_reference.format_reference(),
    }


if __name__ == "__main__":
    for document, text in format_documents().items():
        (Path(sys.argv[1]) / document).write_text(text, encoding="utf-8")
