"""TerraMind's decoder: what the encoder saw, asked for the tokens of another modality.

    encoder -> context (normed, projected, its places added again)
    mask token + position + modality -> blocks (self-attention, cross-attention, MLP) -> logits

Notable: all positions of a target are asked for at once, without a mask; the encoder's places enter
the context a second time; the vectors of a target's tokens are also the rows of its logits. Keys
are those of the official encoder-decoder files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terramind import fused_linear
from model.terramind.config import Architecture
from model.terramind.embeddings import ModalityDeclaration
from model.terramind.encoder import Encoder
from model.terramind.layers import (
    Attention,
    Embedding,
    GatedMlp,
    LayerNorm,
    Mlp,
    SequenceEmbedding,
    TokenEmbedding,
    check_ids,
    sincos_grid,
    sincos_sequence,
)
from model.terramind.modalities import IMAGE_SIZE, MODALITIES_BY_KEY, PATCH_SIZE, TokenModality

Memory = list[tuple[Tensor, Tensor]]
"""For each decoder block the context's keys and values, (B, heads, M, D / heads)."""

PatchGrid = tuple[int, int]


class CrossAttention(nn.Module):
    """Let every query look at every token of the context."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads = architecture.heads
        self.q = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)
        self.kv = nn.Linear(architecture.dim, 2 * architecture.dim, bias=architecture.bias)
        self.proj = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, heads, M, D / heads), of a context (B, M, D)."""
        batch, count, dim = context.shape
        both = fused_linear.linear(self.kv, context)
        split = both.view(batch, count, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        key, value = split.unbind(0)
        return key, value

    def forward(self, y: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """Return what the queries (B, N, D) saw, (B, N, D)."""
        batch, count, dim = y.shape
        query = (
            fused_linear.linear(self.q, y)
            .view(batch, count, self.heads, dim // self.heads)
            .transpose(1, 2)
        )
        mixed = F.scaled_dot_product_attention(query, *memory)
        return fused_linear.linear(self.proj, mixed.transpose(1, 2).reshape(batch, count, dim))


class DecoderBlock(nn.Module):
    """One decoder block, normalised before each part."""

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
        """Return the queries after this block, (B, T, N, D).

        The T targets see the same context but not each other.
        """
        own = y.flatten(0, 1)
        # ^ (B * T, N, D)
        own = own + self.self_attn(self.norm1(own), causal=causal)
        every = own.view_as(y).flatten(1, 2)
        # ^ (B, T * N, D): queries do not meet in cross-attention, so that one context serves all
        every = every + self.cross_attn(self.query_norm(every), memory)
        out: Tensor = every + self.mlp(self.norm2(every))
        return out.view_as(y)


class TargetEmbedding(Embedding):
    """What a target adds to its queries, and how its logits are read off."""

    def __init__(self, modality: TokenModality, dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        row = modality.is_sequence
        super().__init__(
            sincos_sequence(SequenceEmbedding.max_length, dim)
            if row
            else sincos_grid(side, side, dim)
        )
        self.is_sequence = row
        self.token_emb = nn.Embedding(modality.vocab_size, dim, padding_idx=0 if row else None)
        self.to_logits = nn.Linear(dim, modality.vocab_size, bias=False)
        self.to_logits.weight = self.token_emb.weight

    def position_and_modality(self, grid: PatchGrid) -> Tensor:
        """Return position and modality of a grid's queries, (1, h * w, D)."""
        return self.position_table(*grid) + self.mod_emb

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Return ids in a row (B, L) as queries that know what they are, (B, L, D)."""
        tokens: Tensor = self.token_emb(check_ids(ids, self.token_emb.num_embeddings))
        return tokens + self.pos_emb[:, : ids.shape[1]] + self.mod_emb


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedInputs:
    """Inputs laid side by side, embedded, before the encoder."""

    tokens: Tensor
    """Patches or ids with their places, (B, M, D)."""

    position_and_modality: Tensor
    """Position and modality of each, (B, M, D)."""

    grid: PatchGrid | None
    """Rows and columns of the inputs' patches; None if none of them lies on a grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderContext:
    """What the decoder looks at."""

    encoded: Tensor
    """The inputs after the encoder and its norm, (B, M, D)."""

    memory: Memory


class EncoderDecoder(Encoder):
    """The generative whole: the encoder, and the decoder that asks it for tokens."""

    def __init__(
        self,
        architecture: Architecture,
        modalities: Sequence[ModalityDeclaration],
        targets: Sequence[str],
        *,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        """Build it.

        Args:
            architecture: its architecture.
            modalities: inputs of the encoder.
            targets: official keys of what can be generated.
            image_size: for which the position tables are made.
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
        # ^ with a bias in every size
        self.decoder = nn.ModuleList(
            DecoderBlock(architecture) for _ in range(architecture.decoder_depth)
        )
        self.decoder_norm = LayerNorm(architecture.dim)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let a modality that is both input and target have one vector on both sides."""
        for key in self.decoder_embeddings:
            if key in self.encoder_embeddings:
                shared = self.encoder_embeddings[key].mod_emb
                self.decoder_embeddings[key].mod_emb = shared

    def target_embedding(self, key: str) -> TargetEmbedding:
        """Return a target's embedding.

        Raises:
            ModelError: the model does not generate it.
        """
        found = next((part for name, part in self.decoder_embeddings.items() if name == key), None)
        if not isinstance(found, TargetEmbedding):
            raise ModelError(
                f"{key!r} is not among the outputs: {join_names(self.decoder_embeddings)}"
            )
        return found

    def embed_inputs(self, inputs: Mapping[str, Tensor]) -> EmbeddedInputs:
        """Return inputs, as `read` returns them, embedded."""
        return self.wrap_embedded(inputs, self.embed(inputs)[0])

    def wrap_embedded(self, inputs: Mapping[str, Tensor], tokens: Tensor) -> EmbeddedInputs:
        """Return inputs that are embedded already, as tokens (B, M, D)."""
        places = [
            self.embedding(name).position_and_modality(value) for name, value in inputs.items()
        ]
        every = torch.cat(places, dim=1).expand_as(tokens)
        return EmbeddedInputs(
            tokens=tokens, position_and_modality=every, grid=self._common_grid(inputs)
        )

    def append_tokens(
        self, embedded: EmbeddedInputs, key: str, ids: Tensor, positions: Tensor | None = None
    ) -> EmbeddedInputs:
        """Return inputs with tokens of a target at their end.

        Args:
            embedded: the inputs.
            key: the target, which needs an embedding on the encoder's side.
            ids: its tokens, (B, h, w), or (B, L) in a row.
            positions: positions (B, k) that are decided; None = all of them.

        Raises:
            ModelError: the target has no embedding in the encoder.
        """
        if key not in self.encoder_embeddings:
            raise ModelError(f"{key!r} cannot be given to the encoder: it has no embedding there")
        embedding = self.encoder_embeddings[key]
        if not isinstance(embedding, (TokenEmbedding, SequenceEmbedding)):
            raise ModelError(f"{key!r} is no input of token ids")
        tokens: Tensor = embedding(ids)
        places = embedding.position_and_modality(ids).expand_as(tokens)
        if positions is not None:
            where = positions[:, :, None].expand(-1, -1, tokens.shape[2])
            tokens, places = tokens.gather(1, where), places.gather(1, where)
        return EmbeddedInputs(
            tokens=torch.cat([embedded.tokens, tokens], dim=1),
            position_and_modality=torch.cat([embedded.position_and_modality, places], dim=1),
            grid=embedded.grid,
        )

    def encode_context(self, embedded: EmbeddedInputs) -> DecoderContext:
        """Return what the encoder makes of the inputs, ready to be asked."""
        x = embedded.tokens
        for block in self.encoder:
            x = block(x)
        encoded: Tensor = self.encoder_norm(x)
        seen = (
            fused_linear.linear(self.decoder_proj_context, encoded) + embedded.position_and_modality
        )
        return DecoderContext(
            encoded=encoded,
            memory=[block.project_context(seen) for block in self._decoder_blocks()],
        )

    def logits(
        self,
        context: DecoderContext,
        keys: Sequence[str],
        grid: PatchGrid,
        positions: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the logits (B, N, V) of targets on a grid, all asked in one pass.

        Args:
            context: of the inputs.
            keys: the targets; they do not see each other.
            grid: rows and columns of their tokens.
            positions: positions (B, N) that are asked for; None = all h * w, row by row.
        """
        batch = len(context.encoded)
        rows = [
            (self.mask_token + self.target_embedding(key).position_and_modality(grid)).expand(
                batch, -1, -1
            )
            for key in keys
        ]
        if positions is not None:
            where = positions[:, :, None].expand(-1, -1, self.architecture.dim)
            rows = [row.gather(1, where) for row in rows]
        seen = self._run_decoder(torch.stack(rows, dim=1), context.memory)
        # ^ (B, T, N, D)
        return [self._project_logits(key, seen[:, place]) for place, key in enumerate(keys)]

    def next_logits(self, context: DecoderContext, key: str, ids: Tensor) -> Tensor:
        """Return the logits (B, V) of the token that follows ids in a row (B, L)."""
        words = self.target_embedding(key).embed_ids(ids)
        seen = self._run_decoder(words[:, None], context.memory, causal=True)
        return self._project_logits(key, seen[:, 0, -1])

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack: buffers."""
        return super().optional_keys() - {"missing_mod_token"}

    def is_ignored_key(self, key: str) -> bool:
        """Tell a key of a modality that this model does not have, or of a tokenizer."""
        for side, own in (
            ("encoder_embeddings.", self.encoder_embeddings),
            ("decoder_embeddings.", self.decoder_embeddings),
        ):
            if key.startswith(side):
                return key.removeprefix(side).partition(".")[0] not in own
        return key.startswith(("tokenizer.", "missing_mod_token"))

    def _run_decoder(self, y: Tensor, memory: Memory, *, causal: bool = False) -> Tensor:
        for block, kept in zip(self._decoder_blocks(), memory, strict=True):
            y = block(y, kept, causal=causal)
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
    known = MODALITIES_BY_KEY.get(key)
    if not isinstance(known, TokenModality):
        raise ModelError(f"{key!r} cannot be generated: it has no tokens")
    return known
