"""Sections of the YAML of a TerraTorch training, as it was written or as Lightning saved it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.terramind.architectures import read_mapping


def read_section(path: str | Path, name: str) -> object:
    """Return a section of the configuration, `model` or `data`; None if it has none.

    Raises:
        ModelError: the file cannot be read.
    """
    content = read_mapping(path)
    nested = content.get("fit")
    # ^ a file for all subcommands of `terratorch` has a section for each
    return nested.get(name) if isinstance(nested, Mapping) else content.get(name)


def unwrap_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a section that names a class; the name is `_class_path` then."""
    arguments = section.get("init_args")
    if isinstance(arguments, Mapping):
        return {"_class_path": section.get("class_path"), **arguments}
    return dict(section)
