"""Blend the outputs of overlapping windows, one row of windows at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.window_lattice import Lattice, WindowPlacement
from pipeline.inference.batching import Window
from pipeline.inference.predictor_protocol import PredictorOutput


def compute_axis_weights(lattice: Lattice) -> NDArray[np.float32]:
    """Return the blending weights along one axis, (window,); over the lattice they sum to 1."""
    ramp = (np.arange(lattice.overlap) + 0.5) / max(lattice.overlap, 1)
    # ^ linear: no other ramp of this length has a smaller largest step
    flat = np.ones(lattice.window - 2 * lattice.context_width - 2 * lattice.overlap)
    edge = np.zeros(lattice.context_width)
    return np.concatenate([edge, ramp, flat, 1.0 - ramp, edge]).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendedRows:
    """Rows of the tile whose blending is complete."""

    start: int
    """First row, in pixels of the tile."""

    stop: int
    """Row after the last."""

    values: tuple[NDArray[np.float32], ...]
    """For each output (channel, rows / stride, width / stride); NaN = no window has a value."""


class WindowBlender:
    """Weighted sums of the outputs of one row of windows."""

    def __init__(
        self, placement: WindowPlacement, lattice: Lattice, output_specs: Sequence[PredictorOutput]
    ) -> None:
        self._placement, self._lattice = placement, lattice
        self._window_rows = deque(placement.window_rows)
        self._blenders = [
            _OutputBlender(placement, lattice.coarsen(spec.stride), spec) for spec in output_specs
        ]

    def add(self, window: Window, outputs: Sequence[NDArray[np.float32]]) -> bool:
        """Add a window of the first unfinished row.

        Returns:
            Whether all outputs of the window are without any finite value.
        """
        has_values = [
            blender.add(window.column, window.observed_fraction, output)
            for blender, output in zip(self._blenders, outputs, strict=True)
        ]
        return not any(has_values)

    def finish_rows(self, before_row: int | None) -> Iterator[BlendedRows]:
        """Yield the rows of the tile that only window rows before ``before_row`` cover.

        Args:
            before_row: first row of the next row of windows; None if there is none.
        """
        while self._window_rows and self._window_rows[0] != before_row:
            start = (
                self._window_rows.popleft()
                + self._lattice.context_width
                - self._placement.tile_offset[0]
            )
            values = tuple(blender.finish_rows() for blender in self._blenders)
            first = max(start, 0)
            stop = min(start + self._lattice.stride, self._placement.tile_shape[0])
            if first >= stop:
                continue
                # ^ of the first row of windows the tile may contain only what the next one covers
            strides = [blender.output_stride for blender in self._blenders]
            yield BlendedRows(
                start=first,
                stop=stop,
                values=tuple(
                    value[:, (first - start) // stride : (stop - start) // stride]
                    for value, stride in zip(values, strides, strict=True)
                ),
            )


class _OutputBlender:
    """Weighted sum of one output: (channel, rows of a row of windows, width of the tile)."""

    def __init__(
        self, placement: WindowPlacement, lattice: Lattice, output_spec: PredictorOutput
    ) -> None:
        """Begin at the first row of windows.

        Args:
            placement: the tile's windows, in pixels.
            lattice: geometry of the windows, in pixels of the output.
            output_spec: the output.
        """
        self.output_stride = output_spec.stride
        self._lattice = lattice
        self._left = placement.tile_offset[1] // output_spec.stride
        width = placement.tile_shape[1] // output_spec.stride
        size = lattice.window - 2 * lattice.context_width
        channels = len(output_spec.channels)
        self._inner = slice(lattice.context_width, lattice.context_width + size)
        axis_weights = compute_axis_weights(lattice)[self._inner]
        self._weights = np.outer(axis_weights, axis_weights)
        self._weighted_sum = np.zeros((channels, size, width), dtype=np.float32)
        self._weight_sum = np.zeros((size, width), dtype=np.float32)

    def add(self, column: int, observed_fraction: float, output: NDArray[np.float32]) -> bool:
        """Add the output of a window; return whether it has any finite value."""
        first = column // self.output_stride + self._lattice.context_width - self._left
        width = self._weight_sum.shape[1]
        target = slice(max(first, 0), min(first + self._weights.shape[1], width))
        source = slice(target.start - first, target.stop - first)
        values = output[:, self._inner, self._inner][:, :, source]
        weights = self._weights[:, source] * np.float32(observed_fraction)
        finite = np.isfinite(values).all(axis=0)
        if not finite.all():
            weights, values = weights * finite, np.where(finite, values, np.float32(0))
        self._weighted_sum[:, :, target] += values * weights
        self._weight_sum[:, target] += weights
        return bool(finite.any())

    def finish_rows(self) -> NDArray[np.float32]:
        """Return the blended rows of a row of windows, and move on by one stride."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(
                self._weight_sum > 0, self._weighted_sum / self._weight_sum, np.float32(np.nan)
            )
        stride = self._lattice.stride
        for sums in (self._weighted_sum, self._weight_sum):
            remaining = sums[..., stride:, :].copy()
            sums[..., : remaining.shape[-2], :] = remaining
            sums[..., remaining.shape[-2] :, :] = 0
        return values
