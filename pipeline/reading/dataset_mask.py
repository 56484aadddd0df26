"""Validity of pixels that a raster keeps beside its values: an internal mask or an alpha band."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags


def find_alpha_band(dataset: Any) -> int | None:
    """Return the index of the alpha band of an open dataset; None if it has none."""
    return next(
        (
            index
            for index, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True)
            if meaning == ColorInterp.alpha and index > 1
        ),
        None,
    )


def has_mask(dataset: Any) -> bool:
    """Return whether a mask or an alpha band states which pixels of a dataset are valid."""
    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags or find_alpha_band(dataset) is not None


def read_mask(dataset: Any, **options: Any) -> NDArray[np.bool_] | None:
    """Read where the mask or the alpha band of a dataset says that pixels are valid.

    Args:
        dataset: an open rasterio dataset.
        options: ``window`` and ``out_shape``, as the values are read with.

    Returns:
        (height, width), or None if the dataset has neither. Nodata values are not considered.
    """
    alpha = find_alpha_band(dataset)
    if alpha is not None:
        return np.asarray(dataset.read(alpha, **options) != 0)
    if has_mask(dataset):
        return np.asarray(dataset.read_masks(1, **options) != 0)
    return None
