"""Build the tokenizers of a model, and load their weights.

For each modality a caller can give
    a tokenizer        as `model.tokenizer` or `model.coords_tokenizer` returns it
    a configuration    {dim, depth, …} or a .yaml file: its weights are those in the model's file
    a weight source    hub, a path, {random: seed}, …: the published size, with these weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from model.errors import ModelError, WeightsError, join_names
from model.terramind.architectures import is_config_file
from model.terramind.keys import TOKENIZER_PREFIX
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    TARGET_MODALITIES,
    TokenModality,
    find_target_key,
)
from model.terramind.tokenizers.collection import Tokenizers
from model.terramind.tokenizers.config import COORDS_NAME, TokenizerConfig
from model.terramind.tokenizers.coordinates import CaptionsTokenizer, CoordsTokenizer
from model.terramind.tokenizers.tokenizer import Tokenizer, TokenizerPart
from model.weights import hub
from model.weights.initialise import skip_init
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
_M = TypeVar("_M", bound=nn.Module)


def tokenizer(
    modality_or_config: str | Path | Mapping[str, Any] | TokenizerConfig,
    weights: WeightSource = None,
    part: TokenizerPart = "both",
    revision: str | None = None,
) -> Tokenizer:
    """Build the tokenizer of a raster modality, ready for inference.

    Args:
        modality_or_config: S2L2A, S1GRD, S1RTC, DEM, NDVI or LULC; a published name
            (terramind_v1_tokenizer_s2l2a); a mapping with `modality` and sizes; a .yaml file.
        weights: None, hub, a path, a state dict, {random: seed} or {path: …, sha256: …}.
        part: both, encoder or decoder; the other half is neither built nor loaded.
        revision: of the hub repository.

    Raises:
        ModelError: an unknown modality, option or part.
        WeightsError: weights that do not fit.
    """
    config = TokenizerConfig.parse(modality_or_config)
    with skip_init(enabled=weights is not None):
        module = Tokenizer(config, part)
    return load_weights(module, weights, config.name, revision).eval()


def coords_tokenizer(source: str | Path = "hub", revision: str | None = None) -> CoordsTokenizer:
    """Build the tokenizer of coordinates from its vocabulary.

    Args:
        source: hub, or the path of the official `config.json`.
        revision: of the hub repository.

    Raises:
        WeightsError: the file is absent, or not that vocabulary.
    """
    path = hub.fetch_path(COORDS_NAME, revision) if source == "hub" else Path(source)
    return CoordsTokenizer(_read_vocabulary(path))


def captions_tokenizer(source: str | Path) -> CaptionsTokenizer:
    """Build the tokenizer of captions, which version 0.1 takes, from its vocabulary.

    Args:
        source: path of the official `config.json`; it is not published.

    Raises:
        ModelError: the package `tokenizers` is not installed.
        WeightsError: the file is absent, or not that vocabulary.
    """
    path = Path(source)
    if not path.is_file():
        raise WeightsError(
            f"no vocabulary of captions at {path}: give the path of the config.json of version "
            "0.1's text tokenizer (its repository is private); version 1 takes no captions"
        )
    return CaptionsTokenizer(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRequirements:
    """The half of a tokenizer that a model needs for each of its modalities."""

    parts: Mapping[str, TokenizerPart | None]
    """By official key; None for coordinates."""

    @classmethod
    def from_keys(cls, inputs: Sequence[str], outputs: Sequence[str] = ()) -> TokenizerRequirements:
        """Return what a model with these official keys of inputs and outputs needs."""
        parts: dict[str, TokenizerPart | None] = {}
        for key in (*inputs, *outputs):
            modality = MODALITIES_BY_KEY.get(key)
            if isinstance(modality, TokenModality):
                half: TokenizerPart = "encoder" if key not in outputs else "decoder"
                both = key in inputs and key in outputs
                parts[key] = None if modality.is_sequence else ("both" if both else half)
        return cls(parts=parts)


@dataclass(slots=True)
class TokenizerBundle:
    """The tokenizers of one model, while it is built."""

    pending: dict[str, Tokenizer] = field(default_factory=dict)
    """Tokenizers that are loaded together with the model, by official key."""

    loaded: dict[str, Tokenizer] = field(default_factory=dict)
    """Tokenizers that have their weights, by official key."""

    coordinates: CoordsTokenizer | None = None

    @classmethod
    def build(
        cls,
        requirements: TokenizerRequirements,
        sources: Mapping[str, TokenizerSource] | None,
        weights: WeightSource,
    ) -> TokenizerBundle:
        """Build the tokenizers of a model.

        Args:
            requirements: of the model.
            sources: by any name of the modality; others are not built. None: the published
                tokenizers of all that is required, with weights of the same kind as the model's.
            weights: of the model.

        Raises:
            ModelError: a source for a modality that the model has no use for.
        """
        bundle = cls()
        if sources is None:
            source = "hub" if weights == "hub" else None
            for key, part in requirements.parts.items():
                if part is not None or source:
                    bundle._add_tokenizer(key, part, source)
        for name, value in (sources or {}).items():
            exact_key = _find_exact_key(name)
            if exact_key is None or exact_key not in requirements.parts:
                known = [m.name for m in TARGET_MODALITIES.values() if m.key in requirements.parts]
                use = f"use for those of {join_names(known, 9)} only" if known else "no use for any"
                raise ModelError(f"a tokenizer of {name!r} is given, but this model has {use}")
            bundle._add_tokenizer(exact_key, requirements.parts[exact_key], value)
        return bundle

    def make_collection(self) -> Tokenizers:
        """Return the pending tokenizers, as a model holds them while it is loaded."""
        return Tokenizers(self.pending, self.coordinates)

    def load_into(
        self,
        module: _M,
        tokenizers: Tokenizers,
        source: WeightSource,
        name: str,
        revision: str | None,
    ) -> _M:
        """Load a model that holds the pending tokenizers, then add the loaded ones.

        Args:
            module: the model.
            tokenizers: its tokenizers.
            source: of the model's weights.
            name: of the model.
            revision: of the hub repository.

        Raises:
            WeightsError: the weights do not fit, or lack a tokenizer that is pending.
        """
        tensors = _read_tensors(source, name) if self.pending else None
        if tensors is None:
            load_weights(module, source, name, revision)
        else:
            self._check_tensors(tensors)
            load_state(module, tensors)
        tokenizers.update(self.loaded)
        return module

    def _check_tensors(self, tensors: Mapping[str, Any]) -> None:
        for key, pending in self.pending.items():
            if not any(name.startswith(f"{TOKENIZER_PREFIX}{key}.") for name in tensors):
                raise WeightsError(
                    f"the weights hold no tokenizer of {pending.modality}, which the published "
                    f"ones keep in a file of its own: give tokenizers={{{pending.modality!r}: hub, "
                    "a path or {random: SEED}}"
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
            self.loaded[key] = value
        elif value is None or _is_config(value):
            options = {"modality": name} if value is None else value
            self.pending[key] = Tokenizer(_parse_config(name, options), part)
        elif isinstance(value, CoordsTokenizer):
            raise ModelError(f"{name}: a tokenizer of coordinates is given for a raster")
        else:
            self.loaded[key] = tokenizer(name, value, part)


def _find_exact_key(name: str) -> str | None:
    """Return the official key of a modality, if the whole name stands for it."""
    key = find_target_key(name)
    short = name.lower().replace("sen", "s")
    exact = key is not None and short in (MODALITIES_BY_KEY[key].name.lower(), "s1", "location")
    return key if exact or name in MODALITIES_BY_KEY else None
    # ^ the published rule matches parts of a name, and would accept a mistyped one


def _load_coords_tokenizer(source: TokenizerSource) -> CoordsTokenizer:
    if isinstance(source, CoordsTokenizer):
        return source
    if isinstance(source, (str, Path)):
        return coords_tokenizer(source)
    raise ModelError(
        f"Coords: a tokenizer of coordinates, hub, or the path of its vocabulary expected, "
        f"not {type(source).__name__}"
    )


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Read the words of a file of the `tokenizers` library: its model's, and those added."""
    official = hub.OFFICIAL_FILES[COORDS_NAME]
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"cannot read the vocabulary of coordinates {path} ({error.strerror}). Download "
            f"{official.file} of {official.repo} from {official.page}, put it anywhere, and give "
            "its path"
        ) from error
    except ValueError as error:
        raise WeightsError(f"the vocabulary {path} is damaged ({error}): fetch it again") from error
    try:
        words = dict(content["model"]["vocab"])
        words |= {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not a vocabulary of the `tokenizers` library (no model.vocab): "
            f"{official.file} of {official.repo} expected"
        ) from error
    return {str(word): int(word_id) for word, word_id in words.items()}


def _is_config(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= _CONFIG_FIELDS
    return isinstance(value, (str, Path)) and value != "hub" and is_config_file(value)


def _parse_config(name: str, value: Any) -> TokenizerConfig:
    options = {"modality": name, **value} if isinstance(value, Mapping) else value
    config = TokenizerConfig.parse(options)
    if config.modality != name:
        raise ModelError(f"{name}: the configuration is of a tokenizer of {config.modality}")
    return config


def _read_tensors(source: WeightSource, name: str) -> Mapping[str, Any] | None:
    """Return the tensors of a file or a state dict; None for a source that is neither."""
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
