"""Read a raster at the position of each pixel of a grid: the nearest pixel, or a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.grid.grid import Grid
from pipeline.reading import dataset_mask, grid_positions, stored_values, warp_blocks
from pipeline.reading.grid_positions import BlockPositions

MAX_READ_PIXELS = 2**22
"""Maximum number of source pixels that are read at once to be interpolated, unless one block has
more."""


@dataclass(frozen=True, slots=True, kw_only=True)
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


def interpolate(
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
    wkt = dataset.crs.to_wkt()
    turn = grid_positions.full_turn(wkt)
    blocks = []
    for row, column, block in warp_blocks.iter_blocks(grid, side):
        positions = grid_positions.locate_block(wkt, block)
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
    valid = ~stored_values.find_missing(stored, missing, dtype)
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
    from pipeline.reading.interpolation_loops import interpolate_block  # noqa: PLC0415
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
    np.copyto(target, stored_values.cast(values, result.dtype), where=written)
