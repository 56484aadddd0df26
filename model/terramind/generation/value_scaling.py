"""Standardise inputs and restore the units of outputs: (x - mean) / std, version 1 statistics.

The same holds for pixels and for the rasters that are tokenised. Nothing is kept between calls, so
that an offset of one call does not change the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    RasterModality,
    Statistics,
    TokenModality,
    find_modality_key,
    select_statistics,
)

BoaOffset = float | Mapping[str, float]
"""Offset of Sentinel-2 values in DN: one number for all, or by modality."""

_SENTINEL_2 = ("S2L2A", "S2L1C")


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scaling between values in their own unit and standardised values."""

    offsets: Mapping[str, float] = field(default_factory=dict)
    """Offsets of the values in DN, by the name of the modality."""

    @classmethod
    def from_offset(cls, boa_offset: BoaOffset) -> Scaling:
        """Return the scaling of values that carry an offset.

        Raises:
            ModelError: an offset of something else than Sentinel-2, or not a number.
        """
        if not isinstance(boa_offset, Mapping):
            boa_offset = dict.fromkeys(_SENTINEL_2, boa_offset)
        offsets: dict[str, float] = {}
        for name, value in boa_offset.items():
            modality = MODALITIES_BY_KEY.get(find_modality_key(name) or "")
            if modality is None or modality.name not in _SENTINEL_2:
                raise ModelError(
                    f"boa_offset of {name!r}: only {join_names(_SENTINEL_2)} carry one, in DN"
                )
            offsets[modality.name] = _parse_offset(value)
        return cls(offsets)

    def standardise(self, key: str, value: Tensor, bands: Sequence[str] = ()) -> Tensor:
        """Return (B, C, H, W) in standard deviations, float32; values without a unit as they are.

        Args:
            key: official key of the modality.
            value: (B, C, H, W) in the modality's unit.
            bands: of a raster modality, in the order of the channels; none = all.

        Raises:
            ModelError: another number of channels than there are statistics for.
        """
        modality = MODALITIES_BY_KEY.get(key)
        statistics = _statistics(modality, bands)
        is_ids = isinstance(modality, TokenModality) and not value.is_floating_point()
        if statistics is None or modality is None or is_ids:
            return value
        if value.ndim != 4 or value.shape[1] != len(statistics.mean):
            raise ModelError(
                f"{modality.name}: (B, {len(statistics.mean)}, H, W) expected, "
                f"not {tuple(value.shape)}"
            )
        mean, std = self._mean_and_std(modality.name, statistics, value)
        return (value.float() - mean) / std

    def restore_units(self, key: str, value: Tensor) -> Tensor:
        """Return generated values (B, C, H, W) in the modality's unit, float32."""
        modality = MODALITIES_BY_KEY.get(key)
        statistics = _statistics(modality, ())
        if statistics is None or modality is None:
            return value
        mean, std = self._mean_and_std(modality.name, statistics, value)
        return value.float() * std + mean

    def _mean_and_std(
        self, name: str, statistics: Statistics, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(numbers, device=value.device).view(-1, 1, 1)
            for numbers in (statistics.mean, statistics.std)
        )
        return mean + self.offsets.get(name, 0.0), std


def _parse_offset(offset: object) -> float:
    if isinstance(offset, (int, float)) and not isinstance(offset, bool) and isfinite(offset):
        return float(offset)
    raise ModelError(f"boa_offset={offset!r}: a number of DN expected, such as 1000")


def _statistics(
    modality: RasterModality | TokenModality | None, bands: Sequence[str]
) -> Statistics | None:
    if modality is None or modality.statistics is None:
        return None
    if not isinstance(modality, RasterModality) or not bands or tuple(bands) == modality.bands:
        return modality.statistics
    return select_statistics(modality, bands)
