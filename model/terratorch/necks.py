"""Necks: from the encoder's layers to a decoder's inputs, with the names and keys of TerraTorch.

A chain of necks selects layers, reshapes their tokens to images and resamples the images to the
sizes that a decoder needs. Notation: B batch, N tokens, C channels, h x w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError, join_names
from model.terratorch import options

PatchGrid = tuple[int, int]
"""Rows and columns of patches."""

_PYRAMID_LEVELS = 4


class Neck(nn.Module):
    """Base class: one step of a chain."""

    option_names: tuple[str, ...] = ()
    """Names of the options."""

    channels: tuple[int, ...]
    """Channels of the output maps."""

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.owner = type(self).__name__
        options.check_names(self.owner, settings, self.option_names)
        self.channels = tuple(channels)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the maps after this step."""
        raise NotImplementedError


class SelectIndices(Neck):
    """Select some of the encoder's layers, in the order of the option."""

    option_names = ("indices",)

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        indices = options.parse_ints(self.owner, "indices", settings.get("indices"), None)
        self.indices = tuple(
            options.parse_index(self.owner, "indices", index, len(channels)) for index in indices
        )
        self.channels = tuple(channels[index] for index in self.indices)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the selected maps."""
        del grid
        return [maps[index] for index in self.indices]


class ReshapeTokensToImage(Neck):
    """Tokens (B, N, C) to images (B, C, h, w).

    The grid is that of the input. The published class guesses it from the number of tokens: a
    square number becomes a square image, so that 128 x 512 px would be read as 16 x 16 patches. It
    also drops the first token by default, and restores it where the rest fits no grid: TerraMind
    has no class token, so for sides that are multiples of 32 it is always restored. Both values of
    `remove_cls_token` therefore have the same effect, here and there.
    """

    option_names = ("remove_cls_token", "effective_time_dim", "h", "temporal_inputs")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        options.parse_bool(self.owner, "remove_cls_token", settings.get("remove_cls_token", True))
        options.parse_choice(
            self.owner, "effective_time_dim", settings.get("effective_time_dim", 1), {1: 1}
        )
        options.parse_choice(
            self.owner,
            "temporal_inputs",
            settings.get("temporal_inputs", False),
            {False: False},
        )
        rows = settings.get("h")
        self.rows = None if rows is None else options.parse_int(self.owner, "h", rows)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the tokens as images."""
        rows, columns = grid
        if self.rows not in (None, rows):
            raise ModelError(
                f"{self.owner} was fixed to h = {self.rows} rows of patches, but the input has "
                f"{rows}: give images of {self.rows} rows of patches"
            )
        for tokens in maps:
            if tokens.shape[1] != rows * columns:
                raise ModelError(
                    f"{tokens.shape[1]} tokens do not lie on {rows} x {columns} patches: the "
                    "encoder has to merge its modalities (mean, max or concat)"
                )
        return [x.transpose(1, 2).reshape(x.shape[0], -1, rows, columns) for x in maps]


