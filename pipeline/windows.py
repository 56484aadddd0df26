"""Model windows on a lattice anchored to the coordinate system, and how they blend.

The lattice knows neither the region nor the tile: whoever asks for a pixel finds the same
windows around it, with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import Grid, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Square windows at multiples of a stride, counted in pixels from the origin of the CRS."""

    window: int
    """Side of a window, pixels."""

    stride: int
    """Distance between neighbouring windows, pixels."""

    margin: int
    """Pixels along each side of a window that only serve as context: weight zero."""

    def __post_init__(self) -> None:
        if not self.margin >= 0 or not 0 < self.stride <= self.window - 2 * self.margin:
            raise ValueError(
                f"Windows of {self.window} px with a margin of {self.margin} px cannot step by "
                f"{self.stride} px: pixels would be left out."
            )
        if self.ramp > self.stride:
            raise ValueError("More than two windows would overlap along an axis.")

    @property
    def ramp(self) -> int:
        """Return the pixels over which two neighbours blend into each other."""
        return self.window - 2 * self.margin - self.stride

    def profile(self) -> NDArray[np.float32]:
        """Return the weights along one axis: (window,); over the lattice they sum to one."""
        up = np.sin(0.5 * np.pi * (np.arange(self.ramp) + 0.5) / max(self.ramp, 1)) ** 2
        flat = np.ones(self.window - 2 * self.margin - 2 * self.ramp)
        edge = np.zeros(self.margin)
        return np.concatenate([edge, up, flat, 1.0 - up, edge]).astype(np.float32)

    def starts(self, first: int, count: int) -> range:
        """Return the starts of the windows that give weight to ``count`` pixels from ``first``."""
        lowest = -(-(first - self.window + self.margin + 1) // self.stride)
        highest = (first + count - 1 - self.margin) // self.stride
        return range(lowest * self.stride, (highest + 1) * self.stride, self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The windows of one tile, and the grid of everything they see."""

    context: Grid
    """What must be read: the union of the windows."""

    origins: tuple[tuple[int, int], ...]
    """(row, column) of each window's first pixel on the context grid, row by row."""

    offset: tuple[int, int]
    """(row, column) of the tile's first pixel on the context grid."""


def place(grid: Grid, tile: Tile, lattice: Lattice) -> Placement:
    """Return the windows that decide the pixels of a tile."""
    first_row, first_column = grid.origin_index()
    row, column = first_row + tile.row, first_column + tile.column
    rows = lattice.starts(row, tile.height)
    columns = lattice.starts(column, tile.width)
    context = grid.window(
        row=rows[0] - first_row,
        column=columns[0] - first_column,
        height=rows[-1] - rows[0] + lattice.window,
        width=columns[-1] - columns[0] + lattice.window,
    )
    return Placement(
        context=context,
        origins=tuple((r - rows[0], c - columns[0]) for r in rows for c in columns),
        offset=(row - rows[0], column - columns[0]),
    )


def batches(items: tuple[tuple[int, int], ...], size: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Cut a sequence into batches, always at the same places."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
