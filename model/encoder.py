"""TerraMind's encoder: several rasters in, one grid of tokens out.

    embed every modality -> one sequence -> blocks -> norm -> merge the modalities

Notable: the token order follows the input mapping; only the last layer is normed; a modality that
is absent from a call is simply not in the sequence. Parameter names are those of the official
checkpoints, so a state dict loads key for key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config import Architecture
from model.errors import ModelError, listed
from model.layers import (
    Block,
    Family,
    LayerNorm,
    RasterEmbedding,
    SequenceEmbedding,
    TokenEmbedding,
)
from model.modalities import (
    IMAGE_SIZE,
    KEYS,
    PATCH,
    RAW,
    TOKENS,
    Modality,
    TokenModality,
    band_indices,
    key_of,
)

Merge = Literal["mean", "max", "concat", "dict"] | None
Tokens = Tensor | dict[str, Tensor]
Declared = str | Mapping[str, int]
"""A modality's name, or {new name: number of channels}."""

MERGES = ("mean", "max", "concat", "dict", None)

_FAMILY = ("encoder_embeddings.", "decoder_embeddings.", "decoder.", "decoder_norm.")
_FAMILY_REST = ("decoder_proj_context.", "mask_token", "missing_mod_token", "tokenizer.")


@dataclass(frozen=True, slots=True)
class Span:
    """Where one modality's tokens lie in the sequence."""

    name: str
    start: int
    stop: int
    sequence: bool


