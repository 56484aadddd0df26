"""Windows → blended answers: class probabilities, features, values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import windows
from pipeline.grid import Tile
from pipeline.windows import Lattice, Placement


class Predictor(Protocol):
    """A model as the pipeline knows it: numbers in, numbers out."""

    @property
    def task(self) -> str:
        """One of :data:`pipeline.recipe.TASKS`."""

    @property
    def window(self) -> int:
        """Side of one input, pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality → band names in the model's order."""

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

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""

    def __call__(self, chips: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Predict a batch.

        Args:
            chips: modality → (batch, band, window, window); NaN = missing. Sentinel-2 in DN
                without offset, Sentinel-1 in decibel, heights in metres.

        Returns:
            (batch, channel, window / cell, window / cell): probabilities that sum to one over
            the classes, or features, or values in :attr:`unit`.
        """


def blended(
    inputs: Mapping[str, NDArray[np.float32]],
    observed: NDArray[np.bool_],
    tile: Tile,
    placement: Placement,
    lattice: Lattice,
    predictor: Predictor,
    *,
    batch: int,
) -> NDArray[np.float32]:
    """Predict a tile window by window and blend the answers.

    Windows without any observed pixel are left out; the others weigh by their place
    (:meth:`Lattice.profile`) and by the share of observed pixels, so that a window that hardly
    saw anything does not outvote its neighbour.

    Args:
        inputs: modality → (band, y, x) in pixels of the context, in the predictor's units.
        observed: (y, x) in pixels of the context: where the answer is wanted at all.
        tile: the tile to answer for, in cells of the answer.
        placement: its windows, in cells.
        lattice: their geometry, in cells.
        predictor: the model; it says how many pixels make a cell.
        batch: windows per call; the last call is padded, so that each window is always
            computed in a batch of the same size.

    Returns:
        (channel, tile.height, tile.width) float32; NaN where no window has an answer.
    """
    side, cell = lattice.window, predictor.cell
    channels = len(predictor.class_names or predictor.bands)
    weight = np.outer(lattice.profile(), lattice.profile())
    total = np.zeros((channels, tile.height, tile.width), dtype=np.float32)
    norm = np.zeros((tile.height, tile.width), dtype=np.float32)
    support = {
        origin: float(observed[_seen(origin, side, cell)].mean()) for origin in placement.origins
    }
    used = tuple(origin for origin in placement.origins if support[origin] > 0)
    for group in windows.batches(used, batch):
        chips = {
            modality: _chips(values, [_seen(origin, side, cell) for origin in group], batch)
            for modality, values in inputs.items()
        }
        answers = predictor(chips)
        if answers.shape != (batch, channels, side, side):
            due = (batch, channels, side, side)
            raise AssertionError(f"the model's answer is {answers.shape} instead of {due}")
        for origin, answer in zip(group, answers, strict=False):
            # ^ the padding of the last batch has no origin
            inside, part = _overlap(origin, placement.offset, tile, side)
            share = weight[part] * np.float32(support[origin])
            total[(slice(None), *inside)] += answer[(slice(None), *part)] * share
            norm[inside] += share
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 0, total / norm, np.float32(np.nan))


def _seen(origin: tuple[int, int], side: int, cell: int) -> tuple[slice, slice]:
    """Return the pixels of the context that a window of ``side`` cells sees."""
    row, column = origin[0] * cell, origin[1] * cell
    return slice(row, row + side * cell), slice(column, column + side * cell)


def _chips(
    values: NDArray[np.float32], places: Sequence[tuple[slice, slice]], batch: int
) -> NDArray[np.float32]:
    first = values[(slice(None), *places[0])]
    chips = np.full((batch, *first.shape), np.nan, dtype=np.float32)
    for index, place in enumerate(places):
        chips[index] = values[(slice(None), *place)]
    return chips


def _overlap(
    origin: tuple[int, int], offset: tuple[int, int], tile: Tile, side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window's part of the tile, in cells of the tile and of the window."""
    row, column = origin[0] - offset[0], origin[1] - offset[1]
    rows = slice(max(row, 0), min(row + side, tile.height))
    columns = slice(max(column, 0), min(column + side, tile.width))
    return (rows, columns), (
        slice(rows.start - row, rows.stop - row),
        slice(columns.start - column, columns.stop - column),
    )
