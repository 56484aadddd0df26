"""What is wrong with a document, in words: which key, what it holds, what it wants instead."""

from __future__ import annotations

import difflib
import re
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def suggest_name(text: str, names: Sequence[str]) -> str:
    """Return ``did you mean …?`` with a blank before it, or nothing where nothing is near."""
    near = difflib.get_close_matches(
        text.lower(), [name.lower() for name in names], n=1, cutoff=0.5
    )
    exact = [name for name in names if near and name.lower() == near[0]]
    return f" Did you mean {exact[0]!r}?" if exact else ""


def explain_validation_error(error: ValidationError, model: type[BaseModel], label: str) -> str:
    """Return one message that names every wrong key of a document that ``model`` describes."""
    details = error.errors(include_url=False)
    inner = {detail["loc"][:-1] for detail in details if detail["loc"]}
    problems = [_format_problem(detail, model) for detail in details if detail["loc"] not in inner]
    # ^ a list with a wrong item is reported as too short as well
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return f"{label}: {problems[0]}"
    return "\n  - ".join([f"{label}: {len(problems)} keys are wrong", *problems])


def _format_problem(detail: Any, model: type[BaseModel]) -> str:
    location = detail["loc"]
    if detail["type"] == "missing" and not isinstance(location[-1], str):
        location = location[:-1]
        # ^ a list that is too short: the list is wrong, not the item that it lacks
    where, part, field = _locate_field(location, model)
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return _format_unknown_key(str(location[-1]), ".".join(map(str, location[:-1])), part)
    if detail["type"] == "missing" and location == detail["loc"]:
        example = f", as in `{where}: {field.examples[0]}`" if field and field.examples else ""
        return f"{where} is missing: add it{example}."
    if detail["type"] == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    wanted = field.description if field and field.description else _list_keys(part)
    hint = _suggest_folder_name(detail["input"]) if where == "name" else ""
    return f"{where} is {_shorten_repr(detail['input'])}; it wants {wanted}.{hint}"


def _locate_field(
    location: Sequence[Any], model: type[BaseModel]
) -> tuple[str, type[BaseModel] | None, Any]:
    """Return the location in words, the deepest group of keys on it, and its field."""
    part: type[BaseModel] | None = model
    field = None
    words = ""
    for step in location:
        words += f"[{step}]" if isinstance(step, int) else f".{step}" if words else str(step)
        fields = (
            dict(zip(_key_names(part), part.model_fields.values(), strict=True)) if part else {}
        )
        if step in fields:
            field = fields[str(step)]
            part = _nested_model(field.annotation)
    return words or "the job", part, field


def _nested_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_nested_model, typing.get_args(annotation))), None)


def _format_unknown_key(key: str, where: str, part: type[BaseModel] | None) -> str:
    known = _key_names(part) if part is not None else ()
    place = f" in {where}" if where else ""
    return f"unknown key {key!r}{place}.{suggest_name(key, known)} Known keys: {', '.join(known)}."


def _list_keys(part: type[BaseModel] | None) -> str:
    return f"keys out of {', '.join(_key_names(part))}" if part is not None else "another value"


def _key_names(part: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys as they are written."""
    return tuple(field.alias or name for name, field in part.model_fields.items())


def _shorten_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggest_folder_name(value: object) -> str:
    plain = unicodedata.normalize("NFKD", str(value)).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:60].lower()
    return f' For instance: name: "{slug}"' if slug else ""
