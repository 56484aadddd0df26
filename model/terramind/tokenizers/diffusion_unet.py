"""The diffusion decoder: a U-Net that sees a noisy image and the code, and predicts the image.

    4 x 4 patches -> residual blocks down -> attention in the depth -> up, with what was kept

Dhariwal and Nichol 2021, arXiv:2105.05233 (without its adaptive norm). Notable: what depends on
the step alone or on the code alone is computed once for a whole decode (`prepare`), and not at
each step; that, the first and the last convolution, and the statistics of group norms are in single
precision whatever the rest is in.
Notation: B batch, C channels of the raster, n steps, h x w the grid of 4 x 4 patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.terramind import fused_linear
from model.terramind.layers import Float32Module
from model.terramind.modalities import PATCH_SIZE
from model.terramind.tokenizers import winograd
from model.terramind.tokenizers.config import NORM_GROUPS, UNetConfig

_MAX_PERIOD = 10000.0


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """What stays the same over all steps of a decode."""

    shifts: list[Tensor]
    """What each residual block adds, one row for each step, (n, its width)."""

    kernels: Mapping[nn.Module, Tensor]
    """Of convolutions for which there is a shorter way, in the form that it wants."""


@dataclass(frozen=True, slots=True)
class StepState:
    """What the blocks need at one step."""

    shifts: Iterator[Tensor]
    """For each residual block in turn: (its width,), or (B, its width)."""

    kernels: Mapping[nn.Module, Tensor]


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return the embedding of whole steps (n,) as (n, dim): cosines, then sines."""
    half = dim // 2
    places = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * places / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Float32Linear(Float32Module, nn.Linear):
    """A linear layer of the steps' path: it runs once for a decode, so it can stay exact."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, dtype=torch.float32)


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution with zeros around, at a level where the image was halved so often."""

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
            # ^ one step for the whole batch: part of the bias, and not another pass over memory
        if self in state.kernels:
            out = winograd.winograd_conv(x, state.kernels[self], bias)
        else:
            out = fused_linear.conv3x3(x, self.weight, bias)
        return out if shift is None else out + shift.to(x.dtype)[:, :, None, None]


class Float32Conv(Float32Module, nn.Conv2d):
    """A convolution where images go in or come out: in bf16, heights would come in steps of 4 m."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1, dtype=torch.float32)


class ResBlock(nn.Module):
    """Two convolutions beside a short cut; the step enters between them."""

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
                # ^ the published place of a dropout of zero
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
    """Every place looks at every other, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return the features, same shape."""
        del state
        places = self.norm(x).flatten(2).transpose(1, 2)
        # ^ (B, N, channels)
        qkv = F.linear(places, self.qkv.weight[:, :, 0], self.qkv.bias)
        query, key, value = qkv[:, None].chunk(3, dim=3)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        out = F.linear(mixed, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + out.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return (B, channels, h / 2, w / 2)."""
        del state
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Twice the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, state: StepState) -> Tensor:
        """Return the convolution of x with each pixel made four, (B, channels, 2 * h, 2 * w)."""
        return winograd.upsample_conv(x, state.kernels[self], self.conv.bias)


