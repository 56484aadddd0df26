"""Windows → blended answers, one row of windows at a time.

What is held grows with the width of a tile and not with its height. While the model computes one
batch, the next one is read and put together, and the last one is blended.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import symmetry
from pipeline.windows import Lattice, Placement

AHEAD = 2
"""Batches that wait for the model: it never waits for one, and no more are held."""

SHARED_BYTES = 2**27
"""Of the answers that are kept for neighbouring tiles: some sixty windows of ten classes."""


class Said(Protocol):
    """What a model says of itself about one of its answers: see :class:`pipeline.recipe.Answer`."""

    @property
    def task(self) -> str:
        """One of :data:`pipeline.recipe.TASKS`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the legend, in the order of the probabilities; empty for other answers."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels of an answer that is no legend."""

    @property
    def cell(self) -> int:
        """Pixels along the side of one cell of the answer."""

    @property
    def modality(self) -> str | None:
        """What is generated, if anything."""

    @property
    def unit(self) -> str | None:
        """Unit of what is generated."""


class Predictor(Protocol):
    """A model as the pipeline knows it: numbers in, numbers out."""

    @property
    def window(self) -> int:
        """Side of one input, pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality → band names in the model's order."""

    @property
    def answers(self) -> Sequence[Said]:
        """What is answered, all in one pass."""

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""

    def predict(
        self, chips: Mapping[str, NDArray[np.float32]], places: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float32], ...]:
        """Predict a batch.

        Args:
            chips: modality → (batch, band, window, window); NaN = missing. Sentinel-2 in DN
                without offset, Sentinel-1 in decibel, heights in metres.
            places: (row, column) of each window's first pixel, counted from the origin of the
                CRS: what is drawn at random is drawn for the ground.

        Returns:
            For each answer (batch, channel, window / cell, window / cell): probabilities that sum
            to one over the classes, or features, or values in its unit. NaN where a window has no
            answer.
        """

    @property
    def predict_reference(self) -> Callable[..., tuple[NDArray[np.float32], ...]] | None:
        """The same as :meth:`predict`, in fp32; None where that computes in it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What some windows of equal rows see."""

    row: int
    """First row on the context."""

    columns: tuple[int, ...]
    """First column of each window on the context."""

    values: Mapping[str, NDArray[np.float32]]
    """Modality → (band, window, width of the context), in the predictor's units."""

    observed: NDArray[np.bool_]
    """(window, width of the context): where the answer is wanted at all."""

    sample: bool = False
    """Whether the windows are none of the lattice: their answers are handed out as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Finished rows of the tile."""

    first: int
    """First row, pixels of the tile."""

    stop: int
    values: tuple[NDArray[np.float32], ...]
    """For each answer (channel, rows / cell, width / cell); NaN where no window has an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A window beside the lattice, and its answers."""

    row: int
    column: int
    """First pixel on the context."""

    chips: Mapping[str, NDArray[np.float32]]
    """Modality → (1, band, window, window)."""

    place: tuple[int, int]
    """The first pixel, counted from the origin of the CRS."""

    answers: tuple[NDArray[np.float32], ...]
    """For each answer (channel, window / cell, window / cell)."""


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
    """That the model took."""


_Answers = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    row: int
    column: int
    support: float
    sample: bool
    chips: Mapping[str, NDArray[np.float32]]


