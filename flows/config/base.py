"""Base model of a job's sections, and validators of paths and names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from flows.config import validation_messages

T = TypeVar("T")

MAX_NAME_BYTES = 255
"""Longest name of a file or folder on the usual file systems."""


def check_choice(value: object, choices: Sequence[str], kind: str, extra_choices: str = "") -> str:
    """Return a value that is one of the choices.

    Raises:
        ValueError: It is none of them; the message lists them and suggests the nearest.
    """
    if isinstance(value, str) and value in choices:
        return value
    hint = validation_messages.suggest_name(value, choices) if isinstance(value, str) else ""
    raise ValueError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(choices)}{extra_choices}.")


def _job_dir(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


def resolve_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path; relative ones start at the job's folder.

    A file:// URL is a path, too.

    Raises:
        ValueError: The value is no path.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a path.")
    if "\\" in value:
        raise ValueError(
            f"{value!r} has a backslash, as paths of Windows have: write it with slashes."
        )
    if value.lower().startswith("file:"):
        try:
            value = href_policy.file_url_to_path(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
    path = _job_dir(info) / os.path.expanduser(value)  # noqa: PTH111
    # ^ unlike pathlib's, it raises nothing for an unknown user
    if any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in path.parts):
        raise ValueError(
            f"{value[:40]!r}… has a name of more than {MAX_NAME_BYTES} bytes, which no file can "
            "have: shorten it."
        )
    return path.resolve()


def resolve_existing_file(value: object, info: ValidationInfo) -> Path:
    """Return the absolute path of an existing file.

    Raises:
        ValueError: The value is no path, or there is no such file.
    """
    path = resolve_path(value, info)
    if not path.is_file():
        raise ValueError(f"there is no file {path} (paths are relative to the job file).")
    return path


def check_unique(values: tuple[T, ...]) -> tuple[T, ...]:
    """Return the values unchanged if none is repeated.

    Raises:
        ValueError: A value is listed twice.
    """
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice.")
    return values


ExistingFile = Annotated[Path, BeforeValidator(resolve_existing_file)]
LaxTuple = Field(strict=False)
# ^ YAML has lists, the job holds tuples; their items stay strict


class ConfigModel(BaseModel):
    """Base of all sections: unknown keys are errors, and strings are not coerced to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
