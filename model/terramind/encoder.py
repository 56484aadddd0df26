"""TerraMind's encoder: several rasters in, one grid of tokens out.

    embed every modality -> one sequence -> blocks -> norm -> merge the modalities

Notable: the token order follows the input mapping where it shows (merge None and concat); only the
last layer is normed; a modality that is absent from a call is simply not in the sequence. Parameter
names are those of the official checkpoints, so a state dict loads key for key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.errors import ModelError, listed
from model.terramind.config import Architecture
from model.terramind.embeddings import (
    AnyEmbedding,
    Declared,
    Tokenizers,
    channels,
    check_shape,
    declared_keys,
    embeddings,
    refuse_holes,
)
from model.terramind.layers import (
    Block,
    Family,
    LayerNorm,
    RasterEmbedding,
    SequenceEmbedding,
    TokenEmbedding,
)
from model.terramind.modalities import (
    IMAGE_SIZE,
    KEYS,
    PATCH,
    Modality,
    TokenModality,
    band_indices,
    key_of,
)
from model.terramind.validation import check_named, check_standardised, check_tensor

__all__ = ["MERGES", "Declared", "Encoder", "Merge", "Span", "Tokens"]

Merge = Literal["mean", "max", "concat", "dict"] | None
Tokens = Tensor | dict[str, Tensor]

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
        tokenizers: Tokenizers | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ModelError(f"unknown merge {merge!r}; known are {listed(MERGES)}")
        if image_size < PATCH or image_size % PATCH:
            raise ModelError(f"image_size {image_size} is not a multiple of {PATCH}")
        if not 0 <= drop_rate < 1:
            raise ModelError(f"the rate at which modalities drop is 0 to 1, not {drop_rate!r}")
        self.size, self.merge, self.image_size = size, merge, image_size
        self.drop_rate = drop_rate
        self.keys = declared_keys(modalities)
        made = embeddings(self.keys, channels(modalities), size, image_size)
        self.encoder_embeddings = nn.ModuleDict(made)
        self.tokenizer = Tokenizers() if tokenizers is None else tokenizers
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
        rasters = sum(not self.embedding(name).sequence for name in self.keys)
        return self.size.dim * (rasters if self.merge == "concat" else 1)

    def bands_of(self, name: str) -> tuple[str, ...]:
        """Return the bands that a raster modality expects, in order."""
        found = self.embedding(self._name(name))
        return found.bands if isinstance(found, RasterEmbedding) else ()

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tokens:
        """Return the last layer's tokens (B, N, D), normed and merged.

        Args:
            inputs: standardised rasters (B, C, H, W) by modality, H and W multiples of 16; token
                ids for token modalities, or their rasters where the encoder has a tokenizer for
                them (then always the raster); a bare tensor is the first declared modality.

        Raises:
            ModelError: an input that is unknown, of a wrong shape, not finite, or clearly not
                standardised.
        """
        return self.features(inputs, [self.depth - 1])[0]

    def features(
        self, inputs: Tensor | Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> list[Tokens]:
        """Return merged tokens after the given layers (default all); only the last is normed."""
        given = self.named(inputs)
        self.check(given)
        return self.run(given, layers)

    def run(
        self, inputs: Tensor | Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> list[Tokens]:
        """Do what `features` does, without looking at the pixels' values."""
        return self.through(*self.embed(self.read(inputs)), layers)

    def check(self, given: Mapping[str, Tensor]) -> None:
        """Refuse pixels that are not finite or, but in training, clearly not standardised."""
        refuse_holes(given)
        for name, value in given.items():
            if not self.training:
                check_standardised(name, self.keys[name], value)

    def named(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs under the names that they were declared with.

        They keep their order where it has a meaning: in the token sequence (merge None) and among
        the blocks of `concat`. Else it is that of the declaration, so that it changes no bit.

        Raises:
            ModelError: none, an unknown one, one twice, or one that is no tensor.
        """
        if isinstance(inputs, Tensor):
            inputs = {next(iter(self.keys)): inputs}
        check_named(inputs, self.keys)
        if not inputs:
            raise ModelError(f"no input given; this encoder takes {listed(self.keys)}")
        given = {self._name(user): value for user, value in inputs.items()}
        if len(given) != len(inputs):
            raise ModelError(f"one modality is given twice: {listed(inputs)}")
        for name, value in given.items():
            check_tensor(name, value)
        if self.merge in (None, "concat"):
            return given
        return {name: given[name] for name in self.keys if name in given}

    def read(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the embeddings take: rasters of token modalities become ids.

        In training, whole modalities are dropped at random, at `drop_rate` each.
        """
        given = {
            name: self.tokenizer.ids(name, self.keys[name], value)
            for name, value in self.named(inputs).items()
        }
        return self._dropped(given) if self.training and self.drop_rate else given

    def embed(self, given: Mapping[str, Tensor]) -> tuple[Tensor, list[Span]]:
        """Return the sequence of tokens (B, N, D) before the first block, and what lies where.

        Args:
            given: as `read` returns it.

        Raises:
            ModelError: shapes that do not fit.
        """
        for name, value in given.items():
            check_shape(name, self.embedding(name), value)
        sizes = {name: value.shape[0] for name, value in given.items()}
        if len(set(sizes.values())) != 1 or not min(sizes.values()):
            raise ModelError(f"the batch sizes differ, or are zero: {sizes}")
        parts = [self.embedding(name)(value) for name, value in given.items()]
        return torch.cat(parts, dim=1), self.spans(given)

    def spans(self, given: Mapping[str, Tensor]) -> list[Span]:
        """Return where the tokens of each input lie in the sequence."""
        found: list[Span] = []
        for name, value in given.items():
            embedding = self.embedding(name)
            start = found[-1].stop if found else 0
            stop = start + embedding.count(value)
            found.append(Span(name, start, stop, embedding.sequence))
        return found

    def through(
        self, x: Tensor, spans: Sequence[Span], layers: Sequence[int] | None = None
    ) -> list[Tokens]:
        """Return merged tokens after the given layers of an embedded sequence."""
        wanted = self._layers(layers)
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
            embedding = self.embedding(name)
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

    def parts(self) -> dict[str, Family]:
        """Return the tokenizers that this encoder carries."""
        return self.tokenizer.parts("tokenizer.")

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers, and the token made by `concat`."""
        buffers = {name for name, _ in self.named_buffers()}
        return buffers | {"missing_mod_token"} | super().optional_keys()

    def foreign_key(self, key: str) -> bool:
        """Tell a key of the family's other parts, which this encoder does not have."""
        if key.startswith(tuple(self.parts())):
            return super().foreign_key(key)
        own = any(key.startswith(f"encoder_embeddings.{name}.") for name in self.keys.values())
        return key.startswith((*_FAMILY, *_FAMILY_REST)) and not own

    def translate(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors with full projections cut to this encoder's bands."""
        result = super().translate(self.tokenizer.completed(tensors, "tokenizer."))
        for name, key in self.keys.items():
            place = f"encoder_embeddings.{key}.proj.weight"
            embedding = self.embedding(name)
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

    def embedding(self, name: str) -> AnyEmbedding:
        """Return the embedding of a declared modality."""
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

    def _dropped(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        images = [name for name in given if not self.embedding(name).sequence] or list(given)
        kept = images[int(torch.randint(len(images), ()))]
        # ^ one image stays whatever happens: without one there is nothing to merge
        lots = torch.rand(len(given)).tolist()
        return {
            name: value
            for (name, value), lot in zip(given.items(), lots, strict=True)
            if name == kept or lot >= self.drop_rate
        }

    def _merged(self, x: Tensor, spans: Sequence[Span]) -> Tokens:
        if self.merge is None:
            return x
        if self.merge == "dict":
            return {span.name: x[:, span.start : span.stop] for span in spans}
        stack = self._side_by_side(x, spans)
        if self.merge == "concat":
            return self._concatenated(stack)
        return _mean(stack) if self.merge == "mean" else torch.stack(stack).amax(dim=0)

    def averaged(self, x: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return a sequence of tokens averaged over its images, as `merge="mean"` does.

        Raises:
            ModelError: the images differ in size.
        """
        return _mean(self._side_by_side(x, spans))

    def _side_by_side(self, x: Tensor, spans: Sequence[Span]) -> list[Tensor]:
        rasters = [span for span in spans if not span.sequence]
        if len({span.stop - span.start for span in rasters}) != 1:
            counts = {span.name: span.stop - span.start for span in rasters}
            raise ModelError(f"merge {self.merge!r} needs images of one size, but tokens: {counts}")
        return [x[:, span.start : span.stop] for span in rasters]

    def _concatenated(self, stack: list[Tensor]) -> Tensor:
        missing = self.out_dim // self.size.dim - len(stack)
        token = self.missing_mod_token.to(stack[0].dtype).expand_as(stack[0])
        return torch.cat([*stack, *[token] * missing], dim=-1)
        # ^ present blocks first, in the order of the call, then the missing ones: the published
        #   behaviour, which fine-tuned heads rely on


def _mean(stack: list[Tensor]) -> Tensor:
    return torch.stack(stack).mean(dim=0)


def _reduced(
    known: Modality | TokenModality | None, embedding: RasterEmbedding, weight: Tensor
) -> Tensor:
    """Cut a projection made for all bands to those kept; return any other one as it is."""
    if not isinstance(known, Modality) or len(embedding.bands) == len(known.bands):
        return weight
    if weight.ndim != 2 or weight.shape[1] != PATCH * PATCH * len(known.bands):
        return weight
    return embedding.take_bands(weight, band_indices(known, embedding.bands))
