"""Seams: does a map change more often at the lines by which the work was cut than beside them?

A boundary lies between two neighbouring columns, or rows. Its rate is the share of its pairs of
valid pixels that differ in class, or the mean step of a continuous layer. A line is compared with
boundaries of the same windows that lie on no line: what the ground, the model's patches or the
sensor's grid do everywhere cancels out, and so does a trend, as both sides weigh the same. How far
such a comparison strays without a seam is seen on the map itself: every boundary that is on no line
is compared with its own neighbours in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

FEWEST_CHANGES = 100
"""Changes that a map must hold for anything to be said of it."""

FEWEST_INTERIOR = 100
"""Boundaries on no line without which nobody knows what is usual."""

ENOUGH = 300
"""Boundaries on no line that tell well what is usual."""

DRAWS = 999
"""How often lines are drawn from the interior, to know how high the largest of several z is."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Profile:
    """What was counted at the boundaries along one axis; number j lies before pixel j."""

    pairs: Numbers
    changes: Numbers

    @classmethod
    def of(cls, length: int) -> Profile:
        """Return an empty profile of an axis of so many pixels."""
        return cls(np.zeros(length), np.zeros(length))

    def add(self, first: int, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Count the boundaries between neighbouring columns.

        Args:
            first: the boundary between the first two columns.
            values: (y, x) labels, or (band, y, x) quantities.
            valid: (y, x) whether they are data.
        """
        both = valid[:, 1:] & valid[:, :-1]
        here = slice(first, first + both.shape[1])
        self.pairs[here] += _sum(both)
        self.changes[here] += _sum(changes(values, both))


def changes(values: NDArray[Any], both: NDArray[np.bool_], lag: int = 1) -> NDArray[Any]:
    """Return what changes from column to column: whether labels differ, or the mean step.

    Args:
        values: (y, x) labels, or (band, y, x) quantities.
        both: (y, x - lag) whether the two are data.
        lag: columns between the two.
    """
    if values.ndim == 2:
        differ: NDArray[Any] = (values[:, lag:] != values[:, :-lag]) & both
        return differ
    step: NDArray[Any] = np.abs(values[..., lag:] - values[..., :-lag]).mean(axis=0)
    return np.where(both, step, 0)


def _sum(values: NDArray[Any]) -> NDArray[Any]:
    narrow, wide = (np.uint8, np.uint32) if values.dtype == bool else (values.dtype, np.float64)
    total: NDArray[Any] = np.add.reduce(values.view(narrow), axis=0, dtype=wide)
    # ^ half the time of a sum of booleans
    return total


Block = tuple[int, int, NDArray[Any], NDArray[np.bool_]]
"""Row and column of the first pixel, values, and where they are valid."""


def count(blocks: Iterable[Block], shape: tuple[int, int]) -> tuple[Profile, Profile]:
    """Count pairs and changes at all boundaries of a layer, in one pass.

    Args:
        blocks: labels (y, x) or quantities (band, y, x): row of blocks by row of blocks, each from
            left to right. Only the last row and column of pixels are kept between them.
        shape: rows and columns of the layer.

    Returns:
        The profiles over the rows' boundaries and over the columns'.
    """
    down, across = Profile.of(shape[0]), Profile.of(shape[1])
    above: dict[int, tuple[NDArray[Any], NDArray[np.bool_]]] = {}
    beside: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
    for row, column, values, valid in blocks:
        wide = _joined(beside if column else None, values, valid, -1)
        across.add(column + (not column), *wide)
        tall = _joined(above.get(column), values, valid, -2)
        down.add(row + (not row), *(part.swapaxes(-1, -2) for part in tall))
        beside = values[..., -1:].copy(), valid[:, -1:].copy()
        above[column] = values[..., -1:, :].copy(), valid[-1:].copy()
    return down, across


def _joined(
    before: tuple[NDArray[Any], NDArray[np.bool_]] | None,
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    axis: int,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if before is None:
        return values, valid
    return np.concatenate([before[0], values], axis), np.concatenate([before[1], valid], axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of one grid, to be judged."""

    profile: Profile
    lines: NDArray[np.intp]
    """First boundary of each line; it may lie outside the map."""

    cut: NDArray[np.bool_]
    """Boundaries that tell nothing of what is usual beside a line, as they lie on one."""

    texture: NDArray[np.intp]
    """Boundaries of one number change equally often, as a share of what is around them: those at
    the same place of a patch, or of the zone where windows blend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What a line is compared with."""

    period: int
    """Boundaries after which a texture repeats: only what is whole periods away is alike."""

    guard: int
    """Boundaries next to a line that count neither as line nor as interior."""

    flank: int
    """Boundaries beyond them, on either side, whose rate is expected on the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """What is known of the lines of one kind, over both axes of all grids."""

    z: float
    """Excess in standard deviations of what boundaries on no line show: N(0, 1) without a seam."""

    lines: int
    """Lines that could be compared."""

    rate: float
    """Changes per pair on the lines, all their boundaries together."""

    excess: float
    """How much that is above the boundaries nearby."""

    worst: float
    """The same at the boundary of the lines that stands out most: of many, one always does."""


def judge(axes: Sequence[Axis], steps: Sequence[int], near: Near) -> Seam | None:
    """Judge all lines of a kind together.

    A line has one boundary, or several where windows blend: a hard step may lie at any one of
    them, blended offsets spread over all. Each is looked at by itself, and all together; the
    largest z counts, by its rank among the largest z of lines drawn from the interior.

    Args:
        axes: the axes.
        steps: the boundaries of a line, counted from its first one.
        near: what a line is compared with.

    Returns:
        None where the map is too small, or too uniform, to tell.
    """
    if sum(axis.profile.changes.sum() for axis in axes) < FEWEST_CHANGES:
        return None
    compared = [_Compared.of(axis, steps, near) for axis in axes]
    ready = [
        one for one in compared if one.lines.shape[1] and one.usual.shape[1] >= FEWEST_INTERIOR
    ]
    if not ready:
        return None
    weight = np.concatenate([np.sqrt(one.lines[2] + 1) for one in ready])
    weight /= np.linalg.norm(weight, axis=0)
    z = (weight * np.concatenate([one.scores(one.lines) / one.spread for one in ready])).sum(axis=0)
    best = int(z.argmax())
    pairs, changes, expected = sum(one.lines.sum(axis=1) for one in ready).T[[-1, best]].T
    excess = (changes - expected) / pairs
    return Seam(
        z=float(_scores(z[best], _mock(ready, weight))),
        lines=len(weight),
        rate=float(changes[0] / pairs[0]),
        excess=float(excess[0]),
        worst=float(excess[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """An axis's lines, and what begins in the interior and is as long: (3, site, look) each.

    The three are pairs, changes, and the changes that the boundaries nearby let expect.
    """

    lines: Numbers
    usual: Numbers
    spread: float
    """How much further the lines stray together, as textures are known from few boundaries."""

    @classmethod
    def of(cls, axis: Axis, steps: Sequence[int], near: Near) -> _Compared:
        pairs, changes = axis.profile.pairs, axis.profile.changes
        wide = np.convolve(axis.cut, np.ones(2 * near.guard + 1), "same") > 0
        interior = ~wide & (pairs > 0)
        share = _share(pairs, changes, interior, axis.texture)
        known = np.where(interior, [changes, pairs * share, np.ones_like(pairs)], 0.0)
        rate = _beside(known, steps[-1] + 1, near)
        counted = np.stack([pairs, changes, pairs * share])
        lines = _sites(counted, rate, axis.lines, steps)
        alike = interior.sum() / len(np.unique(axis.texture))
        return cls(
            lines=lines,
            spread=float(np.sqrt(1 + lines.shape[1] / max(alike, 1))),
            usual=_alike(np.where(interior, counted, np.nan), rate, axis.lines, steps, near.period),
        )

    def scores(self, sites: Numbers) -> Numbers:
        """Return the normal scores of sites by their rank among the usual ones: (site, look).

        A tail however heavy leaves them standard normal where there is no seam.
        """
        columns = zip(_residuals(sites).T, _residuals(self.usual).T, self.usual[2].T, strict=True)
        return np.stack([_scores(values, _told(usual, sure)) for values, usual, sure in columns], 1)


def _share(
    pairs: Numbers, changes: Numbers, interior: NDArray[np.bool_], texture: NDArray[np.intp]
) -> Numbers:
    """Return each boundary's rate, by its texture, as a factor of the mean; NaN where unknown."""
    seen, found = (np.bincount(texture, part * interior) for part in (pairs, changes))
    if not found.any():
        return np.ones_like(pairs)
    whole = found.sum() / seen.sum()
    with np.errstate(invalid="ignore"):
        factors: Numbers = (found / seen / whole)[texture]
    return factors


def _beside(known: Numbers, length: int, near: Near) -> Numbers:
    """Return the rate on both sides of sites that begin at each boundary; NaN where unknown."""
    room = near.guard + near.flank
    padded = np.pad(known, ((0, 0), (room + 1, room + length)))
    summed = padded.cumsum(axis=1)
    size = known.shape[1]
    before, after = room + 1 - near.guard - 1, room + length + near.guard
    # ^ the last boundary before the guard on the left, and on the right
    left = summed[:, before : before + size] - summed[:, before - near.flank :][:, :size]
    right = summed[:, after + near.flank :][:, :size] - summed[:, after : after + size]
    with np.errstate(invalid="ignore", divide="ignore"):
        rate: Numbers = (left[0] / left[1] + right[0] / right[1]) / 2
    rate[(left[2] < near.flank / 2) | (right[2] < near.flank / 2)] = np.nan
    return rate


def _alike(
    counted: Numbers, rate: Numbers, lines: NDArray[np.intp], steps: Sequence[int], period: int
) -> Numbers:
    """Return the sites that begin as many boundaries into a period as a line does.

    Where they are few, it is enough that they do so in half a period, a quarter, and so on.
    """
    found = counted[:, :0, None]
    while len(lines) and period and found.shape[1] < ENOUGH:
        first = np.arange(lines[0] % period, counted.shape[1], period)
        found = _sites(counted, rate, first, steps)
        period //= 2
    return found


def _sites(
    counted: Numbers, rate: Numbers, first: NDArray[np.intp], steps: Sequence[int]
) -> Numbers:
    """Return what is counted at sites that begin at ``first``, step by step, and of all steps."""
    size = counted.shape[1]
    first = first[(first > 0) & (first + steps[-1] < size)]
    found = counted[:, first[:, None] + np.asarray(steps)]
    found[2] *= rate[first, None]
    if len(steps) > 1:
        found = np.concatenate([found, found.sum(axis=2, keepdims=True)], axis=2)
    kept: Numbers = found[:, np.isfinite(found).all(axis=(0, 2)) & (found[0] > 0).all(axis=1)]
    return kept


def _residuals(sites: Numbers) -> Numbers:
    _, changes, expected = sites
    found: Numbers = (changes - expected) / np.sqrt(expected + 1)
    # ^ as of counts: however much the rate varies over the map, residuals are alike
    return found


def _told(residuals: Numbers, expected: Numbers) -> Numbers:
    """Leave out where nothing ever changes, as inside the cells of a coarser grid."""
    told = expected > 0
    return residuals[told] if told.sum() >= FEWEST_INTERIOR else residuals


def _scores(values: Numbers, usual: Numbers) -> Numbers:
    """Return the normal scores of values among usual ones; beyond all of them, in proportion."""
    usual = np.sort(usual)
    rank = (np.searchsorted(usual, values) + np.searchsorted(usual, values, "right")) / 2
    score = ndtri((rank + 0.5) / (len(usual) + 1))
    top = ndtri((len(usual) + 0.5) / (len(usual) + 1))
    over, under = values / max(usual[-1], 1.0), values / min(usual[0], -1.0)
    score = np.where(values > usual[-1], top * np.maximum(over, 1.0), score)
    found: Numbers = np.where(values < usual[0], -top * np.maximum(under, 1.0), score)
    return found


def _mock(ready: Sequence[_Compared], weight: Numbers) -> Numbers:
    """Return the largest z of as many lines drawn from the interior, again and again."""
    chance = np.random.default_rng(0)
    total = np.zeros((DRAWS, weight.shape[1]))
    start = 0
    for one in ready:
        scores = one.scores(one.usual)
        for line in weight[start : start + one.lines.shape[1]]:
            total += line * scores[chance.integers(len(scores), size=DRAWS)]
        start += one.lines.shape[1]
    found: Numbers = total.max(axis=1)
    return found
