"""TerraMind's encoder: several rasters in, one grid of tokens out.

    embed every modality -> one sequence -> blocks -> norm -> merge the modalities

A modality that is absent from a call is not in the sequence. Only the last layer is normalised.
Calling an encoder, and `features`, check the inputs; `forward` and `forward_layers` do not.
Notation: B batch, N tokens, D width of a token, C channels, h x w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind.architectures import Architecture
from model.terramind.embeddings import (
    InputEmbedding,
    RasterEmbedding,
    SequenceEmbedding,
    TokenEmbedding,
    build_embeddings,
)
from model.terramind.input_validation import (
    check_batch_sizes,
    check_finite,
    check_is_mapping,
    check_standardised,
    check_tensor,
)
from model.terramind.keys import EncoderKeys
from model.terramind.layers import EncoderBlock, LayerNorm
from model.terramind.modalities import (
    IMAGE_SIZE,
    MODALITIES_BY_KEY,
    PATCH_SIZE,
    RasterModality,
    find_modality_key,
)
from model.terramind.modality_names import (
    ModalityDeclaration,
    new_modality_channels,
    resolve_modality_keys,
)
from model.terramind.token_merging import (
    MERGES,
    Merge,
    MergedTokens,
    TokenSpan,
    merge_tokens,
)
from model.terramind.tokenizers.collection import Tokenizers

Inputs = Tensor | Mapping[str, Tensor]
"""Tensors by modality; a bare tensor is the first declared modality."""


class Encoder(EncoderKeys):
    """The encoder, of any of the family's sizes: a backbone for inference and fine-tuning."""

    tokenizer: Tokenizers

    def __init__(
        self,
        architecture: Architecture,
        modalities: Sequence[ModalityDeclaration],
        *,
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
                f"the modality drop rate is from 0 to below 1, not {modality_drop_rate!r}"
            )
        self.architecture, self.merge, self.image_size = architecture, merge, image_size
        self.modality_drop_rate = modality_drop_rate
        self.modality_keys = resolve_modality_keys(modalities)
        self.encoder_embeddings = nn.ModuleDict(
            build_embeddings(
                self.modality_keys, new_modality_channels(modalities), architecture, image_size
            )
        )
        self.tokenizer = Tokenizers() if tokenizers is None else tokenizers
        self.encoder = nn.ModuleList(EncoderBlock(architecture) for _ in range(architecture.depth))
        self.encoder_norm = LayerNorm(architecture.dim)
        if merge == "concat":
            self.missing_mod_token = nn.Parameter(torch.zeros(architecture.dim))

    # --- the network: inputs are checked -------------------------------------------------------

    def forward(self, inputs: Mapping[str, Tensor]) -> MergedTokens:
        """Return the last layer's tokens (B, h * w, D), normalised and merged."""
        return self.forward_layers(inputs, [self.depth - 1])[0]

    def forward_layers(
        self, inputs: Mapping[str, Tensor], layers: Sequence[int] | None = None
    ) -> list[MergedTokens]:
        """Return the merged tokens of some layers (None = all); only the last one is normalised.

        Args:
            inputs: as `check_inputs` returns them.
            layers: indices from 0, or from -1 backwards.
        """
        values = self.tokenize_inputs(inputs)  # pixels (B, C, H, W), ids (B, h, w) or (B, L)
        return self.run_blocks(self.embed(values), self.token_spans(values), layers)

    def tokenize_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace rasters of token modalities by their ids; in training, drop some modalities."""
        values = {
            name: self.tokenizer.tokenize(name, self.modality_keys[name], value)
            for name, value in inputs.items()
        }
        return self._drop_modalities(values) if self.training else values

    def embed(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the sequence (B, N, D) of all inputs' tokens, in their order."""
        return torch.cat([self.embedding(name)(value) for name, value in values.items()], dim=1)

    def run_blocks(
        self, x: Tensor, spans: Sequence[TokenSpan], layers: Sequence[int] | None = None
    ) -> list[MergedTokens]:
        """Return the merged tokens of some layers for an embedded sequence (B, N, D)."""
        indices = self._resolve_layers(layers)
        outputs: dict[int, MergedTokens] = {}
        for index, block in enumerate(self.encoder):
            x = block(x)  # (B, N, D)
            if index in indices:
                tokens = self.encoder_norm(x) if index == self.depth - 1 else x
                outputs[index] = self._merge(tokens, spans)  # (B, h * w, D)
            if index == max(indices):
                break
        return [outputs[index] for index in indices]

    def token_spans(self, values: Mapping[str, Tensor]) -> list[TokenSpan]:
        """Return the position of each input's tokens in the sequence."""
        spans: list[TokenSpan] = []
        start = 0
        for name, value in values.items():
            embedding = self.embedding(name)
            stop = start + embedding.token_count(value)
            spans.append(TokenSpan(name, start, stop, embedding.is_sequence))
            start = stop
        return spans

    def _merge(self, x: Tensor, spans: Sequence[TokenSpan]) -> MergedTokens:
        missing_token = self.missing_mod_token if self.merge == "concat" else None
        return merge_tokens(x, spans, self.merge, missing_token, self.out_dim)

    def _drop_modalities(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop each modality at the drop rate; one image stays, so that there is one to merge."""
        if not self.modality_drop_rate:
            return values
        images = [name for name in values if not self.embedding(name).is_sequence] or list(values)
        kept_image = images[int(torch.randint(len(images), ()))]
        draws = torch.rand(len(values)).tolist()
        return {
            name: value
            for (name, value), draw in zip(values.items(), draws, strict=True)
            if name == kept_image or draw >= self.modality_drop_rate
        }

    # --- calls: inputs are as the caller has them ----------------------------------------------

    def __call__(self, inputs: Inputs) -> MergedTokens:
        """Return the last layer's tokens, normalised and merged, (B, h * w, D).

        Args:
            inputs: standardised rasters (B, C, H, W) by modality, H and W multiples of 16; token
                ids for token modalities, or, where the encoder has a tokenizer for them, their
                rasters; a bare tensor is the first declared modality.

        Raises:
            ModelError: an input that is unknown, of a wrong shape, not finite, or clearly not
                standardised.
        """
        outputs: MergedTokens = super().__call__(self.check_inputs(inputs))
        return outputs

    def features(self, inputs: Inputs, layers: Sequence[int] | None = None) -> list[MergedTokens]:
        """Return the merged tokens of some layers (None = all); only the last one is normalised.

        Args:
            inputs: as for a call.
            layers: indices from 0, or from -1 backwards.

        Raises:
            ModelError: as for a call; a layer that there is not.
        """
        return self.forward_layers(self.check_inputs(inputs), layers)

    def check_inputs(self, inputs: Inputs, *, check_values: bool = True) -> dict[str, Tensor]:
        """Return the inputs under their declared names, or refuse them.

        They keep their order where it has a meaning: in the token sequence (merge None) and among
        the blocks of concat. Otherwise they get the order of the declaration, so that the order of
        the call changes no bit.

        Args:
            inputs: as for a call.
            check_values: False leaves out the checks of pixel values: finite and, outside of
                training, standardised.

        Raises:
            ModelError: as for a call.
        """
        named = self.resolve_inputs(inputs)
        for name, value in named.items():
            key = self.modality_keys[name]
            if check_values:
                check_finite(name, value)
            if check_values and not self.training:
                check_standardised(name, key, value)
            if not self.tokenizer.takes_raw(key, value):
                self.embedding(name).check_input(name, value)
                # ^ a raster that is to be tokenised is checked by its tokenizer
        check_batch_sizes(named)
        return named

    def resolve_inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the inputs under their declared names, ordered as in `check_inputs`.

        Raises:
            ModelError: no input, an unknown one, one twice, or one that is not a tensor.
        """
        if isinstance(inputs, Tensor):
            inputs = {next(iter(self.modality_keys)): inputs}
        check_is_mapping(inputs, self.modality_keys)
        if not inputs:
            raise ModelError(f"no input given; this encoder takes {join_names(self.modality_keys)}")
        named = {self._resolve_name(name): value for name, value in inputs.items()}
        if len(named) != len(inputs):
            raise ModelError(f"one modality is given twice: {join_names(inputs)}")
        for name, value in named.items():
            check_tensor(name, value)
        if self.merge in (None, "concat"):
            return named
        return {name: named[name] for name in self.modality_keys if name in named}

    # --- properties ----------------------------------------------------------------------------

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
        """Return the bands of a raster modality, in the order of its channels; else none."""
        embedding = self.embedding(self._resolve_name(name))
        return embedding.bands if isinstance(embedding, RasterEmbedding) else ()

    def embedding(self, name: str) -> InputEmbedding:
        """Return the embedding of a declared modality."""
        embedding = self.encoder_embeddings[self.modality_keys[name]]
        if not isinstance(embedding, (RasterEmbedding, TokenEmbedding, SequenceEmbedding)):
            raise ModelError(f"{name} has an unknown kind of embedding: {type(embedding).__name__}")
        return embedding

    def select_bands(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Keep only these bands of these modalities, with the weights that they have.

        Raises:
            ModelError: an unknown modality or band.
        """
        for user_name, names in bands.items():
            name = self._resolve_name(user_name)
            modality = MODALITIES_BY_KEY.get(self.modality_keys[name])
            embedding = self.embedding(name)
            if not isinstance(modality, RasterModality) or not isinstance(
                embedding, RasterEmbedding
            ):
                raise ModelError(f"{name} has no named bands to choose from")
            embedding.select_bands(modality, names)

    def _resolve_name(self, user_name: str) -> str:
        """Return the declared name of a modality that the caller may name otherwise."""
        if user_name in self.modality_keys:
            return user_name
        user_key = find_modality_key(user_name)
        for name, key in self.modality_keys.items():
            if key == user_key:
                return name
        raise ModelError(
            f"unknown modality {user_name!r}; this encoder has {join_names(self.modality_keys)}"
        )

    def _resolve_layers(self, layers: Sequence[int] | None) -> list[int]:
        if layers is None:
            return list(range(self.depth))
        if not layers or not all(-self.depth <= index < self.depth for index in layers):
            raise ModelError(
                f"layers {list(layers)}: give one or more of {-self.depth}..{self.depth - 1}"
            )
        return [index % self.depth for index in layers]
