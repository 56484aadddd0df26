"""Windows → blended answers, one row of windows at a time.

What is held grows with the width of a tile and not with its height.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference import batching
from pipeline.inference.batching import BatchRunner, Window, WindowCache, WindowStats
from pipeline.inference.blend import BlendedRows, WindowBlender
from pipeline.inference.predictor import Outputs, Predictor
from pipeline.runtime import cancellation


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRow:
    """What some windows of equal rows see."""

    row: int
    """First row on the context."""

    columns: tuple[int, ...]
    """First column of each window on the context."""

    inputs: Mapping[str, NDArray[np.float32]]
    """Modality → (band, window, width of the context), in the predictor's units."""

    observed: NDArray[np.bool_]
    """(window, width of the context): where the answer is wanted at all."""

    is_sample: bool = False
    """Whether the windows are none of the lattice: their answers are handed out as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWindow:
    """A window beside the lattice, and its answers."""

    row: int
    column: int
    """First pixel on the context."""

    chips: Mapping[str, NDArray[np.float32]]
    """Modality → (1, band, window, window)."""

    origin: tuple[int, int]
    """The first pixel, counted from the origin of the CRS."""

    outputs: Outputs
    """For each answer (channel, window / cell, window / cell)."""


def predict_tile(
    window_rows: Iterable[WindowRow],
    placement: WindowPlacement,
    lattice: Lattice,
    predictor: Predictor,
    *,
    batch_size: int,
    stats: WindowStats | None = None,
    tta_threshold: float | None = None,
    window_cache: WindowCache | None = None,
    parallel_batches: int = 1,
) -> Iterator[BlendedRows | SampleWindow]:
    """Predict a tile window by window and blend the answers.

    Windows without any observed pixel are left out; the others weigh by their place
    (:meth:`Lattice.profile`) and by the share of observed pixels, so that a window that hardly
    saw anything does not outvote its neighbour. A pixel of an answer that is not finite weighs
    nothing. Windows are added in the lattice's order, whatever the batch: a pixel's sum has the
    same bits in every tile that sees it.

    Args:
        window_rows: the rows of windows of the placement in order, samples among them.
        placement: the tile's windows.
        lattice: their geometry, in pixels.
        predictor: the model.
        batch_size: windows per call; the last call is filled up, so that each window is always
            computed in a batch of the same size.
        stats: where the windows are counted.
        tta_threshold: mean probability of the most probable class below which a window's land
            cover is averaged over its eight symmetries; None = never.
        window_cache: answers of windows that neighbouring tiles look at too.
        parallel_batches: batches that the model is given side by side.

    Yields:
        Every row of the tile once, in order; and the samples.
    """
    stats = stats or WindowStats()
    sums = WindowBlender(placement, lattice, predictor.outputs)
    with cancellation.CancellableThreadPool(parallel_batches, "model") as pool:
        flying = BatchRunner(
            pool, predictor, placement, batch_size, stats, tta_threshold, window_cache
        )
        for window, answers in flying.predict_windows(
            _iter_observed_windows(window_rows, lattice.window, stats)
        ):
            if window.is_sample:
                yield SampleWindow(
                    row=window.row,
                    column=window.column,
                    chips={name: chip[None] for name, chip in window.chips.items()},
                    origin=batching.window_origin(window, placement),
                    outputs=answers,
                )
            else:
                yield from sums.finish_rows(window.row)
                stats.non_finite += sums.add(window, answers)
    yield from sums.finish_rows(None)


def _iter_observed_windows(
    window_rows: Iterable[WindowRow], window_size: int, stats: WindowStats
) -> Iterator[Window]:
    """Yield the windows in which anything was observed."""
    for look in window_rows:
        for column in look.columns:
            part = slice(column, column + window_size)
            support = float(look.observed[:, part].mean())
            if not look.is_sample:
                stats.used += support > 0
                stats.empty += support == 0
            if support > 0:
                yield Window(
                    row=look.row,
                    column=column,
                    observed_fraction=support,
                    is_sample=look.is_sample,
                    chips={name: values[:, :, part] for name, values in look.inputs.items()},
                )
