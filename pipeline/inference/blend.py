"""Answers of overlapping windows → one answer for each pixel, one row of windows at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference.batching import Window
from pipeline.inference.predictor import PredictorOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendedRows:
    """Finished rows of the tile."""

    start: int
    """First row, pixels of the tile."""

    stop: int
    values: tuple[NDArray[np.float32], ...]
    """For each answer (channel, rows / cell, width / cell); NaN where no window has an answer."""


class WindowBlender:
    """The weighted sums of one row of windows, of all answers; finished rows leave it."""

    def __init__(
        self, placement: WindowPlacement, lattice: Lattice, output_specs: Sequence[PredictorOutput]
    ) -> None:
        self._placement, self._lattice = placement, lattice
        self._rows = deque(placement.window_rows)
        self._each = [
            _OutputBlender(placement, lattice.coarsen(one.stride), one) for one in output_specs
        ]

    def add(self, window: Window, outputs: Sequence[NDArray[np.float32]]) -> bool:
        """Add a window of the first unfinished row; tell whether it had no answer at all."""
        some = [
            held.add(window.column, window.observed_fraction, answer)
            for held, answer in zip(self._each, outputs, strict=True)
        ]
        return not any(some)

    def finish_rows(self, before_row: int | None) -> Iterator[BlendedRows]:
        """Finish the rows of windows before one; all where it is None."""
        while self._rows and self._rows[0] != before_row:
            start = (
                self._rows.popleft() + self._lattice.context_width - self._placement.tile_offset[0]
            )
            values = tuple(held.finish_rows() for held in self._each)
            first = max(start, 0)
            stop = min(start + self._lattice.stride, self._placement.tile_shape[0])
            if first >= stop:
                continue
                # ^ of the first row of windows the tile may see no more than the blend
            cells = [held.lattice_cell for held in self._each]
            yield BlendedRows(
                start=first,
                stop=stop,
                values=tuple(
                    value[:, (first - start) // cell : (stop - start) // cell]
                    for value, cell in zip(values, cells, strict=True)
                ),
            )


class _OutputBlender:
    """Of one answer, in its cells: (channel, what a row of windows reaches, width of the tile)."""

    def __init__(
        self, placement: WindowPlacement, lattice: Lattice, output_spec: PredictorOutput
    ) -> None:
        self.lattice_cell = output_spec.stride
        self._lattice = lattice
        self._left = placement.tile_offset[1] // output_spec.stride
        width = placement.tile_shape[1] // output_spec.stride
        reach = lattice.window - 2 * lattice.context_width
        channels = len(output_spec.channels)
        self._inner = slice(lattice.context_width, lattice.context_width + reach)
        profile = lattice.compute_axis_weights()[self._inner]
        self._weight = np.outer(profile, profile)
        self._total = np.zeros((channels, reach, width), dtype=np.float32)
        self._norm = np.zeros((reach, width), dtype=np.float32)

    def add(self, column: int, observed_fraction: float, output: NDArray[np.float32]) -> bool:
        first = column // self.lattice_cell + self._lattice.context_width - self._left
        width = self._norm.shape[1]
        into = slice(max(first, 0), min(first + self._weight.shape[1], width))
        part = slice(into.start - first, into.stop - first)
        values = output[:, self._inner, self._inner][:, :, part]
        share = self._weight[:, part] * np.float32(observed_fraction)
        good = np.isfinite(values).all(axis=0)
        if not good.all():
            share, values = share * good, np.where(good, values, np.float32(0))
        self._total[:, :, into] += values * share
        self._norm[:, into] += share
        return bool(good.any())

    def finish_rows(self) -> NDArray[np.float32]:
        """Return all rows reached; the next row of windows begins a stride further down."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(self._norm > 0, self._total / self._norm, np.float32(np.nan))
        stride = self._lattice.stride
        for held in (self._total, self._norm):
            rest = held[..., stride:, :].copy()
            held[..., : rest.shape[-2], :] = rest
            held[..., rest.shape[-2] :, :] = 0
        return values
