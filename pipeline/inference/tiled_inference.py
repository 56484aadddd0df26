"""Predict a tile window by window and blend the outputs, one row of windows at a time.

Memory grows with the width of a tile and not with its height.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference import batching
from pipeline.inference.batching import BatchRunner, Window, WindowCache, WindowStats
from pipeline.inference.blend import BlendedRows, WindowBlender
from pipeline.inference.predictor_protocol import Outputs, Predictor
from pipeline.runtime import cancellation


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRow:
    """The inputs of some windows that begin in the same row."""

    row: int
    """First row on the context grid."""

    columns: tuple[int, ...]
    """First column of each window on the context grid."""

    inputs: Mapping[str, NDArray[np.float32]]
    """Modality → (band, window, width of the context), in the predictor's units."""

    observed: NDArray[np.bool_]
    """(window, width of the context): where an output is needed."""

    is_sample: bool = False
    """Whether the windows lie beside the lattice: their outputs are collected, not blended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWindow:
    """A window beside the lattice, and its outputs."""

    row: int
    """First row on the context grid."""

    column: int
    """First column on the context grid."""

    chips: Mapping[str, NDArray[np.float32]]
    """Modality → (1, band, window, window)."""

    origin: tuple[int, int]
    """(row, column) of the first pixel, counted from the origin of the CRS."""

    outputs: Outputs
    """For each output (channel, window / stride, window / stride)."""


class TilePredictor:
    """Predict the windows of one tile in batches and blend their outputs.

    Windows without any observed pixel are left out. The others are weighted by position
    (:func:`pipeline.inference.blend.compute_axis_weights`) and by their fraction of observed
    pixels, so that a window with hardly any observation does not outvote its neighbour. Pixels of
    an output that are not finite have no weight. Windows are added in the order of the lattice,
    whatever the batch size: the weighted sum of a pixel has the same bits in every tile that
    contains it.

    Use it as a context manager: leaving the block ends the threads of the batches.
    """

    def __init__(
        self,
        placement: WindowPlacement,
        lattice: Lattice,
        predictor: Predictor,
        *,
        batch_size: int,
        stats: WindowStats,
        tta_threshold: float | None = None,
        window_cache: WindowCache | None = None,
        parallel_batches: int = 1,
    ) -> None:
        """Create a predictor of one tile.

        Args:
            placement: the windows of the tile.
            lattice: their lattice, in pixels.
            predictor: the model.
            batch_size: windows per call; the last call is padded, so that each window is always
                computed in a batch of the same size.
            stats: where the windows are counted.
            tta_threshold: mean probability of the most probable class below which the land cover
                of a window is averaged over its eight symmetries; None = never.
            window_cache: outputs of windows that neighbouring tiles share.
            parallel_batches: batches that are predicted in parallel.
        """
        self.samples: list[SampleWindow] = []
        """The outputs of sample windows, in order."""

        self._placement, self._window, self._stats = placement, lattice.window, stats
        self._executor = cancellation.CancellableThreadPool(parallel_batches, "model")
        self._batches = BatchRunner(
            self._executor, predictor, placement, batch_size, stats, tta_threshold, window_cache
        )
        self._blender = WindowBlender(placement, lattice, predictor.outputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.__exit__(exc_type, exc_value, traceback)

    def predict_and_blend(self, window_row: WindowRow) -> Iterator[BlendedRows]:
        """Submit the next row of windows; blend what has been predicted in the meantime.

        Args:
            window_row: the rows of the placement in order, with sample rows among them.

        Yields:
            Rows of the tile that no later window reaches, from top to bottom.
        """
        for window in self._observed_windows(window_row):
            self._batches.submit(window)
            yield from self._blend(self._batches.completed())

    def finish(self) -> Iterator[BlendedRows]:
        """Wait for the remaining batches; yield the remaining rows of the tile."""
        yield from self._blend(self._batches.drain())
        yield from self._blender.finish_rows(None)

    def _blend(self, predictions: Iterable[tuple[Window, Outputs]]) -> Iterator[BlendedRows]:
        for window, outputs in predictions:
            if window.is_sample:
                self.samples.append(
                    SampleWindow(
                        row=window.row,
                        column=window.column,
                        chips={name: chip[None] for name, chip in window.chips.items()},
                        origin=batching.window_origin(window, self._placement),
                        outputs=outputs,
                    )
                )
            else:
                yield from self._blender.finish_rows(window.row)
                self._stats.non_finite += self._blender.add(window, outputs)

    def _observed_windows(self, window_row: WindowRow) -> Iterator[Window]:
        """Cut the windows in which anything was observed out of a row, and count them."""
        for column in window_row.columns:
            columns = slice(column, column + self._window)
            observed_fraction = float(window_row.observed[:, columns].mean())
            if not window_row.is_sample:
                self._stats.used += observed_fraction > 0
                self._stats.empty += observed_fraction == 0
            if observed_fraction > 0:
                yield Window(
                    row=window_row.row,
                    column=column,
                    observed_fraction=observed_fraction,
                    is_sample=window_row.is_sample,
                    chips={
                        name: values[:, :, columns] for name, values in window_row.inputs.items()
                    },
                )
