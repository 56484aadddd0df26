"""Masks of missing pixels: scene classes, dilated clouds, and radar border noise."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SCL_NODATA = 0
"""Scene classification (SCL) code of nodata; Sen2Cor Configuration and User Manual."""

MAX_SCL_CODE = 11
"""Highest SCL code. Lossy copies hold higher ones, which mean nothing."""

BORDER_NOISE_DB = -35.0
"""Backscatter in dB below which a pixel beside the edge of a swath is border noise.

The noise-equivalent backscatter of Sentinel-1 is -22 dB by requirement and about -30 dB at its
best: calm water is not darker, border noise is. IPF 2.9 (March 2018) and later write zeros instead.
ESA, Masking "No-value" Pixels on GRD Products, MPC-0243, 2018; Stasolla and Neyt, Sensors 18
(2018) 3454.
"""

BORDER_NOISE_M = 500.0
"""Distance from the edge in metres within which dark pixels are taken for border noise."""

MIN_EDGE_SIZE = 5
"""Side in pixels of the smallest square of nodata that is an edge of the swath, not a speckle."""


def disk(radius: float) -> NDArray[np.bool_]:
    """Return a disk of the given radius in pixels as a structuring element."""
    size = int(radius)
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def is_in_classes(scl: NDArray[np.integer], classes: Collection[int]) -> NDArray[np.bool_]:
    """Return where an SCL code is one of some classes; False for nodata and codes above 11."""
    table = np.zeros(256, dtype=np.bool_)
    table[[code for code in classes if SCL_NODATA < code <= MAX_SCL_CODE]] = True
    return np.asarray(table[scl])


def dilate_mask(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilate a (..., y, x) mask by a radius in pixels, each (y, x) layer for itself."""
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
    dilated_classes: Collection[int],
    dilation_radius: float,
) -> NDArray[np.bool_]:
    """Return which pixels are clear observations.

    Args:
        scl: (..., y, x) scene classification codes; 0 = nodata.
        classes: codes of clear pixels.
        dilated_classes: codes that are dilated unless they are clear. All other codes that are not
            clear, nodata included, are not dilated.
        dilation_radius: radius of the dilation in pixels.
    """
    return is_in_classes(scl, classes) & ~dilate_mask(
        is_in_classes(scl, set(dilated_classes) - set(classes)), dilation_radius
    )


def detect_border_noise(power: NDArray[np.floating], spacing: float) -> NDArray[np.bool_]:
    """Return where a radar image is border noise: dark, and beside the edge of the swath.

    The result depends on pixels within :func:`border_noise_reach` only, so that a part of an image
    gives the part of the result. Dark water away from an edge is no border noise, even if it
    contains speckles of nodata.

    Args:
        power: (y, x) linear power; NaN = nodata.
        spacing: distance of neighbouring pixels in metres.
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
    """Return the distance in pixels up to which others decide whether a pixel is border noise."""
    return int(np.ceil(BORDER_NOISE_M / spacing)) + MIN_EDGE_SIZE - 1
