"""Read an open raster onto a grid: copy pixels where both coincide, warp them elsewhere.

What is read of the raster depends only on the position of the grid in its coordinate system, so
that two tiles that contain the same pixel read the same value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError as UnknownCRSError
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import ALIGNMENT_TOLERANCE, Grid
from pipeline.reading import dataset_mask, grid_positions
from pipeline.reading.grid_positions import BlockPositions

WARP_BLOCK_SIZE = 256
"""Side in pixels of the blocks in which rasters of another grid are warped."""

MAX_SOURCE_PIXELS = 2**24
"""Maximum number of source pixels of a warp block; a quarter of the maximum of a strip."""

MAX_READ_PIXELS = 2**22
"""Maximum number of source pixels that are read at once to be interpolated, unless one block has
more."""

MIN_BILINEAR_RATIO = 0.999
"""Size of a source pixel in pixels of the grid from which on the two nearest pixels along each axis
are interpolated. GDAL's kernel is wider for finer rasters."""

WARP_TOLERANCE = 1e-6
"""Maximum error of the interpolated coordinate transformation, in source pixels.

GDAL's default of 0.125 changes values of a noisy image by hundreds; this changes at most the last
digit.
"""

EARTH_RADIUS = 6_378_137.0
"""Semi-major axis of WGS 84 in metres."""


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
            value, but then output pixels with a NaN under the kernel are invalid.
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
    values = (representable_nodata(value, source_dtype) for value in (nodata, second_nodata))
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
    ratio = pixel_size_metres(horizontal_crs(dataset.crs.to_wkt()), transform) / grid.resolution
    if resampling == Resampling.nearest or (
        resampling == Resampling.bilinear and ratio > MIN_BILINEAR_RATIO
    ):
        _interpolate_blocks(
            dataset, grid, missing, result, _block_size(ratio), resampling, is_rounded=is_rounded
        )
    else:
        _warp_blocks(
            dataset, grid, missing, result, fill_value, resampling, ratio, is_rounded=is_rounded
        )
    return result


def pixel_size_metres(crs: CRS, transform: Affine) -> float:
    """Return the height of a pixel in metres; of a geographic system, along a meridian."""
    unit: float = crs.axis_info[0].unit_conversion_factor
    return math.hypot(transform.b, transform.e) * unit * (EARTH_RADIUS if crs.is_geographic else 1)
    # ^ the factor converts the unit to metres, or to radians


@functools.lru_cache(maxsize=64)
def horizontal_crs(wkt: str) -> CRS:
    """Return the horizontal part of a coordinate system: heights do not change positions."""
    return _drop_heights(CRS.from_wkt(wkt))


def _drop_heights(crs: CRS) -> CRS:
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


@functools.lru_cache(maxsize=256)
def is_same_crs(wkt: str, epsg: int) -> bool:
    """Compare definitions, not names: files may lack the EPSG code, or add a vertical system.

    Of compound systems, also where the code is one, the horizontal parts are compared. A code that
    PROJ does not know is no coordinate system's.
    """
    crs = horizontal_crs(wkt)
    if crs.to_epsg() == epsg:
        return True
    try:
        code_crs = _drop_heights(CRS.from_epsg(epsg))
    except UnknownCRSError:
        return False
    return bool(crs.equals(code_crs, ignore_axis_order=True))


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
    strip_rows = max(int(4 * MAX_SOURCE_PIXELS / ((c1 - c0) * step)), 1)
    # ^ a coarse grid spans far more pixels of a fine raster than it needs
    for first in range(int(valid_rows[0]), int(valid_rows[-1]) + 1, strip_rows):
        row_slice = slice(first, min(first + strip_rows, int(valid_rows[-1]) + 1))
        r0, r1 = int(rows[row_slice].min()), int(rows[row_slice].max()) + 1
        window = Window(c0, r0, c1 - c0, r1 - r0)
        indices = rows[row_slice] - r0, columns[column_slice] - c0
        nearest = _take_pixels(dataset.read(1, window=window), *indices)
        values = _cast_and_fill(nearest, missing, result.dtype, fill_value)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _SourceBlock:
    """A block of the grid and the pixels of the raster under it."""

    rows: slice
    """Rows of the block that the grid contains."""

    columns: slice
    target: tuple[slice, slice]
    """Rows and columns of the grid that the block contains."""

    positions: BlockPositions
    """Columns and rows of the raster."""

    window: tuple[int, int, int, int]
    """First row and column of the raster, and the row and column after the last."""