class UNet(nn.Module):
    """The noisy image, the step and the code in; the clean image out."""

    def __init__(self, config: UNetConfig, channels: int, code_channels: int) -> None:
        super().__init__()
        self.config, self.patch_channels = config, channels * config.patch**2
        width, deepest = 4 * config.channels, len(config.widths) - 1
        self.time_embed = nn.Sequential(
            Float32Linear(config.channels, width), nn.SiLU(), Float32Linear(width, width)
        )
        first = Float32Conv(self.patch_channels + code_channels, config.widths[0])
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        kept = self._build_down(width)
        deep = config.widths[-1]
        self.middle_block = nn.ModuleList(
            [
                ResBlock(deep, deep, width, deepest),
                SpatialAttention(deep),
                ResBlock(deep, deep, width, deepest),
            ]
        )
        self.output_blocks = nn.ModuleList()
        self._build_up(width, kept)
        last = config.widths[0]
        self.out = nn.ModuleList(
            [
                nn.GroupNorm(NORM_GROUPS, last),
                nn.SiLU(inplace=True),
                Float32Conv(last, self.patch_channels),
            ]
        )

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Return what codes (B, 5, H / 16, W / 16) add to the first convolution's output."""
        first = self._first_conv
        larger = F.interpolate(
            codes.float(), scale_factor=PATCH_SIZE // self.config.patch, mode="nearest"
        )
        return F.conv2d(larger, first.weight[:, self.patch_channels :], first.bias, padding=1)

    def prepare_steps(self, t: Tensor, height: int, width: int) -> PreparedSteps:
        """Return what does not change over the steps t (n,) for images of a size in pixels."""
        embedded = self.time_embed(timestep_embedding(t, self.config.channels))
        shifts = [m.emb_layers(embedded) for m in self.modules() if isinstance(m, ResBlock)]
        # ^ modules come in the order of their making, which is that of the forward pass
        kernels: dict[nn.Module, Tensor] = {}
        for part in self.modules():
            if isinstance(part, Upsample):
                kernels[part] = winograd.prepare_upsample_kernel(part.conv.weight)
            elif isinstance(part, Conv3x3):
                rows, columns = ((s // self.config.patch) >> part.level for s in (height, width))
                if winograd.is_winograd_faster(part.weight, rows, columns, len(t)):
                    kernels[part] = winograd.prepare_winograd_kernel(part.weight)
        return PreparedSteps(shifts=shifts, kernels=kernels)

    def forward(
        self, x: Tensor, condition: Tensor, prepared: PreparedSteps, index: int | None = None
    ) -> Tensor:
        """Return the clean image (B, C, H, W).

        Args:
            x: the noisy image, (B, C, H, W).
            condition: see `condition`.
            prepared: see `prepare`.
            index: which of the steps prepared this one is; None for one step for each sample.
        """
        rows = prepared.shifts if index is None else [row[index] for row in prepared.shifts]
        now = StepState(shifts=iter(rows), kernels=prepared.kernels)
        patches = F.pixel_unshuffle(x.float(), self.config.patch)
        # ^ (B, 16 * C, h, w), channel slowest
        h = (
            F.conv2d(patches, self._first_conv.weight[:, : self.patch_channels], padding=1)
            + condition
        )
        h = h.to(self._inner_dtype)
        kept = [h]
        for block in self.input_blocks[1:]:
            h = _run_block(block, h, now)
            kept.append(h)
        h = _run_block(self.middle_block, h, now)
        for block in self.output_blocks:
            h = _run_block(block, torch.cat([h, kept.pop()], dim=1), now)
        norm, act, conv = self.out
        return F.pixel_shuffle(conv(act(norm(h)).float()), self.config.patch)

    @property
    def _first_conv(self) -> nn.Conv2d:
        return cast("nn.Conv2d", self.get_submodule("input_blocks.0.0"))

    @property
    def _inner_dtype(self) -> torch.dtype:
        return cast("nn.Conv2d", self.get_submodule("middle_block.0.in_layers.2")).weight.dtype

    def _build_down(self, width: int) -> list[int]:
        """Add the blocks on the way down; return the widths of all that is kept."""
        size = self.config
        now, kept = size.widths[0], [size.widths[0]]
        for level, out in enumerate(size.widths):
            for _ in range(size.blocks):
                self.input_blocks.append(self._make_block(now, out, width, level))
                now = out
                kept.append(now)
            if level < len(size.widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(now)]))
                kept.append(now)
        return kept

    def _build_up(self, width: int, kept: list[int]) -> None:
        """Add the blocks on the way up; each takes one of the kept features as well."""
        now = self.config.widths[-1]
        for level, out in reversed(list(enumerate(self.config.widths))):
            for index in range(self.config.blocks + 1):
                block = self._make_block(now + kept.pop(), out, width, level)
                now = out
                if level and index == self.config.blocks:
                    block.append(Upsample(now))
                self.output_blocks.append(block)

    def _make_block(self, channels: int, out: int, width: int, level: int) -> nn.ModuleList:
        parts: list[nn.Module] = [ResBlock(channels, out, width, level)]
        attentive = 2**level in self.config.attention
        return nn.ModuleList([*parts, SpatialAttention(out)] if attentive else parts)


def _run_block(block: nn.Module, h: Tensor, state: StepState) -> Tensor:
    for part in block.children():
        h = part(h, state)
    return h
