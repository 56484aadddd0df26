"""Windows → blended class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import windows
from pipeline.grid import Tile
from pipeline.windows import Lattice, Placement


class Predictor(Protocol):
    """A model as the pipeline knows it: numbers in, probabilities out."""

    @property
    def window(self) -> int:
        """Side of one input, pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality → band names in the model's order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the legend, in the order of the probabilities."""

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""

    def __call__(self, chips: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Predict a batch.

        Args:
            chips: modality → (batch, band, window, window); NaN = missing. Sentinel-2 in DN
                without offset, Sentinel-1 in decibel, heights in metres.

        Returns:
            (batch, class, window, window), summing to one over the classes.
        """


def probabilities(
    inputs: Mapping[str, NDArray[np.float32]],
    observed: NDArray[np.bool_],
    tile: Tile,
    placement: Placement,
    lattice: Lattice,
    predictor: Predictor,
    *,
    batch: int,
) -> NDArray[np.float32]:
    """Predict a tile window by window and blend the probabilities.

    Windows without any observed pixel are left out; the others weigh by their place
    (:meth:`Lattice.profile`) and by the share of observed pixels, so that a window that hardly
    saw anything does not outvote its neighbour.

    Args:
        inputs: modality → (band, y, x) on the context grid, in the predictor's units.
        observed: (y, x) on the context grid: where the answer is wanted at all.
        tile: the tile to answer for.
        placement: its windows.
        lattice: their geometry.
        predictor: the model.
        batch: windows per call; the last call is padded, so that each window is always
            computed in a batch of the same size.

    Returns:
        (class, tile.height, tile.width) float32; NaN where no window has an answer.
    """
    side = lattice.window
    profile = lattice.profile()
    weight = np.outer(profile, profile)
    total = np.zeros((len(predictor.class_names), tile.height, tile.width), dtype=np.float32)
    norm = np.zeros((tile.height, tile.width), dtype=np.float32)
    support = {
        (row, column): float(observed[row : row + side, column : column + side].mean())
        for row, column in placement.origins
    }
    used = tuple(origin for origin in placement.origins if support[origin] > 0)
    for group in windows.batches(used, batch):
        chips = {
            modality: _chips(values, group, side, batch) for modality, values in inputs.items()
        }
        for origin, answer in zip(group, predictor(chips), strict=False):
            # ^ the padding of the last batch has no origin
            inside, part = _overlap(origin, placement.offset, tile, side)
            share = weight[part] * np.float32(support[origin])
            total[(slice(None), *inside)] += answer[(slice(None), *part)] * share
            norm[inside] += share
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 0, total / norm, np.float32(np.nan))


def _chips(
    values: NDArray[np.float32], origins: tuple[tuple[int, int], ...], side: int, batch: int
) -> NDArray[np.float32]:
    chips = np.full((batch, values.shape[0], side, side), np.nan, dtype=np.float32)
    for index, (row, column) in enumerate(origins):
        chips[index] = values[:, row : row + side, column : column + side]
    return chips


def _overlap(
    origin: tuple[int, int], offset: tuple[int, int], tile: Tile, side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window's part of the tile, in tile pixels and in window pixels."""
    row, column = origin[0] - offset[0], origin[1] - offset[1]
    rows = slice(max(row, 0), min(row + side, tile.height))
    columns = slice(max(column, 0), min(column + side, tile.width))
    return (rows, columns), (
        slice(rows.start - row, rows.stop - row),
        slice(columns.start - column, columns.stop - column),
    )
