"""Architectures of the TerraMind family, by name, from a mapping or from a YAML or JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model.errors import ModelError, join_names

_BOUNDS = {"dim": (1, 8192), "heads": (1, 256), "depth": (1, 256), "decoder_depth": (0, 256)}
_MAX_MLP_RATIO = 16
# ^ far beyond the largest published model: a larger number is mistyped, and would only fill the
#   memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Size and style of an encoder and of the decoder that belongs to it.

    Raises:
        ModelError: an option of the wrong type, or larger than any machine could hold.
    """

    dim: int
    """Width of a token."""

    heads: int
    depth: int
    """Number of encoder blocks."""

    decoder_depth: int = 0
    """Number of decoder blocks; the backbone has none of them."""

    gated: bool = True
    """Gated MLP (SiLU), as in base and large, or the plain MLP (GELU) of tiny and small."""

    bias: bool = False
    """Biases in attention and MLP."""

    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                kind = "positive whole number" if least else "whole number >= 0"
                raise ModelError(f"{name} must be a {kind}, not {value!r}")
            if value > most:
                raise ModelError(f"{name} {value}: at most {most}")
        for name in ("gated", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise ModelError(f"{name} must be true or false, not {getattr(self, name)!r}")
        ratio: object = self.mlp_ratio
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not number or not 1 <= self.mlp_ratio <= _MAX_MLP_RATIO:
            raise ModelError(
                f"mlp_ratio must be a number from 1 to {_MAX_MLP_RATIO}, not {ratio!r}"
            )
        if self.dim % self.heads or self.dim % 4:
            raise ModelError(
                f"dim {self.dim} must be a multiple of heads ({self.heads}) and of 4 "
                "(the position table has four parts)"
            )

    @property
    def mlp_hidden_dim(self) -> int:
        """Width inside the MLP; of a gated MLP two thirds of the plain one's."""
        full = self.mlp_ratio * self.dim
        return int(2 * full / 3) if self.gated else int(full)

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Four layers, evenly spread to the last: the ones a segmentation head reads by default."""
        count = min(4, self.depth)
        return tuple((i + 1) * self.depth // count - 1 for i in range(count))

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as in a model card."""
        return asdict(self)


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "terramind_v1_tiny": {"dim": 192, "heads": 3, "depth": 12, "decoder_depth": 4}
    | {"gated": False, "bias": True},
    "terramind_v1_small": {"dim": 384, "heads": 6, "depth": 12, "decoder_depth": 6}
    | {"gated": False, "bias": True},
    "terramind_v1_base": {"dim": 768, "heads": 12, "depth": 12, "decoder_depth": 12},
    "terramind_v1_large": {"dim": 1024, "heads": 16, "depth": 24, "decoder_depth": 24},
}


def resolve_architecture(source: str | Path | Mapping[str, Any] | Architecture) -> Architecture:
    """Return the architecture of a name, a mapping or a YAML/JSON file.

    Raises:
        ModelError: an unknown name, an unknown or missing option, or an unreadable file.
    """
    if isinstance(source, Architecture):
        return source
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if str(source) in ARCHITECTURES:
        return _from_mapping(ARCHITECTURES[str(source)])
    if is_config_file(source):
        options = read_mapping(source)
        return resolve_architecture(options.get("architecture", options))
    raise ModelError(
        f"unknown model {str(source)!r}; known are {join_names(ARCHITECTURES)}, "
        "or give a mapping or a .yaml file with dim, heads and depth"
    )


def is_config_file(source: str | Path) -> bool:
    """Return whether a source is a configuration file, and not the name of a model."""
    return Path(source).suffix.lower() in {".yaml", ".yml", ".json"}


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one mapping.

    Raises:
        ModelError: the file is absent, cannot be parsed, or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the configuration {path}: {error}") from error
    content = _parse_text(text, path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, not a mapping of options")
    return content


def _parse_text(text: str, path: str | Path) -> object:
    if Path(path).suffix.lower() == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise ModelError(f"{path} is not JSON: {error}") from error
    import yaml  # noqa: PLC0415

    # ^ needed for YAML files only; the package works without it

    class Loader(yaml.SafeLoader):
        """A loader of plain values, which reads the tuples of yaml.dump as lists."""

    yaml.add_constructor("tag:yaml.org,2002:python/tuple", Loader.construct_yaml_seq, Loader)
    try:
        return yaml.load(text, Loader)  # noqa: S506
        # ^ a SafeLoader: it makes no objects of other types
    except yaml.constructor.ConstructorError as error:
        raise ModelError(
            f"{path} holds an object of Python, which is not read, as it could run any program: "
            f"write its value plainly ({error.problem}{error.problem_mark})"
        ) from error
    except yaml.YAMLError as error:
        raise ModelError(f"{path} is not YAML: {error}") from error


def _from_mapping(options: Mapping[str, Any]) -> Architecture:
    known = [field.name for field in fields(Architecture)]
    wrong = [name for name in options if name not in known]
    if wrong:
        raise ModelError(
            f"unknown option {join_names(wrong)}; an architecture has {join_names(known)}"
        )
    lacking = [name for name in ("dim", "heads", "depth") if name not in options]
    if lacking:
        raise ModelError(f"the architecture lacks {join_names(lacking)}")
    return Architecture(**options)
