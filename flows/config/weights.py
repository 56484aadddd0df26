"""Source of a model's weights in a job: the hub, a path, or random numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationInfo

from flows.config.base import ConfigModel, resolve_path

WEIGHTS_SYNTAX = "hub, a path, {path: …, sha256: …} or {random: SEED}"
"""Forms in which a job states weights."""


class Weights(ConfigModel):
    """Source of a model's weights."""

    source: Literal["shipped", "hub", "path", "random"]
    path: Path | None = None
    sha256: str | None = None
    seed: int | None = None

    def to_source(self) -> str | dict[str, str | int] | None:
        """Return the ``weights`` argument of the loaders; ``None`` = the shipped weights."""
        if self.source == "random":
            return {"random": self.seed or 0}
        if self.source == "path":
            checksum = {} if self.sha256 is None else {"sha256": self.sha256}
            return {"path": str(self.path), **checksum}
        return "hub" if self.source == "hub" else None


def read_weights(value: Any, info: ValidationInfo) -> Weights:
    """Return the source of weights that a job states in one of the forms of :data:`WEIGHTS_SYNTAX`.

    Raises:
        ValueError: It has another form, or there is nothing at its path.
    """
    if value == "hub":
        return Weights(source="hub")
    if isinstance(value, str):
        return Weights(source="path", path=_resolve_weights_path(value, info))
    if isinstance(value, dict) and "path" in value and set(value) <= {"path", "sha256"}:
        digest = value.get("sha256")
        if digest is not None and not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise ValueError(f"the sha256 {digest!r} is not 64 hexadecimal digits in lower case.")
        return Weights(
            source="path", path=_resolve_weights_path(value["path"], info), sha256=digest
        )
    seed = value.get("random") if isinstance(value, dict) and set(value) == {"random"} else None
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"{value!r} is not {WEIGHTS_SYNTAX}.")
    return Weights(source="random", seed=seed)


def _resolve_weights_path(value: object, info: ValidationInfo) -> Path:
    path = resolve_path(value, info)
    if not path.exists():
        raise ValueError(
            f"there are no weights at {path} (paths are relative to the job file); "
            f"write {WEIGHTS_SYNTAX}."
        )
    return path
