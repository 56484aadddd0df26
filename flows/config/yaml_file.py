"""Strict reading of YAML files: no duplicate keys, and dates stay text."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from catalogs.errors import InvalidInputError


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that keeps dates as text and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is repeated", key.start_mark
                    )
                keys.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# ^ as a timestamp, 2024-02-30 would raise a ValueError of datetime without the key's name


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
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
        # ^ _StrictLoader is a SafeLoader
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
