"""Sections of the YAML of a TerraTorch training, as it was written or as Lightning saved it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.terramind.architectures import read_mapping

_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}", re.ASCII)


def read_section(path: str | Path, name: str) -> object:
    """Return a section of the configuration, `model` or `data`; None if it has none.

    Raises:
        ModelError: the file cannot be read.
    """
    content = read_mapping(path)
    if name == "data" and {"means", "stds"} <= content.keys():
        return content
        # ^ the arguments of the data module alone
    nested = content.get("fit")
    # ^ a file for all subcommands of `terratorch` has a section for each
    sections = nested if isinstance(nested, Mapping) else content
    return _interpolate(sections.get(name), sections)


def unwrap_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a section that names a class; the name is `_class_path` then."""
    parts = [section[key] for key in ("init_args", "dict_kwargs") if key in section]
    # ^ dict_kwargs are the arguments that the class takes as **kwargs
    if not any(isinstance(part, Mapping) for part in parts):
        return dict(section)
    arguments: dict[str, Any] = {"_class_path": section.get("class_path")}
    for part in parts:
        arguments.update(part if isinstance(part, Mapping) else {})
    return arguments


def _interpolate(value: object, sections: Mapping[str, Any]) -> object:
    """Return a value with the interpolations in it resolved that name another value of the file.

    Those of other resolvers, such as ${oc.env:NAME}, stay as they are.

    source: OmegaConf's variable interpolation, ${data.init_args.num_classes}.
    """
    if isinstance(value, Mapping):
        return {key: _interpolate(entry, sections) for key, entry in value.items()}
    if isinstance(value, list):
        return [_interpolate(entry, sections) for entry in value]
    match = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    target: object = sections
    for key in match[1].split("."):
        target = target.get(key) if isinstance(target, Mapping) else None
    is_plain = isinstance(target, (int, float)) or (isinstance(target, str) and "${" not in target)
    return target if is_plain else value
