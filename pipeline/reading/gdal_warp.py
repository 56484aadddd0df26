"""Warp a raster onto a grid by GDAL, block by block: averages, and kernels of many pixels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.grid.grid import Grid
from pipeline.reading import dataset_mask, stored_values, warp_blocks

WARP_TOLERANCE = 1e-6
"""Maximum error of the interpolated coordinate transformation, in source pixels.

GDAL's default of 0.125 changes values of a noisy image by hundreds; this changes at most the last
digit.
"""


def warp(
    dataset: Any,
    grid: Grid,
    missing: tuple[float, ...],
    result: NDArray[Any],
    fill_value: float,
    resampling: Resampling,
    ratio: float,
    *,
    is_rounded: bool,
) -> None:
    """Warp a dataset into ``result``, in blocks anchored to the origin of the coordinate system.

    GDAL interpolates the coordinate transformation within each request, so that the same pixel of
    two requests may differ. Blocks anchored to the coordinate system are the same for every tile.
    """
    for row, column, block in warp_blocks.iter_blocks(grid, warp_blocks.block_size(ratio)):
        if not _may_intersect(dataset, block):
            continue
        rows = slice(max(row, 0), min(row + block.height, grid.height))
        columns = slice(max(column, 0), min(column + block.width, grid.width))
        scale = min(ratio, 1.0)
        for shift in _longitude_shifts(dataset):
            with _with_one_nodata(dataset, block, missing) as source:
                warped = _warp_block(
                    source,
                    block,
                    missing[:1],
                    result.dtype,
                    fill_value,
                    resampling,
                    shift,
                    scale,
                    is_rounded=is_rounded,
                )
            values = warped[
                rows.start - row : rows.stop - row, columns.start - column : columns.stop - column
            ]
            target = result[rows, columns]
            empty = np.isnan(target) if math.isnan(fill_value) else target == fill_value
            target[empty] = values[empty]


def _warp_block(
    dataset: Any,
    block: Grid,
    missing: tuple[float, ...],
    dtype: np.dtype[Any],
    fill_value: float,
    resampling: Resampling,
    longitude_shift: float,
    scale: float,
    *,
    is_rounded: bool,
) -> NDArray[Any]:
    """Warp a dataset, shifted by degrees of longitude, onto a block: (height, width)."""
    nodata = missing[0] if missing else None
    with WarpedVRT(
        dataset,
        src_transform=Affine.translation(longitude_shift, 0) * dataset.transform,
        crs=f"EPSG:{block.epsg}",
        transform=block.transform,
        height=block.height,
        width=block.width,
        resampling=resampling,
        src_nodata=nodata,
        nodata=nodata,
        add_alpha=nodata is None and dataset_mask.find_alpha_band(dataset) is None,
        # ^ without nodata GDAL would write zeros outside of the source; an alpha band is kept
        dtype=dtype.name if np.issubdtype(dtype, np.floating) and not is_rounded else None,
        # ^ interpolated heights must not be rounded to the source's whole metres
        tolerance=WARP_TOLERANCE,
        XSCALE=scale,
        YSCALE=scale,
        # ^ GDAL estimates the kernel's width from each request's extent: it would blur rotated
        # blocks, and each block differently (OSGeo/gdal#7750)
        SAMPLE_GRID="YES",
        # ^ the edges of a block across 180 degrees do not give its extent
    ) as warped:
        values = stored_values.cast_and_fill(warped.read(1), missing, dtype, fill_value)
        alpha = dataset_mask.find_alpha_band(warped)
        if alpha is not None:
            values[warped.read(alpha) == 0] = fill_value
    return values


@contextlib.contextmanager
def _with_one_nodata(dataset: Any, block: Grid, missing: tuple[float, ...]) -> Iterator[Any]:
    """Yield a dataset, or a copy in memory of its part under a block if it has two nodata values.

    GDAL's warper knows only one value. In the copy, the other value and masked pixels have it.
    """
    if len(missing) < 2:
        yield dataset
        return
    nodata, second_nodata = missing
    window = _source_window(dataset, block)
    stored = dataset.read(1, window=window)
    stored[stored == stored.dtype.type(second_nodata)] = nodata
    mask = dataset_mask.read_mask(dataset, window=window)
    if mask is not None:
        stored[~mask] = nodata
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=window.height,
            width=window.width,
            count=1,
            dtype=stored.dtype,
            crs=dataset.crs,
            transform=dataset.window_transform(window),
            nodata=nodata,
        ) as copy:
            copy.write(stored, 1)
        with memory.open() as copy:
            yield copy


def _source_window(dataset: Any, block: Grid) -> Window:
    """Return the window of a raster under a block, with a margin; all of it if that is unsure."""
    whole = Window(0, 0, dataset.width, dataset.height)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds(
            f"EPSG:{block.epsg}", dataset.crs, *block.bounds
        )
    except (CRSError, RasterioError):
        return whole
    corners = ((left, top), (right, top), (left, bottom), (right, bottom))
    columns, rows = zip(*(~dataset.transform * corner for corner in corners), strict=True)
    if not all(map(math.isfinite, (*columns, *rows))) or left > right:
        return whole
    margin = 16 + 0.1 * max(max(columns) - min(columns), max(rows) - min(rows))
    # ^ the kernel reaches over the edges, which are curves there
    c0, c1 = (math.floor(value) for value in (min(columns) - margin, max(columns) + margin + 1))
    r0, r1 = (math.floor(value) for value in (min(rows) - margin, max(rows) + margin + 1))
    c0, r0 = min(max(c0, 0), dataset.width - 1), min(max(r0, 0), dataset.height - 1)
    c1, r1 = max(min(c1, dataset.width), c0 + 1), max(min(r1, dataset.height), r0 + 1)
    return Window(c0, r0, c1 - c0, r1 - r0)


def _longitude_shifts(dataset: Any) -> tuple[float, ...]:
    """Return the shifts in degrees by which each part of a raster lies within ±180 once."""
    if not dataset.crs.is_geographic:
        return (0.0,)
    west, _, east, _ = _raster_bounds(dataset)
    return (0.0, *((360.0,) if west < -180 else ()), *((-360.0,) if east > 180 else ()))


def _raster_bounds(dataset: Any) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) of a raster, which may be rotated."""
    columns, rows = np.array([0, dataset.width] * 2), np.repeat([0, dataset.height], 2)
    xs, ys = dataset.transform * (columns, rows)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def _may_intersect(dataset: Any, block: Grid) -> bool:
    """Return whether a block may contain pixels of a raster; True if that is uncertain."""
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds(
            f"EPSG:{block.epsg}", dataset.crs, *block.bounds
        )
    except (CRSError, RasterioError):
        return True
    if not all(map(math.isfinite, (left, bottom, right, top))) or left > right:
        return True
        # ^ a block across 180 degrees has its western edge east of its eastern one
    if len(_longitude_shifts(dataset)) > 1:
        return True
    west, south, east, north = _raster_bounds(dataset)
    margin = 0.1 * max(right - left, top - bottom)
    # ^ the edges of a block are curves there, of which GDAL transforms a few points
    return bool(
        left - margin < east
        and right + margin > west
        and bottom - margin < north
        and top + margin > south
    )
