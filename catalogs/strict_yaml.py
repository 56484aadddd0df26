"""A loader of YAML that refuses repeated keys and keeps dates as text."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that keeps dates as text and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping, unless a key is repeated."""
        keys: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is repeated", key.start_mark
                    )
                keys.add(key.value)
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {
    character: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
    for character, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# ^ as a timestamp, 2024-02-30 would raise a ValueError of datetime without the key's name
