"""Messages for invalid documents: the key, its value, and what is expected instead."""

from __future__ import annotations

import difflib
import re
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def suggest_name(text: str, names: Sequence[str]) -> str:
    """Return `` Did you mean …?`` (with a leading space), or "" if no name is similar."""
    by_lower_case = {name.lower(): name for name in reversed(names)}
    matches = difflib.get_close_matches(text.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def explain_validation_error(error: ValidationError, model: type[BaseModel], label: str) -> str:
    """Return one message that lists every wrong key of a document.

    Args:
        error: What pydantic found.
        model: The pydantic model of the document.
        label: What the document is called in the message, such as its path.
    """
    details = error.errors(include_url=False)
    parents = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    problems = [
        _format_problem(detail, model) for detail in details if detail["loc"] not in parents
    ]
    # ^ pydantic reports a list with a wrong item as too short as well
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return f"{label}: {problems[0]}"
    return "\n  - ".join([f"{label}: {len(problems)} keys are wrong", *problems])


def _format_problem(detail: Any, model: type[BaseModel]) -> str:
    location = detail["loc"]
    if detail["type"] == "missing" and not isinstance(location[-1], str):
        location = location[:-1]
        # ^ a list that is too short: the message is about the list, not about its missing item
    key, section, field = _locate_field(location, model)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        parent = _locate_field(location[:-1], model)[0] if len(location) > 1 else ""
        return _format_unknown_key(str(location[-1]), parent, section)
    if detail["type"] == "missing" and location == detail["loc"]:
        example = f", as in `{key}: {field.examples[0]}`" if field and field.examples else ""
        return f"{key} is missing: add it{example}."
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    expected = field.description if field and field.description else _list_keys(section)
    hint = _suggest_folder_name(detail["input"]) if key == "name" else ""
    return f"{key} is {_shorten_repr(detail['input'])}; expected: {expected}.{hint}"


def _locate_field(
    location: Sequence[Any], model: type[BaseModel]
) -> tuple[str, type[BaseModel] | None, Any]:
    """Return the dotted key of a location, the innermost section on it, and its field."""
    section: type[BaseModel] | None = model
    field = None
    key = ""
    for step in location:
        key += f"[{step}]" if isinstance(step, int) else f".{step}" if key else str(step)
        fields = (
            dict(zip(_key_names(section), section.model_fields.values(), strict=True))
            if section
            else {}
        )
        if step in fields:
            field = fields[str(step)]
            section = _nested_model(field.annotation)
    return key or "the job", section, field


def _nested_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_nested_model, typing.get_args(annotation))), None)


def _format_unknown_key(key: str, parent: str, section: type[BaseModel] | None) -> str:
    known = _key_names(section) if section is not None else ()
    location = f" in {parent}" if parent else ""
    return (
        f"unknown key {key!r}{location}.{suggest_name(key, known)} Known keys: {', '.join(known)}."
    )


def _list_keys(section: type[BaseModel] | None) -> str:
    if section is None:
        return "another value"
    return f"a mapping with some of the keys {', '.join(_key_names(section))}"


def _key_names(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys of a section as they are written in the file."""
    return tuple(field.alias or name for name, field in section.model_fields.items())


def _shorten_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggest_folder_name(value: object) -> str:
    plain = unicodedata.normalize("NFKD", str(value)).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:60].lower()
    return f' For instance: name: "{slug}"' if slug else ""
