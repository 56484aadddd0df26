"""A buffer of strips from which rows of windows are cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.compositing.strip_reader import Strip


class RowBuffer:
    """The strips that coming windows still need."""

    def __init__(self, band_counts: Mapping[str, int], width: int) -> None:
        """Create an empty buffer.

        Args:
            band_counts: modality → number of bands of the model's inputs.
            width: columns of the context.
        """
        self._band_counts, self._width = band_counts, width
        self._strips: deque[Strip] = deque()

    @property
    def stop_row(self) -> int:
        """Return the row after the last one in the buffer."""
        return self._strips[-1].stop_row if self._strips else 0

    def append(self, strip: Strip) -> None:
        """Add the next strip below the others."""
        self._strips.append(strip)

    def drop_above(self, row: int) -> None:
        """Remove the strips that lie entirely above a row."""
        while self._strips and self._strips[0].stop_row <= row:
            self._strips.popleft()

    def read_rows(
        self, first: int, stop: int
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
        """Copy some rows out of the buffer.

        Args:
            first: first row, on the context grid.
            stop: row after the last.

        Returns:
            Modality → (band, row, column), NaN where a strip lacks the modality; and (row, column)
            where anything was observed.
        """
        inputs = {
            modality: np.full((bands, stop - first, self._width), np.nan, dtype=np.float32)
            for modality, bands in self._band_counts.items()
        }
        observed = np.zeros((stop - first, self._width), dtype=np.bool_)
        for strip in self._strips:
            top, bottom = max(first, strip.first_row), min(stop, strip.stop_row)
            if top >= bottom:
                continue
            target = slice(top - first, bottom - first)
            source = slice(top - strip.first_row, bottom - strip.first_row)
            observed[target] = strip.composites.observations[source] > 0
            for modality, values in strip.inputs.items():
                inputs[modality][:, target] = values[:, source]
        return inputs, observed
