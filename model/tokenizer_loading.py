"""Which tokenizers a model needs, of which half, and where their weights come from.

For each modality can be given
    a tokenizer        as `model.tokenizer` or `model.coords_tokenizer` returns it
    a configuration    {dim, depth, …} or a .yaml: then the model's own weights hold the tokenizer
    a source           hub, a path, {random: seed}, …: the published sizes, with these weights
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from model.errors import ModelError, WeightsError, join_names
from model.terramind.config import is_config_file
from model.terramind.embeddings import CoordsTokenizerProtocol, Tokenizers
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    TARGET_MODALITIES,
    TokenModality,
    find_target_key,
)
from model.terramind.tokenizers.config import TokenizerConfig
from model.terramind.tokenizers.coordinates import CoordsTokenizer, coords_tokenizer
from model.terramind.tokenizers.tokenizer import Tokenizer, TokenizerPart, tokenizer
from model.weights.loading import (
    WeightSource,
    extract_state_dict,
    find_weight_file,
    load_state,
    load_weights,
    read_state_dict,
)

TokenizerSource = Tokenizer | CoordsTokenizer | WeightSource

_CONFIG_FIELDS = {entry.name for entry in fields(TokenizerConfig)}
_COORDS_KEY = TARGET_MODALITIES["Coords"].key
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRequirements:
    """The half of a tokenizer that each modality needs, by official key; None for coordinates."""

    parts: Mapping[str, TokenizerPart | None]

    @classmethod
    def from_keys(cls, inputs: Sequence[str], outputs: Sequence[str] = ()) -> TokenizerRequirements:
        """Return what official keys of inputs and outputs need."""
        parts: dict[str, TokenizerPart | None] = {}
        for key in (*inputs, *outputs):
            known = MODALITIES_BY_KEY.get(key)
            if isinstance(known, TokenModality):
                half: TokenizerPart = "encoder" if key not in outputs else "decoder"
                both = key in inputs and key in outputs
                parts[key] = None if known.is_sequence else ("both" if both else half)
        return cls(parts=parts)


@dataclass(slots=True)
class TokenizerBundle:
    """The tokenizers of one model."""

    pending: dict[str, Tokenizer] = field(default_factory=dict)
    """Those that get their weights together with the model."""

    ready: dict[str, Tokenizer] = field(default_factory=dict)
    coordinates: CoordsTokenizerProtocol | None = None

    @classmethod
    def build(
        cls,
        requirements: TokenizerRequirements,
        sources: Mapping[str, TokenizerSource] | None,
        weights: WeightSource,
    ) -> TokenizerBundle:
        """Return the tokenizers given, or the published ones for all that is needed.

        Args:
            requirements: of the model.
            sources: by any name of the modality; what is not in it is not built. None: all, with
                weights of the same kind as the model's.
            weights: of the model.

        Raises:
            ModelError: something is given that the model has no use for.
        """
        made = cls()
        if sources is None:
            follows = "hub" if weights == "hub" else None
            for key, part in requirements.parts.items():
                if part is not None or follows:
                    made._add_tokenizer(key, part, follows)
        for name, value in (sources or {}).items():
            wanted = _find_exact_key(name)
            if wanted is None or wanted not in requirements.parts:
                known = [
                    TARGET_MODALITIES[n].name
                    for n in TARGET_MODALITIES
                    if TARGET_MODALITIES[n].key in requirements.parts
                ]
                use = f"use for those of {join_names(known, 9)} only" if known else "no use for any"
                raise ModelError(f"a tokenizer of {name!r} is given, but this model has {use}")
            made._add_tokenizer(wanted, requirements.parts[wanted], value)
        return made

    def load_into(
        self,
        module: _M,
        tokenizers: Tokenizers,
        source: WeightSource,
        name: str,
        revision: str | None,
    ) -> _M:
        """Fill a model that holds the pending tokenizers, and give it the ready ones.

        Raises:
            WeightsError: the weights do not fit, or hold no tokenizer for one that is pending.
        """
        tensors = None if not self.pending else _read_tensors(source, name)
        if tensors is None:
            filled = load_weights(module, source, name, revision)
        else:
            self._check_tensors(tensors)
            filled = load_state(module, tensors)
        tokenizers.update(self.ready)
        return filled

    def _check_tensors(self, tensors: Mapping[str, Any]) -> None:
        for key, part in self.pending.items():
            if not any(name.startswith(f"tokenizer.{key}.") for name in tensors):
                raise WeightsError(
                    f"the weights hold no tokenizer of {part.modality}, which the published ones "
                    f"keep in a file of its own: give tokenizers={{{part.modality!r}: hub, a path "
                    "or {random: SEED}}"
                )

    def _add_tokenizer(self, key: str, part: TokenizerPart | None, value: TokenizerSource) -> None:
        if part is None:
            self.coordinates = _load_coords_tokenizer(value)
            return
        name = MODALITIES_BY_KEY[key].name
        if isinstance(value, Tokenizer):
            if value.modality != name or value.part not in ("both", part):
                raise ModelError(
                    f"{name} needs part={part!r} of its tokenizer, but that of {value.modality}, "
                    f"part={value.part!r}, is given"
                )
            self.ready[key] = value
        elif value is None or _is_config(value):
            size = {"modality": name} if value is None else value
            self.pending[key] = Tokenizer(_parse_config(name, size), part)
        elif isinstance(value, CoordsTokenizer):
            raise ModelError(f"{name} is no coordinates")
        else:
            self.ready[key] = tokenizer(name, value, part)


def _find_exact_key(name: str) -> str | None:
    """Return the official key of a modality, of names that stand for it and for nothing else."""
    key = find_target_key(name)
    short = name.lower().replace("sen", "s")
    exact = key is not None and short in (MODALITIES_BY_KEY[key].name.lower(), "s1", "location")
    return key if exact or name in MODALITIES_BY_KEY else None
    # ^ the published rule looks for a part of the name, and would take a mistyped one in silence


def _load_coords_tokenizer(source: TokenizerSource) -> CoordsTokenizerProtocol:
    if isinstance(source, CoordsTokenizer):
        return source
    if isinstance(source, (str, Path)):
        return coords_tokenizer(source)
    raise ModelError(
        f"Coords: a tokenizer of coordinates, hub, or the path of its vocabulary expected, "
        f"not {type(source).__name__}"
    )


def _is_config(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= _CONFIG_FIELDS
    return isinstance(value, (str, Path)) and value != "hub" and is_config_file(value)


def _parse_config(name: str, value: Any) -> TokenizerConfig:
    options = {"modality": name, **value} if isinstance(value, Mapping) else value
    size = TokenizerConfig.parse(options)
    if size.modality != name:
        raise ModelError(f"{name}: the configuration is of a tokenizer of {size.modality}")
    return size


def _read_tensors(source: WeightSource, name: str) -> Mapping[str, Any] | None:
    """Return what a file or a state dict holds; None for a source that is neither."""
    if source is None or (isinstance(source, Mapping) and set(source) == {"random"}):
        return None
    if source == "hub":
        return {}
        # ^ the published files hold no tokenizers
    if isinstance(source, Mapping):
        if "path" in source and set(source) <= {"path", "sha256"}:
            return read_state_dict(find_weight_file(source["path"], name), source.get("sha256"))
        return extract_state_dict(source)
    return read_state_dict(find_weight_file(source, name))
