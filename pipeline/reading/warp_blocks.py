"""Blocks, anchored to the origin of a coordinate system, in which rasters are resampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pipeline.grid.grid import Grid

WARP_BLOCK_SIZE = 256
"""Side in pixels of the blocks in which rasters of another grid are warped."""

MAX_SOURCE_PIXELS = 2**24
"""Maximum number of source pixels of a warp block; a quarter of the maximum of a strip."""


def block_size(ratio: float) -> int:
    """Return the side of a warp block.

    Args:
        ratio: size of a source pixel in pixels of the block.
    """
    side = WARP_BLOCK_SIZE
    while side > 1 and (side / ratio) ** 2 > MAX_SOURCE_PIXELS:
        side //= 2
    return side


def iter_blocks(grid: Grid, side: int) -> Iterator[tuple[int, int, Grid]]:
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
