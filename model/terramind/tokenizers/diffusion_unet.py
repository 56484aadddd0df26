"""U-Net of the diffusion decoder: predicts the clean image from a noisy one and the codes.

    4 x 4 patches -> residual blocks down -> attention at the lowest levels -> up, with skip inputs

Dhariwal and Nichol 2021, arXiv:2105.05233 (without its adaptive norm). Terms that depend only on
the step (`prepare_steps`) or only on the codes (`embed_codes`) are computed once per decoding, and
not at each step. They, the first and the last convolution, and the statistics of group norms are in
float32 whatever the number format of the rest. Notation: B batch, C channels of the raster, n
steps, h x w the grid of 4 x 4 patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.terramind.layers import Float32Module
from model.terramind.modalities import PATCH_SIZE
from model.terramind.tokenizers import winograd
from model.terramind.tokenizers.config import NORM_GROUPS, UNetConfig

_MAX_PERIOD = 10000.0


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """Values that are computed once for all steps of a decoding."""

    shifts: list[Tensor]
    """Shift of each residual block at each step, (n, its width)."""

    kernels: Mapping[nn.Module, Tensor]
    """Transformed kernels of the convolutions that `winograd` computes."""


@dataclass(frozen=True, slots=True)
class StepState:
    """Values that the blocks need at one step."""

    shifts: Iterator[Tensor]
    """Shift of each residual block in turn: (its width,), or (B, its width)."""

    kernels: Mapping[nn.Module, Tensor]
    """As in `PreparedSteps`."""


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return the embedding (n, dim) of steps (n,): cosines, then sines."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * index / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Float32Linear(Float32Module, nn.Linear):
    """A linear layer in float32, for the embedding of steps: it runs once per decoding."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, dtype=torch.float32)


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution with zero padding at a level of the U-Net (number of halvings)."""

    bias: nn.Parameter

    def __init__(self, channels: int, out: int, level: int) -> None:
        super().__init__(channels, out, 3, padding=1)
        self.level = level

    def forward(  # type: ignore[override]
        self, x: Tensor, state: StepState, shift: Tensor | None = None
    ) -> Tensor:
        """Return the convolution of x (B, channels, h, w), plus a shift (out,) or (B, out)."""
        bias: Tensor = self.bias
        if shift is not None and shift.ndim == 1:
            bias, shift = (bias + shift).to(x.dtype), None
            # ^ one step for the whole batch: added to the bias, which saves a pass over memory
        if self in state.kernels:
            out = winograd.winograd_conv(x, state.kernels[self], bias)
        else:
            out = F.conv2d(x, self.weight, bias, padding=1)
        return out if shift is None else out + shift.to(x.dtype)[:, :, None, None]


class Float32Conv(Float32Module, nn.Conv2d):
    """The first or last convolution, in float32: in bf16, heights would have steps of 4 m."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1, dtype=torch.float32)


