"""Segmentation head: logits of single pixels from the encoder's tokens and the raw pixels.

    tokens of several layers -> 1/16 -> 1/8 -> 1/4 -> 1/2 <- raw pixels at half resolution
                                                      1/2 -> logits of the 2 x 2 pixels below

Tokens of 16 px alone lose the edges of parcels, which the path of the raw pixels adds. Its
receptive field is 14 pixels wide, so that context comes from the encoder alone. Normalisation is
over the channels of each pixel, so the result depends neither on the batch nor on statistics of the
window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError
from model.terramind.encoder import Encoder
from model.terramind.keys import CheckpointModule
from model.terramind.layers import EPSILON
from model.terramind.modalities import PATCH_SIZE

TokenUse = Literal["encoder", "zero"]
_STAGES = 4
"""Number of resolutions: 1/16, 1/8, 1/4 and 1/2."""


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """Rearrange (B, h, w, f * f * C) to (B, h * f, w * f, C): each cell becomes f x f cells."""
    batch, rows, columns, _ = x.shape
    cells = x.reshape(batch, rows, columns, factor, factor, -1).transpose(2, 3)
    return cells.reshape(batch, rows * factor, columns * factor, -1)


def space_to_depth(pixels: Tensor) -> Tensor:
    """Rearrange (B, C, H, W) to (B, H / 2, W / 2, 4 * C): each cell holds four pixels."""
    batch, channels, height, width = pixels.shape
    cells = pixels.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, height // 2, width // 2, -1)


class ResidualConv(nn.Module):
    """Residual block: a normalised 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, h, w, C) plus a function of each cell's neighbourhood."""
        convolved: Tensor = self.conv(self.norm(x).permute(0, 3, 1, 2))
        return x + F.gelu(convolved.permute(0, 2, 3, 1))


class FeedForward(nn.Module):
    """Residual block: a feed-forward network on each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.rise = nn.Linear(channels, 2 * channels)
        self.fall = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, h, w, C) plus a function of each cell."""
        out: Tensor = x + self.fall(F.gelu(self.rise(self.norm(x))))
        return out