def blended(
    looks: Iterable[Look],
    placement: Placement,
    lattice: Lattice,
    predictor: Predictor,
    *,
    batch: int,
    count: Count | None = None,
    average_below: float | None = None,
    shared: Shared | None = None,
) -> Iterator[Rows | Sample]:
    """Predict a tile window by window and blend the answers.

    Windows without any observed pixel are left out; the others weigh by their place
    (:meth:`Lattice.profile`) and by the share of observed pixels, so that a window that hardly
    saw anything does not outvote its neighbour. A pixel of an answer that is not finite weighs
    nothing. Windows are added in the lattice's order, whatever the batch: a pixel's sum has the
    same bits in every tile that sees it.

    Args:
        looks: the rows of windows of the placement in order, samples among them.
        placement: the tile's windows.
        lattice: their geometry, in pixels.
        predictor: the model.
        batch: windows per call; the last call is filled up, so that each window is always
            computed in a batch of the same size.
        count: where the windows are counted.
        average_below: mean probability of the most probable class below which a window's land
            cover is averaged over its eight symmetries; None = never.
        shared: answers of windows that neighbouring tiles look at too.

    Yields:
        Every row of the tile once, in order; and the samples.
    """
    count = count or Count()
    sums = _Sums(placement, lattice, predictor.answers)
    with ThreadPoolExecutor(1, thread_name_prefix="model") as device:
        flight = _Flight(device, predictor, placement, batch, count, average_below, shared)
        for window, answers in flight.over(_used(looks, lattice.window, count)):
            if window.sample:
                yield Sample(
                    row=window.row,
                    column=window.column,
                    chips={name: chip[None] for name, chip in window.chips.items()},
                    place=_place(window, placement),
                    answers=answers,
                )
            else:
                yield from sums.until(window.row)
                count.silent += sums.add(window, answers)
    yield from sums.until(None)


class Shared:
    """Answers for windows across the edges of tiles, for the neighbours that this process makes.

    A window's answer is the same whoever asks: without this, a third of the windows of small
    tiles, and a fifth of those of large ones, would be computed twice.
    """

    def __init__(self, limit: int = SHARED_BYTES) -> None:
        """Hold so many bytes, the latest ones."""
        self._limit, self._bytes = limit, 0
        self._held: OrderedDict[tuple[int, ...], _Answers] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: tuple[int, ...]) -> _Answers | None:
        """Return the answers for a window, if they are still held."""
        with self._lock:
            return self._held.get(place)

    def put(self, place: tuple[int, ...], answers: _Answers) -> None:
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

    window: _Window
    answers: _Answers | None = None
    batch: Future[_Answers] | None = None
    index: int = 0
    last: bool = False
    """Of its batch."""


class _Flight:
    """Windows on their way through the model: they come out in the order in which they went in."""

    def __init__(
        self,
        device: ThreadPoolExecutor,
        predictor: Predictor,
        placement: Placement,
        batch: int,
        count: Count,
        average_below: float | None,
        shared: Shared | None,
    ) -> None:
        self._device, self._predictor, self._placement = device, predictor, placement
        self._batch, self._count, self._below = batch, count, average_below
        self._shared = shared or Shared(0)
        self._pending: list[_Slot] = []
        self._flying = 0

    def over(self, windows: Iterable[_Window]) -> Iterator[tuple[_Window, _Answers]]:
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

    def _known(self, window: _Window) -> _Answers | None:
        if window.sample:
            return None
        held = self._shared.get(_place(window, self._placement))
        self._count.shared += held is not None
        return held

    def _send(self) -> None:
        group, self._pending = self._pending, []
        chips = _batch([slot.window.chips for slot in group], self._batch)
        places = [_place(slot.window, self._placement) for slot in group]
        places += [places[0]] * (self._batch - len(group))
        batch = self._device.submit(self._ask, chips, places)
        for index, slot in enumerate(group):
            slot.batch, slot.index, slot.last = batch, index, slot is group[-1]
        self._flying += 1

    def _ask(
        self, chips: Mapping[str, NDArray[np.float32]], places: Sequence[tuple[int, int]]
    ) -> _Answers:
        started = time.perf_counter()
        answers = symmetry.predict(self._predictor, chips, places, self._below)
        _check(answers, self._predictor, self._batch)
        self._count.seconds += time.perf_counter() - started
        return answers

    def _arrived(self, slot: _Slot) -> tuple[_Window, _Answers]:
        if slot.answers is not None:
            return slot.window, slot.answers
        if slot.batch is None:
            raise AssertionError("a window that was never sent")
        answers = tuple(answer[slot.index] for answer in slot.batch.result())
        self._flying -= slot.last
        if not slot.window.sample and self._goes_on(slot.window):
            self._shared.put(_place(slot.window, self._placement), answers)
        return slot.window, answers

    def _goes_on(self, window: _Window) -> bool:
        """Tell whether a window reaches into the tiles on the right or below."""
        placed, side = self._placement, self._predictor.window
        return (
            window.row + side > placed.offset[0] + placed.size[0]
            or window.column + side > placed.offset[1] + placed.size[1]
        )


