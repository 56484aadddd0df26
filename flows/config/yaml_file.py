"""A YAML file that a person wrote, read without surprises."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from catalogs.errors import InvalidInputError


class _StrictLoader(yaml.SafeLoader):
    """YAML without surprises: dates stay text, and a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# ^ 2024-02-30 would end in a ValueError of datetime, far from any explanation


def read(path: Path) -> dict[str, Any]:
    """Read the keys and values of a file.

    Raises:
        InvalidInputError: There is no such file, it is not YAML, or it does not hold keys.
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
        # ^ a SafeLoader, made stricter
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInputError(f"The file {path} is not YAML: {_one_line(error)}.") from error
    if not isinstance(values, dict):
        held = "nothing" if values is None else f"a {type(values).__name__}"
        raise InvalidInputError(
            f"The file {path} holds {held}, not keys and values as in `name: jutland`."
        )
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
