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

from model.errors import ModelError, join_names
from model.terramind.config import Architecture
from model.terramind.embeddings import (
    InputEmbedding,
    ModalityDeclaration,
    Tokenizers,
    build_embeddings,
    check_finite,
    check_shape,
    new_modality_channels,
    resolve_modality_keys,
)
from model.terramind.layers import (
    CheckpointModule,
    EncoderBlock,
    LayerNorm,
    RasterEmbedding,
    SequenceEmbedding,
    TokenEmbedding,
)
from model.terramind.modalities import (
    IMAGE_SIZE,
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    TokenModality,
    band_indices,
    find_modality_key,
)
from model.terramind.validation import check_is_mapping, check_standardised, check_tensor

__all__ = ["MERGES", "Encoder", "Merge", "MergedTokens", "ModalityDeclaration", "TokenSpan"]

Merge = Literal["mean", "max", "concat", "dict"] | None
MergedTokens = Tensor | dict[str, Tensor]

MERGES = ("mean", "max", "concat", "dict", None)

_DECODER_PREFIXES = ("encoder_embeddings.", "decoder_embeddings.", "decoder.", "decoder_norm.")
_OTHER_PREFIXES = ("decoder_proj_context.", "mask_token", "missing_mod_token", "tokenizer.")


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Where one modality's tokens lie in the sequence."""

    name: str
    start: int
    stop: int
    is_sequence: bool


