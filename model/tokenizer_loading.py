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

from model.errors import ModelError, WeightsError, listed
from model.terramind.config import is_file_name
from model.terramind.embeddings import Coordinates, Tokenizers
from model.terramind.modalities import KEYS, TARGETS, TokenModality, target_key_of
from model.terramind.tokenizers.config import TokenizerSize
from model.terramind.tokenizers.coordinates import CoordsTokenizer, coords_tokenizer
from model.terramind.tokenizers.tokenizer import Part, Tokenizer, tokenizer
from model.weights.loading import Source, file_in, load_state, obtain, read, unwrapped

Given = Tokenizer | CoordsTokenizer | Source

_OPTIONS = {entry.name for entry in fields(TokenizerSize)}
_COORDS = TARGETS["Coords"].key
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The half of a tokenizer that each modality needs, by official key; None for coordinates."""

    parts: Mapping[str, Part | None]

    @classmethod
    def of(cls, inputs: Sequence[str], outputs: Sequence[str] = ()) -> Needs:
        """Return what official keys of inputs and outputs need."""
        parts: dict[str, Part | None] = {}
        for key in (*inputs, *outputs):
            known = KEYS.get(key)
            if isinstance(known, TokenModality):
                half: Part = "encoder" if key not in outputs else "decoder"
                both = key in inputs and key in outputs
                parts[key] = None if known.sequence else ("both" if both else half)
        return cls(parts=parts)


@dataclass(slots=True)
class Equipment:
    """The tokenizers of one model."""

    pending: dict[str, Tokenizer] = field(default_factory=dict)
    """Those that get their weights together with the model."""

    ready: dict[str, Tokenizer] = field(default_factory=dict)
    coordinates: Coordinates | None = None

    @classmethod
    def of(cls, needs: Needs, given: Mapping[str, Given] | None, weights: Source) -> Equipment:
        """Return the tokenizers given, or the published ones for all that is needed.

        Args:
            needs: of the model.
            given: by any name of the modality; what is not in it is not built. None: all, with
                weights of the same kind as the model's.
            weights: of the model.

        Raises:
            ModelError: something is given that the model has no use for.
        """
        made = cls()
        if given is None:
            follows = "hub" if weights == "hub" else None
            for key, part in needs.parts.items():
                if part is not None or follows:
                    made._add(key, part, follows)
        for name, value in (given or {}).items():
            wanted = _key(name)
            if wanted is None or wanted not in needs.parts:
                known = [TARGETS[n].name for n in TARGETS if TARGETS[n].key in needs.parts]
                use = f"use for those of {listed(known, 9)} only" if known else "no use for any"
                raise ModelError(f"a tokenizer of {name!r} is given, but this model has {use}")
            made._add(wanted, needs.parts[wanted], value)
        return made

    def fill(
        self, module: _M, held: Tokenizers, source: Source, name: str, revision: str | None
    ) -> _M:
        """Fill a model that holds the pending tokenizers, and give it the ready ones.

        Raises:
            WeightsError: the weights do not fit, or hold no tokenizer for one that is pending.
        """
        tensors = None if not self.pending else _tensors(source, name)
        if tensors is None:
            filled = obtain(module, source, name, revision)
        else:
            self._check(tensors)
            filled = load_state(module, tensors)
        held.update(self.ready)
        return filled

    def _check(self, tensors: Mapping[str, Any]) -> None:
        for key, part in self.pending.items():
            if not any(name.startswith(f"tokenizer.{key}.") for name in tensors):
                raise WeightsError(
                    f"the weights hold no tokenizer of {part.modality}, which the published ones "
                    f"keep in a file of its own: give tokenizers={{{part.modality!r}: hub, a path "
                    "or {random: SEED}}"
                )

    def _add(self, key: str, part: Part | None, value: Given) -> None:
        if part is None:
            self.coordinates = _coordinates(value)
            return
        name = KEYS[key].name
        if isinstance(value, Tokenizer):
            if value.modality != name or value.part not in ("both", part):
                raise ModelError(
                    f"{name} needs part={part!r} of its tokenizer, but that of {value.modality}, "
                    f"part={value.part!r}, is given"
                )
            self.ready[key] = value
        elif value is None or _is_size(value):
            size = {"modality": name} if value is None else value
            self.pending[key] = Tokenizer(_size(name, size), part)
        elif isinstance(value, CoordsTokenizer):
            raise ModelError(f"{name} is no coordinates")
        else:
            self.ready[key] = tokenizer(name, value, part)


def _key(name: str) -> str | None:
    """Return the official key of a modality, of names that stand for it and for nothing else."""
    key = target_key_of(name)
    short = name.lower().replace("sen", "s")
    exact = key is not None and short in (KEYS[key].name.lower(), "s1", "location")
    return key if exact or name in KEYS else None
    # ^ the published rule looks for a part of the name, and would take a mistyped one in silence


def _coordinates(value: Given) -> Coordinates:
    if isinstance(value, CoordsTokenizer):
        return value
    if isinstance(value, (str, Path)):
        return coords_tokenizer(value)
    raise ModelError(
        f"Coords: a tokenizer of coordinates, hub, or the path of its vocabulary expected, "
        f"not {type(value).__name__}"
    )


def _is_size(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= _OPTIONS
    return isinstance(value, (str, Path)) and value != "hub" and is_file_name(value)


def _size(name: str, value: Any) -> TokenizerSize:
    options = {"modality": name, **value} if isinstance(value, Mapping) else value
    size = TokenizerSize.parse(options)
    if size.modality != name:
        raise ModelError(f"{name}: the configuration is of a tokenizer of {size.modality}")
    return size


def _tensors(source: Source, name: str) -> Mapping[str, Any] | None:
    """Return what a file or a state dict holds; None for a source that is neither."""
    if source is None or (isinstance(source, Mapping) and set(source) == {"random"}):
        return None
    if source == "hub":
        return {}
        # ^ the published files hold no tokenizers
    if isinstance(source, Mapping):
        if "path" in source and set(source) <= {"path", "sha256"}:
            return read(file_in(source["path"], name), source.get("sha256"))
        return unwrapped(source)
    return read(file_in(source, name))