def _interpolate_blocks(
    dataset: Any,
    grid: Grid,
    missing: tuple[float, ...],
    result: NDArray[Any],
    side: int,
    resampling: Resampling,
    *,
    is_rounded: bool,
) -> None:
    """Take or interpolate the pixels of a dataset at the centres of the pixels of the grid."""
    blocks = _find_source_blocks(dataset, grid, side)
    for group in _group_blocks(blocks):
        first_row, first_column, stop_row, stop_column = _union([block.window for block in group])
        window = Window(first_column, first_row, stop_column - first_column, stop_row - first_row)
        stored, valid = _read_with_validity(dataset, window, missing, result.dtype)
        for block in group:
            _interpolate_block(
                stored,
                valid,
                block,
                (first_row, first_column),
                missing,
                result,
                resampling,
                is_rounded=is_rounded,
            )


def _find_source_blocks(dataset: Any, grid: Grid, side: int) -> list[_SourceBlock]:
    """Return the blocks of a grid under which there are pixels of a raster.

    A raster that reaches over 180 degrees has a block for each of its ends.
    """
    crs = horizontal_crs(dataset.crs.to_wkt())
    turn = 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else 0.0
    # ^ 360, of degrees
    blocks = []
    for row, column, block in _iter_blocks(grid, side):
        positions = grid_positions.locate_block(crs, block)
        rows = slice(max(-row, 0), min(grid.height - row, side))
        columns = slice(max(-column, 0), min(grid.width - column, side))
        target = (
            slice(rows.start + row, rows.stop + row),
            slice(columns.start + column, columns.stop + column),
        )
        for shift in (turn, -turn, 0.0) if turn else (0.0,):
            transform = Affine.translation(shift, 0) * dataset.transform
            pixels = positions.to_pixels(transform)
            window = _clip_window(pixels.bounds(rows, columns), dataset.shape)
            if window is not None:
                blocks.append(
                    _SourceBlock(
                        rows=rows, columns=columns, target=target, positions=pixels, window=window
                    )
                )
    return blocks


