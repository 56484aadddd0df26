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

from model.errors import ModelError, listed
from model.terramind import unit_check
from model.terramind.modalities import (
    KEYS,
    RAW,
    Modality,
    Statistics,
    TokenModality,
    band_indices,
    key_of,
)

Offsets = float | Mapping[str, float]
"""DN that Sentinel-2 values carry on top: one number for all, or by modality."""

_SENTINEL_2 = ("S2L2A", "S2L1C")


@dataclass(frozen=True, slots=True)
class Scaling:
    """How values become standardised ones, and generated ones values again."""

    offsets: Mapping[str, float] = field(default_factory=dict)
    """DN on top, by our names of modalities."""

    @classmethod
    def of(cls, boa_offset: Offsets) -> Scaling:
        """Return the scaling for values that carry an offset.

        Raises:
            ModelError: an offset of something else than Sentinel-2, or no number.
        """
        if not isinstance(boa_offset, Mapping):
            boa_offset = dict.fromkeys(_SENTINEL_2, boa_offset)
        found: dict[str, float] = {}
        for name, value in boa_offset.items():
            known = KEYS.get(key_of(name) or "")
            if known is None or known.name not in _SENTINEL_2:
                raise ModelError(
                    f"boa_offset of {name!r}: only {listed(_SENTINEL_2)} carry one, in DN"
                )
            found[known.name] = _number(value)
        return cls(found)

    def standardised(self, key: str, value: Tensor, bands: Sequence[str] = ()) -> Tensor:
        """Return (B, C, H, W) in standard deviations, float32; what has no unit as it is.

        Raises:
            ModelError: another number of channels than there are statistics for.
        """
        known = KEYS.get(key)
        scale = _scale(known, bands)
        ids = isinstance(known, TokenModality) and not value.is_floating_point()
        if scale is None or known is None or ids:
            return value
        if value.ndim != 4 or value.shape[1] != len(scale.mean):
            raise ModelError(
                f"{known.name}: (B, {len(scale.mean)}, H, W) expected, not {tuple(value.shape)}"
            )
        mean, std = self._numbers(known.name, scale, value)
        return (value.float() - mean) / std

    def restored(self, key: str, value: Tensor) -> Tensor:
        """Return generated values (B, C, H, W) in the modality's own unit, float32."""
        known = KEYS.get(key)
        scale = _scale(known, ())
        if scale is None or known is None:
            return value
        mean, std = self._numbers(known.name, scale, value)
        return value.float() * std + mean

    def _numbers(self, name: str, scale: Statistics, value: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(part, device=value.device).view(-1, 1, 1)
            for part in (scale.mean, scale.std)
        )
        return mean + self.offsets.get(name, 0.0), std


def _number(offset: object) -> float:
    if isinstance(offset, (int, float)) and not isinstance(offset, bool) and isfinite(offset):
        return float(offset)
    raise ModelError(f"boa_offset={offset!r}: a number of DN expected, such as 1000")


def check_units(name: str, key: str, value: Tensor) -> None:
    """Refuse pixels that are clearly in another unit than the modality's own; see `units`.

    Raises:
        ModelError: which unit was expected.
    """
    known = KEYS.get(key)
    if isinstance(known, Modality) and value.ndim == 4:
        plain = value.detach().cpu()
        unit_check.check(
            RAW[known.name], (plain.float() if plain.is_floating_point() else plain).numpy()
        )
    elif known is not None and known.name == "NDVI" and bool((value.abs() > 1).any()):
        raise ModelError(f"{name}: values of -1 to 1 expected, (B08 - B04) / (B08 + B04)")


def _scale(known: Modality | TokenModality | None, bands: Sequence[str]) -> Statistics | None:
    if known is None or known.statistics is None:
        return None
    if not isinstance(known, Modality) or not bands or tuple(bands) == known.bands:
        return known.statistics
    chosen = band_indices(known, bands)
    mean, std = known.statistics.mean, known.statistics.std
    return Statistics(mean=tuple(mean[i] for i in chosen), std=tuple(std[i] for i in chosen))
