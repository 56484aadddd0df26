"""Strict reading of YAML files: no duplicate keys, and dates stay text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from catalogs.errors import InvalidInputError
from catalogs.strict_yaml import StrictLoader


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        InvalidInputError: There is no such file, it is not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"There is no file {path}: check the path, or start from an example."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The file {path} cannot be read: {error}.") from error
    try:
        values = yaml.load(text, Loader=StrictLoader)  # noqa: S506
        # ^ StrictLoader is a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInputError(
            f"The file {path} is not YAML: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(values, dict):
        content = "nothing" if values is None else f"a {type(values).__name__}"
        raise InvalidInputError(
            f"The file {path} contains {content}, not keys and values as in `name: jutland`."
        )
    return values
