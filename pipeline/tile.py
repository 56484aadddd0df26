"""Build one tile: read, composite, predict, blend, classify, store."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs.scene import Scene
from pipeline import layer_table
from pipeline.compositing import strip_reader
from pipeline.compositing.row_buffer import RowBuffer
from pipeline.compositing.strip_reader import Strip
from pipeline.grid.grid import Tile
from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference.batching import WindowCache, WindowStats
from pipeline.inference.predictor_protocol import Predictor
from pipeline.inference.tiled_inference import TilePredictor, WindowRow
from pipeline.plan.plan import Plan
from pipeline.plan.recipe import ModelSpec
from pipeline.quality import window_agreement
from pipeline.runtime import cancellation, io_statistics, software_versions
from pipeline.storage import receipt, zarr_store
from pipeline.storage.receipt import Receipt
from pipeline.storage.store import StoreLike
from pipeline.tile_layers import TileLayers

CPU_PARALLEL_BATCHES = 2
"""Batches predicted in parallel on a CPU, so that one uses the cores that another leaves idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileResult:
    """Outcome of one tile."""

    tile: str
    reason: str | None
    """Why the tile failed; None = it is finished."""

    retryable: bool = False
    """Whether the tile failed and another attempt may succeed; else something must be changed."""

    seconds: dict[str, float]

    traffic: Mapping[str, int] = field(default_factory=dict)
    """Bytes, requests and retries of the tile's reads."""

    km2: float = 0.0
    """Area of the tile inside the region."""


def build_tile(
    plan: Plan,
    tile: Tile,
    predictor: Predictor | None,
    folder: StoreLike,
    *,
    threads: int,
    window_cache: WindowCache | None = None,
) -> Receipt:
    """Build one tile: read and composite scenes, predict, write the store, write the receipt.

    Args:
        plan: the frozen plan.
        tile: one of its tiles.
        predictor: the model; None where the plan has none.
        folder: the plan's folder; its store exists.
        threads: threads that read and composite.
        window_cache: outputs of windows that neighbouring tiles of the plan have computed.

    Returns:
        The receipt, which is also written to ``folder``.

    Raises:
        AssetReadError: an asset could not be read; nothing of the tile is written.
        Cancelled: the tile was cancelled; nothing of it is written.
    """
    started = time.perf_counter()
    scenes = plan.tile_scenes(tile)
    part = plan.clip_tile(tile)
    builder = TileBuilder(plan, part)
    with (
        io_statistics.collect() as traffic,
        contextlib.closing(
            strip_reader.read_strips(
                plan,
                scenes,
                plan.context_grid(part),
                threads=threads,
                needed_rows=builder.find_needed_rows(),
            )
        ) as strips,
    ):
        if predictor is None or plan.model is None:
            builder.store_composites(strips)
        else:
            builder.store_all_layers(strips, scenes, plan.model, predictor, window_cache)
    values = builder.layers.finalize(tile)
    cancellation.check_cancelled()
    write_started = time.perf_counter()
    digests = zarr_store.write_tile(folder, plan, tile, values)
    ended = time.perf_counter()
    tile_receipt = Receipt(
        tile=tile.id,
        key=plan.tile_key(tile),
        scenes=tuple(sorted(scene.id for scene in scenes)),
        digests=digests,
        coverage=_coverage_fractions(values["observations"]),
        versions=software_versions.package_versions(),
        seconds={
            "read": round(builder.read_seconds, 3),
            "predict": round(builder.window_stats.seconds, 3),
            "write": round(ended - write_started, 3),
            "tile": round(ended - started, 3),
        },
        samples=builder.samples,
        traffic=traffic.to_dict(),
        counts=builder.layers.count_pixels(),
    )
    receipt.write(folder, tile, tile_receipt)
    return tile_receipt


@dataclass(frozen=True, slots=True)
class _ScheduledRow:
    """A row of windows that is cut out of the context once its pixels have been read."""

    row: int
    """First row on the context grid."""

    columns: tuple[int, ...]
    """First column of each window."""

    is_sample: bool
    """Whether the windows are samples beside the lattice."""


