"""Decoders and the head of segmentation models, with the names and keys of TerraTorch.

A decoder reads the feature maps of the necks, shallow to deep, and returns one map; the head turns
its channels into classes. Notation: B batch, C channels, h x w cells of a map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError
from model.terramind.layers import EPSILON
from model.terratorch import options

_NORMS: Mapping[Any, bool] = {True: True, "batchnorm": True, False: False, "identity": False}
_SCSE_REDUCTION = 16
# ^ channels per channel of the bottleneck of channel attention


class Decoder(nn.Module):
    """Base class: several feature maps to one."""

    option_names: tuple[str, ...] = ()
    """Names of the options, without the prefix `decoder_`."""

    out_channels: int

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__()
        del channels
        self.owner = type(self).__name__
        options.check_names(self.owner, settings, self.option_names)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return one map (B, out_channels, h, w)."""
        raise NotImplementedError


class SCSEModule(nn.Module):
    """Channel attention plus spatial attention over a map.

    Source: Roy et al. 2018, arXiv:1803.02579 (concurrent spatial and channel squeeze).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = channels // _SCSE_REDUCTION
        if not reduced:
            raise ModelError(f"attention needs at least {_SCSE_REDUCTION} channels, not {channels}")
        self.cSE = nn.Sequential(  # the name is part of the key
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, reduced, 1),
            nn.ReLU(),
            nn.Conv2d(reduced, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, h, w), weighted."""
        weighted: Tensor = x * self.cSE(x) + x * self.sSE(x)
        return weighted


def _build_attention(use_attention: bool, channels: int) -> nn.Module:
    if not use_attention:
        return nn.Identity()
    return nn.Sequential(OrderedDict(attention=SCSEModule(channels)))


def _build_convolution(in_channels: int, out_channels: int, use_batchnorm: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not use_batchnorm)
    norm = nn.BatchNorm2d(out_channels) if use_batchnorm else nn.Identity()
    return nn.Sequential(conv, norm, nn.ReLU())


class DecoderBlock(nn.Module):
    """Upsample a map, concatenate a shallower one, convolve twice."""

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
        """Return (B, out_channels, *size)."""
        x = F.interpolate(x, list(size))
        # ^ nearest neighbour
        if skip is not None:
            x = self.attention1(torch.cat([x, skip], dim=1))
        out: Tensor = self.attention2(self.conv2(self.conv1(x)))
        return out


class DecoderBlocks(nn.Module):
    """The decoder of a U-Net, with the keys of segmentation-models-pytorch.

    Its blocks go from the deepest map to the shallowest, with one more at that size. Sizes are
    those of the maps, as in segmentation-models-pytorch from version 0.5; before, the last block
    doubled its input once more, with the same weights.

    Source: Ronneberger et al. 2015, arXiv:1505.04597.
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


class UNetDecoder(Decoder):
    """The decoder of a U-Net, without a centre block.

    Source: Ronneberger et al. 2015, arXiv:1505.04597.
    """

    option_names = ("channels", "use_batchnorm", "attention_type")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        widths = options.parse_ints(self.owner, "channels", settings.get("channels"))
        if len(widths) != len(channels):
            raise ModelError(
                f"{self.owner}: {len(widths)} channels for {len(channels)} maps: give one width "
                "for each map"
            )
        use_batchnorm = options.parse_choice(
            self.owner, "use_batchnorm", settings.get("use_batchnorm", True), _NORMS
        )
        use_attention = options.parse_choice(
            self.owner,
            "attention_type",
            settings.get("attention_type"),
            {None: False, "scse": True},
        )
        self.decoder = DecoderBlocks(channels, widths, use_batchnorm, use_attention)
        self.out_channels = widths[-1]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return one map at the size of the first."""
        out: Tensor = self.decoder(maps)
        return out


