"""How land is divided: districts, fields in rows, blocks, forest stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from catalogs.demo import noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.noise import Field

FIELDS = 1 << 20
# ^ fields are numbered by hashing: two of a country's fields seldom share a number
DISTRICT, BLOCK, STAND, PASTURE = 96, 40, 24, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcels:
    """The division of the canvas, whatever grows there.

    ``field`` numbers fields (0 to FIELDS - 1), ``margin`` tells which pixels lie on the border of
    a field, ``lane`` which lie between districts; ``block``, ``stand`` and ``pasture`` number
    cells of a coarser and two finer divisions.
    """

    field: NDArray[np.int32]
    margin: NDArray[np.bool_]
    lane: NDArray[np.bool_]
    block: NDArray[np.int32]
    stand: NDArray[np.int32]
    pasture: NDArray[np.int32]


def divide(shape: tuple[int, int], seed: int) -> Parcels:
    """Divide a canvas."""
    rng = noise.stream(seed, "parcels")
    district, gap = noise.voronoi(rng, shape, DISTRICT)
    field, border = _rows(rng, shape, district)
    block, _ = noise.voronoi(rng, shape, BLOCK)
    bend, fringe = (tuple(make(rng, shape) for _ in range(2)) for make in (_bend, noise.white))
    stand, _ = noise.voronoi(rng, shape, STAND, (bend[0] + fringe[0], bend[1] + fringe[1]))
    loose = (2 * bend[0] + 3 * fringe[0], 2 * bend[1] + 3 * fringe[1])
    pasture, _ = noise.voronoi(rng, shape, PASTURE, loose)
    # ^ what grows by itself has no sharp borders
    return Parcels(
        field=field,
        margin=border,
        lane=gap < 1.5,
        block=block,
        stand=stand,
        pasture=pasture,
    )


def _bend(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    return 5 * noise.fractal(rng, shape, wavelength=16)


def _rows(
    rng: np.random.Generator, shape: tuple[int, int], district: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Lay rows of fields across each district, with a direction and a breadth of its own."""
    count = int(district.max()) + 1
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    breadth = (7 * np.exp(rng.normal(0.35, 0.45, count))).clip(5, 26).astype(np.float32)
    length = (breadth * np.exp(rng.normal(0.85, 0.4, count))).clip(14, 75).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None]
    cos, sin = np.cos(angle)[district], np.sin(angle)[district]
    across = (y * cos - x * sin) / breadth[district]
    across += 0.22 * np.sin(2 * np.pi / 3.1 * across + phase[district])
    # ^ rows of unequal breadth: the slope of the warp stays positive
    row = np.floor(across).astype(np.int32)
    shift = _scatter(district, row, 0) % 1024 / np.float32(1024)
    along = (x * cos + y * sin) / length[district] + shift
    along += 0.2 * np.sin(2 * np.pi / 2.7 * along + phase[district])
    place = np.floor(along).astype(np.int32)
    border = np.minimum(across - row, 1 - across + row) * breadth[district] < 0.4
    border |= np.minimum(along - place, 1 - along + place) * length[district] < 0.4
    return (_scatter(district, row, place) % FIELDS).astype(np.int32), border


def _scatter(
    first: NDArray[np.int32], second: NDArray[np.int32], third: NDArray[np.int32] | int
) -> NDArray[np.uint32]:
    """Mix three whole numbers into one that looks random (multiplicative hashing)."""
    mixed = np.asarray(first).astype(np.uint32) * np.uint32(2654435761)
    mixed ^= np.asarray(second).astype(np.uint32) * np.uint32(2246822519)
    mixed ^= np.asarray(third).astype(np.uint32) * np.uint32(3266489917)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(2246822519)
    mixed ^= mixed >> np.uint32(13)
    return mixed


def average(values: Field, cell: NDArray[np.int32]) -> Field:
    """Replace each value by the mean over its cell."""
    total = np.bincount(cell.ravel(), weights=values.ravel())
    count = np.bincount(cell.ravel())
    return (total / np.maximum(count, 1)).astype(np.float32)[cell]
