"""Pixels of an open raster on an output grid: picked where they lie on it, warped where not.

What is asked of the raster depends on the output grid's place in its coordinate system alone, so
that two tiles that both see a pixel read the same value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.grid import PHASE_TOLERANCE, Grid

BLOCK = 512
"""Pixels: side of the lattice blocks in which assets of another grid are warped."""


def on_grid(
    dataset: Any,
    grid: Grid,
    *,
    nodata: float | None,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill: float,
) -> NDArray[Any]:
    """Return the pixels of a single-band dataset on a grid: (height, width).

    Args:
        dataset: an open rasterio dataset of one band, with a coordinate system.
        grid: where the pixels go.
        nodata: stored value of missing pixels.
        resampling: kernel where the dataset lies on another grid.
        dtype: type of the result; it must hold the stored values.
        fill: value of pixels that the dataset does not have.
    """
    result = np.full(grid.shape, fill, dtype=dtype)
    same_crs = dataset.crs.to_epsg() == grid.epsg and dataset.transform.is_rectilinear
    if same_crs and (resampling == Resampling.nearest or _same_lattice(dataset.transform, grid)):
        return _pick(dataset, grid, nodata, result, fill)
    return _warp(dataset, grid, nodata, result, fill, resampling)


def _same_lattice(transform: Any, grid: Grid) -> bool:
    size = grid.resolution
    if not math.isclose(transform.a, size) or not math.isclose(-transform.e, size):
        return False
    columns = (grid.left - transform.c) / size
    rows = (transform.f - grid.top) / size
    return bool(
        abs(columns - round(columns)) < PHASE_TOLERANCE * 100
        and abs(rows - round(rows)) < PHASE_TOLERANCE * 100
    )


def _indices(start: float, step: float, count: int, limit: int) -> NDArray[np.intp]:
    """Return which source pixel holds each output pixel's centre; −1 outside."""
    centres = start + (np.arange(count) + 0.5) * step
    found = np.floor(centres + PHASE_TOLERANCE * step).astype(np.intp)
    # ^ a centre on the edge of two source pixels falls into the later one, whatever the last bit
    return np.where((found >= 0) & (found < limit), found, -1)


def _pick(
    dataset: Any, grid: Grid, nodata: float | None, result: NDArray[Any], fill: float
) -> NDArray[Any]:
    """Copy the source pixel at each output pixel's centre: exact, and no warp on equal grids."""
    transform = dataset.transform
    columns = _indices(
        (grid.left - transform.c) / transform.a,
        grid.resolution / transform.a,
        grid.width,
        dataset.width,
    )
    rows = _indices(
        (grid.top - transform.f) / transform.e,
        grid.resolution / -transform.e,
        grid.height,
        dataset.height,
    )
    some_rows, some_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    if not some_rows.size or not some_columns.size:
        return result
    r0, r1 = int(rows[some_rows].min()), int(rows[some_rows].max()) + 1
    c0, c1 = int(columns[some_columns].min()), int(columns[some_columns].max()) + 1
    stored = dataset.read(1, window=Window(c0, r0, c1 - c0, r1 - r0))
    picked = stored[np.ix_(rows[some_rows] - r0, columns[some_columns] - c0)]
    result[np.ix_(some_rows, some_columns)] = _cast(picked, nodata, result.dtype, fill)
    return result


def _warp(
    dataset: Any,
    grid: Grid,
    nodata: float | None,
    result: NDArray[Any],
    fill: float,
    resampling: Resampling,
) -> NDArray[Any]:
    """Warp block by block on the lattice of the coordinate system.

    GDAL approximates the transformation within each request: equal requests give equal pixels,
    and requests anchored to the lattice are equal whichever tile makes them.
    """
    first_row, first_column = grid.origin_index()
    for block_row in range(first_row // BLOCK, (first_row + grid.height - 1) // BLOCK + 1):
        for block_column in range(
            first_column // BLOCK, (first_column + grid.width - 1) // BLOCK + 1
        ):
            row, column = block_row * BLOCK - first_row, block_column * BLOCK - first_column
            block = grid.window(row=row, column=column, height=BLOCK, width=BLOCK)
            if not _meets(dataset, block):
                continue
            with WarpedVRT(
                dataset,
                crs=f"EPSG:{grid.epsg}",
                transform=block.transform,
                height=BLOCK,
                width=BLOCK,
                resampling=resampling,
                src_nodata=nodata,
                nodata=nodata,
                add_alpha=nodata is None,
                # ^ without nodata GDAL would write zeros where the source has no pixel
                warp_mem_limit=256,
            ) as warped:
                stored = warped.read(1)
                missing = warped.read(2) == 0 if nodata is None else None
            values = _cast(stored, nodata, result.dtype, fill)
            if missing is not None:
                values[missing] = fill
            into = (
                slice(max(row, 0), min(row + BLOCK, grid.height)),
                slice(max(column, 0), min(column + BLOCK, grid.width)),
            )
            result[into] = values[
                into[0].start - row : into[0].stop - row,
                into[1].start - column : into[1].stop - column,
            ]
    return result


def _meets(dataset: Any, block: Grid) -> bool:
    left, bottom, right, top = rasterio.warp.transform_bounds(
        f"EPSG:{block.epsg}", dataset.crs, *block.bounds, densify_pts=5
    )
    bounds = dataset.bounds
    return bool(
        left < bounds.right and right > bounds.left and bottom < bounds.top and top > bounds.bottom
    )


def _cast(
    stored: NDArray[Any], nodata: float | None, dtype: np.dtype[Any], fill: float
) -> NDArray[Any]:
    values = stored.astype(dtype)
    if nodata is not None:
        missing = np.isnan(stored) if math.isnan(nodata) else stored == nodata
        values[missing] = fill
    if np.issubdtype(stored.dtype, np.floating):
        values[~np.isfinite(stored)] = fill
    elif np.issubdtype(dtype, np.unsignedinteger) and np.issubdtype(stored.dtype, np.signedinteger):
        values[stored < 0] = fill
        # ^ int16 products mark missing pixels by negative numbers; they must not wrap
    return values