class ConvModule(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w)."""
        return F.relu(self.norm(self.conv(x)))


class UperNetDecoder(Decoder):
    """Pyramid pooling of the deepest map, then a feature pyramid whose levels are concatenated.

    Source: Xiao et al. 2018, arXiv:1807.10221.
    """

    option_names = ("channels", "pool_scales", "align_corners")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        width = options.parse_int(self.owner, "channels", settings.get("channels", 256))
        scales = options.parse_ints(
            self.owner, "pool_scales", settings.get("pool_scales", (1, 2, 3, 6))
        )
        corners = settings.get("align_corners", True)
        self.align_corners = options.parse_bool(self.owner, "align_corners", corners)
        *shallow, deep = channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(deep, width, 1))
            for scale in scales
        )
        self.bottleneck = ConvModule(deep + len(scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(count, width, 1) for count in shallow)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in shallow)
        self.fpn_bottleneck = ConvModule(len(channels) * width, width, 3)
        self.out_channels = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return one map at the size of the first."""
        *shallow, deep = maps
        pooled = [self._resize(module(deep), deep) for module in self.psp_modules]
        top: Tensor = self.bottleneck(torch.cat([deep, *pooled], dim=1))
        levels = [top]
        # ^ deepest first; each level adds the upsampled level above it
        for lateral, x in zip(reversed(self.lateral_convs), reversed(shallow), strict=True):
            level: Tensor = lateral(x)
            levels.append(level + self._resize(levels[-1], level))
        *rest, _ = reversed(levels)
        fine = [conv(x) for conv, x in zip(self.fpn_convs, rest, strict=True)]
        joined = [self._resize(x, maps[0]) for x in (*fine, top)]
        out: Tensor = self.fpn_bottleneck(torch.cat(joined, dim=1))
        return out

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[-2:]
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, h, w), each cell normalised."""
        normed: Tensor = self.ln(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class FCNDecoder(Decoder):
    """Upsample one map by two several times, with a convolution after each step."""

    option_names = ("channels", "num_convs", "in_index")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        width = options.parse_int(self.owner, "channels", settings.get("channels", 256))
        count = options.parse_int(self.owner, "num_convs", settings.get("num_convs", 4))
        index = settings.get("in_index", -1)
        self.index = options.parse_index(self.owner, "in_index", index, len(channels))
        self.convs = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(width if stage else channels[self.index], width, 2, 2),
                    nn.Conv2d(width, width, 3, padding=1),
                    ChannelNorm(width),
                    nn.GELU(),
                )
                for stage in range(count)
            )
        )
        self.out_channels = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return (B, C, h * 2 ** num_convs, w * 2 ** num_convs)."""
        out: Tensor = self.convs(maps[self.index])
        return out


class LinearDecoder(Decoder):
    """One transposed convolution from one map to the logits of all pixels."""

    option_names = ("num_classes", "upsampling_size", "in_index")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        classes = options.parse_int(self.owner, "num_classes", settings.get("num_classes"))
        side = options.parse_int(self.owner, "upsampling_size", settings.get("upsampling_size"))
        index = settings.get("in_index", -1)
        self.index = options.parse_index(self.owner, "in_index", index, len(channels))
        self.conv = nn.ConvTranspose2d(channels[self.index], classes, side, side)
        self.out_channels = classes

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return (B, K, h * side, w * side)."""
        out: Tensor = self.conv(maps[self.index])
        return out


class IdentityDecoder(Decoder):
    """Pass one map to the head unchanged."""

    option_names = ("out_index",)

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        index = settings.get("out_index", -1)
        self.index = options.parse_index(self.owner, "out_index", index, len(channels))
        self.out_channels = channels[self.index]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the map."""
        return maps[self.index]


class SegmentationHead(nn.Module):
    """Channels to classes, after optional convolutions."""

    option_names = ("channel_list", "dropout")

    def __init__(self, channels: int, num_classes: int, settings: Mapping[str, Any]) -> None:
        super().__init__()
        owner = type(self).__name__
        options.check_names(owner, settings, self.option_names)
        channel_list = settings.get("channel_list") or []
        widths = options.parse_ints(owner, "channel_list", channel_list) if channel_list else ()
        dropout = settings.get("dropout") or 0
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)):
            raise ModelError(f"{owner}: dropout must be a number in 0..1, not {dropout!r}")
        if not 0 <= dropout <= 1:
            raise ModelError(f"{owner}: dropout must be a number in 0..1, not {dropout!r}")
        all_widths = [channels, *widths]
        self.head = nn.Sequential(
            nn.Sequential(
                *(
                    nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU())
                    for before, after in pairwise(all_widths)
                )
            ),
            nn.Dropout(dropout),
            nn.Conv2d(all_widths[-1], num_classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K, h, w) of a map (B, C, h, w)."""
        out: Tensor = self.head(x)
        return out


DECODERS: Mapping[str, type[Decoder]] = {
    kind.__name__: kind
    for kind in (UNetDecoder, UperNetDecoder, FCNDecoder, LinearDecoder, IdentityDecoder)
}
"""Decoders by their published names."""