class InterpolateToPyramidal(Neck):
    """Upsample the map i of n by scale_factor ** (n - i), by interpolation."""

    option_names = ("scale_factor", "mode")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        self.scale_factor = options.parse_int(
            self.owner, "scale_factor", settings.get("scale_factor", 2)
        )
        modes = {name: name for name in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")}
        self.mode = options.parse_choice(self.owner, "mode", settings.get("mode", "nearest"), modes)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the maps (B, C, h * f, w * f), the first one the largest."""
        del grid
        factors = [self.scale_factor**exponent for exponent in range(len(maps), 0, -1)]
        return [
            F.interpolate(x, scale_factor=float(factor), mode=self.mode)
            for x, factor in zip(maps, factors, strict=True)
        ]


class MaxpoolToPyramidal(Neck):
    """Downsample the map i by kernel_size ** i."""

    option_names = ("kernel_size",)

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        self.kernel_size = options.parse_int(
            self.owner, "kernel_size", settings.get("kernel_size", 2)
        )

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the maps (B, C, h // f, w // f), the first one unchanged.

        Raises:
            ModelError: the last map would have no cell.
        """
        if min(grid) < self.kernel_size ** (len(maps) - 1):
            raise ModelError(f"{grid[0]} x {grid[1]} patches are too few for {self.owner}")
        return [maps[0], *(F.max_pool2d(x, self.kernel_size**i) for i, x in enumerate(maps[1:], 1))]


class LearnedInterpolateToPyramidal(Neck):
    """Four maps of one size to 4, 2, 1 and 1/2 times that size, by transposed convolutions."""

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        if len(channels) != _PYRAMID_LEVELS:
            raise ModelError(
                f"{self.owner} takes exactly {_PYRAMID_LEVELS} maps, not {len(channels)}: put "
                "SelectIndices with four indices before it"
            )
        first, second, third, fourth = channels
        self.channels = (first // 4, second // 2, third, fourth)
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(first, first // 2, 2, 2),
            nn.BatchNorm2d(first // 2),
            nn.GELU(),
            nn.ConvTranspose2d(first // 2, first // 4, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(second, second // 2, 2, 2))

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return (B, C0/4, 4h, 4w), (B, C1/2, 2h, 2w), (B, C2, h, w), (B, C3, h/2, w/2)."""
        del grid
        first, second, third, fourth = maps
        return [self.fpn1(first), self.fpn2(second), third, F.max_pool2d(fourth, 2)]


class AddBottleneckLayer(Neck):
    """Append a map that has half the channels of the last one."""

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        self.bottleneck = nn.Conv2d(channels[-1], channels[-1] // 2, 1)
        self.channels = (*channels, channels[-1] // 2)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the maps and one more (B, C/2, h, w)."""
        del grid
        return [*maps, self.bottleneck(maps[-1])]


class FeaturePyramidNetwork(nn.Module):
    """Feature pyramid network: from the last map on, each map is added to the one before it.

    Source: Lin et al. 2017, arXiv:1612.03144.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        lateral = [nn.Sequential(nn.Conv2d(count, width, 1)) for count in channels]
        smooth = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1)) for _ in channels]
        # ^ each in a Sequential of one module: the keys of trained models have a 0 there
        self.inner_blocks, self.layer_blocks = nn.ModuleList(lateral), nn.ModuleList(smooth)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps (B, width, h, w) of the sizes of the inputs."""
        laterals = [block(x) for block, x in zip(self.inner_blocks, maps, strict=True)]
        for upper, lower in reversed(list(pairwise(range(len(maps))))):
            size = laterals[upper].shape[-2:]
            laterals[upper] = laterals[upper] + F.interpolate(laterals[lower], size)
        return [block(x) for block, x in zip(self.layer_blocks, laterals, strict=True)]


class FeaturePyramidNetworkNeck(Neck):
    """Bring all maps to one width with a feature pyramid network."""

    option_names = ("out_channel", "output_ordered_dict")

    def __init__(self, channels: Sequence[int], settings: Mapping[str, Any]) -> None:
        super().__init__(channels, settings)
        settings = {"output_ordered_dict": True} | dict(settings)
        options.parse_choice(
            self.owner,
            "output_ordered_dict",
            settings["output_ordered_dict"],
            {False: False},
        )
        # ^ no decoder can read the output of the published default, true
        width = options.parse_int(self.owner, "out_channel", settings.get("out_channel", 256))
        self.fpn = FeaturePyramidNetwork(channels, width)
        self.channels = (width,) * len(channels)

    def forward(self, maps: list[Tensor], grid: PatchGrid) -> list[Tensor]:
        """Return the maps at one width."""
        del grid
        pyramid: list[Tensor] = self.fpn(maps)
        return pyramid


NECKS: Mapping[str, type[Neck]] = {
    kind.__name__: kind
    for kind in (
        SelectIndices,
        ReshapeTokensToImage,
        LearnedInterpolateToPyramidal,
        InterpolateToPyramidal,
        MaxpoolToPyramidal,
        AddBottleneckLayer,
        FeaturePyramidNetworkNeck,
    )
}
"""Necks by their published names."""


def build_necks(
    steps: Sequence[Mapping[str, Any]], channels: Sequence[int]
) -> tuple[nn.ModuleList, tuple[int, ...]]:
    """Build necks from `{name: …, option: …}` entries; return them and their output channels.

    Args:
        steps: in the order in which they run, each on the output of the one before.
        channels: widths of the encoder's layers.

    Raises:
        ModelError: an unknown neck or option, or a neck on images before tokens are reshaped.
    """
    built: list[Neck] = []
    for step in steps:
        name = str(step.get("name"))
        if name not in NECKS:
            raise ModelError(
                f"neck {name!r} is not supported; {join_names(NECKS)} are (AggregateTokens and "
                "PermuteDims give no image of TerraMind's tokens)"
            )
        rest = {key: value for key, value in step.items() if key != "name"}
        built.append(NECKS[name](built[-1].channels if built else channels, rest))
    _check_order(built)
    return nn.ModuleList(built), built[-1].channels


def _check_order(built: Sequence[Neck]) -> None:
    kinds = [type(neck) for neck in built]
    if kinds.count(ReshapeTokensToImage) != 1:
        raise ModelError(
            "the necks must contain ReshapeTokensToImage once: decoders read images, and the "
            "encoder gives tokens"
        )
    leading = built[: kinds.index(ReshapeTokensToImage)]
    early = [neck.owner for neck in leading if not isinstance(neck, SelectIndices)]
    if early:
        raise ModelError(
            f"{join_names(early)} must come after ReshapeTokensToImage: it reads images"
        )