class _Sums:
    """The weighted sums of one row of windows, of all answers; finished rows leave it."""

    def __init__(self, placement: Placement, lattice: Lattice, answers: Sequence[Said]) -> None:
        self._placement, self._lattice = placement, lattice
        self._rows = deque(placement.rows)
        self._each = [_Sum(placement, lattice.coarse(one.cell), one) for one in answers]

    def add(self, window: _Window, answers: Sequence[NDArray[np.float32]]) -> bool:
        """Add a window of the first unfinished row; tell whether it had no answer at all."""
        some = [
            held.add(window.column, window.support, answer)
            for held, answer in zip(self._each, answers, strict=True)
        ]
        return not any(some)

    def until(self, row: int | None) -> Iterator[Rows]:
        """Finish the rows of windows before one; all where it is None."""
        while self._rows and self._rows[0] != row:
            start = self._rows.popleft() + self._lattice.margin - self._placement.offset[0]
            values = tuple(held.finish() for held in self._each)
            first = max(start, 0)
            stop = min(start + self._lattice.stride, self._placement.size[0])
            if first >= stop:
                continue
                # ^ of the first row of windows the tile may see no more than the blend
            cells = [held.lattice_cell for held in self._each]
            yield Rows(
                first=first,
                stop=stop,
                values=tuple(
                    value[:, (first - start) // cell : (stop - start) // cell]
                    for value, cell in zip(values, cells, strict=True)
                ),
            )


class _Sum:
    """Of one answer, in its cells: (channel, what a row of windows reaches, width of the tile)."""

    def __init__(self, placement: Placement, lattice: Lattice, answer: Said) -> None:
        self.lattice_cell = answer.cell
        self._lattice = lattice
        self._left = placement.offset[1] // answer.cell
        width = placement.size[1] // answer.cell
        reach = lattice.window - 2 * lattice.margin
        channels = len(answer.class_names or answer.bands)
        self._inner = slice(lattice.margin, lattice.margin + reach)
        profile = lattice.profile()[self._inner]
        self._weight = np.outer(profile, profile)
        self._total = np.zeros((channels, reach, width), dtype=np.float32)
        self._norm = np.zeros((reach, width), dtype=np.float32)

    def add(self, column: int, support: float, answer: NDArray[np.float32]) -> bool:
        first = column // self.lattice_cell + self._lattice.margin - self._left
        width = self._norm.shape[1]
        into = slice(max(first, 0), min(first + self._weight.shape[1], width))
        part = slice(into.start - first, into.stop - first)
        values = answer[:, self._inner, self._inner][:, :, part]
        share = self._weight[:, part] * np.float32(support)
        good = np.isfinite(values).all(axis=0)
        if not good.all():
            share, values = share * good, np.where(good, values, np.float32(0))
        self._total[:, :, into] += values * share
        self._norm[:, into] += share
        return bool(good.any())

    def finish(self) -> NDArray[np.float32]:
        """Return all rows reached; the next row of windows begins a stride further down."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(self._norm > 0, self._total / self._norm, np.float32(np.nan))
        stride = self._lattice.stride
        for held in (self._total, self._norm):
            rest = held[..., stride:, :].copy()
            held[..., : rest.shape[-2], :] = rest
            held[..., rest.shape[-2] :, :] = 0
        return values


def _used(looks: Iterable[Look], side: int, count: Count) -> Iterator[_Window]:
    """Yield the windows in which anything was observed."""
    for look in looks:
        for column in look.columns:
            part = slice(column, column + side)
            support = float(look.observed[:, part].mean())
            if not look.sample:
                count.used += support > 0
                count.empty += support == 0
            if support > 0:
                yield _Window(
                    row=look.row,
                    column=column,
                    support=support,
                    sample=look.sample,
                    chips={name: values[:, :, part] for name, values in look.values.items()},
                )


def _place(window: _Window, placement: Placement) -> tuple[int, int]:
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


def _check(answers: _Answers, predictor: Predictor, batch: int) -> None:
    for answer, said in zip(answers, predictor.answers, strict=True):
        side = predictor.window // said.cell
        due = (batch, len(said.class_names or said.bands), side, side)
        if answer.shape != due:
            raise AssertionError(f"the model's answer is {answer.shape} instead of {due}")
