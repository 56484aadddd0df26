"""Pixels of an open raster on an output grid: picked where they lie on it, warped where not.

What is asked of the raster depends on the output grid's place in its coordinate system alone, so
that two tiles that both see a pixel read the same value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import ALIGNMENT_TOLERANCE, Grid

WARP_BLOCK_SIZE = 256
"""Pixels: side of the lattice blocks in which assets of another grid are warped."""

MAX_SOURCE_PIXELS = 2**24
"""Source pixels that a block may need, and a quarter of those that a strip may."""

WARP_TOLERANCE = 1e-6
"""Source pixels: how far the interpolated transformation may be from the exact one.

GDAL's own 0.125 moves values of a noisy image by hundreds; this leaves at most the last digit.
"""

EARTH_RADIUS = 6_378_137.0
"""Metres: semi-major axis of WGS 84."""


def read_on_grid(
    dataset: Any,
    grid: Grid,
    *,
    nodata: float | None,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
) -> NDArray[Any]:
    """Return the pixels of a single-band dataset on a grid: (height, width).

    Where the pixels of both coincide nothing is resampled. Picked pixels are those that hold the
    centre of the output pixel: moved by half a pixel at most. Other kernels take the valid pixels
    under them, weighted anew to 1; an output pixel exists where its centre falls into a valid
    pixel (average: where any valid pixel is under it). So GDAL's warper does it.

    Args:
        dataset: an open rasterio dataset of one band, with a coordinate system.
        grid: where the pixels go.
        nodata: stored value of missing pixels. NaN is missing beside another one too, and then
            takes with it the output pixels whose kernel it is under.
        resampling: kernel where the dataset lies on another grid.
        dtype: type of the result; it must hold the stored values.
        fill_value: value of pixels that the dataset does not have.

    Raises:
        InvalidInputError: a stored value does not fit the type.
    """
    result = np.full(grid.shape, fill_value, dtype=dtype)
    transform = dataset.transform
    upright = transform.b == 0 and transform.d == 0 and _is_same_crs(dataset.crs.to_wkt(), grid)
    if upright and (resampling == Resampling.nearest or _is_aligned(transform, grid)):
        _read_nearest(dataset, grid, nodata, result, fill_value)
    else:
        _warp_blocks(dataset, grid, nodata, result, fill_value, resampling)
    return result


def pixel_size_metres(crs: CRS, transform: Affine) -> float:
    """Return the distance of two rows of a raster in metres, along a meridian where geographic."""
    unit: float = crs.axis_info[0].unit_conversion_factor
    return math.hypot(transform.b, transform.e) * unit * (EARTH_RADIUS if crs.is_geographic else 1)
    # ^ metres per unit, or radians


@functools.lru_cache(maxsize=64)
def _horizontal_crs(wkt: str) -> CRS:
    """Return the horizontal part of a coordinate system: heights do not move pixels."""
    crs = CRS.from_wkt(wkt)
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


def _is_same_crs(wkt: str, grid: Grid) -> bool:
    """Compare what systems are, not their names: files may lack the code, or add heights."""
    system = _horizontal_crs(wkt)
    return system.to_epsg() == grid.epsg or system.equals(
        CRS.from_epsg(grid.epsg), ignore_axis_order=True
    )


def _is_aligned(transform: Affine, grid: Grid) -> bool:
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
    """Return which source pixel holds each output pixel's centre; −1 outside."""
    centres = start + (np.arange(count) + 0.5) * step
    found = np.floor(centres + ALIGNMENT_TOLERANCE * step).astype(np.intp)
    # ^ a centre on the edge of two source pixels falls into the later one, whatever the last bit
    return np.where((found >= 0) & (found < limit), found, -1)


def _read_nearest(
    dataset: Any, grid: Grid, nodata: float | None, result: NDArray[Any], fill_value: float
) -> None:
    """Copy the source pixel at each output pixel's centre: exact, and no warp on equal grids."""
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
    some_rows, some_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    if not some_rows.size or not some_columns.size:
        return
    c0, c1 = int(columns[some_columns].min()), int(columns[some_columns].max()) + 1
    step = grid.resolution / abs(transform.e)
    strip = max(int(4 * MAX_SOURCE_PIXELS / ((c1 - c0) * step)), 1)
    # ^ a coarse grid on a fine raster spans far more pixels than it picks
    across = slice(some_columns[0], some_columns[-1] + 1)
    for first in range(int(some_rows[0]), int(some_rows[-1]) + 1, strip):
        part = slice(first, min(first + strip, int(some_rows[-1]) + 1))
        r0, r1 = int(rows[part].min()), int(rows[part].max()) + 1
        stored = dataset.read(1, window=Window(c0, r0, c1 - c0, r1 - r0))
        picked = _take(_take(stored, rows[part] - r0, 0), columns[across] - c0, 1)
        result[part, across] = _cast_and_fill(picked, nodata, result.dtype, fill_value)


