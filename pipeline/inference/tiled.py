"""Windows → blended answers, one row of windows at a time.

What is held grows with the width of a tile and not with its height.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, Placement
from pipeline.inference import batching
from pipeline.inference.batching import Count, Flight, Shared, Window
from pipeline.inference.blend import Rows, Sums
from pipeline.inference.predictor import Answers, Predictor
from pipeline.runtime import cancellation


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
class Sample:
    """A window beside the lattice, and its answers."""

    row: int
    column: int
    """First pixel on the context."""

    chips: Mapping[str, NDArray[np.float32]]
    """Modality → (1, band, window, window)."""

    place: tuple[int, int]
    """The first pixel, counted from the origin of the CRS."""

    answers: Answers
    """For each answer (channel, window / cell, window / cell)."""


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
    lanes: int = 1,
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
        lanes: batches that the model is given side by side.

    Yields:
        Every row of the tile once, in order; and the samples.
    """
    count = count or Count()
    sums = Sums(placement, lattice, predictor.answers)
    with cancellation.Pool(lanes, "model") as pool:
        flying = Flight(pool, predictor, placement, batch, count, average_below, shared)
        for window, answers in flying.over(_used(looks, lattice.window, count)):
            if window.sample:
                yield Sample(
                    row=window.row,
                    column=window.column,
                    chips={name: chip[None] for name, chip in window.chips.items()},
                    place=batching.place(window, placement),
                    answers=answers,
                )
            else:
                yield from sums.until(window.row)
                count.silent += sums.add(window, answers)
    yield from sums.until(None)


def _used(looks: Iterable[Look], side: int, count: Count) -> Iterator[Window]:
    """Yield the windows in which anything was observed."""
    for look in looks:
        for column in look.columns:
            part = slice(column, column + side)
            support = float(look.observed[:, part].mean())
            if not look.sample:
                count.used += support > 0
                count.empty += support == 0
            if support > 0:
                yield Window(
                    row=look.row,
                    column=column,
                    support=support,
                    sample=look.sample,
                    chips={name: values[:, :, part] for name, values in look.values.items()},
                )
