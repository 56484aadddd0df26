"""Convert the stored values of rasters to other types, and find those that are missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs.errors import InvalidInputError


def representable_nodata(nodata: float | None, dtype: np.dtype[Any]) -> float | None:
    """Return nodata if a pixel of a type can hold it: catalogs state -9999 for bytes, too."""
    if nodata is None or np.issubdtype(dtype, np.floating):
        return nodata
    limits = np.iinfo(dtype)
    fits = math.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata % 1 == 0
    return nodata if fits else None


def cast_and_fill(
    stored: NDArray[Any], missing: tuple[float, ...], dtype: np.dtype[Any], fill_value: float
) -> NDArray[Any]:
    """Convert stored values to another type and replace missing values by the fill value.

    Negative numbers in place of the codes of a mask, which is stored as bytes, are missing, too.

    Raises:
        InvalidInputError: a value would change.
    """
    if stored.dtype == dtype and dtype.kind == "u" and set(missing) <= {fill_value}:
        return stored
    is_missing = find_missing(stored, missing, dtype)
    valid = np.where(is_missing, stored.dtype.type(0), stored) if is_missing.any() else stored
    values = cast(valid, dtype).copy()
    values[is_missing] = fill_value
    return values


def find_missing(
    stored: NDArray[Any], missing: tuple[float, ...], dtype: np.dtype[Any]
) -> NDArray[np.bool_]:
    """Return where stored values are missing if they become those of another type."""
    is_missing = np.zeros(stored.shape, dtype=np.bool_)
    for value in missing:
        is_missing |= stored == value
    if np.issubdtype(stored.dtype, np.floating):
        is_missing |= ~np.isfinite(stored)
    elif dtype == np.uint8 and np.issubdtype(stored.dtype, np.signedinteger):
        is_missing |= stored < 0
    return is_missing


def cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert values to another type.

    Raises:
        InvalidInputError: a value would change.
    """
    if values.dtype == dtype:
        return values
    result = values.astype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.can_cast(values.dtype, dtype):
        changed = values[result != values]
        if changed.size:
            raise InvalidInputError(
                f"The file holds values such as {changed[0]} ({values.dtype}), which do not fit "
                f"into {dtype}, the type of its sensor's products."
            )
    return result
