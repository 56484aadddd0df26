"""Sentinel-2 over the canvas: light on slopes, sky, sensor; and the scene classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catalogs.demo import landcover, noise, spectra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.clouds import Sky, Sun
    from catalogs.demo.materials import Table
    from catalogs.demo.noise import Field
    from catalogs.demo.relief import Relief
    from catalogs.demo.surface import Surface

_DIRECT = 1 - 0.55 * spectra.SKY
# ^ how much of the light's change with slope reaches a band
_HAZE = np.array([95, 62, 34, 20, 14, 8, 6, 5, 4, 3, 0, 0], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that the bands of one pass have in common."""

    surface: Surface
    spectra: tuple[Table, Table]
    light: Field
    sky: Sky
    haze: float
    seed: int
    number: int

    def clear(self, band: int) -> Field:
        """Return what a band would see without clouds and noise."""
        lit = 1 + (self.light - 1) * _DIRECT[band]
        return np.asarray(np.maximum(self.surface.reflect(self.spectra, band), 1) * lit)

    def band(self, band: int) -> Field:
        """Return what a band sees, in DN without offset; it may be negative."""
        sky = self.sky
        seen = self.clear(band)
        seen *= 1 - sky.shadow * (1 - spectra.SKY[band])
        seen += self.haze * _HAZE[band]
        seen += sky.veil * (spectra.CIRRUS[band] - seen)
        seen += sky.opacity * (spectra.CLOUD[band] * sky.brightness - seen)
        rng = noise.stream(self.seed, "sensor", self.number, band)
        seen += (12 + 0.012 * seen) * noise.white(rng, (seen.shape[0], seen.shape[1]))
        return seen


def illuminate(relief: Relief, sun: Sun) -> Field:
    """Return the light on each slope over that on level ground."""
    zenith, azimuth = np.radians(sun.zenith), np.radians(sun.azimuth)
    east, north = np.sin(azimuth) * np.tan(zenith), np.cos(azimuth) * np.tan(zenith)
    facing = 1 - east * relief.slope_x + north * relief.slope_y
    facing /= np.sqrt(1 + relief.slope_x**2 + relief.slope_y**2)
    light = 0.25 + 0.75 * facing
    return np.asarray(np.clip(light, 0.3, 1.6), np.float32)


def spread(field: Field) -> Field:
    """Blur as the optics do: an eighth of a pixel's signal comes from each neighbour's side."""
    out = field.copy()
    out[1:-1] = 0.76 * field[1:-1] + 0.12 * (field[:-2] + field[2:])
    field = out.copy()
    out[:, 1:-1] = 0.76 * field[:, 1:-1] + 0.12 * (field[:, :-2] + field[:, 2:])
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the scene classification knows of one granule, at 20 m."""

    code: NDArray[np.uint8]
    greenness: Field
    light: Field
    opacity: Field
    veil: Field
    shadow: Field


def classify(ground: Ground, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the scene classification: a good mask that errs at the edges, as the real one does.

    Codes: 2 dark, 3 cloud shadow, 4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 and 9
    cloud of medium and high probability, 10 thin cirrus, 11 snow.
    """
    shape = (ground.code.shape[0], ground.code.shape[1])
    doubt = noise.fractal(rng, shape, wavelength=8, finest=1, roughness=0.8)
    green = ground.greenness + 0.04 * doubt
    out = np.where(green > 0.42, 4, 5).astype(np.uint8)
    out[np.abs(green - 0.42) < 0.008] = 7
    out[ground.light + 0.05 * doubt < 0.45] = 2
    out[ground.code == landcover.WATER] = 6
    out[ground.code == landcover.SNOW] = 11
    out[(ground.shadow + 0.08 * doubt > 0.36) & (out != 11)] = 3
    out[ground.veil + 0.03 * doubt > 0.2] = 10
    cloud = ground.opacity + 0.07 * doubt
    out[cloud > 0.2] = 7
    out[cloud > 0.3] = 8
    out[cloud > 0.62] = 9
    bright = (ground.code == landcover.BUILT) | (ground.code == landcover.BARE)
    out[bright & (doubt > 2.6) & (out == 5)] = 8
    # ^ bright roofs and sand taken for cloud
    return out


def to_numbers(seen: Field, offset: int) -> NDArray[np.uint16]:
    """Round to whole DN; 0 is kept for nodata."""
    return np.clip(np.rint(seen + offset), 1, 65535).astype(np.uint16)
