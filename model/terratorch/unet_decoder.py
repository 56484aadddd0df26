"""The decoding half of a U-Net, with the keys of segmentation-models-pytorch.

Source: Ronneberger et al. 2015, arXiv:1505.04597. Notation: B batch, C channels, h x w cells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from model.errors import ModelError

_REDUCTION = 16


class SCSEModule(nn.Module):
    """Weigh channels and cells of a map, each by what the map holds, and add both.

    Source: Roy et al. 2018, arXiv:1803.02579 (concurrent spatial and channel squeeze).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        few = channels // _REDUCTION
        if not few:
            raise ModelError(f"attention wants at least {_REDUCTION} channels, not {channels}")
        self.cSE = nn.Sequential(  # the name is part of the key
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, few, 1),
            nn.ReLU(),
            nn.Conv2d(few, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, h, w), weighed."""
        weighed: Tensor = x * self.cSE(x) + x * self.sSE(x)
        return weighed


def _build_attention(wanted: bool, channels: int) -> nn.Module:
    if not wanted:
        return nn.Identity()
    return nn.Sequential(OrderedDict(attention=SCSEModule(channels)))


def _build_convolution(before: int, after: int, normed: bool) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, padding=1, bias=not normed)
    return nn.Sequential(conv, nn.BatchNorm2d(after) if normed else nn.Identity(), nn.ReLU())


class DecoderBlock(nn.Module):
    """Enlarge, join with a shallower map, convolve twice."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        use_batchnorm: bool,
        use_attention: bool,
    ) -> None:
        super().__init__()
        self.conv1 = _build_convolution(in_channels + skip_channels, out_channels, use_batchnorm)
        self.attention1 = _build_attention(use_attention, in_channels + skip_channels)
        self.conv2 = _build_convolution(out_channels, out_channels, use_batchnorm)
        self.attention2 = _build_attention(use_attention, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return (B, after, *size)."""
        x = F.interpolate(x, list(size))
        # ^ the nearest cell
        if skip is not None:
            x = self.attention1(torch.cat([x, skip], dim=1))
        out: Tensor = self.attention2(self.conv2(self.conv1(x)))
        return out


class DecoderBlocks(nn.Module):
    """The blocks from the deepest map to the shallowest, and one more at that size.

    Sizes are those of the maps, as in segmentation-models-pytorch from version 0.5; before, the
    last block doubled its input once more, with the same weights.
    """

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int],
        use_batchnorm: bool,
        use_attention: bool,
    ) -> None:
        super().__init__()
        deep_first = list(reversed(channels))
        before = [deep_first[0], *widths[:-1]]
        skips = [*deep_first[1:], 0]
        self.blocks = nn.ModuleList(
            DecoderBlock(*sizes, use_batchnorm, use_attention)
            for sizes in zip(before, skips, widths, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return (B, last width, h, w) at the size of the first map."""
        x, *skips = reversed(maps)
        for index, block in enumerate(self.blocks):
            skip = skips[index] if index < len(skips) else None
            x = block(x, skip, (x if skip is None else skip).shape[-2:])
        return x
