"""What a tile sees, read strip by strip: the next one comes in while this one is worked on."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import dask.base
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Scene
from catalogs.sensors import GROUPS, get_sensor
from pipeline.compositing import composite
from pipeline.grid.grid import Grid
from pipeline.grid.scene_index import find_intersecting_scenes
from pipeline.plan.plan import Plan
from pipeline.reading import raster_reader, units
from pipeline.runtime import cancellation

MAX_STRIP_PIXELS = 5 * 2**18
"""Of one strip, at most: all bands of some hundred scenes' strips fit into memory one by one. A
tile of 2048 with its context is read in strips of 512 rows, as high as most files' blocks."""

MIN_STRIP_ROWS, MAX_STRIP_ROWS = 256, 2048
"""Rows of a strip: powers of two, so that the blocks of a COG are whole in one of them."""

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeBlock:
    """The composites of one grid, in memory."""

    values: Mapping[str, xr.DataArray]
    """Modality → (band, y, x) in the units of :data:`radiometry.UNITS`; NaN = no value."""

    observations: NDArray[np.uint16]
    """(y, x): days with a clear Sentinel-2 observation; Sentinel-1 where no other is given."""

    first_day: NDArray[np.uint16]
    """(y, x): days since 1970-01-01 of the earliest; 0 = none."""

    last_day: NDArray[np.uint16]
    """(y, x): days since 1970-01-01 of the latest; 0 = none."""

    steps: tuple[CompositeBlock, ...] = ()
    """The same of each part of the period that has composites of its own."""


def compose(plan: Plan, scenes: Sequence[Scene], area: Grid, *, threads: int) -> CompositeBlock:
    """Read and compose scenes on a grid, by a plan's recipe."""
    near = find_intersecting_scenes(scenes, area)
    steps = plan.recipe.steps if plan.recipe.composites else ()
    lazy = [_lazy_composites(plan, near, area)]
    lazy += [
        _lazy_composites(plan, composite.select_scenes_in_step(near, step), area) for step in steps
    ]
    readers = raster_reader.count_read_threads(near, threads)
    with cancellation.CancellableThreadPool(readers, "read", wait_on_error=False) as pool:
        (computed,) = dask.base.compute(lazy, scheduler="threads", pool=pool)
        # ^ not by dask.config: it is global, and tiles are made side by side; and threads of our
        #   own, as those of dask do not know for which tile they read
    whole, *parts = (_to_composite_block(plan, one, area) for one in computed)
    return replace(whole, steps=tuple(parts))


def _lazy_composites(plan: Plan, scenes: Sequence[Scene], area: Grid) -> dict[str, tuple[Any, ...]]:
    """Return values, counts, first and last days of each modality, not computed yet."""
    lazy: dict[str, tuple[Any, ...]] = {}
    for modality in plan.recipe.inputs:
        some = [scene for scene in scenes if scene.modality == modality]
        bands = plan.bands(modality)
        if some and bands:
            made = composite.compose_modality(modality, some, bands, area, recipe=plan.recipe)
            planes = (made.observations.data, made.first_day.data, made.last_day.data)
            lazy[modality] = (made.values, *planes)
    return lazy


def _to_composite_block(
    plan: Plan, computed: Mapping[str, tuple[Any, ...]], area: Grid
) -> CompositeBlock:
    empty = np.zeros(area.shape, dtype=np.uint16)
    _, observations, first, last = computed.get(
        _observation_modality(plan.model_inputs), (None, *(empty,) * 3)
    )
    return CompositeBlock(
        values={modality: values for modality, (values, *_) in computed.items()},
        observations=observations,
        first_day=first,
        last_day=last,
    )


def _observation_modality(inputs: Sequence[str]) -> str:
    """Return the modality whose days are counted: of the first group of sensors.GROUPS."""
    return min(inputs, key=lambda name: GROUPS.index(get_sensor(name).group))


def to_model_inputs(plan: Plan, block: CompositeBlock) -> dict[str, NDArray[np.float32]]:
    """Return the model's inputs: power becomes decibel here and nowhere earlier.

    Raises:
        InvalidInputError: an input is not in its modality's unit.
    """
    return {
        name: units.to_model_unit(values, name).values
        for name, values in block.values.items()
        if plan.model is None or name in plan.model.inputs
    }


