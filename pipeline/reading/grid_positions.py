"""Positions of the pixels of a grid in another coordinate system, as polynomials per block.

PROJ takes 0.3 s for a million points. Within a block of 256 pixels a transformation is so smooth
that a polynomial reproduces it; it is fitted once and serves all rasters of a coordinate system,
whatever their pixels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from catalogs.errors import InvalidInputError
from pipeline.grid.crs import horizontal_crs
from pipeline.grid.grid import Grid

NODE_COUNTS = (6, 12)
"""Chebyshev nodes along each side of a block that are tried one after the other.

Six are enough between UTM zones and for most other systems, twelve for blocks of coarse grids.
"""

CHECK_COUNT = 8
"""Points along each side of a block, from edge to edge, at which a polynomial is checked."""

POSITION_TOLERANCE = 1e-6
"""Largest error of a polynomial in pixels of the grid; where it is larger, PROJ is asked for every
pixel. An error of 1e-4 px changes some values of a noisy image by one; this changes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPositions:
    """Positions of the pixel centres of a square block in another coordinate system.

    Positions are either polynomials of the row and the column, or arrays of every pixel. Longitudes
    are continuous within a block: across 180 degrees they go on beyond it.
    """

    side: int
    """Pixels along each side of the block."""

    x: NDArray[np.float64]
    """Coefficients (power of the row, power of the column) of polynomials of the row and column
    from -1 to 1, the outer edges of the block; or (row, column) positions, infinite where there is
    none."""

    y: NDArray[np.float64]
    """The same for y."""

    is_polynomial: bool
    """Whether `x` and `y` are coefficients."""

    def to_pixels(self, transform: Affine) -> BlockPositions:
        """Return the positions as (column, row) of a raster, in pixels from its corner.

        Args:
            transform: affine from (column, row) of the raster to the coordinate system.
        """
        inverse = ~transform
        columns = inverse.a * self.x + inverse.b * self.y
        rows = inverse.d * self.x + inverse.e * self.y
        constant = (0, 0) if self.is_polynomial else ...
        columns[constant] += inverse.c
        rows[constant] += inverse.f
        return BlockPositions(side=self.side, x=columns, y=rows, is_polynomial=self.is_polynomial)

    def bounds(self, rows: slice, columns: slice) -> tuple[float, float, float, float] | None:
        """Return (least x, least y, greatest x, greatest y) or slightly wider bounds of a part.

        Args:
            rows: rows of the block.
            columns: columns of the block.

        Returns:
            None if no pixel of the part has a position.
        """
        if self.is_polynomial:
            (x0, x1), (y0, y1) = (
                _polynomial_range(values, self.side, rows, columns) for values in (self.x, self.y)
            )
            return x0, y0, x1, y1
        x, y = self.x[rows, columns], self.y[rows, columns]
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.any():
            return None
        x, y = x[finite], y[finite]
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _polynomial_range(
    coefficients: NDArray[np.float64], side: int, rows: slice, columns: slice
) -> tuple[float, float]:
    """Return bounds of a polynomial: those of its linear part, and the sum of all other terms."""
    v0, v1, u0, u1 = (
        2 * edge / side - 1 for edge in (rows.start, rows.stop, columns.start, columns.stop)
    )
    constant, by_u, by_v = coefficients[0, 0], coefficients[0, 1], coefficients[1, 0]
    corners = [constant + by_u * u + by_v * v for u in (u0, u1) for v in (v0, v1)]
    reach = np.abs(coefficients).sum() - abs(constant) - abs(by_u) - abs(by_v)
    return float(min(corners) - reach), float(max(corners) + reach)


@functools.lru_cache(maxsize=4096)
def locate_block(wkt: str, block: Grid) -> BlockPositions:
    """Return the positions of the pixel centres of a block in a coordinate system.

    Args:
        wkt: the coordinate system; heights are ignored.
        block: a square grid in any coordinate system.

    Raises:
        InvalidInputError: no transformation between the two systems is known.
    """
    transformer, turn = _find_transformer(block.epsg, wkt), full_turn(wkt)
    for count in NODE_COUNTS:
        positions = _fit_polynomial(transformer, turn, block, count)
        if positions is not None:
            return positions
    return _transform_pixels(transformer, turn, block)


def full_turn(wkt: str) -> float:
    """Return 360 degrees in the unit of a geographic coordinate system; 0 of a projected one."""
    system = horizontal_crs(wkt)
    if not system.is_geographic:
        return 0.0
    radians: float = system.axis_info[0].unit_conversion_factor
    return 2 * math.pi / radians


@functools.lru_cache(maxsize=256)
def _find_transformer(epsg: int, wkt: str) -> Transformer:
    system = horizontal_crs(wkt)
    try:
        return Transformer.from_crs(CRS.from_epsg(epsg), system, always_xy=True)
    except ProjError as error:
        raise InvalidInputError(
            f"No transformation from EPSG:{epsg} to {system.name} is known ({error})."
        ) from error


def _transform(
    transformer: Transformer, turn: float, block: Grid, fractions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (x or y, row, column) positions of a lattice of points of a block.

    Args:
        transformer: from the coordinate system of the block.
        turn: 360 degrees where the result is in longitude and latitude, else 0.
        block: the block.
        fractions: positions of the rows and the columns of the lattice from -1 to 1.
    """
    half = block.height * block.resolution / 2
    xs, ys = np.meshgrid(block.left + half + half * fractions, block.top - half - half * fractions)
    positions = np.stack(transformer.transform(xs, ys))
    if turn:
        middle_x, _ = transformer.transform(block.left + half, block.top - half)
        middle_x = middle_x if math.isfinite(middle_x) else 0.0
        with np.errstate(invalid="ignore"):
            positions[0] -= turn * np.round((positions[0] - middle_x) / turn)
    return positions


def _fit_polynomial(
    transformer: Transformer, turn: float, block: Grid, count: int
) -> BlockPositions | None:
    """Return polynomials that interpolate a block; None if they are not exact between the nodes."""
    nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    positions = _transform(transformer, turn, block, nodes)
    checked = np.linspace(-1, 1, CHECK_COUNT)
    exact = _transform(transformer, turn, block, checked)
    if not (np.isfinite(positions).all() and np.isfinite(exact).all()):
        return None
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    middle = positions[:, :1, :1]
    coefficients = inverse @ (positions - middle) @ inverse.T
    coefficients[:, :1, :1] += middle
    powers = np.vander(checked, count, increasing=True)
    error = np.abs(powers @ coefficients @ powers.T - exact).max()
    pixel = max(np.ptp(exact[0]), np.ptp(exact[1])) / block.height
    if not error <= POSITION_TOLERANCE * pixel:
        return None
    return BlockPositions(
        side=block.height, x=coefficients[0], y=coefficients[1], is_polynomial=True
    )


def _transform_pixels(transformer: Transformer, turn: float, block: Grid) -> BlockPositions:
    centres = (2 * np.arange(block.height) + 1) / block.height - 1
    positions: Any = _transform(transformer, turn, block, centres)
    return BlockPositions(side=block.height, x=positions[0], y=positions[1], is_polynomial=False)
