"""From a modality's own unit to what the model was trained on, and back.

(x - mean) / std with version 1 statistics, for pixels and for the rasters behind tokens alike.
Nothing here is kept between calls: an offset of one call cannot leak into the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from model.errors import ModelError, join_names
from model.terramind import unit_check
from model.terramind.modalities import (
    MODALITIES_BY_KEY,
    RASTER_MODALITIES,
    RasterModality,
    Statistics,
    TokenModality,
    band_indices,
    find_modality_key,
)

BoaOffset = float | Mapping[str, float]
"""DN that Sentinel-2 values carry on top: one number for all, or by modality."""

_SENTINEL_2 = ("S2L2A", "S2L1C")


@dataclass(frozen=True, slots=True)
class Scaling:
    """How values become standardised ones, and generated ones values again."""

    offsets: Mapping[str, float] = field(default_factory=dict)
    """DN on top, by our names of modalities."""

    @classmethod
    def from_offset(cls, boa_offset: BoaOffset) -> Scaling:
        """Return the scaling for values that carry an offset.

        Raises:
            ModelError: an offset of something else than Sentinel-2, or no number.
        """
        if not isinstance(boa_offset, Mapping):
            boa_offset = dict.fromkeys(_SENTINEL_2, boa_offset)
        found: dict[str, float] = {}
        for name, value in boa_offset.items():
            known = MODALITIES_BY_KEY.get(find_modality_key(name) or "")
            if known is None or known.name not in _SENTINEL_2:
                raise ModelError(
                    f"boa_offset of {name!r}: only {join_names(_SENTINEL_2)} carry one, in DN"
                )
            found[known.name] = _parse_offset(value)
        return cls(found)

    def standardise(self, key: str, value: Tensor, bands: Sequence[str] = ()) -> Tensor:
        """Return (B, C, H, W) in standard deviations, float32; what has no unit as it is.

        Raises:
            ModelError: another number of channels than there are statistics for.
        """
        known = MODALITIES_BY_KEY.get(key)
        scale = _select_statistics(known, bands)
        ids = isinstance(known, TokenModality) and not value.is_floating_point()
        if scale is None or known is None or ids:
            return value
        if value.ndim != 4 or value.shape[1] != len(scale.mean):
            raise ModelError(
                f"{known.name}: (B, {len(scale.mean)}, H, W) expected, not {tuple(value.shape)}"
            )
        mean, std = self._mean_and_std(known.name, scale, value)
        return (value.float() - mean) / std

    def restore_units(self, key: str, value: Tensor) -> Tensor:
        """Return generated values (B, C, H, W) in the modality's own unit, float32."""
        known = MODALITIES_BY_KEY.get(key)
        scale = _select_statistics(known, ())
        if scale is None or known is None:
            return value
        mean, std = self._mean_and_std(known.name, scale, value)
        return value.float() * std + mean

    def _mean_and_std(self, name: str, scale: Statistics, value: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(part, device=value.device).view(-1, 1, 1)
            for part in (scale.mean, scale.std)
        )
        return mean + self.offsets.get(name, 0.0), std


def _parse_offset(offset: object) -> float:
    if isinstance(offset, (int, float)) and not isinstance(offset, bool) and isfinite(offset):
        return float(offset)
    raise ModelError(f"boa_offset={offset!r}: a number of DN expected, such as 1000")


def check_units(name: str, key: str, value: Tensor) -> None:
    """Refuse pixels that are clearly in another unit than the modality's own; see `units`.

    Raises:
        ModelError: which unit was expected.
    """
    known = MODALITIES_BY_KEY.get(key)
    if isinstance(known, RasterModality) and value.ndim == 4:
        plain = value.detach().cpu()
        unit_check.check_window_units(
            RASTER_MODALITIES[known.name],
            (plain.float() if plain.is_floating_point() else plain).numpy(),
        )
    elif known is not None and known.name == "NDVI" and bool((value.abs() > 1).any()):
        raise ModelError(f"{name}: values of -1 to 1 expected, (B08 - B04) / (B08 + B04)")


def _select_statistics(
    modality: RasterModality | TokenModality | None, bands: Sequence[str]
) -> Statistics | None:
    if modality is None or modality.statistics is None:
        return None
    if not isinstance(modality, RasterModality) or not bands or tuple(bands) == modality.bands:
        return modality.statistics
    chosen = band_indices(modality, bands)
    mean, std = modality.statistics.mean, modality.statistics.std
    return Statistics(mean=tuple(mean[i] for i in chosen), std=tuple(std[i] for i in chosen))