def _take(values: NDArray[Any], indices: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Return values at indices along an axis; the same array where these are all, in order."""
    if np.array_equal(indices, np.arange(values.shape[axis])):
        return values
    return values.take(indices, axis=axis)


def _warp_blocks(
    dataset: Any,
    grid: Grid,
    nodata: float | None,
    result: NDArray[Any],
    fill_value: float,
    resampling: Resampling,
) -> None:
    """Warp block by block on the lattice of the coordinate system.

    GDAL interpolates the transformation within each request: equal requests give equal pixels,
    and requests anchored to the lattice are equal whichever tile makes them.
    """
    ratio = (
        pixel_size_metres(_horizontal_crs(dataset.crs.to_wkt()), dataset.transform)
        / grid.resolution
    )
    nodata = _representable_nodata(nodata, np.dtype(dataset.dtypes[0]))
    for row, column, block in _iter_blocks(grid, _block_size(ratio)):
        if not _may_intersect(dataset, block):
            continue
        into = (
            slice(max(row, 0), min(row + block.height, grid.height)),
            slice(max(column, 0), min(column + block.width, grid.width)),
        )
        for turn in _longitude_shifts(dataset):
            values = _warp_block(
                dataset, block, nodata, result.dtype, fill_value, resampling, turn, min(ratio, 1.0)
            )[
                into[0].start - row : into[0].stop - row,
                into[1].start - column : into[1].stop - column,
            ]
            kept = result[into]
            empty = np.isnan(kept) if math.isnan(fill_value) else kept == fill_value
            kept[empty] = values[empty]


def _warp_block(
    dataset: Any,
    block: Grid,
    nodata: float | None,
    dtype: np.dtype[Any],
    fill_value: float,
    resampling: Resampling,
    longitude_shift: float,
    scale: float,
) -> NDArray[Any]:
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
        add_alpha=nodata is None,
        # ^ without nodata GDAL would write zeros where the source has no pixel
        dtype=dtype.name if np.issubdtype(dtype, np.floating) else None,
        # ^ heights in whole metres are not to become terraces
        tolerance=WARP_TOLERANCE,
        XSCALE=scale,
        YSCALE=scale,
        # ^ GDAL guesses the width of the kernel from each request's extent: it would blur
        # rotated blocks, and each block differently (OSGeo/gdal#7750)
        SAMPLE_GRID="YES",
        # ^ a block across 180 degrees is not known by its edges
    ) as warped:
        values = _cast_and_fill(warped.read(1), nodata, dtype, fill_value)
        if nodata is None:
            values[warped.read(2) == 0] = fill_value
    return values


def _longitude_shifts(dataset: Any) -> tuple[float, ...]:
    """Return by how many degrees to shift a raster so that all of it lies within ±180 once."""
    if not dataset.crs.is_geographic:
        return (0.0,)
    west, _, east, _ = _raster_bounds(dataset)
    return (0.0, *((360.0,) if west < -180 else ()), *((-360.0,) if east > 180 else ()))


def _block_size(ratio: float) -> int:
    """Return the side of a block where a source pixel is so many of its pixels wide."""
    side = WARP_BLOCK_SIZE
    while side > 1 and (side / ratio) ** 2 > MAX_SOURCE_PIXELS:
        side //= 2
    return side


def _iter_blocks(grid: Grid, side: int) -> Iterator[tuple[int, int, Grid]]:
    """Yield (row, column, block) for the blocks of the lattice that share pixels with a grid."""
    first_row, first_column = grid.origin_index()
    for block_row in range(first_row // side, (first_row + grid.height - 1) // side + 1):
        for block_column in range(
            first_column // side, (first_column + grid.width - 1) // side + 1
        ):
            row, column = block_row * side - first_row, block_column * side - first_column
            block = grid.window(row=row, column=column, height=side, width=side)
            yield (
                row,
                column,
                dataclasses.replace(block, left=round(block.left, 6), top=round(block.top, 6)),
            )
            # ^ the same corner reckoned from two tiles differs in its last bits


def _raster_bounds(dataset: Any) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) of a raster, however it lies."""
    columns, rows = np.array([0, dataset.width] * 2), np.repeat([0, dataset.height], 2)
    xs, ys = dataset.transform * (columns, rows)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def _may_intersect(dataset: Any, block: Grid) -> bool:
    """Tell whether a block can hold pixels of a raster; where that is not sure, it can."""
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
    # ^ the edges of a block are curves there, of which GDAL looks at a few points
    return bool(
        left - margin < east
        and right + margin > west
        and bottom - margin < north
        and top + margin > south
    )


def _representable_nodata(nodata: float | None, dtype: np.dtype[Any]) -> float | None:
    """Return nodata where a pixel of a type can hold it: catalogs state −9999 of bytes."""
    if nodata is None or np.issubdtype(dtype, np.floating):
        return nodata
    limits = np.iinfo(dtype)
    fits = math.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata % 1 == 0
    return nodata if fits else None


def _cast_and_fill(
    stored: NDArray[Any], nodata: float | None, dtype: np.dtype[Any], fill_value: float
) -> NDArray[Any]:
    """Return stored values in another type, nodata replaced by the fill.

    Raises:
        InvalidInputError: a value would become another number.
    """
    if stored.dtype == dtype and dtype.kind == "u" and nodata in (None, fill_value):
        return stored
    missing = np.zeros(stored.shape, dtype=np.bool_)
    if nodata is not None:
        missing |= stored == nodata
    if np.issubdtype(stored.dtype, np.floating):
        missing |= ~np.isfinite(stored)
    elif np.issubdtype(dtype, np.unsignedinteger) and np.issubdtype(stored.dtype, np.signedinteger):
        missing |= stored < 0
        # ^ int16 products mark missing pixels by negative numbers; they must not wrap
    kept = np.where(missing, stored.dtype.type(0), stored) if missing.any() else stored
    values = kept.astype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.can_cast(stored.dtype, dtype):
        changed = kept[values != kept]
        if changed.size:
            raise InvalidInputError(
                f"Stored numbers such as {changed[0]} ({stored.dtype}) are read where {dtype} is "
                "expected. The scale or the unit that the catalog states cannot be theirs."
            )
    values[missing] = fill_value
    return values
