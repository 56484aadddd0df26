"""Where water runs: pits filled, receivers, accumulated area, and the river network.

Source: Barnes, Lehman & Mulla (2014), priority-flood, from which the receivers follow; the long
profiles are held under the slope of the stream-power law (Whipple & Tucker 1999), so that rivers
cut through the passes that the flooding had to climb.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.noise import Field

FALL = 0.02
# ^ metres per cell that a river falls at least
STEEPEST, CONCAVITY = 0.85, 0.5
# ^ slope of a cell that drains only itself, and how the slope falls with the area drained


@dataclass(frozen=True, slots=True)
class Drainage:
    """The drainage of a coarse relief; cells are counted along rows.

    ``receiver`` is the cell that a cell drains to (itself at an outlet), ``bed`` the elevation
    after pits are filled and passes cut, ``area`` the number of cells that drain through a cell,
    itself included.
    """

    shape: tuple[int, int]
    receiver: NDArray[np.int32]
    bed: NDArray[np.float64]
    area: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Reaches:
    """Points along the rivers, upstream to downstream within each reach, on the fine canvas."""

    row: NDArray[np.float32]
    column: NDArray[np.float32]
    bed: NDArray[np.float32]
    width: NDArray[np.float32]


def drain(height: Field, outlet: NDArray[np.bool_], spacing: float) -> Drainage:
    """Flood a relief from its outlets and its border, lowest cell first.

    Args:
        height: metres.
        outlet: cells that water leaves by.
        spacing: metres between cells.

    """
    rows, columns = height.shape
    closed = np.pad(outlet, 1, constant_values=True)
    closed[1:-1, 1:-1][[0, -1], :] = True
    closed[1:-1, 1:-1][:, [0, -1]] = True
    level = np.pad(height.astype(np.float64), 1)
    wide = columns + 2
    seeds = np.flatnonzero(np.pad(np.ones(height.shape, np.bool_), 1) & closed)
    raw = level.ravel().tolist()
    receiver, order = _flood(list(raw), closed.ravel().tolist(), seeds, wide)
    area = _accumulate(receiver, order)
    bed = _profile(raw, receiver, order, area, spacing)
    inside = np.arange(wide * (rows + 2)).reshape(rows + 2, wide)[1:-1, 1:-1]
    number = np.zeros(wide * (rows + 2), np.int32)
    number[inside.ravel()] = np.arange(rows * columns)
    return Drainage(
        shape=height.shape,
        receiver=number[np.asarray(receiver)[inside.ravel()]],
        bed=np.asarray(bed)[inside.ravel()],
        area=np.asarray(area, np.int32)[inside.ravel()],
    )


def _flood(
    level: list[float], closed: list[bool], seeds: NDArray[np.int64], wide: int
) -> tuple[list[int], list[int]]:
    queue = [(level[cell], cell) for cell in seeds.tolist()]
    heapq.heapify(queue)
    receiver = list(range(len(level)))
    order: list[int] = []
    around = (1, -1, wide, -wide, wide + 1, wide - 1, 1 - wide, -wide - 1)
    while queue:
        height, cell = heapq.heappop(queue)
        order.append(cell)
        for step in around:
            neighbour = cell + step
            if closed[neighbour]:
                continue
            closed[neighbour] = True
            receiver[neighbour] = cell
            level[neighbour] = max(level[neighbour], height + FALL)
            heapq.heappush(queue, (level[neighbour], neighbour))
    return receiver, order


def _accumulate(receiver: list[int], order: list[int]) -> list[int]:
    area = [1] * len(receiver)
    for cell in reversed(order):
        if receiver[cell] != cell:
            area[receiver[cell]] += area[cell]
    return area


def _profile(
    raw: list[float], receiver: list[int], order: list[int], area: list[int], spacing: float
) -> list[float]:
    """Climb from the outlets, never flatter than FALL and never steeper than the law allows."""
    bed = list(raw)
    for cell in order:
        below = receiver[cell]
        if below != cell:
            steepest = spacing * STEEPEST * area[cell] ** -CONCAVITY
            bed[cell] = bed[below] + min(max(raw[cell] - bed[below], FALL), steepest)
    return bed


def trace(
    drainage: Drainage, rng: np.random.Generator, *, cell: int, threshold: int, wander: float
) -> Reaches:
    """Draw the cells that drain more than ``threshold`` cells as smooth curves.

    Every pair of consecutive cells becomes one quadratic Bézier arc between the middles of its
    ends, so arcs meet with a common tangent, tributaries join, and the bed only falls.

    Args:
        drainage: of the coarse relief.
        rng: for the meanders.
        cell: pixels per side of a coarse cell.
        threshold: cells.
        wander: standard deviation of the displacement of a cell's middle, in cells.

    """
    columns = drainage.shape[1]
    count = len(drainage.receiver)
    row, column = (part.astype(np.float64) for part in np.divmod(np.arange(count), columns))
    row += wander * rng.standard_normal(count)
    column += wander * rng.standard_normal(count)
    river = np.flatnonzero((drainage.area >= threshold) & (drainage.receiver != np.arange(count)))
    row, column = _straighten(row, column, river, drainage.receiver)
    middle = drainage.receiver[river]
    end = drainage.receiver[middle]
    width = np.sqrt(drainage.area / threshold)
    t = np.linspace(0, 1, 3 * cell)[None]
    start_weight, middle_weight, end_weight = (1 - t) ** 2 / 2, 0.5 + t * (1 - t), t**2 / 2

    def arc(values: NDArray[np.float64]) -> NDArray[np.float32]:
        curve = (
            start_weight * values[river][:, None]
            + middle_weight * values[middle][:, None]
            + end_weight * values[end][:, None]
        )
        return curve.ravel().astype(np.float32)

    return Reaches(
        row=arc((row + 0.5) * cell),
        column=arc((column + 0.5) * cell),
        bed=arc(drainage.bed),
        width=arc(width),
    )


def _straighten(
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    river: NDArray[np.int64],
    receiver: NDArray[np.int32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take the steps of the eight directions out of the courses: each cell moves down-river."""
    for _ in range(3):
        moved = [values.copy() for values in (row, column)]
        for values, old in zip(moved, (row, column), strict=True):
            values[river] = 0.6 * old[river] + 0.4 * old[receiver[river]]
        row, column = moved
    return row, column
