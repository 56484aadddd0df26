"""Read and composite the context of a tile strip by strip, one strip ahead."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from catalogs.scene import Scene
from pipeline.compositing import composite_block
from pipeline.compositing.composite_block import CompositeBlock
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation

MAX_STRIP_PIXELS = 5 * 2**18
"""Pixels of a strip at most, so that all bands of some hundred scenes fit into memory one after
the other. A tile of 2048 px with its context is read in strips of 512 rows, the height of most
files' blocks."""

MIN_STRIP_ROWS, MAX_STRIP_ROWS = 256, 2048
"""Rows of a strip: powers of two, so that a COG's blocks are not divided between strips."""

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Some rows of the context of a tile, read and composited."""

    first_row: int
    """First row on the context grid."""

    composites: CompositeBlock
    inputs: Mapping[str, NDArray[np.float32]]
    """Modality → (band, y, x) in the model's units; empty without a model."""

    read_seconds: float
    """Seconds that reading and compositing took."""

    @property
    def stop_row(self) -> int:
        """Return the row after the last."""
        return self.first_row + len(self.composites.observations)


def read_strips(
    plan: Plan,
    scenes: Sequence[Scene],
    area: Grid,
    *,
    threads: int,
    needed_rows: NDArray[np.bool_] | None = None,
) -> Generator[Strip, None, None]:
    """Read and composite an area strip by strip; while one is used, the next one is read.

    Close the generator where it is not exhausted: this cancels the read in progress.

    Args:
        plan: the plan, for its recipe and model.
        scenes: the scenes that may touch the area.
        area: the context grid, in pixels.
        threads: threads that read and composite.
        needed_rows: which rows of the area are needed; strips without any are left out. All by
            default.

    Raises:
        AssetReadError: an asset could not be read.
    """

    def read_strip(rows: tuple[int, int]) -> Strip:
        started = time.perf_counter()
        first, stop = rows
        strip_grid = area.window(row=first, column=0, height=stop - first, width=area.width)
        block = composite_block.compose(plan, scenes, strip_grid, threads=threads)
        inputs = composite_block.to_model_inputs(plan, block) if plan.model else {}
        return Strip(
            first_row=first,
            composites=block,
            inputs=inputs,
            read_seconds=time.perf_counter() - started,
        )

    strips = split_rows(area, scenes, row_multiple=plan.output_stride)
    if needed_rows is not None:
        strips = tuple(rows for rows in strips if needed_rows[slice(*rows)].any())
    return prefetch(strips, read_strip)


def split_rows(
    area: Grid, scenes: Sequence[Scene], *, row_multiple: int = 1
) -> tuple[tuple[int, int], ...]:
    """Split the rows of a grid into strips, at the edges of the blocks of the scenes' files.

    Args:
        area: the grid.
        scenes: the scenes; the first raster with the CRS and resolution of the grid decides where
            blocks begin.
        row_multiple: strips begin at multiples of so many rows.

    Returns:
        (first row, row after the last) of each strip.
    """
    rows = MAX_STRIP_ROWS
    while rows > MIN_STRIP_ROWS and rows * area.width > MAX_STRIP_PIXELS:
        rows //= 2
    first_edge = -_rows_above_grid(area, scenes) % rows
    first_edge -= first_edge % row_multiple
    edges = [0, *range(first_edge or rows, area.height, rows), area.height]
    return tuple(itertools.pairwise(edges))


def _rows_above_grid(area: Grid, scenes: Sequence[Scene]) -> int:
    """Return how many rows of the first raster on the same pixels lie above a grid."""
    for scene in scenes:
        for asset in scene.assets.values():
            transform = asset.transform if asset.epsg == area.epsg else None
            if transform and math.isclose(transform[0], area.resolution):
                return round((transform[5] - area.top) / area.resolution)
    return 0


def prefetch(
    parts: Iterable[_Part], read: Callable[[_Part], _Result]
) -> Generator[_Result, None, None]:
    """Yield the result of reading each part in order, reading one part ahead and no more.

    Args:
        parts: what to read.
        read: reads one part; called in another thread.
    """
    with cancellation.CancellableThreadPool(1, "strip", wait_on_error=False) as reader:
        # ^ does not wait on errors: GDAL may be waiting for a server that no longer responds
        pending: Future[_Result] | None = None
        for part in parts:
            if pending is None:
                pending = reader.submit(read, part)
                continue
            result = cancellation.wait_for_result(pending)
            pending = reader.submit(read, part)
            yield result
        if pending is not None:
            yield cancellation.wait_for_result(pending)
