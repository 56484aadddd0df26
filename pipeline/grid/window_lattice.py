"""The lattice of model windows, anchored to the CRS.

The lattice does not depend on the region or the tile: a pixel is always covered by the same
windows with the same weights, so tiles join without seams.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.grid.grid import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Square windows that start at multiples of a stride, counted from the origin of the CRS."""

    window: int
    """Side of a window, pixels."""

    stride: int
    """Distance between the starts of neighbouring windows, pixels."""

    context_width: int
    """Pixels along each edge of a window that only serve as context, with zero weight."""

    def __post_init__(self) -> None:
        if (
            not self.context_width >= 0
            or not 0 < self.stride <= self.window - 2 * self.context_width
        ):
            raise ValueError(
                f"Windows of {self.window} px with {self.context_width} px of context cannot have "
                f"a stride of {self.stride} px: some pixels would be left out."
            )
        if self.overlap > self.stride:
            raise ValueError(
                f"Windows of {self.window} px cannot have a stride of {self.stride} px: more than "
                "two would overlap along an axis."
            )

    @property
    def overlap(self) -> int:
        """Return the number of pixels over which two neighbouring windows are blended."""
        return self.window - 2 * self.context_width - self.stride

    def coarsen(self, factor: int) -> Lattice:
        """Return the same lattice in cells of ``factor`` x ``factor`` pixels.

        Raises:
            ValueError: window, stride or context are not whole cells.
        """
        if any(length % factor for length in (self.window, self.stride, self.context_width)):
            raise ValueError(
                f"windows of {self.window} px with a stride of {self.stride} px are not whole "
                f"cells of {factor} px"
            )
            # ^ the cells of neighbouring windows would not coincide
        return Lattice(
            window=self.window // factor,
            stride=self.stride // factor,
            context_width=self.context_width // factor,
        )

    def window_starts(self, first: int, count: int) -> range:
        """Return the starts of all windows with weight on ``count`` pixels from ``first`` on."""
        lowest = -(-(first - self.window + self.context_width + 1) // self.stride)
        highest = (first + count - 1 - self.context_width) // self.stride
        return range(lowest * self.stride, (highest + 1) * self.stride, self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlacement:
    """The windows of one tile and their common extent, the context; all in pixels."""

    context_grid: Grid
    """Grid that must be read: the union of the windows."""

    window_rows: tuple[int, ...]
    """First row of each row of windows, on the context grid."""

    window_columns: tuple[int, ...]
    """First column of each column of windows, on the context grid."""

    tile_offset: tuple[int, int]
    """(row, column) of the tile's first pixel on the context grid."""

    tile_shape: tuple[int, int]
    """Height and width of the tile."""

    origin_index: tuple[int, int]
    """(row, column) of the context grid's first pixel, counted from the origin of the CRS."""

    @property
    def window_origins(self) -> tuple[tuple[int, int], ...]:
        """Return (row, column) of each window's first pixel on the context grid, row by row."""
        return tuple((row, column) for row in self.window_rows for column in self.window_columns)


def place_windows(area: Grid, lattice: Lattice) -> WindowPlacement:
    """Return the windows that have weight on an area, usually that of a tile."""
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
