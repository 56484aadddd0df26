"""Why a pixel is missing: scene classes, clouds and what lies around them, the edges of swaths."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SCL_NODATA = 0
"""Scene classification (SCL) of pixels without data; Sen2Cor Configuration and User Manual."""

MAX_SCL_CODE = 11
"""The highest SCL there is. Lossy copies hold higher ones: nobody knows what was seen there."""

CLOUDY_SCL = (3, 8, 9, 10)
"""SCL of cloud shadow, medium and high cloud probability, and thin cirrus."""

BORDER_NOISE_DB = -35.0
"""Backscatter below which a pixel beside the edge of a swath is border noise.

The noise-equivalent backscatter of Sentinel-1 is -22 dB by requirement and about -30 dB at its
best: calm water is not darker. Border noise is; IPF 2.9 (March 2018) and later write zeros.
ESA, Masking "No-value" Pixels on GRD Products, MPC-0243, 2018; Stasolla and Neyt, Sensors 18
(2018) 3454.
"""

BORDER_NOISE_M = 500.0
"""Metres from the edge within which dark pixels are taken for border noise."""

MIN_EDGE_SIZE = 5
"""Side in pixels of the smallest square without data that is an edge, not a speckle."""


def disk(radius: float) -> NDArray[np.bool_]:
    """Return a disk of the given radius in pixels as a structuring element."""
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def is_in_classes(scl: NDArray[np.integer], classes: Collection[int]) -> NDArray[np.bool_]:
    """Return where the scene class is one of those; never where it is none (0, or above 11)."""
    table = np.zeros(256, dtype=np.bool_)
    table[[code for code in classes if SCL_NODATA < code <= MAX_SCL_CODE]] = True
    return np.asarray(table[scl])


def dilate_mask(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Widen what is true by a radius in pixels, each (y, x) layer for itself."""
    result = mask.copy()
    if radius < 1:
        return result
    element = disk(radius)
    for index in np.ndindex(mask.shape[:-2]):
        if mask[index].any():
            result[index] = ndimage.binary_dilation(mask[index], structure=element)
    return result


def clear_mask(
    scl: NDArray[np.integer],
    *,
    classes: Collection[int],
    dilation_radius: float,
    dilated_classes: Collection[int] = CLOUDY_SCL,
) -> NDArray[np.bool_]:
    """Return which pixels are clear observations.

    Args:
        scl: (…, y, x) scene classification codes, 0 = no data.
        classes: codes that count as clear.
        dilation_radius: radius in pixels by which what is in ``dilated_classes`` is widened. The edge of the swath
            and other refused classes are not: they end where they end.
        dilated_classes: codes that are widened where they are not clear.
    """
    return is_in_classes(scl, classes) & ~dilate_mask(
        is_in_classes(scl, set(dilated_classes) - set(classes)), dilation_radius
    )


def detect_border_noise(power: NDArray[np.floating], spacing: float) -> NDArray[np.bool_]:
    """Return where a radar image is border noise: dark, and beside the edge of the swath.

    The rule looks no farther than :func:`border_noise_reach`, so that parts of an image agree with the
    whole. Open water away from an edge stays, and so do speckles without data in it.

    Args:
        power: (y, x) linear; NaN = no data.
        spacing: metres between pixels.
    """
    dark = power < 10 ** (BORDER_NOISE_DB / 10)
    if not dark.any():
        return np.asarray(dark)
    edge = ndimage.binary_opening(
        np.isnan(power), structure=np.ones((MIN_EDGE_SIZE, MIN_EDGE_SIZE), dtype=np.bool_)
    )
    if not edge.any():
        return np.zeros_like(dark)
    return np.asarray(dark & (ndimage.distance_transform_edt(~edge) <= BORDER_NOISE_M / spacing))


def border_noise_reach(spacing: float) -> int:
    """Return how many pixels around it decide whether a pixel is border noise."""
    return int(np.ceil(BORDER_NOISE_M / spacing)) + MIN_EDGE_SIZE - 1
