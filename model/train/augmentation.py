"""Augmentation of training crops, on the device.

Rotations and mirroring, radiometry, missing data, missing modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.terramind.modalities import Statistics, get_raster_modality

SYMMETRIES = 8
"""Number of the symmetries of a square: rotations by 0 to 270 degrees, each also mirrored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strengths, as standard deviations in physical units, and probabilities of augmentations."""

    scene_gain: float = 0.03
    """Standard deviation of the logarithm of a factor on all optical bands: haze, season, sun."""

    band_gain: float = 0.015
    """Standard deviation of the logarithm of a factor on each optical band."""

    band_offset: float = 15.0
    """Standard deviation of an offset on each optical band, DN."""

    level_db: float = 0.4
    """Standard deviation of an offset on each radar band, dB: moisture, incidence angle."""

    level_m: float = 300.0
    """Standard deviation of an offset on heights, m: absolute heights are not to be learned."""

    modality_dropout: float = 0.05
    """Probability that a modality is missing in a step."""

    cutout_probability: float = 0.1
    """Probability that a rectangle of a crop has no optical data."""

    pixel_dropout: float = 0.1
    """Probability that the head gets no raw pixels of a crop, and depends on the encoder alone."""

    def draw_pixel_weights(self, batch: int, rng: np.random.Generator) -> Tensor:
        """Draw the weights (B,) of the path of the raw pixels, zero or one."""
        return torch.from_numpy(rng.random(batch) >= self.pixel_dropout).float()

    def draw_gains(
        self, name: str, stats: Statistics, batch: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw a factor and an offset (B, C, 1, 1) for the standardised values of a modality."""
        unit, bands = get_raster_modality(name).unit, len(stats.mean)
        gain, offset = np.ones((batch, bands)), np.zeros((batch, bands))
        if unit in ("DN", "count"):
            scale = 1.0 if unit == "DN" else 255 / 10_000
            gain = np.exp(
                self.scene_gain * rng.standard_normal((batch, 1))
                + self.band_gain * rng.standard_normal((batch, bands))
            )
            offset = scale * self.band_offset * rng.standard_normal((batch, bands))
        else:
            level = self.level_db if unit == "dB" else self.level_m
            offset = level * rng.standard_normal((batch, bands))
        mean, std = np.asarray(stats.mean), np.asarray(stats.std)
        shift = (mean * (gain - 1) + offset) / std
        return _to_column(gain), _to_column(shift)


def apply_symmetry(values: Tensor, symmetry: int) -> Tensor:
    """Apply one of the symmetries of a square to the last two axes."""
    if symmetry >= 4:
        values = values.transpose(-1, -2)
    return torch.rot90(values, symmetry % 4, (-2, -1))


def augment(
    planes: Tensor,
    channels: Mapping[str, int],
    statistics: Mapping[str, Statistics],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Return the augmented modalities of a batch, some of them left out.

    Args:
        planes: (B, all bands, h, w), standardised; not modified.
        channels: number of bands by modality, in the order of the planes.
        statistics: the planes were standardised with them.
        augmentation: strengths and probabilities.
        rng: source of all random numbers.
    """
    kept_names = _drop_modalities(list(channels), augmentation.modality_dropout, rng)
    augmented: dict[str, Tensor] = {}
    first = 0
    for name, count in channels.items():
        part = planes[:, first : first + count]
        gain, shift = augmentation.draw_gains(name, statistics[name], len(planes), rng)
        changed = part * gain.to(part) + shift.to(part)
        if get_raster_modality(name).unit == "DN":
            changed = _cut_out(changed, augmentation.cutout_probability, rng)
        if name in kept_names:
            augmented[name] = changed
        first += count
    return augmented


def _drop_modalities(names: list[str], probability: float, rng: np.random.Generator) -> list[str]:
    """Return the modalities that are kept: at least one."""
    draws = rng.random(len(names))
    kept_names = [name for name, draw in zip(names, draws, strict=True) if draw >= probability]
    return kept_names or [names[int(np.argmax(draws))]]


def _cut_out(values: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Set a rectangle of up to three quarters of the sides to NaN in some crops."""
    height, width = values.shape[2:]
    mask = torch.zeros(len(values), 1, height, width, dtype=torch.bool)
    for sample in range(len(values)):
        draw = rng.random(5)
        if draw[0] < probability:
            rows, columns = 1 + int(0.75 * height * draw[1]), 1 + int(0.75 * width * draw[2])
            top, left = int((height - rows) * draw[3]), int((width - columns) * draw[4])
            mask[sample, :, top : top + rows, left : left + columns] = True
    return values.masked_fill(mask.to(values.device), torch.nan) if bool(mask.any()) else values


def _to_column(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(values).float()[:, :, None, None]
