"""Windows on their way through the model: while one batch is computed, the next is put together."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Placement
from pipeline.inference import test_time_augmentation
from pipeline.inference.predictor import Answers, Predictor
from pipeline.runtime import cancellation

AHEAD = 2
"""Batches that wait for the model: it never waits for one, and no more are held."""

SHARED_BYTES = 9 * 2**23
"""Of the answers that are kept for neighbouring tiles: 37 windows of ten classes."""


@dataclass(slots=True, kw_only=True)
class Count:
    """Windows of a tile."""

    used: int = 0
    """Given to the model."""

    empty: int = 0
    """Left out: nothing was observed in them."""

    shared: int = 0
    """Of the used ones, those that a neighbouring tile had asked the model for already."""

    silent: int = 0
    """Without any finite answer."""

    seconds: float = 0.0
    """That the model took, batch by batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the model looks at once."""

    row: int
    column: int
    support: float
    sample: bool
    chips: Mapping[str, NDArray[np.float32]]


class Shared:
    """Answers for windows across the edges of tiles, for the neighbours that this process makes.

    A window's answer is the same whoever asks: without this, a third of the windows of small
    tiles, and a fifth of those of large ones, would be computed twice.
    """

    def __init__(self, limit: int = SHARED_BYTES) -> None:
        """Hold so many bytes, the latest ones."""
        self._limit, self._bytes = limit, 0
        self._held: OrderedDict[tuple[int, ...], Answers] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: tuple[int, ...]) -> Answers | None:
        """Return the answers for a window, if they are still held."""
        with self._lock:
            found = self._held.get(place)
            if found is not None:
                self._held.move_to_end(place, last=False)
                # ^ most windows have one neighbour: what was asked for once goes first
            return found

    def put(self, place: tuple[int, ...], answers: Answers) -> None:
        """Hold the answers for a window."""
        with self._lock:
            if place in self._held:
                return
            self._held[place] = tuple(answer.copy() for answer in answers)
            # ^ a part of a batch would keep the whole of it
            self._bytes += sum(answer.nbytes for answer in answers)
            while self._bytes > self._limit:
                _, old = self._held.popitem(last=False)
                self._bytes -= sum(answer.nbytes for answer in old)


@dataclass(slots=True)
class _Slot:
    """A window on its way, in its turn."""

    window: Window
    answers: Answers | None = None
    batch: Future[tuple[Answers, float]] | None = None
    index: int = 0
    last: bool = False
    """Of its batch."""


class Flight:
    """Windows on their way through the model: they come out in the order in which they went in."""

    def __init__(
        self,
        lanes: ThreadPoolExecutor,
        predictor: Predictor,
        placement: Placement,
        batch: int,
        count: Count,
        average_below: float | None,
        shared: Shared | None,
    ) -> None:
        self._lanes, self._predictor, self._placement = lanes, predictor, placement
        self._batch, self._count, self._below = batch, count, average_below
        self._shared = shared or Shared(0)
        self._pending: list[_Slot] = []
        self._flying = 0

    def over(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Answers]]:
        """Yield each window with its answers."""
        turns: deque[_Slot] = deque()
        for window in windows:
            slot = _Slot(window, self._known(window))
            turns.append(slot)
            if slot.answers is None:
                self._pending.append(slot)
            if len(self._pending) == self._batch:
                self._send()
            while turns and (turns[0].answers or (turns[0].batch and self._flying > AHEAD)):
                yield self._arrived(turns.popleft())
        if self._pending:
            self._send()
        while turns:
            yield self._arrived(turns.popleft())

    def _known(self, window: Window) -> Answers | None:
        if window.sample:
            return None
        held = self._shared.get(place(window, self._placement))
        self._count.shared += held is not None
        return held

    def _send(self) -> None:
        group, self._pending = self._pending, []
        chips = _batch([slot.window.chips for slot in group], self._batch)
        places = [place(slot.window, self._placement) for slot in group]
        places += [places[0]] * (self._batch - len(group))
        batch = self._lanes.submit(self._ask, chips, places)
        for index, slot in enumerate(group):
            slot.batch, slot.index, slot.last = batch, index, slot is group[-1]
        self._flying += 1

    def _ask(
        self, chips: Mapping[str, NDArray[np.float32]], places: Sequence[tuple[int, int]]
    ) -> tuple[Answers, float]:
        started = time.perf_counter()
        answers = test_time_augmentation.predict(self._predictor, chips, places, self._below)
        _check(answers, self._predictor, self._batch)
        return answers, time.perf_counter() - started

    def _arrived(self, slot: _Slot) -> tuple[Window, Answers]:
        if slot.answers is not None:
            return slot.window, slot.answers
        if slot.batch is None:
            raise AssertionError("a window that was never sent")
        batch, seconds = cancellation.result(slot.batch)
        answers = tuple(answer[slot.index] for answer in batch)
        if slot.last:
            self._flying -= 1
            self._count.seconds += seconds
        if not slot.window.sample and self._goes_on(slot.window):
            self._shared.put(place(slot.window, self._placement), answers)
        return slot.window, answers

    def _goes_on(self, window: Window) -> bool:
        """Tell whether a window reaches into the tiles on the right or below."""
        placed, side = self._placement, self._predictor.window
        return (
            window.row + side > placed.offset[0] + placed.size[0]
            or window.column + side > placed.offset[1] + placed.size[1]
        )


def place(window: Window, placement: Placement) -> tuple[int, int]:
    """Return (row, column) of a window's first pixel, counted from the origin of the CRS."""
    return placement.origin[0] + window.row, placement.origin[1] + window.column


def _batch(
    chips: Sequence[Mapping[str, NDArray[np.float32]]], batch: int
) -> dict[str, NDArray[np.float32]]:
    """Return chips side by side; the rest of the batch has no data."""
    result = {}
    for name, first in chips[0].items():
        together = np.full((batch, *first.shape), np.nan, dtype=np.float32)
        for index, one in enumerate(chips):
            together[index] = one[name]
        result[name] = together
    return result


def _check(answers: Answers, predictor: Predictor, batch: int) -> None:
    for answer, said in zip(answers, predictor.answers, strict=True):
        side = predictor.window // said.cell
        due = (batch, len(said.class_names or said.bands), side, side)
        if answer.shape != due:
            raise AssertionError(f"the model's answer is {answer.shape} instead of {due}")
