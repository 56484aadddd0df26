"""TerraMind's decoder: from the encoder's output to the token ids of another modality.

    encoder -> context: normalised, projected, positions and modality vectors added again
    mask token + position + modality -> blocks (self-attention, cross-attention, MLP) -> logits

All positions of a target are decoded at once, without a causal mask; coordinates are decoded one
token after the other. The vectors of a target's tokens are also the weights of its logits.
Notation: B batch, M tokens of the context, N queries, T targets, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind import fused_linear
from model.terramind.architectures import Architecture
from model.terramind.embeddings import Embedding, SequenceEmbedding, TokenEmbedding
from model.terramind.encoder import Encoder
from model.terramind.keys import EncoderDecoderKeys
from model.terramind.layers import (
    Attention,
    GatedMlp,
    LayerNorm,
    Mlp,
    sincos_grid,
    sincos_sequence,
)
from model.terramind.modalities import IMAGE_SIZE, MODALITIES_BY_KEY, PATCH_SIZE, TokenModality
from model.terramind.modality_names import ModalityDeclaration
from model.terramind.token_merging import split_images

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values of the context for each decoder block, (B, heads, M, D / heads)."""

PatchGrid = tuple[int, int]
"""Rows and columns of tokens."""


class CrossAttention(nn.Module):
    """Multi-head attention of queries to the tokens of a context."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads = architecture.heads
        self.q = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)
        self.kv = nn.Linear(architecture.dim, 2 * architecture.dim, bias=architecture.bias)
        self.proj = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, heads, M, D / heads), of a context (B, M, D)."""
        batch, count, dim = context.shape
        kv = fused_linear.linear(self.kv, context)  # (B, M, 2 * D)
        split = kv.view(batch, count, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        key, value = split.unbind(0)
        return key, value

    def forward(self, y: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """Return the queries (B, N, D) after attention to the context, (B, N, D)."""
        batch, count, dim = y.shape
        query = (
            fused_linear.linear(self.q, y)
            .view(batch, count, self.heads, dim // self.heads)
            .transpose(1, 2)
        )
        mixed = F.scaled_dot_product_attention(query, *memory)
        return fused_linear.linear(self.proj, mixed.transpose(1, 2).reshape(batch, count, dim))


class DecoderBlock(nn.Module):
    """A decoder block: self-attention, cross-attention and MLP, each after a layer norm."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.norm1 = LayerNorm(architecture.dim)
        self.self_attn = Attention(architecture)
        self.query_norm = LayerNorm(architecture.dim)
        self.context_norm = LayerNorm(architecture.dim)
        self.cross_attn = CrossAttention(architecture)
        self.norm2 = LayerNorm(architecture.dim)
        self.mlp: nn.Module = GatedMlp(architecture) if architecture.gated else Mlp(architecture)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a context (B, M, D)."""
        return self.cross_attn.project_context(self.context_norm(context))

    def forward(self, y: Tensor, memory: tuple[Tensor, Tensor], *, causal: bool = False) -> Tensor:
        """Return the queries (B, T, N, D) after this block.

        The T targets attend to the same context, and not to each other.
        """
        x = y.flatten(0, 1)  # (B * T, N, D): self-attention within each target
        x = x + self.self_attn(self.norm1(x), causal=causal)
        x = x.view_as(y).flatten(1, 2)  # (B, T * N, D): one context for all targets
        x = x + self.cross_attn(self.query_norm(x), memory)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out.view_as(y)


class TargetEmbedding(Embedding):
    """Embedding of a target's queries, and the projection of its logits."""

    def __init__(self, modality: TokenModality, dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        is_sequence = modality.is_sequence
        super().__init__(
            sincos_sequence(SequenceEmbedding.max_length, dim)
            if is_sequence
            else sincos_grid(side, side, dim)
        )
        self.is_sequence = is_sequence
        padding_id = 0 if is_sequence else None
        self.token_emb = nn.Embedding(modality.vocab_size, dim, padding_idx=padding_id)
        self.to_logits = nn.Linear(dim, modality.vocab_size, bias=False)
        self.to_logits.weight = self.token_emb.weight

    def position_and_modality(self, grid: PatchGrid) -> Tensor:
        """Return positions and modality vector of a grid's queries, (1, h * w, D)."""
        return self.position_table(*grid) + self.mod_emb

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Return the queries (B, L, D) of a sequence of ids (B, L)."""
        tokens: Tensor = self.token_emb(ids.long())
        return tokens + self.pos_emb[:, : ids.shape[1]] + self.mod_emb


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedInputs:
    """The embedded inputs of the encoder, one after the other."""

    tokens: Tensor
    """Embedded patches or ids, (B, M, D)."""

    position_and_modality: Tensor
    """Position and modality vector of each token, (B, M, D)."""

    grid: PatchGrid | None
    """Rows and columns of the images' patches; None if there is no image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderContext:
    """The encoder's output, prepared for the decoder."""

    encoded: Tensor
    """Output of the encoder, normalised, (B, M, D)."""

    memory: Memory


class EncoderDecoder(EncoderDecoderKeys, Encoder):
    """The encoder, and the decoder that generates tokens of other modalities."""

    def __init__(
        self,
        architecture: Architecture,
        modalities: Sequence[ModalityDeclaration],
        targets: Sequence[str],
        *,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        """Build encoder and decoder without weights.

        Args:
            architecture: size of both, with a decoder_depth.
            modalities: inputs of the encoder.
            targets: official keys of the modalities that can be generated.
            image_size: side of the images that the position tables are made for, px.

        Raises:
            ModelError: no decoder_depth, or a target that has no tokens.
        """
        super().__init__(architecture, modalities, merge=None, image_size=image_size)
        if architecture.decoder_depth < 1:
            raise ModelError("to generate, the architecture needs a decoder_depth of at least 1")
        self.mask_token = nn.Parameter(torch.zeros(1, 1, architecture.dim))
        self.decoder_embeddings = nn.ModuleDict(
            {
                key: TargetEmbedding(_token_modality(key), architecture.dim, image_size)
                for key in targets
            }
        )
        self.decoder_proj_context = nn.Linear(architecture.dim, architecture.dim)
        # ^ with a bias in all sizes
        self.decoder = nn.ModuleList(
            DecoderBlock(architecture) for _ in range(architecture.decoder_depth)
        )
        self.decoder_norm = LayerNorm(architecture.dim)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Share the vector of a modality that is both input and target."""
        for key in self.decoder_embeddings:
            if key in self.encoder_embeddings:
                shared = self.encoder_embeddings[key].mod_emb
                self.decoder_embeddings[key].mod_emb = shared

    def target_embedding(self, key: str) -> TargetEmbedding:
        """Return the embedding of a target.

        Raises:
            ModelError: the model does not generate it.
        """
        embedding = dict(self.decoder_embeddings.items()).get(key)
        if not isinstance(embedding, TargetEmbedding):
            raise ModelError(
                f"{key!r} is not among the outputs: {join_names(self.decoder_embeddings)}"
            )
        return embedding

    def embed_inputs(self, inputs: Mapping[str, Tensor]) -> EmbeddedInputs:
        """Embed inputs, as `tokenize_inputs` returns them.

        Raises:
            ModelError: the images differ in size.
        """
        return self.wrap_embedded(inputs, self.embed(inputs))

    def wrap_embedded(self, inputs: Mapping[str, Tensor], tokens: Tensor) -> EmbeddedInputs:
        """Return inputs that are embedded already, as tokens (B, M, D).

        Raises:
            ModelError: the images differ in size.
        """
        added = [
            self.embedding(name).position_and_modality(value) for name, value in inputs.items()
        ]
        return EmbeddedInputs(
            tokens=tokens,
            position_and_modality=torch.cat(added, dim=1).expand_as(tokens),
            grid=self._common_grid(inputs),
        )

    def append_tokens(
        self, embedded: EmbeddedInputs, key: str, ids: Tensor, positions: Tensor | None = None
    ) -> EmbeddedInputs:
        """Append tokens of a target to the inputs.

        Args:
            embedded: the inputs.
            key: the target, which needs an embedding in the encoder.
            ids: its tokens, (B, h, w), or (B, L) of a sequence.
            positions: positions (B, k) that are appended; None = all of them.

        Raises:
            ModelError: the target has no embedding in the encoder.
        """
        if key not in self.encoder_embeddings:
            raise ModelError(f"{key!r} cannot be given to the encoder: it has no embedding there")
        embedding = self.encoder_embeddings[key]
        if not isinstance(embedding, (TokenEmbedding, SequenceEmbedding)):
            raise ModelError(f"{key!r} is not an input of token ids")
        tokens: Tensor = embedding(ids)
        added = embedding.position_and_modality(ids).expand_as(tokens)
        if positions is not None:
            index = positions[:, :, None].expand(-1, -1, tokens.shape[2])
            tokens, added = tokens.gather(1, index), added.gather(1, index)
        return EmbeddedInputs(
            tokens=torch.cat([embedded.tokens, tokens], dim=1),
            position_and_modality=torch.cat([embedded.position_and_modality, added], dim=1),
            grid=embedded.grid,
        )

    def encode_context(self, embedded: EmbeddedInputs) -> DecoderContext:
        """Run the encoder and prepare its output for the decoder."""
        x = embedded.tokens
        for block in self.encoder:
            x = block(x)
        encoded: Tensor = self.encoder_norm(x)  # (B, M, D)
        projected = fused_linear.linear(self.decoder_proj_context, encoded)
        context = projected + embedded.position_and_modality
        return DecoderContext(
            encoded=encoded,
            memory=[block.project_context(context) for block in self._decoder_blocks()],
        )

    def logits(
        self,
        context: DecoderContext,
        keys: Sequence[str],
        grid: PatchGrid,
        positions: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the logits (B, N, V) of targets on a grid, all of them from one pass.

        Args:
            context: of the inputs.
            keys: the targets; they do not attend to each other.
            grid: rows and columns of their tokens.
            positions: positions (B, N) to decode; None = all h * w, row by row.
        """
        batch = len(context.encoded)
        queries = [
            (self.mask_token + self.target_embedding(key).position_and_modality(grid)).expand(
                batch, -1, -1
            )
            for key in keys
        ]
        if positions is not None:
            index = positions[:, :, None].expand(-1, -1, self.architecture.dim)
            queries = [query.gather(1, index) for query in queries]
        decoded = self._run_decoder(torch.stack(queries, dim=1), context.memory)  # (B, T, N, D)
        return [self._project_logits(key, decoded[:, t]) for t, key in enumerate(keys)]

    def next_logits(self, context: DecoderContext, key: str, ids: Tensor) -> Tensor:
        """Return the logits (B, V) of the token that follows a sequence of ids (B, L)."""
        queries = self.target_embedding(key).embed_ids(ids)
        decoded = self._run_decoder(queries[:, None], context.memory, causal=True)
        return self._project_logits(key, decoded[:, 0, -1])

    def average_images(self, inputs: Mapping[str, Tensor], encoded: Tensor) -> Tensor:
        """Return the encoder's output (B, M, D) averaged over the images, (B, h * w, D).

        Raises:
            ModelError: the images differ in size, or there is none.
        """
        images = split_images(encoded, self.token_spans(inputs), "mean")
        return torch.stack(images).mean(dim=0)

    def _run_decoder(self, y: Tensor, memory: Memory, *, causal: bool = False) -> Tensor:
        for block, key_and_value in zip(self._decoder_blocks(), memory, strict=True):
            y = block(y, key_and_value, causal=causal)
        return y

    def _project_logits(self, key: str, y: Tensor) -> Tensor:
        return fused_linear.linear(self.target_embedding(key).to_logits, self.decoder_norm(y))

    def _decoder_blocks(self) -> list[DecoderBlock]:
        return [block for block in self.decoder if isinstance(block, DecoderBlock)]

    def _common_grid(self, inputs: Mapping[str, Tensor]) -> PatchGrid | None:
        grids: dict[str, PatchGrid] = {}
        for name, value in inputs.items():
            embedding = self.embedding(name)
            if not isinstance(embedding, SequenceEmbedding):
                grids[name] = embedding.patch_grid(value)
        if len(set(grids.values())) > 1:
            raise ModelError(f"to generate, the inputs must have one size, but patches: {grids}")
        return next(iter(grids.values()), None)


def _token_modality(key: str) -> TokenModality:
    modality = MODALITIES_BY_KEY.get(key)
    if not isinstance(modality, TokenModality):
        raise ModelError(f"{key!r} cannot be generated: it has no tokens")
    return modality
