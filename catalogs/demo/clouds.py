"""Clouds, the shadows they throw, and the sun that throws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catalogs.demo import noise
from catalogs.demo.frame import PIXEL

if TYPE_CHECKING:
    from datetime import datetime

    from catalogs.demo.noise import Field

_PAD = 320
# ^ pixels around the canvas, from where shadows fall into it


@dataclass(frozen=True, slots=True)
class Sun:
    """Where the sun stands: degrees clockwise from north, and from the zenith."""

    azimuth: float
    zenith: float


@dataclass(frozen=True, slots=True)
class Sky:
    """What lies between the land and the sensor; fields on the canvas, 0 to 1.

    ``opacity`` is that of clouds, ``veil`` that of cirrus, ``shadow`` the share of direct light
    that clouds take away; ``brightness`` multiplies the clouds' spectrum.
    """

    opacity: Field
    veil: Field
    shadow: Field
    brightness: Field


def sun_at(moment: datetime, longitude: float, latitude: float) -> Sun:
    """Return the place of the sun to about a degree.

    Source: Spencer's (1971) declination; the equation of time is left out.
    """
    day = moment.timetuple().tm_yday
    turn = 2 * np.pi * (day - 1) / 365
    declination = (
        0.006918 - 0.399912 * np.cos(turn) + 0.070257 * np.sin(turn) - 0.006758 * np.cos(2 * turn)
    )
    hour = np.radians(15 * (moment.hour + moment.minute / 60 - 12) + longitude)
    phi = np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    return Sun(
        azimuth=float(np.degrees(np.arctan2(east, north)) % 360),
        zenith=float(np.degrees(np.arccos(up))),
    )


def gather(
    shape: tuple[int, int], seed: int, *, number: int, share: float, veil: float, sun: Sun
) -> Sky:
    """Make the sky of one pass.

    Args:
        shape: of the canvas.
        seed: of the country.
        number: of the pass.
        share: of the canvas that clouds cover.
        veil: of the canvas that cirrus covers.
        sun: that throws the shadows.

    """
    rng = noise.stream(seed, "sky", number)
    wide = (shape[0] + 2 * _PAD, shape[1] + 2 * _PAD)
    heap = noise.fractal(rng, wide, wavelength=64 if share < 0.5 else 256, roughness=0.6)
    heap += 0.35 * noise.fractal(rng, wide, wavelength=512)
    limit = float(np.quantile(heap[::5, ::5], 1 - share))
    opacity = noise.smoothstep(heap, limit - 0.12, limit + 0.28)
    height = float(rng.uniform(900, 1900))
    row, column = _throw(sun, height)
    inner = (slice(_PAD, -_PAD), slice(_PAD, -_PAD))
    shadow = opacity[_moved(shape[0], row), _moved(shape[1], column)]
    thin = noise.fractal(rng, shape, wavelength=256, roughness=0.5)
    edge = float(np.quantile(thin[::5, ::5], 1 - veil))
    texture = noise.fractal(rng, shape, wavelength=32, roughness=0.6)
    return Sky(
        opacity=np.ascontiguousarray(opacity[inner]),
        veil=np.float32(0.45) * noise.smoothstep(thin, edge, edge + 1.2),
        shadow=np.float32(0.9) * shadow * (1 - opacity[inner]),
        brightness=np.clip(1 + 0.14 * texture + 0.35 * (opacity[inner] - 0.7), 0.5, 1.6),
    )


def _throw(sun: Sun, height: float) -> tuple[int, int]:
    """Return rows and columns from a cloud to its shadow, away from the sun."""
    length = height * np.tan(np.radians(sun.zenith)) / PIXEL
    azimuth = np.radians(sun.azimuth)
    return (
        int(np.clip(round(np.cos(azimuth) * length), -_PAD, _PAD)),
        int(np.clip(round(-np.sin(azimuth) * length), -_PAD, _PAD)),
    )


def _moved(length: int, shift: int) -> slice:
    return slice(_PAD - shift, _PAD - shift + length)
