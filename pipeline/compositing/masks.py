"""Masks of missing pixels: scene classes and dilated clouds."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SCL_NODATA = 0
"""Scene classification (SCL) code of nodata; Sen2Cor Configuration and User Manual."""

MAX_SCL_CODE = 11
"""Highest SCL code. Lossy copies hold higher ones, which mean nothing."""


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