def split_rows(
    area: Grid, scenes: Sequence[Scene], *, row_multiple: int = 1
) -> tuple[tuple[int, int], ...]:
    """Cut the rows of a grid into strips, between the blocks of the scenes' files.

    Args:
        area: what is read.
        scenes: the scenes; those of the grid's own system and resolution say where blocks begin.
        row_multiple: rows that stay together.

    Returns:
        (first row, row after the last) of each.
    """
    rows = MAX_STRIP_ROWS
    while rows > MIN_STRIP_ROWS and rows * area.width > MAX_STRIP_PIXELS:
        rows //= 2
    begin = -_rows_above_grid(area, scenes) % rows
    begin -= begin % row_multiple
    edges = [0, *range(begin or rows, area.height, rows), area.height]
    return tuple(itertools.pairwise(edges))


def _rows_above_grid(area: Grid, scenes: Sequence[Scene]) -> int:
    """Return how many rows of the first scene's files lie above a grid."""
    for scene in scenes:
        for asset in scene.assets.values():
            placed = asset.transform if asset.epsg == area.epsg else None
            if placed and math.isclose(placed[0], area.resolution):
                return round((placed[5] - area.top) / area.resolution)
    return 0


def prefetch(parts: Iterable[_T], read: Callable[[_T], _U]) -> Iterator[_U]:
    """Yield what is read of each part, in order; one part is read ahead, and no more."""
    with cancellation.CancellableThreadPool(1, "strip", wait_on_error=False) as reader:
        # ^ GDAL may be waiting for a store that has fallen silent
        coming: Future[_U] | None = None
        for part in parts:
            ready = None if coming is None else cancellation.wait_for_result(coming)
            coming, first = reader.submit(read, part), coming is None
            if not first:
                yield cast("_U", ready)
        if coming is not None:
            yield cancellation.wait_for_result(coming)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Some rows of what a tile sees."""

    first_row: int
    """First row on the context."""

    composites: CompositeBlock
    inputs: Mapping[str, NDArray[np.float32]]
    """Modality → (band, y, x) in the model's units."""

    read_seconds: float
    """That reading and composing took."""

    @property
    def stop_row(self) -> int:
        """Return the row after the last."""
        return self.first_row + len(self.composites.observations)


def read_strips(
    plan: Plan, scenes: Sequence[Scene], area: Grid, *, threads: int
) -> Iterator[Strip]:
    """Read and compose an area strip by strip, one ahead.

    Args:
        plan: whose recipe and model.
        scenes: the scenes that touch the area.
        area: the pixels to read.
        threads: threads that read and compose.

    Raises:
        AssetReadError: an asset could not be read.
    """

    def read(rows: tuple[int, int]) -> Strip:
        started = time.perf_counter()
        first, stop = rows
        part = area.window(row=first, column=0, height=stop - first, width=area.width)
        seen = compose(plan, scenes, part, threads=threads)
        inputs = to_model_inputs(plan, seen) if plan.model else {}
        return Strip(
            first_row=first,
            composites=seen,
            inputs=inputs,
            read_seconds=time.perf_counter() - started,
        )

    return prefetch(split_rows(area, scenes, row_multiple=plan.output_stride), read)


class RowBuffer:
    """The strips that windows still look at."""

    def __init__(self, band_counts: Mapping[str, int], width: int) -> None:
        """Begin at the first row.

        Args:
            band_counts: modality → bands.
            width: columns.
        """
        self._band_counts, self._width = band_counts, width
        self._strips: deque[Strip] = deque()

    @property
    def stop_row(self) -> int:
        """Return the row after the last that is held."""
        return self._strips[-1].stop_row if self._strips else 0

    def append(self, strip: Strip) -> None:
        """Hold another strip below the others."""
        self._strips.append(strip)

    def drop_above(self, row: int) -> None:
        """Let go of what lies above a row."""
        while self._strips and self._strips[0].stop_row <= row:
            self._strips.popleft()

    def read_rows(
        self, first: int, stop: int
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        """Return inputs (band, y, x) by modality, and (y, x) where something was observed."""
        inputs = {
            name: np.full((bands, stop - first, self._width), np.nan, dtype=np.float32)
            for name, bands in self._band_counts.items()
        }
        observed = np.zeros((stop - first, self._width), dtype=np.bool_)
        for strip in self._strips:
            top, bottom = max(first, strip.first_row), min(stop, strip.stop_row)
            if top >= bottom:
                continue
            into, part = (
                slice(top - first, bottom - first),
                slice(top - strip.first_row, bottom - strip.first_row),
            )
            observed[into] = strip.composites.observations[part] > 0
            for name, values in strip.inputs.items():
                inputs[name][:, into] = values[:, part]
        return inputs, observed
