"""Run a predictor on windows in batches; the next batch is assembled while one is computed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import WindowPlacement
from pipeline.inference import test_time_augmentation
from pipeline.inference.predictor_protocol import Outputs, Predictor
from pipeline.runtime import cancellation

MAX_QUEUED_BATCHES = 2
"""Batches that may be waiting for the model: enough to keep it busy, few to limit the memory."""

WINDOW_CACHE_BYTES = 9 * 2**23
"""Size of the cache of outputs that neighbouring tiles share: 37 windows of ten classes."""


@dataclass(slots=True, kw_only=True)
class WindowStats:
    """Numbers of windows of a tile, and the time of the model."""

    used: int = 0
    """Windows with any observed pixel, whether predicted or cached."""

    empty: int = 0
    """Windows that were skipped because nothing was observed in them."""

    cache_hits: int = 0
    """Used windows whose outputs were cached by a neighbouring tile."""

    non_finite: int = 0
    """Used windows without any finite output."""

    seconds: float = 0.0
    """Time of the model in seconds, summed over the batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One input of the model."""

    row: int
    """First row in the context."""

    column: int
    """First column in the context."""

    observed_fraction: float
    """Share of observed pixels."""

    is_sample: bool
    """Whether it is a sample window beside the lattice."""

    chips: Mapping[str, NDArray[np.float32]]
    """Modality -> (band, window, window)."""


class WindowCache:
    """Cache of the outputs of windows across the edges of tiles, for neighbouring tiles.

    The outputs of a window are the same for every tile: without this cache, a third of the windows
    of small tiles, and a fifth of those of large ones, would be computed twice.
    """

    def __init__(self, max_bytes: int = WINDOW_CACHE_BYTES) -> None:
        """Create an empty cache that evicts the oldest outputs beyond ``max_bytes``."""
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._outputs: OrderedDict[tuple[int, ...], Outputs] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, origin: tuple[int, ...]) -> Outputs | None:
        """Return the outputs of a window, or None if they are not cached."""
        with self._lock:
            outputs = self._outputs.get(origin)
            if outputs is not None:
                self._outputs.move_to_end(origin, last=False)
                # ^ most windows have one neighbour: outputs that were used once are evicted first
            return outputs

    def put(self, origin: tuple[int, ...], outputs: Outputs) -> None:
        """Add the outputs of a window."""
        with self._lock:
            if origin in self._outputs:
                return
            self._outputs[origin] = tuple(output.copy() for output in outputs)
            # ^ a view would keep the whole batch in memory
            self._num_bytes += sum(output.nbytes for output in outputs)
            while self._num_bytes > self._max_bytes:
                _, evicted = self._outputs.popitem(last=False)
                self._num_bytes -= sum(output.nbytes for output in evicted)


@dataclass(slots=True)
class _PendingWindow:
    """A window whose outputs are cached, or are being computed in a batch."""

    window: Window
    outputs: Outputs | None = None
    """Outputs from the cache."""

    future: Future[tuple[Outputs, float]] | None = None
    """Outputs of the batch, and the seconds that it took."""

    batch_index: int = 0
    """Index of the window in its batch."""

    ends_batch: bool = False
    """Whether it is the last window of its batch."""


class BatchRunner:
    """Run a predictor on a stream of windows; outputs come in the order of the windows."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        predictor: Predictor,
        placement: WindowPlacement,
        batch_size: int,
        stats: WindowStats,
        tta_threshold: float | None,
        window_cache: WindowCache | None,
    ) -> None:
        self._executor, self._predictor, self._placement = executor, predictor, placement
        self._batch_size, self._stats, self._tta_threshold = batch_size, stats, tta_threshold
        self._cache = window_cache or WindowCache(0)
        self._queue: deque[_PendingWindow] = deque()
        self._next_batch: list[_PendingWindow] = []
        self._queued_batches = 0

    def submit(self, window: Window) -> None:
        """Add a window to the next batch, unless its outputs are cached."""
        pending = _PendingWindow(window, self._cached_outputs(window))
        self._queue.append(pending)
        if pending.outputs is None:
            self._next_batch.append(pending)
        if len(self._next_batch) == self._batch_size:
            self._submit_batch()

    def completed(self) -> Iterator[tuple[Window, Outputs]]:
        """Yield the next windows whose outputs are available, in the order of submission.

        While more than :data:`MAX_QUEUED_BATCHES` batches are queued, wait for the oldest one.
        """
        while self._queue and (
            self._queue[0].outputs
            or (self._queue[0].future and self._queued_batches > MAX_QUEUED_BATCHES)
        ):
            yield self._wait_for_window(self._queue.popleft())

    def drain(self) -> Iterator[tuple[Window, Outputs]]:
        """Submit the last batch and yield all remaining windows, in the order of submission."""
        if self._next_batch:
            self._submit_batch()
        while self._queue:
            yield self._wait_for_window(self._queue.popleft())

    def _cached_outputs(self, window: Window) -> Outputs | None:
        if window.is_sample:
            return None
        outputs = self._cache.get(window_origin(window, self._placement))
        self._stats.cache_hits += outputs is not None
        return outputs

    def _submit_batch(self) -> None:
        batch, self._next_batch = self._next_batch, []
        chips = _stack_chips([pending.window.chips for pending in batch], self._batch_size)
        origins = [window_origin(pending.window, self._placement) for pending in batch]
        origins += [origins[0]] * (self._batch_size - len(batch))
        future = self._executor.submit(self._predict_batch, chips, origins)
        for index, pending in enumerate(batch):
            pending.future, pending.batch_index = future, index
            pending.ends_batch = pending is batch[-1]
        self._queued_batches += 1

    def _predict_batch(
        self, chips: Mapping[str, NDArray[np.float32]], origins: Sequence[tuple[int, int]]
    ) -> tuple[Outputs, float]:
        """Return the outputs of a batch, and the seconds that they took."""
        started = time.perf_counter()
        outputs = test_time_augmentation.predict(
            self._predictor, chips, origins, self._tta_threshold
        )
        _check_shapes(outputs, self._predictor, self._batch_size)
        return outputs, time.perf_counter() - started

    def _wait_for_window(self, pending: _PendingWindow) -> tuple[Window, Outputs]:
        if pending.outputs is not None:
            return pending.window, pending.outputs
        if pending.future is None:
            raise AssertionError("a window that was never submitted")
        batch_outputs, seconds = cancellation.wait_for_result(pending.future)
        outputs = tuple(output[pending.batch_index] for output in batch_outputs)
        if pending.ends_batch:
            self._queued_batches -= 1
            self._stats.seconds += seconds
        if not pending.window.is_sample and self._reaches_neighbours(pending.window):
            self._cache.put(window_origin(pending.window, self._placement), outputs)
        return pending.window, outputs

    def _reaches_neighbours(self, window: Window) -> bool:
        """Return whether a window extends into the tiles on the right or below."""
        placement, size = self._placement, self._predictor.window
        return (
            window.row + size > placement.tile_offset[0] + placement.tile_shape[0]
            or window.column + size > placement.tile_offset[1] + placement.tile_shape[1]
        )


def window_origin(window: Window, placement: WindowPlacement) -> tuple[int, int]:
    """Return (row, column) of a window's first pixel, counted from the origin of the CRS."""
    return placement.origin_index[0] + window.row, placement.origin_index[1] + window.column


def _stack_chips(
    chips: Sequence[Mapping[str, NDArray[np.float32]]], batch_size: int
) -> dict[str, NDArray[np.float32]]:
    """Stack chips to a batch: modality -> (batch, band, y, x); unused entries are NaN."""
    batch = {}
    for modality, first in chips[0].items():
        stacked = np.full((batch_size, *first.shape), np.nan, dtype=np.float32)
        for index, chip in enumerate(chips):
            stacked[index] = chip[modality]
        batch[modality] = stacked
    return batch


def _check_shapes(outputs: Outputs, predictor: Predictor, batch_size: int) -> None:
    for output, spec in zip(outputs, predictor.outputs, strict=True):
        size = predictor.window // spec.stride
        expected = (batch_size, len(spec.channels), size, size)
        if output.shape != expected:
            raise AssertionError(f"the model's output is {output.shape} instead of {expected}")