def _clip_window(
    bounds: tuple[float, float, float, float] | None, shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the window of a raster that contains positions and their neighbours; None if none."""
    if bounds is None:
        return None
    left, top, right, bottom = bounds
    first_row, first_column = max(math.floor(top) - 1, 0), max(math.floor(left) - 1, 0)
    stop_row = min(math.floor(bottom) + 2, shape[0])
    stop_column = min(math.floor(right) + 2, shape[1])
    if first_row >= stop_row or first_column >= stop_column:
        return None
    return first_row, first_column, stop_row, stop_column


def _union(windows: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    first_rows, first_columns, stop_rows, stop_columns = zip(*windows, strict=True)
    return min(first_rows), min(first_columns), max(stop_rows), max(stop_columns)


def _group_blocks(blocks: Sequence[_SourceBlock]) -> Iterator[list[_SourceBlock]]:
    """Yield blocks whose pixels are read at once, so that hardly any is read twice."""
    group: list[_SourceBlock] = []
    for block in blocks:
        windows = [member.window for member in (*group, block)]
        first_row, first_column, stop_row, stop_column = _union(windows)
        is_large = (stop_row - first_row) * (stop_column - first_column) > MAX_READ_PIXELS
        if group and is_large:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _read_with_validity(
    dataset: Any, window: Window, missing: tuple[float, ...], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the stored values of a window, and which of them are valid."""
    stored: NDArray[Any] = dataset.read(1, window=window)
    valid = ~_find_missing(stored, missing, dtype)
    mask = dataset_mask.read_mask(dataset, window=window)
    if mask is not None:
        valid &= mask
    if stored.dtype in (np.int8, np.int16):
        stored = stored.astype(np.float32)
    elif stored.dtype not in (np.uint8, np.uint16, np.float32):
        stored = stored.astype(np.float64)
    # ^ a loop is compiled for each type
    return stored, valid


def _interpolate_block(
    stored: NDArray[Any],
    valid: NDArray[np.bool_],
    block: _SourceBlock,
    origin: tuple[int, int],
    missing: tuple[float, ...],
    result: NDArray[Any],
    resampling: Resampling,
    *,
    is_rounded: bool,
) -> None:
    """Write a block into ``result``, given a window of the raster and its first row and column."""
    from pipeline.reading.interpolation import interpolate_block  # noqa: PLC0415
    # ^ numba takes a moment to import; most rasters lie on the pixels of the grid

    target = result[block.target]
    is_whole = resampling == Resampling.nearest or is_rounded or result.dtype.kind == "u"
    dtype = stored.dtype if is_whole or stored.dtype.kind == "f" else np.dtype(np.float32)
    values = np.zeros(target.shape, dtype)
    written = np.zeros(target.shape, np.bool_)
    pixels = block.positions.to_pixels(Affine.translation(origin[1], origin[0]))
    interpolate_block(
        (pixels.x, pixels.y, pixels.is_polynomial),
        pixels.side,
        (block.rows.start, block.columns.start),
        (stored, valid),
        resampling == Resampling.bilinear,
        is_whole,
        missing[0] if missing else math.nan,
        values,
        written,
    )
    np.copyto(target, _cast(values, result.dtype), where=written)


def _warp_blocks(
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
    for row, column, block in _iter_blocks(grid, _block_size(ratio)):
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
        values = _cast_and_fill(warped.read(1), missing, dtype, fill_value)
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


def _block_size(ratio: float) -> int:
    """Return the side of a warp block.

    Args:
        ratio: size of a source pixel in pixels of the block.
    """
    side = WARP_BLOCK_SIZE
    while side > 1 and (side / ratio) ** 2 > MAX_SOURCE_PIXELS:
        side //= 2
    return side


def _iter_blocks(grid: Grid, side: int) -> Iterator[tuple[int, int, Grid]]:
    """Yield (row, column, block) for the warp blocks that share pixels with a grid."""
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
            # ^ the same corner computed from two tiles differs in its last bits


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


def representable_nodata(nodata: float | None, dtype: np.dtype[Any]) -> float | None:
    """Return nodata if a pixel of a type can hold it: catalogs state -9999 for bytes, too."""
    if nodata is None or np.issubdtype(dtype, np.floating):
        return nodata
    limits = np.iinfo(dtype)
    fits = math.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata % 1 == 0
    return nodata if fits else None


def _cast_and_fill(
    stored: NDArray[Any], missing: tuple[float, ...], dtype: np.dtype[Any], fill_value: float
) -> NDArray[Any]:
    """Convert stored values to another type and replace missing values by the fill value.

    Negative numbers in place of the codes of a mask, which is stored as bytes, are missing, too.

    Raises:
        InvalidInputError: a value would change.
    """
    if stored.dtype == dtype and dtype.kind == "u" and set(missing) <= {fill_value}:
        return stored
    is_missing = _find_missing(stored, missing, dtype)
    valid = np.where(is_missing, stored.dtype.type(0), stored) if is_missing.any() else stored
    values = _cast(valid, dtype).copy()
    values[is_missing] = fill_value
    return values


def _find_missing(
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


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
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