class TileBuilder:
    """The loop over the strips of one tile."""

    def __init__(self, plan: Plan, tile: Tile) -> None:
        """Allocate the layers of a tile.

        Args:
            plan: the plan.
            tile: one of its tiles, or a part of one.
        """
        self._plan, self._context_grid = plan, plan.context_grid(tile)
        self._placement, self._lattice = plan.window_placement(tile), plan.lattice
        self.layers = TileLayers(plan, tile)
        self.window_stats = WindowStats()
        self.read_seconds = 0.0
        """Seconds of reading and compositing."""

        self.samples: dict[str, Any] = {}
        """Counts of windows, and the comparison of samples: see :class:`Receipt`."""

    def find_needed_rows(self) -> NDArray[np.bool_]:
        """Return which rows of the context hold the region or a window that covers part of it."""
        if self._placement is None or self._lattice is None:
            return np.asarray(self.layers.region_mask.any(axis=1))
        needed = np.zeros(self._context_grid.height, dtype=np.bool_)
        for scheduled in self._schedule_window_rows(self._placement, self._lattice):
            needed[scheduled.row : scheduled.row + self._lattice.window] = True
        return needed

    def store_composites(self, strips: Iterable[Strip]) -> None:
        """Build a tile without a model: store counts and composites, strip by strip."""
        for strip in strips:
            self._store_strip(strip)

    def store_all_layers(
        self,
        strips: Iterable[Strip],
        scenes: Sequence[Scene],
        model: ModelSpec,
        predictor: Predictor,
        window_cache: WindowCache | None,
    ) -> None:
        """Build a tile with a model.

        For each strip: store counts and composites; cut the rows of windows that are complete;
        predict them in batches; blend the outputs; classify and store the rows of the tile that no
        later window reaches. While the batches are computed, the next strip is read.

        Args:
            strips: the strips of the context, in order.
            scenes: the scenes of the tile.
            model: the plan's model.
            predictor: the model, loaded.
            window_cache: outputs of windows that neighbouring tiles have computed.
        """
        placement, lattice = self._placement, self._lattice
        class_output = model.class_output
        if placement is None or lattice is None:
            raise AssertionError("a plan with a model has windows")
        band_counts = {
            modality: len(bands)
            for modality, bands in model.inputs.items()
            if any(scene.modality == modality for scene in scenes)
        }
        buffer = RowBuffer(band_counts, placement.context_grid.width)
        schedule = self._schedule_window_rows(placement, lattice)
        with TilePredictor(
            placement,
            lattice,
            predictor,
            batch_size=model.batch,
            stats=self.window_stats,
            tta_threshold=self._plan.recipe.average_below,
            window_cache=window_cache,
            parallel_batches=1 if model.device == "cuda" else CPU_PARALLEL_BATCHES,
        ) as tile_predictor:
            for strip in strips:
                self._store_strip(strip)
                buffer.append(strip)
                while schedule and schedule[0].row + lattice.window <= buffer.stop_row:
                    window_row = _cut_window_row(buffer, schedule.popleft(), lattice.window)
                    for rows in tile_predictor.predict_and_blend(window_row):
                        self.layers.store_outputs(rows)
                    buffer.drop_above(schedule[0].row if schedule else buffer.stop_row)
            for rows in tile_predictor.finish():
                self.layers.store_outputs(rows)
        self.samples = {
            "windows": self.window_stats.used,
            "shared": self.window_stats.cache_hits,
            "silent": self.window_stats.non_finite,
            **window_agreement.compare_samples(
                self._plan,
                placement,
                tile_predictor.samples,
                self.layers.get(class_output.layer_name) if class_output else None,
                predictor,
            ),
        }

    def _store_strip(self, strip: Strip) -> None:
        """Store counts and composites of a strip, unless the tile is cancelled."""
        cancellation.check_cancelled()
        self.read_seconds += strip.read_seconds
        self.layers.store_strip(strip)

    def _schedule_window_rows(
        self, placement: WindowPlacement, lattice: Lattice
    ) -> deque[_ScheduledRow]:
        """Return the rows of windows of the lattice and those of samples, from top to bottom.

        Windows that cover no part of the region are left out: no pixel needs their outputs.
        """
        sample_windows = window_agreement.select_sample_windows(
            placement, lattice, self._plan.max_output_stride
        )
        rows = [(row, placement.window_columns, False) for row in placement.window_rows]
        rows += [(row, columns, True) for row, columns in sample_windows.items()]
        scheduled_rows = [
            _ScheduledRow(
                row,
                tuple(
                    column
                    for column in columns
                    if self._meets_region(row, column, placement, lattice)
                ),
                is_sample=is_sample,
            )
            for row, columns, is_sample in sorted(rows, key=lambda entry: entry[0])
        ]
        return deque(scheduled for scheduled in scheduled_rows if scheduled.columns)

    def _meets_region(
        self, row: int, column: int, placement: WindowPlacement, lattice: Lattice
    ) -> bool:
        """Tell whether a window that begins there covers any cell of the tile in the region."""
        stride, (top, left) = self._plan.output_stride, placement.tile_offset
        rows = slice(max(row - top, 0) // stride, max(row + lattice.window - top, 0) // stride)
        columns = slice(
            max(column - left, 0) // stride, max(column + lattice.window - left, 0) // stride
        )
        return bool(self.layers.region_mask[rows, columns].any())


def _cut_window_row(buffer: RowBuffer, scheduled: _ScheduledRow, window: int) -> WindowRow:
    """Copy the pixels of a row of windows out of the buffer."""
    inputs, observed = buffer.read_rows(scheduled.row, scheduled.row + window)
    return WindowRow(
        row=scheduled.row,
        columns=scheduled.columns,
        inputs=inputs,
        observed=observed,
        is_sample=scheduled.is_sample,
    )


def _coverage_fractions(observations: NDArray[np.uint16]) -> dict[str, float]:
    """Return the fraction of cells inside the region, and of these the fraction observed."""
    inside = observations != layer_table.get("observations").fill_value
    observed = float((inside & (observations > 0)).sum() / max(int(inside.sum()), 1))
    return {"inside": round(float(inside.mean()), 6), "observed": round(observed, 6)}