class Encoder(Family):
    """The fine-tuning backbone, for any of the family's sizes."""

    def __init__(
        self,
        size: Architecture,
        modalities: Sequence[Declared],
        *,
        bands: Mapping[str, Sequence[str]] | None = None,
        merge: Merge = "mean",
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ModelError(f"unknown merge {merge!r}; known are {listed(MERGES)}")
        if image_size < PATCH or image_size % PATCH:
            raise ModelError(f"image_size {image_size} is not a multiple of {PATCH}")
        self.size, self.merge, self.image_size = size, merge, image_size
        self.keys = _declared_keys(modalities)
        embeddings = _embeddings(self.keys, _channels(modalities), size, image_size)
        self.encoder_embeddings = nn.ModuleDict(embeddings)
        self.encoder = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.encoder_norm = LayerNorm(size.dim)
        if merge == "concat":
            self.missing_mod_token = nn.Parameter(torch.zeros(size.dim))
        if bands:
            self.select_bands(bands)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.size.depth

    @property
    def out_dim(self) -> int:
        """Width of a merged token."""
        rasters = sum(not self._embedding(name).sequence for name in self.keys)
        return self.size.dim * (rasters if self.merge == "concat" else 1)

    def bands_of(self, name: str) -> tuple[str, ...]:
        """Return the bands that a raster modality expects, in order."""
        found = self._embedding(self._name(name))
        return found.bands if isinstance(found, RasterEmbedding) else ()

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tokens:
        """Return the last layer's tokens (B, N, D), normed and merged.

        Args:
            inputs: standardised rasters (B, C, H, W) by modality, H and W multiples of 16; token
                ids for token modalities; a bare tensor is the first declared modality.

        Raises:
            ModelError: an input that is unknown, of a wrong shape, or not finite.
        """
        return self.features(inputs, [self.depth - 1])[0]

    def features(
        self, inputs: Tensor | Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> list[Tokens]:
        """Return merged tokens after the given layers (default all); only the last is normed."""
        given = self._given(inputs)
        for name, value in given.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ModelError(
                    f"{name} holds NaN or infinite pixels: attention would spread them to every "
                    "token; fill them first (0 after standardisation = the mean)"
                )
        return self.run(given, layers)

    def run(self, given: Mapping[str, Tensor], layers: Sequence[int] | None = None) -> list[Tokens]:
        """Do what `features` does, without looking for pixels that are not finite."""
        wanted = self._layers(layers)
        x, spans = self._embed(self._given(given))
        kept: dict[int, Tokens] = {}
        for index, block in enumerate(self.encoder):
            x = block(x)
            if index in wanted:
                done = self.encoder_norm(x) if index == self.depth - 1 else x
                kept[index] = self._merged(done, spans)
            if index == max(wanted):
                break
        return [kept[index] for index in wanted]

    def select_bands(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Keep only these bands of these modalities, with the weights they have.

        Raises:
            ModelError: unknown modality or band (nothing is left at random).
        """
        for user, names in bands.items():
            name = self._name(user)
            known = KEYS.get(self.keys[name])
            embedding = self._embedding(name)
            if not isinstance(known, Modality) or not isinstance(embedding, RasterEmbedding):
                raise ModelError(f"{name} has no named bands to choose from")
            current = [known.index(band) for band in embedding.bands]
            chosen = band_indices(known, names)
            if not set(chosen) <= set(current):
                raise ModelError(f"{name} was already reduced to {listed(embedding.bands)}")
            places = tuple(current.index(index) for index in chosen)
            weight = embedding.take_bands(embedding.proj.weight.detach(), places)
            embedding.bands = tuple(known.bands[index] for index in chosen)
            embedding.proj.weight = nn.Parameter(weight)
            embedding.proj.in_features = weight.shape[1]

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers, and the token made by `concat`."""
        return {name for name, _ in self.named_buffers()} | {"missing_mod_token"}

    def foreign_key(self, key: str) -> bool:
        """Tell a key of the family's other parts, which this encoder does not have."""
        own = any(key.startswith(f"encoder_embeddings.{name}.") for name in self.keys.values())
        return key.startswith((*_FAMILY, *_FAMILY_REST)) and not own

    def translate(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors with full projections cut to this encoder's bands."""
        result = dict(tensors)
        for name, key in self.keys.items():
            place = f"encoder_embeddings.{key}.proj.weight"
            embedding = self._embedding(name)
            if isinstance(embedding, RasterEmbedding) and place in result:
                result[place] = _reduced(KEYS.get(key), embedding, result[place])
        return result

    def _name(self, user: str) -> str:
        if user in self.keys:
            return user
        key = key_of(user)
        for name, own in self.keys.items():
            if key is not None and own == key:
                return name
        raise ModelError(f"unknown modality {user!r}; this encoder has {listed(self.keys)}")

    def _embedding(self, name: str) -> RasterEmbedding | TokenEmbedding | SequenceEmbedding:
        found = self.encoder_embeddings[self.keys[name]]
        if not isinstance(found, (RasterEmbedding, TokenEmbedding, SequenceEmbedding)):
            raise ModelError(f"{name} has an embedding of an unknown kind: {type(found).__name__}")
        return found

    def _layers(self, layers: Sequence[int] | None) -> list[int]:
        if layers is None:
            return list(range(self.depth))
        if not layers or not all(-self.depth <= index < self.depth for index in layers):
            raise ModelError(
                f"layers {list(layers)}: give one or more of {-self.depth}..{self.depth - 1}"
            )
        return [index % self.depth for index in layers]

    def _given(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(inputs, Tensor):
            inputs = {next(iter(self.keys)): inputs}
        if not inputs:
            raise ModelError(f"no input given; this encoder takes {listed(self.keys)}")
        given = {self._name(user): value for user, value in inputs.items()}
        if len(given) != len(inputs):
            raise ModelError(f"one modality is given twice: {listed(inputs)}")
        return given

    def _embed(self, given: Mapping[str, Tensor]) -> tuple[Tensor, list[Span]]:
        parts: list[Tensor] = []
        spans: list[Span] = []
        for name, value in given.items():
            embedding = self._embedding(name)
            _check_shape(name, embedding, value)
            tokens: Tensor = embedding(value)
            start = spans[-1].stop if spans else 0
            spans.append(Span(name, start, start + tokens.shape[1], embedding.sequence))
            parts.append(tokens)
        if len({part.shape[0] for part in parts}) != 1:
            sizes = {name: value.shape[0] for name, value in given.items()}
            raise ModelError(f"the batch sizes differ: {sizes}")
        return torch.cat(parts, dim=1), spans

    def _merged(self, x: Tensor, spans: Sequence[Span]) -> Tokens:
        if self.merge is None:
            return x
        if self.merge == "dict":
            return {span.name: x[:, span.start : span.stop] for span in spans}
        rasters = [span for span in spans if not span.sequence]
        if len({span.stop - span.start for span in rasters}) != 1:
            counts = {span.name: span.stop - span.start for span in rasters}
            raise ModelError(f"merge {self.merge!r} needs images of one size, but tokens: {counts}")
        stack = [x[:, span.start : span.stop] for span in rasters]
        if self.merge == "concat":
            return self._concatenated(stack)
        joined = torch.stack(stack, dim=0)
        return joined.mean(dim=0) if self.merge == "mean" else joined.amax(dim=0)

    def _concatenated(self, stack: list[Tensor]) -> Tensor:
        missing = self.out_dim // self.size.dim - len(stack)
        token = self.missing_mod_token.to(stack[0].dtype).expand_as(stack[0])
        return torch.cat([*stack, *[token] * missing], dim=-1)
        # ^ present blocks first, in the order of the call, then the missing ones: the published
        #   behaviour, which fine-tuned heads rely on


def _reduced(
    known: Modality | TokenModality | None, embedding: RasterEmbedding, weight: Tensor
) -> Tensor:
    """Cut a projection made for all bands to those kept; return any other one as it is."""
    if not isinstance(known, Modality) or len(embedding.bands) == len(known.bands):
        return weight
    if weight.ndim != 2 or weight.shape[1] != PATCH * PATCH * len(known.bands):
        return weight
    return embedding.take_bands(weight, band_indices(known, embedding.bands))


def _declared_keys(modalities: Sequence[Declared]) -> dict[str, str]:
    if isinstance(modalities, str) or not modalities:
        raise ModelError(f"give a list of modalities; known are {listed([*RAW, *TOKENS])}")
    keys: dict[str, str] = {}
    for entry in modalities:
        for name in [entry] if isinstance(entry, str) else entry:
            key = key_of(name) if isinstance(entry, str) else name
            if key is None:
                raise ModelError(
                    f"unknown modality {name!r}; known are {listed([*RAW, *TOKENS], 9)}, "
                    "or {name: channels} for a new one"
                )
            if name in keys or key in keys.values() or "." in key:
                raise ModelError(f"modality {name!r} is declared twice or holds a dot")
            keys[name] = key
    return keys


def _channels(modalities: Sequence[Declared]) -> dict[str, int]:
    new: dict[str, int] = {}
    for entry in modalities:
        if isinstance(entry, Mapping):
            new.update(entry)
    for name, count in new.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ModelError(f"{name}: the number of channels must be positive, not {count!r}")
    return new


def _embeddings(
    keys: Mapping[str, str], new: Mapping[str, int], size: Architecture, image_size: int
) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for name, key in keys.items():
        known = KEYS.get(key)
        if name in new:
            bands = tuple(f"{index + 1}" for index in range(new[name]))
            made[key] = RasterEmbedding(bands, size.dim, image_size)
        elif isinstance(known, Modality):
            made[key] = RasterEmbedding(known.bands, size.dim, image_size)
        elif isinstance(known, TokenModality):
            made[key] = (
                SequenceEmbedding(known.vocabulary, size.dim)
                if known.sequence
                else TokenEmbedding(known.vocabulary, size.dim, image_size)
            )
    return made


def _check_shape(name: str, embedding: nn.Module, value: Tensor) -> None:
    shape = tuple(value.shape)
    if isinstance(embedding, SequenceEmbedding):
        if value.ndim != 2 or not 1 <= shape[1] <= embedding.length:
            raise ModelError(f"{name}: token ids (B, L), L <= {embedding.length}, not {shape}")
    elif isinstance(embedding, TokenEmbedding):
        if value.ndim != 3:
            raise ModelError(f"{name}: token ids (B, rows, columns) expected, not {shape}")
    elif isinstance(embedding, RasterEmbedding):
        _check_raster(name, embedding.bands, shape)


def _check_raster(name: str, bands: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[1] != len(bands):
        raise ModelError(f"{name}: (B, {len(bands)}, H, W) expected, not {shape}: {listed(bands)}")
    if shape[2] % PATCH or shape[3] % PATCH or not shape[2] * shape[3]:
        raise ModelError(f"{name}: height and width must be multiples of {PATCH}, not {shape[2:]}")
