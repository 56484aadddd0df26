"""Compiled loops that take or interpolate the pixels of a raster at positions of a block.

They compute what GDAL's warper computes: weights of the valid source pixels under the kernel that
sum to 1, and values only where the source pixel at the centre of the output pixel is valid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.compiled_loops import compile_loop

EDGE_TOLERANCE = 1e-8
"""Pixels by which a centre may lie before the edge of a source pixel and still falls into it."""


@compile_loop
def interpolate_block(
    positions: tuple[NDArray[np.float64], NDArray[np.float64], bool],
    side: int,
    origin: tuple[int, int],
    source: tuple[NDArray[Any], NDArray[np.bool_]],
    is_bilinear: bool,
    is_rounded: bool,
    reserved: float,
    output: NDArray[Any],
    written: NDArray[np.bool_],
) -> None:
    """Take (nearest) or interpolate (bilinear) source pixels for a part of a block.

    Args:
        positions: columns and rows in the window of the source, and whether these are coefficients
            of polynomials; see :class:`pipeline.reading.grid_positions.BlockPositions`.
        side: pixels along each side of the block.
        origin: row and column of the block at which the part begins.
        source: (row, column) values of the window, and whether they are valid.
        is_bilinear: whether to interpolate.
        is_rounded: whether interpolated values are rounded to whole numbers.
        reserved: value that means nodata, which no rounded value gets; NaN = none.
        output: (row, column) values of the part; only valid pixels are written.
        written: (row, column) becomes True where a value was written.
    """
    columns, rows, is_polynomial = positions
    stored, valid = source
    width = output.shape[1]
    row_columns = np.zeros(columns.shape[1], np.float64)
    row_rows = np.zeros(columns.shape[1], np.float64)
    xs, ys, values = np.empty(width), np.empty(width), np.empty(width)
    for row in range(output.shape[0]):
        if is_polynomial:
            v = (2.0 * (origin[0] + row) + 1.0) / side - 1.0
            _fix_row(columns, v, row_columns)
            _fix_row(rows, v, row_rows)
            _evaluate_row(row_columns, side, origin[1], xs)
            _evaluate_row(row_rows, side, origin[1], ys)
        else:
            xs[:] = columns[origin[0] + row, origin[1] : origin[1] + width]
            ys[:] = rows[origin[0] + row, origin[1] : origin[1] + width]
        _find_valid(valid, xs, ys, written[row])
        if is_bilinear:
            _interpolate_row(stored, valid, xs, ys, written[row], values)
            if is_rounded:
                _round_row(values, reserved)
            _write_row(values, written[row], output[row])
        else:
            _take_row(stored, xs, ys, written[row], output[row])


# Indices are unsigned, as numba otherwise allows for negative ones, which is several times slower.


@compile_loop
def _fix_row(
    coefficients: NDArray[np.float64], v: float, row_coefficients: NDArray[np.float64]
) -> None:
    """Write the coefficients of the polynomial of the column that remains in a row."""
    count = len(row_coefficients)
    for power in range(count):
        value = 0.0
        for i in range(count - 1, -1, -1):
            value = value * v + coefficients[i, power]
        row_coefficients[power] = value


@compile_loop
def _evaluate_row(
    coefficients: NDArray[np.float64], side: int, first_column: int, positions: NDArray[np.float64]
) -> None:
    """Write the values of a polynomial at the columns of a row."""
    positions[:] = coefficients[-1]
    for power in range(len(coefficients) - 2, -1, -1):
        coefficient = coefficients[power]
        for column in range(len(positions)):
            u = (2.0 * (first_column + column) + 1.0) / side - 1.0
            positions[column] = positions[column] * u + coefficient


@compile_loop
def _find_valid(
    valid: NDArray[np.bool_],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    written: NDArray[np.bool_],
) -> None:
    """Write whether positions fall into valid source pixels."""
    height, width = valid.shape
    for column in range(len(xs)):
        x, y = xs[column] + EDGE_TOLERANCE, ys[column] + EDGE_TOLERANCE
        is_inside = 0.0 <= x < width and 0.0 <= y < height
        # ^ False for NaN and infinity
        written[column] = is_inside and valid[np.uint64(y), np.uint64(x)]


@compile_loop
def _take_row(
    stored: NDArray[Any],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    written: NDArray[np.bool_],
    output: NDArray[Any],
) -> None:
    """Write the source pixels into which positions fall."""
    for column in range(len(xs)):
        if written[column]:
            x, y = xs[column] + EDGE_TOLERANCE, ys[column] + EDGE_TOLERANCE
            output[column] = stored[np.uint64(y), np.uint64(x)]


@compile_loop
def _interpolate_row(
    stored: NDArray[Any],
    valid: NDArray[np.bool_],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    written: NDArray[np.bool_],
    values: NDArray[np.float64],
) -> None:
    """Write the weighted means of the valid ones of the four source pixels around positions."""
    height, width = stored.shape
    one = np.uint64(1)
    for column in range(len(xs)):
        if not written[column]:
            continue
        x, y = xs[column] - 0.5, ys[column] - 0.5
        left, top = np.floor(x), np.floor(y)
        if left < 0.0 or top < 0.0 or left + 1.0 >= width or top + 1.0 >= height:
            values[column] = _weigh_valid(stored, valid, x, y)
            continue
        right, below = x - left, y - top
        c, r = np.uint64(left), np.uint64(top)
        if not (valid[r, c] & valid[r, c + one] & valid[r + one, c] & valid[r + one, c + one]):
            values[column] = _weigh_valid(stored, valid, x, y)
            continue
        upper_value = stored[r, c] * (1.0 - right) + stored[r, c + one] * right
        lower_value = stored[r + one, c] * (1.0 - right) + stored[r + one, c + one] * right
        values[column] = upper_value * (1.0 - below) + lower_value * below


@compile_loop
def _weigh_valid(stored: NDArray[Any], valid: NDArray[np.bool_], x: float, y: float) -> float:
    """Return the weighted mean of the valid ones of the four pixels whose centres surround x, y.

    Args:
        stored: (row, column) values.
        valid: (row, column) whether they are valid.
        x: column, counted from the centre of the first pixel.
        y: row, counted from the centre of the first pixel.
    """
    left, top = int(np.floor(x)), int(np.floor(y))
    total, weights = 0.0, 0.0
    for row in range(max(top, 0), min(top + 2, valid.shape[0])):
        for column in range(max(left, 0), min(left + 2, valid.shape[1])):
            if valid[row, column]:
                weight = (1.0 - abs(x - column)) * (1.0 - abs(y - row))
                total += weight * stored[row, column]
                weights += weight
    return float(total / weights)


@compile_loop
def _round_row(values: NDArray[np.float64], reserved: float) -> None:
    """Round values to whole numbers other than the reserved one."""
    step = -1.0 if reserved > 0 else 1.0
    for column in range(len(values)):
        value = np.floor(values[column] + 0.5)
        values[column] = value + step if value == reserved else value


@compile_loop
def _write_row(
    values: NDArray[np.float64], written: NDArray[np.bool_], output: NDArray[Any]
) -> None:
    for column in range(len(values)):
        if written[column]:
            output[column] = values[column]
