"""The reference of the job file in Markdown, docs/job.md; it comes from the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from flows.config.job import LATEST, Job
from flows.config.job_schema import find_model
from flows.config.model import ModelConfig

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

The schema knows keys, types, choices, and most of the [rules between keys](#rules-between-keys).
What it cannot know, such as files that must exist, is checked by every command that reads the job.
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
