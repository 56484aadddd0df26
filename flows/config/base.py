"""What every group of keys of a job shares: strictness, paths, and names that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from flows.config import error_messages

T = TypeVar("T")


def check_choice(value: object, choices: Sequence[str], kind: str, extra_choices: str = "") -> str:
    """Return a text that is one of the names; anything else is a ValueError."""
    if isinstance(value, str) and value in choices:
        return value
    hint = error_messages.suggest_name(value, choices) if isinstance(value, str) else ""
    raise ValueError(f"unknown {kind} {value!r}.{hint} Known: {', '.join(choices)}{extra_choices}.")


def _job_dir(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "."))


def resolve_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path, relative ones from the job's folder; else a ValueError."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a path.")
    return (_job_dir(info) / Path(value).expanduser()).resolve()


def resolve_existing_file(value: object, info: ValidationInfo) -> Path:
    """Return the absolute path of a file that exists; anything else is a ValueError."""
    path = resolve_path(value, info)
    if not path.is_file():
        raise ValueError(f"there is no file {path} (paths are relative to the job file).")
    return path


def check_unique(values: tuple[T, ...]) -> tuple[T, ...]:
    """Return values among which none is repeated; anything else is a ValueError."""
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice.")
    return values


ExistingFile = Annotated[Path, BeforeValidator(resolve_existing_file)]
LaxTuple = Field(strict=False)
# ^ YAML has lists, the job holds tuples; what is in them stays strict


class ConfigModel(BaseModel):
    """A group of keys: unknown ones are refused, and texts are not taken for numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