class Encoder(CheckpointModule):
    """The fine-tuning backbone, for any of the family's sizes."""

    def __init__(
        self,
        architecture: Architecture,
        modalities: Sequence[ModalityDeclaration],
        *,
        bands: Mapping[str, Sequence[str]] | None = None,
        merge: Merge = "mean",
        image_size: int = IMAGE_SIZE,
        tokenizers: Tokenizers | None = None,
        modality_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ModelError(f"unknown merge {merge!r}; known are {join_names(MERGES)}")
        if image_size < PATCH_SIZE or image_size % PATCH_SIZE:
            raise ModelError(f"image_size {image_size} is not a multiple of {PATCH_SIZE}")
        if not 0 <= modality_drop_rate < 1:
            raise ModelError(
                f"the rate at which modalities drop is 0 to 1, not {modality_drop_rate!r}"
            )
        self.architecture, self.merge, self.image_size = architecture, merge, image_size
        self.modality_drop_rate = modality_drop_rate
        self.modality_keys = resolve_modality_keys(modalities)
        made = build_embeddings(
            self.modality_keys, new_modality_channels(modalities), architecture, image_size
        )
        self.encoder_embeddings = nn.ModuleDict(made)
        self.tokenizer = Tokenizers() if tokenizers is None else tokenizers
        self.encoder = nn.ModuleList(EncoderBlock(architecture) for _ in range(architecture.depth))
        self.encoder_norm = LayerNorm(architecture.dim)
        if merge == "concat":
            self.missing_mod_token = nn.Parameter(torch.zeros(architecture.dim))
        if bands:
            self.select_bands(bands)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.architecture.depth

    @property
    def out_dim(self) -> int:
        """Width of a merged token."""
        rasters = sum(not self.embedding(name).is_sequence for name in self.modality_keys)
        return self.architecture.dim * (rasters if self.merge == "concat" else 1)

    def band_names(self, name: str) -> tuple[str, ...]:
        """Return the bands that a raster modality expects, in order."""
        found = self.embedding(self._resolve_name(name))
        return found.bands if isinstance(found, RasterEmbedding) else ()

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> MergedTokens:
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
    ) -> list[MergedTokens]:
        """Return merged tokens after the given layers (default all); only the last is normed."""
        given = self.resolve_inputs(inputs)
        self.check_pixels(given)
        return self.features_unchecked(given, layers)

    def features_unchecked(
        self, inputs: Tensor | Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> list[MergedTokens]:
        """Do what `features` does, without looking at the pixels' values."""
        return self.run_blocks(*self.embed(self.tokenize_inputs(inputs)), layers)

    def check_pixels(self, inputs: Mapping[str, Tensor]) -> None:
        """Refuse pixels that are not finite or, but in training, clearly not standardised."""
        check_finite(inputs)
        for name, value in inputs.items():
            if not self.training:
                check_standardised(name, self.modality_keys[name], value)

    def resolve_inputs(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs under the names that they were declared with.

        They keep their order where it has a meaning: in the token sequence (merge None) and among
        the blocks of `concat`. Else it is that of the declaration, so that it changes no bit.

        Raises:
            ModelError: none, an unknown one, one twice, or one that is no tensor.
        """
        if isinstance(inputs, Tensor):
            inputs = {next(iter(self.modality_keys)): inputs}
        check_is_mapping(inputs, self.modality_keys)
        if not inputs:
            raise ModelError(f"no input given; this encoder takes {join_names(self.modality_keys)}")
        given = {self._resolve_name(user): value for user, value in inputs.items()}
        if len(given) != len(inputs):
            raise ModelError(f"one modality is given twice: {join_names(inputs)}")
        for name, value in given.items():
            check_tensor(name, value)
        if self.merge in (None, "concat"):
            return given
        return {name: given[name] for name in self.modality_keys if name in given}

    def tokenize_inputs(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the embeddings take: rasters of token modalities become ids.

        In training, whole modalities are dropped at random, at `drop_rate` each.
        """
        given = {
            name: self.tokenizer.tokenize(name, self.modality_keys[name], value)
            for name, value in self.resolve_inputs(inputs).items()
        }
        return self._drop_modalities(given) if self.training and self.modality_drop_rate else given

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, list[TokenSpan]]:
        """Return the sequence of tokens (B, N, D) before the first block, and what lies where.

        Args:
            inputs: as `read` returns it.

        Raises:
            ModelError: shapes that do not fit.
        """
        for name, value in inputs.items():
            check_shape(name, self.embedding(name), value)
        sizes = {name: value.shape[0] for name, value in inputs.items()}
        if len(set(sizes.values())) != 1 or not min(sizes.values()):
            raise ModelError(f"the batch sizes differ, or are zero: {sizes}")
        parts = [self.embedding(name)(value) for name, value in inputs.items()]
        return torch.cat(parts, dim=1), self.token_spans(inputs)

    def token_spans(self, inputs: Mapping[str, Tensor]) -> list[TokenSpan]:
        """Return where the tokens of each input lie in the sequence."""
        found: list[TokenSpan] = []
        for name, value in inputs.items():
            embedding = self.embedding(name)
            start = found[-1].stop if found else 0
            stop = start + embedding.token_count(value)
            found.append(TokenSpan(name, start, stop, embedding.is_sequence))
        return found

    def run_blocks(
        self, x: Tensor, spans: Sequence[TokenSpan], layers: Sequence[int] | None = None
    ) -> list[MergedTokens]:
        """Return merged tokens after the given layers of an embedded sequence."""
        wanted = self._resolve_layers(layers)
        kept: dict[int, MergedTokens] = {}
        for index, block in enumerate(self.encoder):
            x = block(x)
            if index in wanted:
                done = self.encoder_norm(x) if index == self.depth - 1 else x
                kept[index] = self._merge_tokens(done, spans)
            if index == max(wanted):
                break
        return [kept[index] for index in wanted]

    def select_bands(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Keep only these bands of these modalities, with the weights they have.

        Raises:
            ModelError: unknown modality or band (nothing is left at random).
        """
        for user, names in bands.items():
            name = self._resolve_name(user)
            known = MODALITIES_BY_KEY.get(self.modality_keys[name])
            embedding = self.embedding(name)
            if not isinstance(known, RasterModality) or not isinstance(embedding, RasterEmbedding):
                raise ModelError(f"{name} has no named bands to choose from")
            current = [known.band_index(band) for band in embedding.bands]
            chosen = band_indices(known, names)
            if not set(chosen) <= set(current):
                raise ModelError(f"{name} was already reduced to {join_names(embedding.bands)}")
            places = tuple(current.index(index) for index in chosen)
            weight = embedding.select_band_weights(embedding.proj.weight.detach(), places)
            embedding.bands = tuple(known.bands[index] for index in chosen)
            embedding.proj.weight = nn.Parameter(weight)
            embedding.proj.in_features = weight.shape[1]

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return the tokenizers that this encoder carries."""
        return self.tokenizer.checkpoint_parts("tokenizer.")

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers, and the token made by `concat`."""
        buffers = {name for name, _ in self.named_buffers()}
        return buffers | {"missing_mod_token"} | super().optional_keys()

    def is_ignored_key(self, key: str) -> bool:
        """Tell a key of the family's other parts, which this encoder does not have."""
        if key.startswith(tuple(self.checkpoint_parts())):
            return super().is_ignored_key(key)
        own = any(
            key.startswith(f"encoder_embeddings.{name}.") for name in self.modality_keys.values()
        )
        return key.startswith((*_DECODER_PREFIXES, *_OTHER_PREFIXES)) and not own

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors with full projections cut to this encoder's bands."""
        result = super().convert_state_dict(
            self.tokenizer.add_missing_tensors(tensors, "tokenizer.")
        )
        for name, key in self.modality_keys.items():
            place = f"encoder_embeddings.{key}.proj.weight"
            embedding = self.embedding(name)
            if isinstance(embedding, RasterEmbedding) and place in result:
                result[place] = _select_projection_bands(
                    MODALITIES_BY_KEY.get(key), embedding, result[place]
                )
        return result

    def _resolve_name(self, user: str) -> str:
        if user in self.modality_keys:
            return user
        key = find_modality_key(user)
        for name, own in self.modality_keys.items():
            if key is not None and own == key:
                return name
        raise ModelError(
            f"unknown modality {user!r}; this encoder has {join_names(self.modality_keys)}"
        )

    def embedding(self, name: str) -> InputEmbedding:
        """Return the embedding of a declared modality."""
        found = self.encoder_embeddings[self.modality_keys[name]]
        if not isinstance(found, (RasterEmbedding, TokenEmbedding, SequenceEmbedding)):
            raise ModelError(f"{name} has an embedding of an unknown kind: {type(found).__name__}")
        return found

    def _resolve_layers(self, layers: Sequence[int] | None) -> list[int]:
        if layers is None:
            return list(range(self.depth))
        if not layers or not all(-self.depth <= index < self.depth for index in layers):
            raise ModelError(
                f"layers {list(layers)}: give one or more of {-self.depth}..{self.depth - 1}"
            )
        return [index % self.depth for index in layers]

    def _drop_modalities(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        images = [name for name in inputs if not self.embedding(name).is_sequence] or list(inputs)
        kept = images[int(torch.randint(len(images), ()))]
        # ^ one image stays whatever happens: without one there is nothing to merge
        lots = torch.rand(len(inputs)).tolist()
        return {
            name: value
            for (name, value), lot in zip(inputs.items(), lots, strict=True)
            if name == kept or lot >= self.modality_drop_rate
        }

    def _merge_tokens(self, x: Tensor, spans: Sequence[TokenSpan]) -> MergedTokens:
        if self.merge is None:
            return x
        if self.merge == "dict":
            return {span.name: x[:, span.start : span.stop] for span in spans}
        stack = self._split_images(x, spans)
        if self.merge == "concat":
            return self._concat_images(stack)
        return _mean(stack) if self.merge == "mean" else torch.stack(stack).amax(dim=0)

    def average_tokens(self, x: Tensor, spans: Sequence[TokenSpan]) -> Tensor:
        """Return a sequence of tokens averaged over its images, as `merge="mean"` does.

        Raises:
            ModelError: the images differ in size.
        """
        return _mean(self._split_images(x, spans))

    def _split_images(self, x: Tensor, spans: Sequence[TokenSpan]) -> list[Tensor]:
        rasters = [span for span in spans if not span.is_sequence]
        if len({span.stop - span.start for span in rasters}) != 1:
            counts = {span.name: span.stop - span.start for span in rasters}
            raise ModelError(f"merge {self.merge!r} needs images of one size, but tokens: {counts}")
        return [x[:, span.start : span.stop] for span in rasters]

    def _concat_images(self, stack: list[Tensor]) -> Tensor:
        missing = self.out_dim // self.architecture.dim - len(stack)
        token = self.missing_mod_token.to(stack[0].dtype).expand_as(stack[0])
        return torch.cat([*stack, *[token] * missing], dim=-1)
        # ^ present blocks first, in the order of the call, then the missing ones: the published
        #   behaviour, which fine-tuned heads rely on


def _mean(stack: list[Tensor]) -> Tensor:
    return torch.stack(stack).mean(dim=0)


def _select_projection_bands(
    modality: RasterModality | TokenModality | None, embedding: RasterEmbedding, weight: Tensor
) -> Tensor:
    """Cut a projection made for all bands to those kept; return any other one as it is."""
    if not isinstance(modality, RasterModality) or len(embedding.bands) == len(modality.bands):
        return weight
    if weight.ndim != 2 or weight.shape[1] != PATCH_SIZE * PATCH_SIZE * len(modality.bands):
        return weight
    return embedding.select_band_weights(weight, band_indices(modality, embedding.bands))
