"""Configurations of the tokenizers: modality, and sizes of encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from model.errors import ModelError, join_names
from model.terramind.architectures import Architecture, is_config_file, read_mapping
from model.terramind.modalities import LULC_CLASSES, PATCH_SIZE, RASTER_MODALITIES
from model.terramind.tokenizers.fsq import Quantizer

NAME_PREFIX = "terramind_v1_tokenizer_"
"""Prefix of the names of the published tokenizers."""

COORDS_NAME = f"{NAME_PREFIX}coords"
"""Name of the published tokenizer of coordinates."""

RASTER_CHANNELS: Mapping[str, int] = {
    **{name: len(RASTER_MODALITIES[name].bands) for name in ("S2L2A", "S1GRD", "S1RTC", "DEM")},
    "NDVI": 1,
    "LULC": len(LULC_CLASSES),
}
"""Number of bands, or of classes, of each raster modality that has a tokenizer."""

_IMAGE_QUANTIZER = Quantizer((8, 8, 8, 6, 5))
_CLASS_QUANTIZER = Quantizer((7, 5, 5, 5, 5))
_MAX_LEVELS, _MAX_COUNT = 8, 4096
# ^ larger models fit no machine

NORM_GROUPS = 32
"""Groups of all group norms of the U-Net."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """Size of the diffusion decoder; the defaults are the published ones."""

    channels: int = 256
    """Width of the first level, channels."""

    blocks: int = 3
    """Residual blocks of each level on the way down; one more on the way up."""

    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each level, as a multiple of the first level's."""

    attention: tuple[int, ...] = (4, 8)
    """Factors of downsampling, from the first level on, at which attention is used."""

    patch: int = 4
    """Side of the patch that a position of the first level covers, px."""

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "patch"):
            _check_count(f"unet {name}", getattr(self, name))
        _check_lists(self.multipliers, self.attention)
        if not self.multipliers or self.channels % NORM_GROUPS:
            raise ModelError(
                f"unet: channels {self.channels} must be a multiple of {NORM_GROUPS} (the groups "
                "of its norms), with at least one multiplier"
            )
        if max(self.widths) > 2 * _MAX_COUNT:
            raise ModelError(f"unet: {max(self.widths)} channels: at most {2 * _MAX_COUNT}")
        if PATCH_SIZE % self.patch:
            raise ModelError(
                f"unet patch {self.patch} must divide {PATCH_SIZE}, the side of a token"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * factor for factor in self.multipliers)

    @property
    def side_multiple(self) -> int:
        """Number that the sides of an image must be multiples of, px."""
        return math.lcm(PATCH_SIZE, self.patch * 2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """Modality and size of a tokenizer; the defaults are the published ones."""

    modality: str
    dim: int = 768
    depth: int = 12
    """Blocks of the encoder, and of the decoder of land cover."""

    heads: int = 12
    image_size: int = 256
    """Side of the images that the position tables are made for, px; others are interpolated."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """Decoder of all modalities but land cover."""

    def __post_init__(self) -> None:
        if self.modality not in RASTER_CHANNELS:
            raise ModelError(
                f"no tokenizer for {self.modality!r}; there are some for "
                f"{join_names(RASTER_CHANNELS)}"
            )
        _check_count("image_size", self.image_size)
        if self.image_size % PATCH_SIZE:
            raise ModelError(f"image_size {self.image_size} is not a multiple of {PATCH_SIZE}")
        _ = self.architecture
        # ^ raises where the sizes are no architecture

    @property
    def name(self) -> str:
        """Name of the published tokenizer of this modality."""
        return NAME_PREFIX + self.modality.lower()

    @property
    def channels(self) -> int:
        """Channels of the raster."""
        return RASTER_CHANNELS[self.modality]

    @property
    def has_classes(self) -> bool:
        """Whether the raster has classes (land cover), which are decoded without diffusion."""
        return self.modality == "LULC"

    @property
    def quantizer(self) -> Quantizer:
        """Levels of its codes."""
        return _CLASS_QUANTIZER if self.has_classes else _IMAGE_QUANTIZER

    @property
    def architecture(self) -> Architecture:
        """Size of its transformers."""
        return Architecture(
            dim=self.dim, heads=self.heads, depth=self.depth, gated=False, bias=True
        )

    @property
    def side_multiple(self) -> int:
        """Number that the sides of a decoded image must be multiples of, px."""
        return PATCH_SIZE if self.has_classes else self.unet.side_multiple

    @classmethod
    def parse(cls, source: str | Path | Mapping[str, Any] | Self) -> Self:
        """Return the configuration of a modality, a published name, a mapping or a YAML/JSON file.

        Raises:
            ModelError: an unknown modality or option, or an unreadable file.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            return cls._from_mapping(source)
        if is_config_file(str(source)):
            content = read_mapping(str(source))
            return cls.parse(content.get("tokenizer", content))
        if str(source).lower() in ("coords", COORDS_NAME):
            raise ModelError(
                f"{source}: coordinates have no raster tokenizer: call model.coords_tokenizer"
            )
        return cls(modality=str(source).lower().removeprefix(NAME_PREFIX).upper())
        # ^ exact names only: S2L1C has no tokenizer, and is not taken for S2L2A

    @classmethod
    def _from_mapping(cls, options: Mapping[str, Any]) -> Self:
        values = dict(options)
        if "modality" not in values:
            raise ModelError(
                f"the tokenizer lacks a modality: one of {join_names(RASTER_CHANNELS)}"
            )
        _check_options("a tokenizer", values, cls)
        values["modality"] = str(values["modality"]).upper()
        unet = values.get("unet")
        if isinstance(unet, Mapping):
            _check_options("its unet", unet, UNetConfig)
            unet_values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in unet.items()
            }
            values["unet"] = UNetConfig(**unet_values)
        elif unet is not None and not isinstance(unet, UNetConfig):
            raise ModelError(f"unet must be a mapping of options, not {unet!r}")
        return cls(**values)


def _check_options(owner: str, options: Mapping[str, Any], config_class: type) -> None:
    known = [entry.name for entry in fields(config_class)]
    wrong = [name for name in options if name not in known]
    if wrong:
        raise ModelError(f"unknown option {join_names(wrong)}; {owner} has {join_names(known)}")


def _check_lists(*lists: object) -> None:
    for name, values in zip(("multipliers", "attention"), lists, strict=True):
        if not isinstance(values, tuple) or len(values) > _MAX_LEVELS:
            raise ModelError(f"unet {name} must be a list of at most {_MAX_LEVELS}, not {values!r}")
        for value in values:
            _check_count(f"unet {name}", value)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
        raise ModelError(
            f"{name} must be a positive whole number up to {_MAX_COUNT}, not {value!r}"
        )
