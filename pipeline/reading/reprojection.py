"""Read an open raster onto a grid: copy pixels where both coincide, resample elsewhere.

What is read of the raster depends only on the position of the grid in its coordinate system, so
that two tiles that contain the same pixel read the same value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.grid.crs import horizontal_crs, is_same_crs, pixel_size_metres
from pipeline.grid.grid import ALIGNMENT_TOLERANCE, Grid
from pipeline.reading import (
    dataset_mask,
    gdal_warp,
    interpolated_read,
    stored_values,
    warp_blocks,
)
from pipeline.reading.resampling import MIN_BILINEAR_RATIO


def read_on_grid(
    dataset: Any,
    grid: Grid,
    *,
    nodata: float | None,
    second_nodata: float | None = None,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
    keeps_integers: bool = False,
) -> NDArray[Any]:
    """Read the pixels of a single-band dataset onto a grid.

    Where the pixels of both coincide, nothing is resampled. ``nearest`` takes the source pixel that
    contains the centre of the output pixel: a shift of at most half a pixel. The other methods
    weigh the valid source pixels under the kernel, with weights that sum to 1; an output pixel is
    valid if its centre falls into a valid source pixel (``average``: if any valid source pixel lies
    under it). This is how GDAL's warper works.

    Args:
        dataset: an open rasterio dataset of one band, with a coordinate system.
        grid: the output grid.
        nodata: nodata value of the dataset. NaN is also treated as nodata if this is another
            value; but where GDAL averages, output pixels with a NaN under the kernel are invalid.
        second_nodata: another nodata value, beside ``nodata``.
        resampling: resampling method where the pixels of the dataset and the grid do not coincide.
        dtype: type of the result; it must be able to hold the stored values.
        fill_value: value of pixels that the dataset does not have.
        keeps_integers: whether interpolated values of integers are rounded to integers, whatever
            ``dtype`` is: it depends on the other scenes of a cube, and values must not.

    Returns:
        (height, width) stored values.

    Raises:
        InvalidInputError: a stored value does not fit into ``dtype``.
    """
    source_dtype = np.dtype(dataset.dtypes[0])
    values = (
        stored_values.representable_nodata(value, source_dtype) for value in (nodata, second_nodata)
    )
    missing = tuple(dict.fromkeys(value for value in values if value is not None))
    is_rounded = keeps_integers and np.issubdtype(source_dtype, np.integer)
    result = np.full(grid.shape, fill_value, dtype=dtype)
    transform = dataset.transform
    is_same_orientation = (
        transform.b == 0 and transform.d == 0 and is_same_crs(dataset.crs.to_wkt(), grid.epsg)
    )
    if is_same_orientation and (resampling == Resampling.nearest or _is_aligned(transform, grid)):
        _read_nearest(dataset, grid, missing, result, fill_value)
        return result
    source_crs = horizontal_crs(dataset.crs.to_wkt())
    ratio = pixel_size_metres(source_crs, transform) / grid.resolution
    if resampling == Resampling.nearest or (
        resampling == Resampling.bilinear and ratio >= MIN_BILINEAR_RATIO
    ):
        interpolated_read.interpolate(
            dataset,
            grid,
            missing,
            result,
            warp_blocks.block_size(ratio),
            resampling,
            is_rounded=is_rounded,
        )
    else:
        gdal_warp.warp(
            dataset, grid, missing, result, fill_value, resampling, ratio, is_rounded=is_rounded
        )
    return result


def _is_aligned(transform: Affine, grid: Grid) -> bool:
    """Return whether the pixels of a raster and of a grid coincide."""
    size = grid.resolution
    if not math.isclose(abs(transform.a), size) or not math.isclose(abs(transform.e), size):
        return False
    columns = (grid.left - transform.c) / size
    rows = (transform.f - grid.top) / size
    return bool(
        abs(columns - round(columns)) < ALIGNMENT_TOLERANCE * 100
        and abs(rows - round(rows)) < ALIGNMENT_TOLERANCE * 100
    )


def _source_indices(start: float, step: float, count: int, limit: int) -> NDArray[np.intp]:
    """Return the index of the source pixel that contains each output pixel's centre; -1 outside."""
    centres = start + (np.arange(count) + 0.5) * step
    indices = np.floor(centres + ALIGNMENT_TOLERANCE * step).astype(np.intp)
    # ^ a centre on the edge of two source pixels falls into the second one despite rounding
    return np.where((indices >= 0) & (indices < limit), indices, -1)


def _read_nearest(
    dataset: Any,
    grid: Grid,
    missing: tuple[float, ...],
    result: NDArray[Any],
    fill_value: float,
) -> None:
    """Copy the source pixel at each output pixel's centre into ``result``."""
    transform = dataset.transform
    columns = _source_indices(
        (grid.left - transform.c) / transform.a,
        grid.resolution / transform.a,
        grid.width,
        dataset.width,
    )
    rows = _source_indices(
        (grid.top - transform.f) / transform.e,
        grid.resolution / -transform.e,
        grid.height,
        dataset.height,
    )
    valid_rows, valid_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    if not valid_rows.size or not valid_columns.size:
        return
    column_slice = slice(valid_columns[0], valid_columns[-1] + 1)
    c0, c1 = int(columns[column_slice].min()), int(columns[column_slice].max()) + 1
    step = grid.resolution / abs(transform.e)
    strip_rows = max(int(4 * warp_blocks.MAX_SOURCE_PIXELS / ((c1 - c0) * step)), 1)
    # ^ a coarse grid spans far more pixels of a fine raster than it needs
    for first in range(int(valid_rows[0]), int(valid_rows[-1]) + 1, strip_rows):
        row_slice = slice(first, min(first + strip_rows, int(valid_rows[-1]) + 1))
        r0, r1 = int(rows[row_slice].min()), int(rows[row_slice].max()) + 1
        window = Window(c0, r0, c1 - c0, r1 - r0)
        indices = rows[row_slice] - r0, columns[column_slice] - c0
        nearest = _take_pixels(dataset.read(1, window=window), *indices)
        values = stored_values.cast_and_fill(nearest, missing, result.dtype, fill_value)
        mask = dataset_mask.read_mask(dataset, window=window)
        if mask is not None:
            values = np.where(_take_pixels(mask, *indices), values, result.dtype.type(fill_value))
        result[row_slice, column_slice] = values


def _take_pixels(
    values: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[Any]:
    """Return the values in some rows and columns."""
    return _take(_take(values, rows, 0), columns, 1)


def _take(values: NDArray[Any], indices: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Return values at indices along an axis; the same array if these are all of it in order."""
    if np.array_equal(indices, np.arange(values.shape[axis])):
        return values
    return values.take(indices, axis=axis)