class Lateral(nn.Module):
    """Project each token to the f x f cells of a finer grid."""

    def __init__(self, dim: int, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.linear = nn.Linear(dim, channels * factor * factor)

    def forward(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Return tokens (B, rows * columns, D) as (B, rows * f, columns * f, C)."""
        projected: Tensor = self.linear(self.norm(tokens))
        return depth_to_space(projected.reshape(tokens.shape[0], rows, columns, -1), self.factor)


class PixelStem(nn.Module):
    """Embed the raw pixels of every modality at half resolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fold = nn.Linear(4 * channels, width)
        self.think = FeedForward(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, H / 2, W / 2, width): each cell reads its own four pixels alone."""
        out: Tensor = self.think(F.gelu(self.fold(space_to_depth(pixels))))
        return out


class PixelHead(nn.Module):
    """Logits at full resolution from tokens and pixels."""

    def __init__(
        self,
        dim: int,
        layers: int,
        channels: Mapping[str, int],
        classes: int,
        width: int = 48,
    ) -> None:
        super().__init__()
        if not 1 <= layers <= _STAGES:
            raise ModelError(f"the head reads one to {_STAGES} encoder layers, not {layers}")
        if classes < 2 or width < 1:
            raise ModelError(f"{classes} classes and width {width}: at least 2 and 1")
        self.channels = dict(channels)
        self.classes, self.width = classes, width
        factors = [2**stage for stage in range(layers)]
        self.laterals = nn.ModuleList(Lateral(dim, width, factor) for factor in factors)
        self.widen = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(_STAGES - 1))
        self.mix = nn.ModuleList(ResidualConv(width) for _ in range(_STAGES - 1))
        pixel_channels = sum(self.channels.values()) + len(self.channels)
        # ^ the bands of each modality, and the share of them that is valid
        self.stem = PixelStem(pixel_channels, width)
        self.refine = nn.Sequential(
            ResidualConv(width), FeedForward(width), ResidualConv(width), FeedForward(width)
        )
        # ^ two blocks on tokens and pixels together: 0.015 more of overall accuracy on the demo's
        #   countries; each makes the receptive field of the raw pixels four pixels wider
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.logits = nn.Linear(width, 4 * classes)

    def forward(
        self, tokens: Sequence[Tensor], pixels: Tensor, pixel_weight: Tensor | None = None
    ) -> Tensor:
        """Return logits (B, K, H, W).

        Args:
            tokens: one (B, N, D) per layer, shallow to deep.
            pixels: (B, bands and validities of all modalities, H, W), without NaN.
            pixel_weight: (B,) weight of the path of the raw pixels; None = one.
        """
        rows, columns = pixels.shape[2] // PATCH_SIZE, pixels.shape[3] // PATCH_SIZE
        deep_first = list(reversed(tokens))
        x: Tensor = self.mix[0](self.laterals[0](deep_first[0], rows, columns))
        for stage in range(1, _STAGES):
            x = depth_to_space(self.widen[stage - 1](x), 2)
            if stage < len(deep_first):
                x = x + self.laterals[stage](deep_first[stage], rows, columns)
            if stage < len(self.mix):
                x = self.mix[stage](x)
        stem: Tensor = self.stem(pixels)
        x = x + (stem if pixel_weight is None else stem * pixel_weight.to(stem).view(-1, 1, 1, 1))
        logits: Tensor = depth_to_space(self.logits(self.norm(self.refine(x))), 2)
        return logits.permute(0, 3, 1, 2).contiguous()


class Segmenter(CheckpointModule):
    """Encoder and head: from standardised rasters with missing pixels to logits."""

    def __init__(self, encoder: Encoder, head: PixelHead, layers: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.head, self.layers = encoder, head, tuple(layers)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the model."""
        return tuple(self.head.channels)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        tokens: TokenUse = "encoder",
        pixel_weight: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, K, H, W).

        Args:
            inputs: standardised (B, C, H, W) by modality. NaN = missing, taken as the mean; an
                absent modality is left out of the encoder's sequence.
            tokens: "zero" replaces the encoder's tokens by zeros, as an ablation.
            pixel_weight: (B,) weight of the path of the raw pixels; training sets it to zero for
                some samples.

        Raises:
            ModelError: unknown or no modality, or a wrong shape.
        """
        if tokens not in ("encoder", "zero"):
            raise ModelError(f"tokens {tokens!r}: encoder or zero")
        filled = self._fill_missing(inputs)
        features = self._encoder_features(filled, self.layers)
        if tokens == "zero":
            features = [torch.zeros_like(layer) for layer in features]
        return self._logits(features, self._stack_pixels(inputs, filled), pixel_weight)

    def forward_with_tokens(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, H, W) and the last layer's tokens (B, N, D), from one encoder pass.

        Raises:
            ModelError: as for a call.
        """
        filled = self._fill_missing(inputs)
        *features, last = self._encoder_features(filled, [*self.layers, self.encoder.depth - 1])
        return self._logits(features, self._stack_pixels(inputs, filled), None), last

    def optional_keys(self) -> set[str]:
        """Return the keys that a checkpoint may lack."""
        return {f"encoder.{key}" for key in self.encoder.optional_keys()}

    def _fill_missing(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        unknown = [name for name in inputs if name not in self.head.channels]
        if unknown or not inputs:
            raise ModelError(f"inputs {list(inputs)}: some of {list(self.modalities)} expected")
        ordered = [name for name in self.modalities if name in inputs]
        # ^ always the model's order: the order of the sequence changes bits
        return {name: torch.nan_to_num(inputs[name], 0.0, 0.0, 0.0) for name in ordered}

    def _encoder_features(
        self, filled: Mapping[str, Tensor], layers: Sequence[int]
    ) -> list[Tensor]:
        checked = self.encoder.check_inputs(filled, check_values=False)
        features = self.encoder.forward_layers(checked, layers)
        merged = [layer for layer in features if isinstance(layer, Tensor)]
        if len(merged) != len(features):
            raise ModelError("a segmenter needs an encoder that merges its modalities: merge mean")
        return merged

    def _stack_pixels(self, inputs: Mapping[str, Tensor], filled: Mapping[str, Tensor]) -> Tensor:
        """Return the bands of all modalities and the share of valid ones: (B, C, H, W)."""
        parts: list[Tensor] = []
        reference = next(iter(filled.values()))
        for name, count in self.head.channels.items():
            if name in filled:
                valid = torch.isfinite(inputs[name]).to(reference.dtype).mean(dim=1, keepdim=True)
                parts += [filled[name], valid]
            else:
                parts.append(
                    reference.new_zeros(reference.shape[0], count + 1, *reference.shape[2:])
                )
        return torch.cat(parts, dim=1)

    def _logits(
        self, tokens: Sequence[Tensor], pixels: Tensor, pixel_weight: Tensor | None
    ) -> Tensor:
        dtype = self.head.logits.weight.dtype
        logits: Tensor = self.head(
            [layer.to(dtype) for layer in tokens], pixels.to(dtype), pixel_weight
        )
        return logits
