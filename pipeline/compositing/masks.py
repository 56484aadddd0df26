"""Why a pixel is missing: scene classes, clouds and what lies around them, the edges of swaths."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NODATA = 0
"""Scene classification (SCL) of pixels without data; Sen2Cor Configuration and User Manual."""

LAST_CLASS = 11
"""The highest SCL there is. Lossy copies hold higher ones: nobody knows what was seen there."""

CLOUDY = (3, 8, 9, 10)
"""SCL of cloud shadow, medium and high cloud probability, and thin cirrus."""

FRINGE_DB = -35.0
"""Backscatter below which a pixel beside the edge of a swath is border noise.

The noise-equivalent backscatter of Sentinel-1 is -22 dB by requirement and about -30 dB at its
best: calm water is not darker. Border noise is; IPF 2.9 (March 2018) and later write zeros.
ESA, Masking "No-value" Pixels on GRD Products, MPC-0243, 2018; Stasolla and Neyt, Sensors 18
(2018) 3454.
"""

FRINGE_M = 500.0
"""Metres from the edge within which dark pixels are taken for border noise."""

SOLID = 5
"""Side in pixels of the smallest square without data that is an edge, not a speckle."""


def disk(radius: float) -> NDArray[np.bool_]:
    """Return a disk of the given radius in pixels as a structuring element."""
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def allowed(scl: NDArray[np.integer], classes: Collection[int]) -> NDArray[np.bool_]:
    """Return where the scene class is one of those; never where it is none (0, or above 11)."""
    table = np.zeros(256, dtype=np.bool_)
    table[[code for code in classes if NODATA < code <= LAST_CLASS]] = True
    return np.asarray(table[scl])


def widened(where: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Widen what is true by a radius in pixels, each (y, x) layer for itself."""
    result = where.copy()
    if radius < 1:
        return result
    element = disk(radius)
    for index in np.ndindex(where.shape[:-2]):
        if where[index].any():
            result[index] = ndimage.binary_dilation(where[index], structure=element)
    return result


def clear(
    scl: NDArray[np.integer],
    *,
    classes: Collection[int],
    dilate: float,
    around: Collection[int] = CLOUDY,
) -> NDArray[np.bool_]:
    """Return which pixels are clear observations.

    Args:
        scl: (…, y, x) scene classification codes, 0 = no data.
        classes: codes that count as clear.
        dilate: radius in pixels by which what is in ``around`` is widened. The edge of the swath
            and other refused classes are not: they end where they end.
        around: codes that are widened where they are not clear.
    """
    return allowed(scl, classes) & ~widened(allowed(scl, set(around) - set(classes)), dilate)


def fringe(power: NDArray[np.floating], spacing: float) -> NDArray[np.bool_]:
    """Return where a radar image is border noise: dark, and beside the edge of the swath.

    The rule looks no farther than :func:`fringe_reach`, so that parts of an image agree with the
    whole. Open water away from an edge stays, and so do speckles without data in it.

    Args:
        power: (y, x) linear; NaN = no data.
        spacing: metres between pixels.
    """
    dark = power < 10 ** (FRINGE_DB / 10)
    if not dark.any():
        return np.asarray(dark)
    edge = ndimage.binary_opening(
        np.isnan(power), structure=np.ones((SOLID, SOLID), dtype=np.bool_)
    )
    if not edge.any():
        return np.zeros_like(dark)
    return np.asarray(dark & (ndimage.distance_transform_edt(~edge) <= FRINGE_M / spacing))


def fringe_reach(spacing: float) -> int:
    """Return how many pixels around it decide whether a pixel is border noise."""
    return int(np.ceil(FRINGE_M / spacing)) + SOLID - 1
