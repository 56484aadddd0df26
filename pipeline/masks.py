"""Why a pixel is missing: the scene classification of Sentinel-2, and what lies around clouds."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NODATA = 0
"""Scene classification (SCL) of pixels without data; Sen2Cor Configuration and User Manual."""

CLOUDY = (3, 8, 9, 10)
"""SCL of cloud shadow, medium and high cloud probability, and thin cirrus."""


def disk(radius: float) -> NDArray[np.bool_]:
    """Return a disk of the given radius in pixels as a structuring element."""
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def clear(
    scl: NDArray[np.integer], *, classes: Collection[int], dilate: float
) -> NDArray[np.bool_]:
    """Return which pixels are clear observations.

    Args:
        scl: (…, y, x) scene classification codes, 0 = no data.
        classes: codes that count as clear.
        dilate: radius in pixels by which clouds, shadows and cirrus are widened. The edge of
            the swath and other refused classes are not: they end where they end.
    """
    allowed = np.zeros(256, dtype=np.bool_)
    allowed[[code for code in classes if code != NODATA]] = True
    result: NDArray[np.bool_] = allowed[scl]
    if dilate < 1:
        return result
    cloudy = np.zeros(256, dtype=np.bool_)
    cloudy[[code for code in CLOUDY if not allowed[code]]] = True
    element = disk(dilate)
    for index in np.ndindex(scl.shape[:-2]):
        result[index] &= ~ndimage.binary_dilation(cloudy[scl[index]], structure=element)
    return result