class ResBlock(nn.Module):
    """A residual block of two convolutions; the embedding of the step is added between them."""

    def __init__(self, channels: int, out: int, width: int, level: int) -> None:
        super().__init__()
        self.in_layers = nn.ModuleList(
            [
                nn.GroupNorm(NORM_GROUPS, channels),
                nn.SiLU(inplace=True),
                Conv3x3(channels, out, level),
            ]
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Float32Linear(width, out))
        self.out_layers = nn.ModuleList(
            [
                nn.GroupNorm(NORM_GROUPS, out),
                nn.SiLU(inplace=True),
                nn.Identity(),
                # ^ the position of a dropout of zero in the published model
                Conv3x3(out, out, level),
            ]
        )
        self.skip_connection = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return the features (B, out, h, w) of x."""
        norm, act, conv = self.in_layers
        h: Tensor = conv(act(norm(x)), state, next(state.shifts))
        norm, act, _, conv = self.out_layers
        out: Tensor = conv(act(norm(h)), state)
        return out.add_(self.skip_connection(x))


class SpatialAttention(nn.Module):
    """Self-attention over all positions, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return the features, same shape."""
        del state
        positions = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, channels)
        qkv = F.linear(positions, self.qkv.weight[:, :, 0], self.qkv.bias)
        query, key, value = qkv[:, None].chunk(3, dim=3)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        out = F.linear(mixed, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + out.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Halve the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return (B, channels, h / 2, w / 2)."""
        del state
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Double the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return the convolution of x enlarged twice, (B, channels, 2 * h, 2 * w)."""
        return winograd.upsample_conv(x, state.kernels[self], self.conv.bias)


class UNet(nn.Module):
    """Predict the clean image from a noisy image, the step and the codes."""

    def __init__(self, config: UNetConfig, channels: int, code_channels: int) -> None:
        super().__init__()
        self.config, self.patch_channels = config, channels * config.patch**2
        width, deepest = 4 * config.channels, len(config.widths) - 1
        self.time_embed = nn.Sequential(
            Float32Linear(config.channels, width), nn.SiLU(), Float32Linear(width, width)
        )
        first = Float32Conv(self.patch_channels + code_channels, config.widths[0])
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        skip_widths = self._build_down(width)
        deep = config.widths[-1]
        self.middle_block = nn.ModuleList(
            [
                ResBlock(deep, deep, width, deepest),
                SpatialAttention(deep),
                ResBlock(deep, deep, width, deepest),
            ]
        )
        self.output_blocks = nn.ModuleList()
        self._build_up(width, skip_widths)
        last = config.widths[0]
        self.out = nn.ModuleList(
            [
                nn.GroupNorm(NORM_GROUPS, last),
                nn.SiLU(inplace=True),
                Float32Conv(last, self.patch_channels),
            ]
        )

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Return the part of the first convolution that depends on codes (B, 5, H / 16, W / 16)."""
        first = self._first_conv
        enlarged = F.interpolate(
            codes.float(), scale_factor=PATCH_SIZE // self.config.patch, mode="nearest"
        )  # (B, 5, h, w)
        return F.conv2d(enlarged, first.weight[:, self.patch_channels :], first.bias, padding=1)

    def prepare_steps(self, t: Tensor, height: int, width: int) -> PreparedSteps:
        """Compute what is the same for all decodings of steps t (n,) and images of a size in px."""
        embedded = self.time_embed(timestep_embedding(t, self.config.channels))
        shifts = [m.emb_layers(embedded) for m in self.modules() if isinstance(m, ResBlock)]
        # ^ `modules` gives them in the order of their creation, which is that of the forward pass
        kernels: dict[nn.Module, Tensor] = {}
        for layer in self.modules():
            if isinstance(layer, Upsample):
                kernels[layer] = winograd.prepare_upsample_kernel(layer.conv.weight)
            elif isinstance(layer, Conv3x3):
                rows, columns = ((s // self.config.patch) >> layer.level for s in (height, width))
                if winograd.is_winograd_faster(layer.weight, rows, columns, len(t)):
                    kernels[layer] = winograd.prepare_winograd_kernel(layer.weight)
        return PreparedSteps(shifts=shifts, kernels=kernels)

    def forward(
        self, x: Tensor, condition: Tensor, prepared: PreparedSteps, index: int | None = None
    ) -> Tensor:
        """Return the clean image (B, C, H, W).

        Args:
            x: the noisy image, (B, C, H, W).
            condition: as `embed_codes` returns it.
            prepared: as `prepare_steps` returns it.
            index: of the step among those prepared; None for one step for each sample.
        """
        shifts = prepared.shifts if index is None else [rows[index] for rows in prepared.shifts]
        state = StepState(shifts=iter(shifts), kernels=prepared.kernels)
        patches = F.pixel_unshuffle(x.float(), self.config.patch)
        # ^ (B, 16 * C, h, w), channel slowest
        image_weight = self._first_conv.weight[:, : self.patch_channels]
        h = F.conv2d(patches, image_weight, padding=1) + condition
        h = h.to(self._inner_dtype)
        skips = [h]
        for block in self.input_blocks[1:]:
            h = _run_block(block, h, state)
            skips.append(h)
        h = _run_block(self.middle_block, h, state)
        for block in self.output_blocks:
            h = _run_block(block, torch.cat([h, skips.pop()], dim=1), state)
        norm, act, conv = self.out
        return F.pixel_shuffle(conv(act(norm(h)).float()), self.config.patch)

    @property
    def _first_conv(self) -> nn.Conv2d:
        return cast("nn.Conv2d", self.get_submodule("input_blocks.0.0"))

    @property
    def _inner_dtype(self) -> torch.dtype:
        return cast("nn.Conv2d", self.get_submodule("middle_block.0.in_layers.2")).weight.dtype

    def _build_down(self, width: int) -> list[int]:
        """Add the blocks on the way down; return the widths of the skip connections."""
        config = self.config
        channels, skip_widths = config.widths[0], [config.widths[0]]
        for level, out in enumerate(config.widths):
            for _ in range(config.blocks):
                self.input_blocks.append(self._make_block(channels, out, width, level))
                channels = out
                skip_widths.append(channels)
            if level < len(config.widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                skip_widths.append(channels)
        return skip_widths

    def _build_up(self, width: int, skip_widths: list[int]) -> None:
        """Add the blocks on the way up; each has one of the skip connections as further input."""
        channels = self.config.widths[-1]
        for level, out in reversed(list(enumerate(self.config.widths))):
            for index in range(self.config.blocks + 1):
                block = self._make_block(channels + skip_widths.pop(), out, width, level)
                channels = out
                if level and index == self.config.blocks:
                    block.append(Upsample(channels))
                self.output_blocks.append(block)

    def _make_block(self, channels: int, out: int, width: int, level: int) -> nn.ModuleList:
        layers: list[nn.Module] = [ResBlock(channels, out, width, level)]
        if 2**level in self.config.attention:
            layers.append(SpatialAttention(out))
        return nn.ModuleList(layers)


def _run_block(block: nn.Module, h: Tensor, state: StepState) -> Tensor:
    for layer in block.children():
        h = layer(h, state)
    return h
