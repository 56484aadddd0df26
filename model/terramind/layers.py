"""The parts of a transformer as TerraMind has them, with the official parameter names.

Notable: the layer norm's bias is a zero buffer that is in the state dict; tokens carry a sin-cos
position and a learned vector of their modality; patches are flattened channel-fastest.
Notation: B batch, N tokens, D width, C channels, h x w the patch grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.errors import ModelError
from model.terramind import fused_linear
from model.terramind.config import Architecture
from model.terramind.modalities import PATCH_SIZE

EPSILON = 1e-6
_MAX_CACHED_TABLES = 8
_HALF_DTYPES = (torch.bfloat16, torch.float16)


class CheckpointModule(nn.Module):
    """A module of the family, which knows how published checkpoints map to it."""

    def checkpoint_parts(self) -> dict[str, CheckpointModule]:
        """Return members of the family inside this one, by the beginning of their keys."""
        return {}

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack."""
        return {
            start + key
            for start, part in self.checkpoint_parts().items()
            for key in part.optional_keys()
        }

    def is_ignored_key(self, key: str) -> bool:
        """Tell a key that belongs to another part of the family and is left out."""
        return any(
            key.startswith(start) and part.is_ignored_key(key.removeprefix(start))
            for start, part in self.checkpoint_parts().items()
        )

    def convert_state_dict(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors in this module's layout."""
        result = dict(tensors)
        for start, part in self.checkpoint_parts().items():
            own = {key: result.pop(key) for key in tensors if key.startswith(start)}
            plain = part.convert_state_dict({key.removeprefix(start): own[key] for key in own})
            result |= {start + key: value for key, value in plain.items()}
        return result


class Float32Module(nn.Module):
    """A module whose own tensors stay in single precision when the model is cast to a shorter one.

    They are few, and everything passes through them: with norms and positions in bf16 the features
    of the base encoder are off by twice as much, and nothing is gained. Matrices inside are cast.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for child in self.children():
                child._apply(fn)  # type: ignore[no-untyped-call] # noqa: SLF001

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            shorter = tensor.dtype == torch.float32 and found.dtype in _HALF_DTYPES
            return tensor.to(found.device) if shorter else found

        return super()._apply(moved, recurse=False)  # type: ignore[no-untyped-call,no-any-return]


class LayerNorm(Float32Module):
    """Normalise over the last axis; the bias is a buffer, zero unless a checkpoint differs."""

    weight: nn.Parameter
    bias: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(dim, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised, same shape."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, EPSILON)


class Attention(nn.Module):
    """Let every token look at every other, or at those before it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads = architecture.heads
        self.qkv = nn.Linear(architecture.dim, 3 * architecture.dim, bias=architecture.bias)
        self.proj = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Return the mixed tokens (B, N, D); causal: no token sees those after it."""
        batch, count, dim = x.shape
        qkv = fused_linear.linear(self.qkv, x)
        split = qkv.view(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        # ^ each (B, heads, N, D / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return fused_linear.linear(self.proj, mixed.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    """The plain MLP of tiny and small: GELU between two layers."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(architecture.dim, architecture.mlp_hidden_dim, bias=architecture.bias)
        self.fc2 = nn.Linear(architecture.mlp_hidden_dim, architecture.dim, bias=architecture.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        return fused_linear.linear(self.fc2, fused_linear.linear(self.fc1, x, "gelu"))


class GatedMlp(nn.Module):
    """The gated MLP of base and large: SiLU(fc1) times fc3."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(architecture.dim, architecture.mlp_hidden_dim, bias=architecture.bias)
        self.fc2 = nn.Linear(architecture.mlp_hidden_dim, architecture.dim, bias=architecture.bias)
        self.fc3 = nn.Linear(architecture.dim, architecture.mlp_hidden_dim, bias=architecture.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        x = x.to(self.fc1.weight.dtype)
        gate = fused_linear.linear(self.fc1, x, "silu")
        return fused_linear.linear(self.fc2, fused_linear.linear_mul(self.fc3, x, gate))


class EncoderBlock(nn.Module):
    """One encoder block, normalised before each part."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.norm1 = LayerNorm(architecture.dim)
        self.attn = Attention(architecture)
        self.norm2 = LayerNorm(architecture.dim)
        self.mlp: nn.Module = GatedMlp(architecture) if architecture.gated else Mlp(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after this block (B, N, D), not normalised."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def sincos_grid(rows: int, columns: int, dim: int) -> Tensor:
    """Return the position table of a grid, (1, rows * columns, dim), row-major.

    The width holds four equal parts: sine and cosine of the row, then of the column.
    """
    omega = _frequencies(dim // 4)
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32),
        torch.arange(columns, dtype=torch.float32),
        indexing="ij",
    )
    waves = [axis.reshape(-1, 1) * omega for axis in (row, column)]
    parts = [wave(part) for part in waves for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1)[None]


def sincos_sequence(length: int, dim: int) -> Tensor:
    """Return the position table of a sequence, (1, length, dim): sines, then cosines."""
    waves = torch.arange(length, dtype=torch.float32)[:, None] * _frequencies(dim // 2)
    return torch.cat([waves.sin(), waves.cos()], dim=1)[None]


def _frequencies(count: int) -> Tensor:
    powers: Tensor = 10000.0 ** (torch.arange(count, dtype=torch.float32) / count)
    return 1.0 / powers
    # ^ in single precision and in this order: the published tables hold these very bits


def resize_position_table(table: Tensor, rows: int, columns: int) -> Tensor:
    """Return a square position table (1, n * n, D) bicubically resized to another grid."""
    side = math.isqrt(table.shape[1])
    picture = table.float().transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(picture, (rows, columns), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


class Embedding(Float32Module):
    """What every kind of input adds to its tokens: a position and its modality's own vector."""

    pos_emb: Tensor
    mod_emb: nn.Parameter

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, table.shape[2], dtype=torch.float32))
        self.register_buffer("pos_emb", table)
        self._resized_tables: dict[tuple[object, ...], Tensor] = {}

    def position_table(self, rows: int, columns: int) -> Tensor:
        """Return the position table for a grid: as stored, or resized and kept for next time."""
        side = math.isqrt(self.pos_emb.shape[1])
        if (rows, columns) == (side, side):
            return self.pos_emb
        key = (rows, columns, self.pos_emb.device, self.pos_emb.dtype)
        if key not in self._resized_tables:
            while len(self._resized_tables) >= _MAX_CACHED_TABLES:
                self._resized_tables.pop(next(iter(self._resized_tables)), None)
            with torch.inference_mode(mode=False), torch.no_grad():
                # ^ a table made under inference mode could not be used in training afterwards
                resized = resize_position_table(self.pos_emb, rows, columns)
            self._resized_tables[key] = resized.to(self.pos_emb.dtype)
        return self._resized_tables[key]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._resized_tables.clear()
        super()._load_from_state_dict(*args, **kwargs)
        # ^ the stored table changes, so the resized ones are stale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._resized_tables.clear()
        return super()._apply(fn, recurse)
        # ^ another device or number format


class RasterEmbedding(Embedding):
    """Pixels to tokens: 16 x 16 patches times a matrix, no bias."""

    is_sequence = False

    def __init__(self, bands: tuple[str, ...], dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        super().__init__(sincos_grid(side, side, dim))
        self.bands = bands
        self.proj = nn.Linear(PATCH_SIZE * PATCH_SIZE * len(bands), dim, bias=False)

    def to_patches(self, x: Tensor) -> Tensor:
        """Return the patches of (B, C, H, W) as (B, h * w, 256 * C), channel fastest."""
        batch, channels, height, width = x.shape
        rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
        blocks = x.reshape(batch, channels, rows, PATCH_SIZE, columns, PATCH_SIZE)
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, h * w, D) of an image (B, C, H, W)."""
        tokens = fused_linear.linear(self.proj, self.to_patches(x.to(self.proj.weight.dtype)))
        return tokens + self.position_table(*self.patch_grid(x)) + self.mod_emb

    def patch_grid(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of tokens that an image (B, C, H, W) becomes."""
        return x.shape[2] // PATCH_SIZE, x.shape[3] // PATCH_SIZE

    def token_count(self, x: Tensor) -> int:
        """Return how many tokens an image (B, C, H, W) becomes."""
        return math.prod(self.patch_grid(x))

    def position_and_modality(self, x: Tensor) -> Tensor:
        """Return what `forward` adds to the patches of an image, (1, h * w, D)."""
        return self.position_table(*self.patch_grid(x)) + self.mod_emb

    def select_band_weights(self, weight: Tensor, band_indices: tuple[int, ...]) -> Tensor:
        """Return the columns of a full projection that belong to the chosen channels."""
        dim = weight.shape[0]
        per_pixel = weight.reshape(dim, PATCH_SIZE * PATCH_SIZE, -1)
        return per_pixel[:, :, list(band_indices)].reshape(dim, -1).contiguous()


class TokenEmbedding(Embedding):
    """Token ids on the patch grid to tokens."""

    is_sequence = False

    def __init__(self, vocab_size: int, dim: int, image_size: int) -> None:
        side = image_size // PATCH_SIZE
        super().__init__(sincos_grid(side, side, dim))
        self.token_emb = nn.Embedding(vocab_size, dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the tokens (B, h * w, D) of ids (B, h, w)."""
        tokens: Tensor = self.token_emb(check_ids(ids, self.token_emb.num_embeddings).flatten(1))
        return tokens + self.position_table(*self.patch_grid(ids)) + self.mod_emb

    def patch_grid(self, ids: Tensor) -> tuple[int, int]:
        """Return the rows and columns of ids (B, h, w)."""
        return ids.shape[1], ids.shape[2]

    def token_count(self, ids: Tensor) -> int:
        """Return how many tokens ids (B, h, w) are."""
        return math.prod(self.patch_grid(ids))

    def position_and_modality(self, ids: Tensor) -> Tensor:
        """Return what `forward` adds to the vectors of ids (B, h, w), (1, h * w, D)."""
        return self.position_table(*self.patch_grid(ids)) + self.mod_emb


class SequenceEmbedding(Embedding):
    """Token ids in a row (coordinates) to tokens."""

    is_sequence = True
    max_length = 512

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(sincos_sequence(self.max_length, dim))
        self.token_emb = nn.Embedding(vocab_size, dim, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the tokens (B, L, D) of ids (B, L)."""
        tokens: Tensor = self.token_emb(check_ids(ids, self.token_emb.num_embeddings))
        return tokens + self.pos_emb[:, : ids.shape[1]] + self.mod_emb

    def token_count(self, ids: Tensor) -> int:
        """Return how many tokens ids (B, L) are."""
        return ids.shape[1]

    def position_and_modality(self, ids: Tensor) -> Tensor:
        """Return what `forward` adds to the vectors of ids (B, L), (1, L, D)."""
        return self.pos_emb[:, : ids.shape[1]] + self.mod_emb


def check_ids(ids: Tensor, vocab_size: int) -> Tensor:
    """Return the ids as int64.

    Raises:
        ModelError: not whole numbers, or outside the vocabulary.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ModelError(
            f"token ids must be whole numbers, not {ids.dtype}; a raster of this modality has to "
            "go through its tokenizer first"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ModelError(f"token ids must lie in 0..{vocab_size - 1}")
    return ids.long()
