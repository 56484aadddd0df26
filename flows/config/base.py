"""Base model of a job's sections, and validators of paths and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from flows.config import validation_messages

T = TypeVar("T")


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

    Raises:
        ValueError: The value is no path.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a path.")
    return (_job_dir(info) / Path(value).expanduser()).resolve()


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
