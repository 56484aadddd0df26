"""The transformers of the tokenizers: pixels to latents, and codes back to class scores.

    project patches -> add positions -> blocks -> one more MLP, with tanh

Notable: the layer norms have a learnt bias here, patches are flattened channel-first, and nothing
is normed at the end. Notation as in `model.terramind.layers`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.terramind import fused_linear
from model.terramind.config import Architecture
from model.terramind.layers import EPSILON, Attention, Exact, Mlp, resize_grid, sincos_grid
from model.terramind.modalities import PATCH


class Norm(Exact, nn.LayerNorm):
    """A layer norm that stays in single precision."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, EPSILON, dtype=torch.float32)


class Block(nn.Module):
    """One block, normalised before each part."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        self.norm1 = Norm(size.dim)
        self.attn = Attention(size)
        self.norm2 = Norm(size.dim)
        self.mlp = Mlp(size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after this block (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TanhMlp(nn.Module):
    """The MLP after the last block."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size.dim, size.hidden)
        self.fc2 = nn.Linear(size.hidden, size.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed tokens (B, N, D)."""
        return fused_linear.linear(self.fc2, fused_linear.linear(self.fc1, x, "tanh"))


class Trunk(Exact):
    """What encoder and decoder share: positions, blocks and the last MLP."""

    pos_emb: Tensor

    def __init__(self, size: Architecture, image_size: int) -> None:
        super().__init__()
        side = image_size // PATCH
        table = sincos_grid(side, side, size.dim).transpose(1, 2).reshape(1, -1, side, side)
        self.register_buffer("pos_emb", table)
        # ^ published as a parameter that is not trained; a buffer has the same key
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm_mlp = Norm(size.dim)
        self.post_mlp = TanhMlp(size)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position table for a grid, (1, rows * columns, D)."""
        table = self.pos_emb.flatten(2).transpose(1, 2)
        side = math.isqrt(table.shape[1])
        if (rows, columns) == (side, side):
            return table
        return resize_grid(table, rows, columns).to(table.dtype)

    def mix(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the tokens (B, rows * columns, D) after all layers, same shape."""
        x = x + self.positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        out: Tensor = x + self.post_mlp(self.norm_mlp(x))
        return out


class Encoder(Trunk):
    """Pixels (B, C, H, W) to features (B, H / 16 * W / 16, D)."""

    def __init__(self, size: Architecture, channels: int, image_size: int) -> None:
        super().__init__(size, image_size)
        self.proj = nn.Conv2d(channels, size.dim, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, h * w, D)."""
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        patches = F.pixel_unshuffle(x.to(self.proj.weight.dtype), PATCH)
        # ^ (B, C * 16 * 16, h, w), channel slowest
        flat = patches.flatten(2).transpose(1, 2)
        tokens = fused_linear.product(flat, self.proj.weight.flatten(1), self.proj.bias)
        # ^ the published convolution as the matrix product that it is: the same bits in any batch
        return self.mix(tokens, rows, columns)


class Decoder(Trunk):
    """Features (B, h * w, D) to pixels (B, C, 16 * h, 16 * w)."""

    def __init__(self, size: Architecture, channels: int, image_size: int) -> None:
        super().__init__(size, image_size)
        self.out_proj = nn.Linear(size.dim, channels * PATCH * PATCH)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the pixels (B, C, H, W)."""
        patches = fused_linear.linear(self.out_proj, self.mix(x, rows, columns))
        # ^ (B, h * w, C * 16 * 16), channel slowest
        grid = patches.transpose(1, 2).reshape(len(x), -1, rows, columns)
        return F.pixel_shuffle(grid, PATCH)


class Pointwise(Exact, nn.Conv2d):
    """A 1 x 1 convolution, in single precision: to and from the numbers that are rounded."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, channels) as (B, N, out)."""
        return fused_linear.product(x, self.weight.flatten(1), self.bias)
