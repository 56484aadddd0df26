"""Villages with streets and houses, and the roads between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import distance

from catalogs.demo import noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.noise import Field

SPACING = 55
# ^ pixels between the middles of two villages at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlements:
    """What people built, on the canvas.

    ``built`` are the villages; ``village`` numbers them (0 elsewhere); ``street`` and ``house``
    lie within them, ``road`` leads from one to the next over open land.
    """

    built: NDArray[np.bool_]
    village: NDArray[np.int32]
    street: NDArray[np.bool_]
    house: NDArray[np.bool_]
    road: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Village:
    row: int
    column: int
    radius: float


def settle(suitable: Field, allowed: NDArray[np.bool_], pixels: int, seed: int) -> Settlements:
    """Found villages at the most suitable places until they cover the wanted area.

    Args:
        suitable: how good a place is; only the order matters.
        allowed: where one may build, and where the area is counted.
        pixels: area wanted.
        seed: of the country.

    """
    rng = noise.stream(seed, "settlements")
    shape = allowed.shape
    built = np.zeros(shape, np.bool_)
    village = np.zeros(shape, np.int32)
    street = np.zeros(shape, np.bool_)
    outline = noise.fractal(rng, shape, wavelength=16, roughness=0.6)
    places: list[_Village] = []
    crowded = np.zeros((shape[0] // 4 + 1, shape[1] // 4 + 1), np.bool_)
    area = 0
    for row, column in _candidates(suitable, allowed, rng):
        if area >= pixels:
            break
        if crowded[row // 4, column // 4]:
            continue
        place = _Village(row, column, float(np.clip(11 * np.exp(rng.normal(0.25, 0.5)), 6, 42)))
        places.append(place)
        _crowd(crowded, place)
        area += _draw(place, len(places), rng, outline, allowed, (built, village, street))
    road = _roads(places, shape, rng)
    house = built & ~street & (noise.white(rng, shape) > np.float32(0.2))
    return Settlements(built=built, village=village, street=street & built, house=house, road=road)


def _candidates(
    suitable: Field, allowed: NDArray[np.bool_], rng: np.random.Generator
) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(allowed[::4, ::4])
    score = suitable[::4, ::4][rows, columns] + 0.5 * rng.standard_normal(len(rows))
    order = np.argsort(-score, kind="stable")
    return list(zip((rows[order] * 4).tolist(), (columns[order] * 4).tolist(), strict=True))


def _crowd(crowded: NDArray[np.bool_], place: _Village) -> None:
    """Keep the next villages away; ``crowded`` has a quarter of the canvas' resolution."""
    reach = (SPACING + 2 * place.radius) / 4
    row, column = place.row / 4, place.column / 4
    window = (
        slice(max(0, int(row - reach)), int(row + reach) + 2),
        slice(max(0, int(column - reach)), int(column + reach) + 2),
    )
    y, x = np.ogrid[: crowded.shape[0], : crowded.shape[1]]
    crowded[window] |= np.hypot(y[window[0]] - row, x[:, window[1]] - column) < reach


def _draw(
    place: _Village,
    number: int,
    rng: np.random.Generator,
    outline: Field,
    allowed: NDArray[np.bool_],
    layers: tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.bool_]],
) -> int:
    """Draw one village and return the pixels that it covers."""
    built, village, street = layers
    reach = int(2.2 * place.radius) + 2
    window = (
        slice(max(0, place.row - reach), min(built.shape[0], place.row + reach + 1)),
        slice(max(0, place.column - reach), min(built.shape[1], place.column + reach + 1)),
    )
    y, x = np.ogrid[window]
    dy, dx = y - place.row, x - place.column
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.7)
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    away = np.hypot(along / stretch, across * stretch**0.5) / place.radius
    inside = (away + 0.22 * outline[window] < 1) & allowed[window]
    block = rng.integers(6, 10)
    built[window] |= inside
    village[window][inside] = number
    grid = (np.floor(along) % block < 1) | (np.floor(across) % (block + 3) < 1)
    street[window] |= inside & grid
    return int(inside.sum())


def _roads(
    places: list[_Village], shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Connect the villages by a tree of short ways and some more, a little bent."""
    road = np.zeros(shape, np.bool_)
    if len(places) < 2:
        return road
    middle = np.array([(place.row, place.column) for place in places], np.float64)
    apart = distance.squareform(distance.pdist(middle))
    tree = minimum_spanning_tree(apart).toarray() > 0
    nearest = np.argsort(apart, axis=1, kind="stable")[:, 2]
    pairs = {*zip(*np.nonzero(tree), strict=True), *enumerate(nearest)}
    for first, second in sorted((int(a), int(b)) for a, b in pairs):
        _way(road, middle[first], middle[second], rng)
    return road


def _way(
    road: NDArray[np.bool_],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    span = end - start
    length = float(np.hypot(*span))
    t = np.linspace(0, 1, int(2 * length) + 2)
    bend = rng.normal(0, 0.07) * np.sin(np.pi * t) + rng.normal(0, 0.02) * np.sin(3 * np.pi * t)
    row = start[0] + t * span[0] + bend * span[1]
    column = start[1] + t * span[1] - bend * span[0]
    inside = (row >= 0) & (row < road.shape[0]) & (column >= 0) & (column < road.shape[1])
    road[row[inside].astype(np.int64), column[inside].astype(np.int64)] = True
