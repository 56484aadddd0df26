"""Windows on their way through the model: while one batch is computed, the next is put together."""

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
from pipeline.inference.predictor import Outputs, Predictor
from pipeline.runtime import cancellation

MAX_QUEUED_BATCHES = 2
"""Batches that wait for the model: it never waits for one, and no more are held."""

WINDOW_CACHE_BYTES = 9 * 2**23
"""Of the answers that are kept for neighbouring tiles: 37 windows of ten classes."""


@dataclass(slots=True, kw_only=True)
class WindowStats:
    """Windows of a tile."""

    used: int = 0
    """Given to the model."""

    empty: int = 0
    """Left out: nothing was observed in them."""

    cache_hits: int = 0
    """Of the used ones, those that a neighbouring tile had asked the model for already."""

    non_finite: int = 0
    """Without any finite answer."""

    seconds: float = 0.0
    """That the model took, batch by batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the model looks at once."""

    row: int
    column: int
    observed_fraction: float
    is_sample: bool
    chips: Mapping[str, NDArray[np.float32]]


class WindowCache:
    """Answers for windows across the edges of tiles, for the neighbours that this process makes.

    A window's answer is the same whoever asks: without this, a third of the windows of small
    tiles, and a fifth of those of large ones, would be computed twice.
    """

    def __init__(self, max_bytes: int = WINDOW_CACHE_BYTES) -> None:
        """Hold so many bytes, the latest ones."""
        self._limit, self._bytes = max_bytes, 0
        self._held: OrderedDict[tuple[int, ...], Outputs] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, origin: tuple[int, ...]) -> Outputs | None:
        """Return the answers for a window, if they are still held."""
        with self._lock:
            found = self._held.get(origin)
            if found is not None:
                self._held.move_to_end(origin, last=False)
                # ^ most windows have one neighbour: what was asked for once goes first
            return found

    def put(self, origin: tuple[int, ...], outputs: Outputs) -> None:
        """Hold the answers for a window."""
        with self._lock:
            if origin in self._held:
                return
            self._held[origin] = tuple(answer.copy() for answer in outputs)
            # ^ a part of a batch would keep the whole of it
            self._bytes += sum(answer.nbytes for answer in outputs)
            while self._bytes > self._limit:
                _, old = self._held.popitem(last=False)
                self._bytes -= sum(answer.nbytes for answer in old)


@dataclass(slots=True)
class _PendingWindow:
    """A window on its way, in its turn."""

    window: Window
    outputs: Outputs | None = None
    future: Future[tuple[Outputs, float]] | None = None
    batch_index: int = 0
    ends_batch: bool = False
    """Of its batch."""


class BatchRunner:
    """Windows on their way through the model: they come out in the order in which they went in."""

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
        self._lanes, self._predictor, self._placement = executor, predictor, placement
        self._batch, self._count, self._below = batch_size, stats, tta_threshold
        self._shared = window_cache or WindowCache(0)
        self._pending: list[_PendingWindow] = []
        self._flying = 0
        self._queue: deque[_PendingWindow] = deque()

    def submit(self, window: Window) -> None:
        """Add a window to the next batch, unless its outputs are cached."""
        slot = _PendingWindow(window, self._cached_outputs(window))
        self._queue.append(slot)
        if slot.outputs is None:
            self._pending.append(slot)
        if len(self._pending) == self._batch:
            self._submit_batch()

    def completed(self) -> Iterator[tuple[Window, Outputs]]:
        """Yield the next windows whose outputs are there, in the order of submission.

        Where more than :data:`MAX_QUEUED_BATCHES` are queued, wait for the oldest batch.
        """
        while self._queue and (
            self._queue[0].outputs or (self._queue[0].future and self._flying > MAX_QUEUED_BATCHES)
        ):
            yield self._wait_for_window(self._queue.popleft())

    def drain(self) -> Iterator[tuple[Window, Outputs]]:
        """Submit the last batch, and yield all remaining windows in the order of submission."""
        if self._pending:
            self._submit_batch()
        while self._queue:
            yield self._wait_for_window(self._queue.popleft())

    def _cached_outputs(self, window: Window) -> Outputs | None:
        if window.is_sample:
            return None
        held = self._shared.get(window_origin(window, self._placement))
        self._count.cache_hits += held is not None
        return held

    def _submit_batch(self) -> None:
        group, self._pending = self._pending, []
        chips = _stack_chips([slot.window.chips for slot in group], self._batch)
        places = [window_origin(slot.window, self._placement) for slot in group]
        places += [places[0]] * (self._batch - len(group))
        batch = self._lanes.submit(self._predict_batch, chips, places)
        for index, slot in enumerate(group):
            slot.future, slot.batch_index, slot.ends_batch = batch, index, slot is group[-1]
        self._flying += 1

    def _predict_batch(
        self, chips: Mapping[str, NDArray[np.float32]], places: Sequence[tuple[int, int]]
    ) -> tuple[Outputs, float]:
        started = time.perf_counter()
        answers = test_time_augmentation.predict(self._predictor, chips, places, self._below)
        _check_shapes(answers, self._predictor, self._batch)
        return answers, time.perf_counter() - started

    def _wait_for_window(self, slot: _PendingWindow) -> tuple[Window, Outputs]:
        if slot.outputs is not None:
            return slot.window, slot.outputs
        if slot.future is None:
            raise AssertionError("a window that was never sent")
        batch, seconds = cancellation.wait_for_result(slot.future)
        answers = tuple(answer[slot.batch_index] for answer in batch)
        if slot.ends_batch:
            self._flying -= 1
            self._count.seconds += seconds
        if not slot.window.is_sample and self._reaches_neighbours(slot.window):
            self._shared.put(window_origin(slot.window, self._placement), answers)
        return slot.window, answers

    def _reaches_neighbours(self, window: Window) -> bool:
        """Tell whether a window reaches into the tiles on the right or below."""
        placed, side = self._placement, self._predictor.window
        return (
            window.row + side > placed.tile_offset[0] + placed.tile_shape[0]
            or window.column + side > placed.tile_offset[1] + placed.tile_shape[1]
        )


def window_origin(window: Window, placement: WindowPlacement) -> tuple[int, int]:
    """Return (row, column) of a window's first pixel, counted from the origin of the CRS."""
    return placement.origin_index[0] + window.row, placement.origin_index[1] + window.column


def _stack_chips(
    chips: Sequence[Mapping[str, NDArray[np.float32]]], batch_size: int
) -> dict[str, NDArray[np.float32]]:
    """Return chips side by side; the rest of the batch has no data."""
    result = {}
    for name, first in chips[0].items():
        together = np.full((batch_size, *first.shape), np.nan, dtype=np.float32)
        for index, one in enumerate(chips):
            together[index] = one[name]
        result[name] = together
    return result


def _check_shapes(outputs: Outputs, predictor: Predictor, batch_size: int) -> None:
    for answer, said in zip(outputs, predictor.outputs, strict=True):
        side = predictor.window // said.stride
        due = (batch_size, len(said.channels), side, side)
        if answer.shape != due:
            raise AssertionError(f"the model's answer is {answer.shape} instead of {due}")
