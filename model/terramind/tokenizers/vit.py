"""Transformers of the tokenizers: pixels to features, and codes to class scores.

    project patches -> add positions -> blocks -> one more MLP, with tanh

Unlike in the encoder of `model.terramind.encoder`, the layer norms have a learned bias, patches are
flattened channel-slowest, and the output is not normalised. Notation as in
`model.terramind.layers`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.terramind import fused_linear
from model.terramind.architectures import Architecture
from model.terramind.layers import (
    EPSILON,
    Attention,
    Float32Module,
    Mlp,
    resize_position_table,
    sincos_grid,
)
from model.terramind.modalities import PATCH_SIZE


class Float32LayerNorm(Float32Module, nn.LayerNorm):
    """A layer norm that stays in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, EPSILON, dtype=torch.float32)


class ViTBlock(nn.Module):
    """A block: attention and MLP, each after a layer norm and beside a residual path."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.norm1 = Float32LayerNorm(architecture.dim)
        self.attn = Attention(architecture)
        self.norm2 = Float32LayerNorm(architecture.dim)
        self.mlp = Mlp(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after this block (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TanhMlp(nn.Module):
    """The MLP after the last block."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(architecture.dim, architecture.mlp_hidden_dim)
        self.fc2 = nn.Linear(architecture.mlp_hidden_dim, architecture.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        return fused_linear.linear(self.fc2, fused_linear.linear(self.fc1, x, "tanh"))


class ViTBase(Float32Module):
    """Common part of encoder and decoder: positions, blocks and the last MLP."""

    pos_emb: Tensor

    def __init__(self, architecture: Architecture, image_size: int) -> None:
        super().__init__()
        side = image_size // PATCH_SIZE
        table = sincos_grid(side, side, architecture.dim).transpose(1, 2).reshape(1, -1, side, side)
        self.register_buffer("pos_emb", table)
        # ^ published as an untrained parameter; a buffer has the same key
        self.blocks = nn.ModuleList(ViTBlock(architecture) for _ in range(architecture.depth))
        self.norm_mlp = Float32LayerNorm(architecture.dim)
        self.post_mlp = TanhMlp(architecture)

    def position_table(self, rows: int, columns: int) -> Tensor:
        """Return the position table for a grid, (1, rows * columns, D)."""
        table = self.pos_emb.flatten(2).transpose(1, 2)
        side = math.isqrt(table.shape[1])
        if (rows, columns) == (side, side):
            return table
        return resize_position_table(table, rows, columns).to(table.dtype)

    def run_blocks(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the tokens (B, rows * columns, D) after all layers, same shape."""
        x = x + self.position_table(rows, columns)
        for block in self.blocks:
            x = block(x)
        out: Tensor = x + self.post_mlp(self.norm_mlp(x))
        return out


class ViTEncoder(ViTBase):
    """Pixels (B, C, H, W) to features (B, H / 16 * W / 16, D)."""

    def __init__(self, architecture: Architecture, channels: int, image_size: int) -> None:
        super().__init__(architecture, image_size)
        self.proj = nn.Conv2d(channels, architecture.dim, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, h * w, D)."""
        rows, columns = x.shape[2] // PATCH_SIZE, x.shape[3] // PATCH_SIZE
        patches = F.pixel_unshuffle(x.to(self.proj.weight.dtype), PATCH_SIZE)
        # ^ (B, C * 16 * 16, h, w), channel slowest
        rows_of_pixels = patches.flatten(2).transpose(1, 2)  # (B, h * w, C * 16 * 16)
        tokens = fused_linear.functional_linear(
            rows_of_pixels, self.proj.weight.flatten(1), self.proj.bias
        )
        # ^ the published convolution as a matrix product, which has the same bits in any batch
        return self.run_blocks(tokens, rows, columns)


class ViTDecoder(ViTBase):
    """Features (B, h * w, D) to pixels (B, C, 16 * h, 16 * w)."""

    def __init__(self, architecture: Architecture, channels: int, image_size: int) -> None:
        super().__init__(architecture, image_size)
        self.out_proj = nn.Linear(architecture.dim, channels * PATCH_SIZE * PATCH_SIZE)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the pixels (B, C, H, W)."""
        patches = fused_linear.linear(self.out_proj, self.run_blocks(x, rows, columns))
        # ^ (B, h * w, C * 16 * 16), channel slowest
        grid = patches.transpose(1, 2).reshape(len(x), -1, rows, columns)
        return F.pixel_shuffle(grid, PATCH_SIZE)


class PointwiseConv(Float32Module, nn.Conv2d):
    """A 1 x 1 convolution in float32, to or from the numbers that are quantised."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, channels) as (B, N, out)."""
        return fused_linear.functional_linear(x, self.weight.flatten(1), self.bias)
