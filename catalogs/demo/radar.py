"""Sentinel-1 over the canvas: gamma nought with speckle, slopes, and radar shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catalogs.demo import noise, spectra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.noise import Field
    from catalogs.demo.relief import Relief

NODATA = -32768.0
INCIDENCE = 38.0
LOOK = {"ascending": 79.0, "descending": 281.0}
# ^ azimuth that the antenna looks towards, degrees
_KEPT = np.uint32(0xFFFFF000)
# ^ eleven bits of the fraction, 0.002 dB: the rest would be incompressible noise
_TAPS = np.array([0.25, 0.5, 0.25], np.float32)
_SHAPE = spectra.LOOKS * float((_TAPS**2).sum()) ** 2
# ^ of the Gamma law before smoothing; after it the number of looks is LOOKS and neighbours are
#   correlated by 2/3, the next but one by 1/6


def lie(relief: Relief, orbit: str) -> tuple[Field, NDArray[np.bool_]]:
    """Return how slopes change backscatter in decibels, and which ground the antenna cannot see.

    Terrain correction takes out the area of a pixel, not how rough ground scatters by angle: ground
    that faces the antenna stays brighter. Layover keeps an excess, shadow is lost.
    """
    azimuth = np.radians(LOOK[orbit])
    rise = np.sin(azimuth) * relief.slope_x - np.cos(azimuth) * relief.slope_y
    tilt = np.degrees(np.arctan(rise))
    # ^ positive where the ground rises away from the antenna, that is, faces it
    change = 0.07 * tilt + 2.5 * noise.smoothstep(tilt, INCIDENCE - 8, INCIDENCE + 4)
    hidden = tilt < INCIDENCE - 90 + 14
    return change.astype(np.float32), hidden


def power(
    level: Field, change: Field, hidden: NDArray[np.bool_], rng: np.random.Generator
) -> Field:
    """Return linear power with speckle; hidden ground is NODATA."""
    speckle = rng.standard_gamma(_SHAPE, level.shape, dtype=np.float32) / np.float32(_SHAPE)
    out = np.exp((level + change) * np.float32(np.log(10) / 10))
    out *= _smooth(speckle)
    out = (np.asarray(out, np.float32).view(np.uint32) & _KEPT).view(np.float32)
    out[hidden] = NODATA
    return out


def _smooth(field: Field) -> Field:
    out = np.pad(field, 1, mode="reflect")
    out = _TAPS[0] * (out[:-2] + out[2:]) + _TAPS[1] * out[1:-1]
    return np.asarray(_TAPS[0] * (out[:, :-2] + out[:, 2:]) + _TAPS[1] * out[:, 1:-1])
