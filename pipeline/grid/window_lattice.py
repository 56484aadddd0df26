"""Model windows on a lattice anchored to the coordinate system, and how they blend.

The lattice knows neither the region nor the tile: whoever asks for a pixel finds the same
windows around it, with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.grid import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Square windows at multiples of a stride, counted in pixels from the origin of the CRS."""

    window: int
    """Side of a window, pixels."""

    stride: int
    """Distance between neighbouring windows, pixels."""

    context_width: int
    """Pixels along each side of a window that only serve as context: weight zero."""

    def __post_init__(self) -> None:
        if (
            not self.context_width >= 0
            or not 0 < self.stride <= self.window - 2 * self.context_width
        ):
            raise ValueError(
                f"Windows of {self.window} px with a margin of {self.context_width} px cannot step by "
                f"{self.stride} px: pixels would be left out."
            )
        if self.overlap > self.stride:
            raise ValueError("More than two windows would overlap along an axis.")

    @property
    def overlap(self) -> int:
        """Return the pixels over which two neighbours blend into each other."""
        return self.window - 2 * self.context_width - self.stride

    def compute_axis_weights(self) -> NDArray[np.float32]:
        """Return the weights along one axis: (window,); over the lattice they sum to one."""
        up = (np.arange(self.overlap) + 0.5) / max(self.overlap, 1)
        # ^ a straight line: no other ramp of this length has a smaller largest step
        flat = np.ones(self.window - 2 * self.context_width - 2 * self.overlap)
        edge = np.zeros(self.context_width)
        return np.concatenate([edge, up, flat, 1.0 - up, edge]).astype(np.float32)

    def coarsen(self, factor: int) -> Lattice:
        """Return the same lattice in cells of ``factor`` x ``factor`` pixels.

        Raises:
            ValueError: its windows do not begin, step and blend by whole cells.
        """
        if any(length % factor for length in (self.window, self.stride, self.context_width)):
            raise ValueError(f"windows do not begin, step and blend by cells of {factor} px")
            # ^ the cells of neighbouring windows would lie beside each other
        return Lattice(
            window=self.window // factor,
            stride=self.stride // factor,
            context_width=self.context_width // factor,
        )

    def window_starts(self, first: int, count: int) -> range:
        """Return the starts of the windows that give weight to ``count`` pixels from ``first``."""
        lowest = -(-(first - self.window + self.context_width + 1) // self.stride)
        highest = (first + count - 1 - self.context_width) // self.stride
        return range(lowest * self.stride, (highest + 1) * self.stride, self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlacement:
    """The windows of one tile, and the grid of everything they see; all in pixels."""

    context_grid: Grid
    """What must be read: the union of the windows."""

    window_rows: tuple[int, ...]
    """First row of each row of windows on the context."""

    window_columns: tuple[int, ...]
    """First column of each column of windows on the context."""

    tile_offset: tuple[int, int]
    """(row, column) of the tile's first pixel on the context."""

    tile_shape: tuple[int, int]
    """Height and width of the tile."""

    origin_index: tuple[int, int]
    """(row, column) of the context's first pixel, counted from the origin of the CRS."""

    @property
    def window_origins(self) -> tuple[tuple[int, int], ...]:
        """Return (row, column) of each window's first pixel on the context, row by row."""
        return tuple((row, column) for row in self.window_rows for column in self.window_columns)


def place_windows(area: Grid, lattice: Lattice) -> WindowPlacement:
    """Return the windows that decide the pixels of an area, a tile's."""
    row, column = area.origin_index()
    rows = lattice.window_starts(row, area.height)
    columns = lattice.window_starts(column, area.width)
    context = area.window(
        row=rows[0] - row,
        column=columns[0] - column,
        height=rows[-1] - rows[0] + lattice.window,
        width=columns[-1] - columns[0] + lattice.window,
    )
    return WindowPlacement(
        context_grid=context,
        window_rows=tuple(start - rows[0] for start in rows),
        window_columns=tuple(start - columns[0] for start in columns),
        tile_offset=(row - rows[0], column - columns[0]),
        tile_shape=area.shape,
        origin_index=(rows[0], columns[0]),
    )
