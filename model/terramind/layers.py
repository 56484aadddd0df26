"""Layers of TerraMind's transformers, with the official parameter names.

Notation: B batch, N tokens, D width of a token, h x w the grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.terramind import fused_linear
from model.terramind.architectures import Architecture

EPSILON = 1e-6
"""Added to the variance in every layer norm."""

_HALF_DTYPES = (torch.bfloat16, torch.float16)


class Float32Module(nn.Module):
    """A module whose own tensors stay in float32 when the model is cast to bf16 or fp16.

    These tensors are few, and all tokens pass through them: with norms and positions in bf16 the
    features of the base encoder are off by twice as much, and nothing is gained. Child modules are
    cast as usual.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for child in self.children():
                child._apply(fn)  # type: ignore[no-untyped-call] # noqa: SLF001
                # ^ the method with which torch casts and moves modules

        def apply_in_float32(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            shorter = tensor.dtype == torch.float32 and result.dtype in _HALF_DTYPES
            return tensor.to(result.device) if shorter else result

        return super()._apply(apply_in_float32, recurse=False)  # type: ignore[no-untyped-call,no-any-return]


class LayerNorm(Float32Module):
    """Layer norm over the last axis; the bias is a buffer of zeros, as published."""

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
    """Multi-head self-attention."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads = architecture.heads
        self.qkv = nn.Linear(architecture.dim, 3 * architecture.dim, bias=architecture.bias)
        self.proj = nn.Linear(architecture.dim, architecture.dim, bias=architecture.bias)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Return the tokens (B, N, D); with `causal`, none attends to those after it."""
        batch, count, dim = x.shape
        qkv = fused_linear.linear(self.qkv, x)  # (B, N, 3 * D)
        split = qkv.view(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each (B, heads, N, D / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return fused_linear.linear(self.proj, mixed.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    """The MLP of tiny and small: GELU between two linear layers."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(architecture.dim, architecture.mlp_hidden_dim, bias=architecture.bias)
        self.fc2 = nn.Linear(architecture.mlp_hidden_dim, architecture.dim, bias=architecture.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        return fused_linear.linear(self.fc2, fused_linear.linear(self.fc1, x, "gelu"))


class GatedMlp(nn.Module):
    """The gated MLP of base and large: fc2(SiLU(fc1(x)) * fc3(x))."""

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
    """An encoder block: attention and MLP, each after a layer norm and beside a residual path."""

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
    """Return the sin-cos position table of a grid, (1, rows * columns, dim), row by row.

    The width holds four equal parts: sine and cosine of the row, then of the column.
    """
    omega = _frequencies(dim // 4)
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32),
        torch.arange(columns, dtype=torch.float32),
        indexing="ij",
    )
    phases = [axis.reshape(-1, 1) * omega for axis in (row, column)]
    parts = [wave(phase) for phase in phases for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1)[None]


def sincos_sequence(length: int, dim: int) -> Tensor:
    """Return the sin-cos position table of a sequence, (1, length, dim): sines, then cosines."""
    phases = torch.arange(length, dtype=torch.float32)[:, None] * _frequencies(dim // 2)
    return torch.cat([phases.sin(), phases.cos()], dim=1)[None]


def _frequencies(count: int) -> Tensor:
    powers: Tensor = 10000.0 ** (torch.arange(count, dtype=torch.float32) / count)
    return 1.0 / powers
    # ^ in float32 and in this order, which gives the bits of the published tables


def resize_position_table(table: Tensor, rows: int, columns: int) -> Tensor:
    """Resize a square position table (1, n * n, D) to (1, rows * columns, D), bicubically."""
    side = math.isqrt(table.shape[1])
    image = table.float().transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(image, (rows, columns), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
