"""What may change between countries without changing the land cover, applied on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.terramind.modalities import Statistics, get_raster_modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strengths, as standard deviations in physical units, and probabilities."""

    scene_gain: float = 0.03
    """Of the logarithm of one factor for all optical bands: haze, season, sun."""

    band_gain: float = 0.015
    """Of the logarithm of one factor per optical band."""

    band_offset: float = 15.0
    """Per optical band, DN."""

    level_db: float = 0.4
    """Of radar backscatter, per band, dB: moisture, incidence angle."""

    level_m: float = 300.0
    """Of the terrain's height, m: the model must not learn a country's absolute heights."""

    modality_dropout: float = 0.05
    """Probability that a modality is missing in a step."""

    cutout_probability: float = 0.1
    """Probability that a rectangle of a sample has no optical data."""

    pixel_dropout: float = 0.1
    """Probability that the head sees no raw pixels in a sample: the encoder has to know it all."""

    def draw_pixel_weights(self, batch: int, rng: np.random.Generator) -> Tensor:
        """Return the weights (B,) of the raw pixels' path, zero or one."""
        return torch.from_numpy(rng.random(batch) >= self.pixel_dropout).float()

    def draw_gains(
        self, name: str, stats: Statistics, batch: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return factor and summand (B, C, 1, 1) for the standardised values of a modality."""
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


def augment(
    planes: Tensor,
    channels: Mapping[str, int],
    statistics: Mapping[str, Statistics],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Return the modalities of a batch, changed, some of them left out.

    Args:
        planes: (B, all bands, h, w), standardised; not modified.
        channels: number of bands by modality, in the order of the planes.
        statistics: those that the planes were standardised with.
        augmentation: strengths and probabilities.
        rng: source of all random numbers.
    """
    kept = _drop_modalities(list(channels), augmentation.modality_dropout, rng)
    result: dict[str, Tensor] = {}
    first = 0
    for name, count in channels.items():
        part = planes[:, first : first + count]
        gain, shift = augmentation.draw_gains(name, statistics[name], len(planes), rng)
        changed = part * gain.to(part) + shift.to(part)
        if get_raster_modality(name).unit == "DN":
            changed = _cut_out(changed, augmentation.cutout_probability, rng)
        if name in kept:
            result[name] = changed
        first += count
    return result


def _drop_modalities(names: list[str], drop: float, rng: np.random.Generator) -> list[str]:
    draws = rng.random(len(names))
    left = [name for name, draw in zip(names, draws, strict=True) if draw >= drop]
    return left or [names[int(np.argmax(draws))]]


def _cut_out(values: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Blank a rectangle of up to three quarters of the side in some samples."""
    height, width = values.shape[2:]
    mask = torch.zeros(len(values), 1, height, width, dtype=torch.bool)
    for sample in range(len(values)):
        draw = rng.random(5)
        if draw[0] < probability:
            tall, wide = 1 + int(0.75 * height * draw[1]), 1 + int(0.75 * width * draw[2])
            top, left = int((height - tall) * draw[3]), int((width - wide) * draw[4])
            mask[sample, :, top : top + tall, left : left + wide] = True
    return values.masked_fill(mask.to(values.device), torch.nan) if bool(mask.any()) else values


def _to_column(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(values).float()[:, :, None, None]
