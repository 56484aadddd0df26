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

MIN_CHANGES = 100
"""Changes that a map must hold for anything to be said of it."""

MIN_INTERIOR_BOUNDARIES = 100
"""Boundaries on no line without which nobody knows what is usual."""

SUFFICIENT_INTERIOR_BOUNDARIES = 300
"""Boundaries on no line that tell well what is usual."""

RANDOM_DRAWS = 999
"""How often lines are drawn from the interior, to know how high the largest of several z is."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoundaryProfile:
    """What was counted at the boundaries along one axis; number j lies before pixel j."""

    pairs: FloatArray
    changes: FloatArray

    @classmethod
    def empty(cls, length: int) -> BoundaryProfile:
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
        self.pairs[here] += _sum_columns(both)
        self.changes[here] += _sum_columns(column_changes(values, both))


def column_changes(values: NDArray[Any], valid: NDArray[np.bool_], lag: int = 1) -> NDArray[Any]:
    """Return what changes from column to column: whether labels differ, or the mean step.

    Args:
        values: (y, x) labels, or (band, y, x) quantities.
        valid: (y, x - lag) whether the two are data.
        lag: columns between the two.
    """
    if values.ndim == 2:
        differ: NDArray[Any] = (values[:, lag:] != values[:, :-lag]) & valid
        return differ
    step: NDArray[Any] = np.abs(values[..., lag:] - values[..., :-lag]).mean(axis=0)
    return np.where(valid, step, 0)


def _sum_columns(values: NDArray[Any]) -> NDArray[Any]:
    narrow, wide = (np.uint8, np.uint32) if values.dtype == bool else (values.dtype, np.float64)
    total: NDArray[Any] = np.add.reduce(values.view(narrow), axis=0, dtype=wide)
    # ^ half the time of a sum of booleans
    return total


PixelBlock = tuple[int, int, NDArray[Any], NDArray[np.bool_]]
"""Row and column of the first pixel, values, and where they are valid."""


def count_boundaries(
    blocks: Iterable[PixelBlock], shape: tuple[int, int]
) -> tuple[BoundaryProfile, BoundaryProfile]:
    """Count pairs and changes at all boundaries of a layer, in one pass.

    Args:
        blocks: labels (y, x) or quantities (band, y, x): row of blocks by row of blocks, each from
            left to right. Only the last row and column of pixels are kept between them.
        shape: rows and columns of the layer.

    Returns:
        The profiles over the rows' boundaries and over the columns'.
    """
    down, across = BoundaryProfile.empty(shape[0]), BoundaryProfile.empty(shape[1])
    above: dict[int, tuple[NDArray[Any], NDArray[np.bool_]]] = {}
    beside: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
    for row, column, values, valid in blocks:
        wide = _prepend(beside if column else None, values, valid, -1)
        across.add(column + (not column), *wide)
        tall = _prepend(above.get(column), values, valid, -2)
        down.add(row + (not row), *(part.swapaxes(-1, -2) for part in tall))
        beside = values[..., -1:].copy(), valid[:, -1:].copy()
        above[column] = values[..., -1:, :].copy(), valid[-1:].copy()
    return down, across


def _prepend(
    before: tuple[NDArray[Any], NDArray[np.bool_]] | None,
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    axis: int,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if before is None:
        return values, valid
    return np.concatenate([before[0], values], axis), np.concatenate([before[1], valid], axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamAxis:
    """One axis of one grid, to be judged."""

    profile: BoundaryProfile
    line_starts: NDArray[np.intp]
    """First boundary of each line; it may lie outside the map."""

    excluded: NDArray[np.bool_]
    """Boundaries that tell nothing of what is usual beside a line, as they lie on one."""

    texture_class: NDArray[np.intp]
    """Boundaries of one number change equally often, as a share of what is around them: those at
    the same place of a patch, or of the zone where windows blend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
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


def evaluate_lines(
    axes: Sequence[SeamAxis], boundaries: Sequence[int], neighbourhood: Neighbourhood
) -> Seam | None:
    """Judge all lines of a kind together.

    A line has one boundary, or several where windows blend: a hard step may lie at any one of
    them, blended offsets spread over all. Each is looked at by itself, and all together; the
    largest z counts, by its rank among the largest z of lines drawn from the interior.

    Args:
        axes: the axes.
        boundaries: the boundaries of a line, counted from its first one.
        neighbourhood: what a line is compared with.

    Returns:
        None where the map is too small, or too uniform, to tell.
    """
    if sum(axis.profile.changes.sum() for axis in axes) < MIN_CHANGES:
        return None
    compared = [_LineComparison.from_axis(axis, boundaries, neighbourhood) for axis in axes]
    ready = [
        one
        for one in compared
        if one.lines.shape[1] and one.reference.shape[1] >= MIN_INTERIOR_BOUNDARIES
    ]
    if not ready:
        return None
    weight = np.concatenate([np.sqrt(one.lines[2] + 1) for one in ready])
    weight /= np.linalg.norm(weight, axis=0)
    z = (weight * np.concatenate([one.normal_scores(one.lines) / one.spread for one in ready])).sum(
        axis=0
    )
    best = int(z.argmax())
    pairs, changes, expected = sum(one.lines.sum(axis=1) for one in ready).T[[-1, best]].T
    excess = (changes - expected) / pairs
    return Seam(
        z=float(_normal_scores(z[best], _null_maxima(ready, weight))),
        lines=len(weight),
        rate=float(changes[0] / pairs[0]),
        excess=float(excess[0]),
        worst=float(excess[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LineComparison:
    """An axis's lines, and what begins in the interior and is as long: (3, site, look) each.

    The three are pairs, changes, and the changes that the boundaries nearby let expect.
    """

    lines: FloatArray
    reference: FloatArray
    spread: float
    """How much further the lines stray together, as textures are known from few boundaries."""

    @classmethod
    def from_axis(
        cls, axis: SeamAxis, boundaries: Sequence[int], neighbourhood: Neighbourhood
    ) -> _LineComparison:
        pairs, changes = axis.profile.pairs, axis.profile.changes
        wide = np.convolve(axis.excluded, np.ones(2 * neighbourhood.guard + 1), "same") > 0
        interior = ~wide & (pairs > 0)
        share = _texture_factors(pairs, changes, interior, axis.texture_class)
        known = np.where(interior, [changes, pairs * share, np.ones_like(pairs)], 0.0)
        rate = _neighbour_rate(known, boundaries[-1] + 1, neighbourhood)
        counted = np.stack([pairs, changes, pairs * share])
        lines = _collect_sites(counted, rate, axis.line_starts, boundaries)
        alike = interior.sum() / len(np.unique(axis.texture_class))
        return cls(
            lines=lines,
            spread=float(np.sqrt(1 + lines.shape[1] / max(alike, 1))),
            reference=_reference_sites(
                np.where(interior, counted, np.nan),
                rate,
                axis.line_starts,
                boundaries,
                neighbourhood.period,
            ),
        )

    def normal_scores(self, sites: FloatArray) -> FloatArray:
        """Return the normal scores of sites by their rank among the usual ones: (site, look).

        A tail however heavy leaves them standard normal where there is no seam.
        """
        columns = zip(
            _residuals(sites).T, _residuals(self.reference).T, self.reference[2].T, strict=True
        )
        return np.stack(
            [
                _normal_scores(values, _drop_constant_sites(usual, sure))
                for values, usual, sure in columns
            ],
            1,
        )


def _texture_factors(
    pairs: FloatArray, changes: FloatArray, interior: NDArray[np.bool_], texture: NDArray[np.intp]
) -> FloatArray:
    """Return each boundary's rate, by its texture, as a factor of the mean; NaN where unknown."""
    seen, found = (np.bincount(texture, part * interior) for part in (pairs, changes))
    if not found.any():
        return np.ones_like(pairs)
    whole = found.sum() / seen.sum()
    with np.errstate(invalid="ignore"):
        factors: FloatArray = (found / seen / whole)[texture]
    return factors


def _neighbour_rate(known: FloatArray, length: int, neighbourhood: Neighbourhood) -> FloatArray:
    """Return the rate on both sides of sites that begin at each boundary; NaN where unknown."""
    room = neighbourhood.guard + neighbourhood.flank
    padded = np.pad(known, ((0, 0), (room + 1, room + length)))
    summed = padded.cumsum(axis=1)
    size = known.shape[1]
    before, after = room + 1 - neighbourhood.guard - 1, room + length + neighbourhood.guard
    # ^ the last boundary before the guard on the left, and on the right
    left = summed[:, before : before + size] - summed[:, before - neighbourhood.flank :][:, :size]
    right = summed[:, after + neighbourhood.flank :][:, :size] - summed[:, after : after + size]
    with np.errstate(invalid="ignore", divide="ignore"):
        rate: FloatArray = (left[0] / left[1] + right[0] / right[1]) / 2
    rate[(left[2] < neighbourhood.flank / 2) | (right[2] < neighbourhood.flank / 2)] = np.nan
    return rate


def _reference_sites(
    counted: FloatArray,
    rate: FloatArray,
    lines: NDArray[np.intp],
    boundaries: Sequence[int],
    period: int,
) -> FloatArray:
    """Return the sites that begin as many boundaries into a period as a line does.

    Where they are few, it is enough that they do so in half a period, a quarter, and so on.
    """
    found = counted[:, :0, None]
    while len(lines) and period and found.shape[1] < SUFFICIENT_INTERIOR_BOUNDARIES:
        first = np.arange(lines[0] % period, counted.shape[1], period)
        found = _collect_sites(counted, rate, first, boundaries)
        period //= 2
    return found


def _collect_sites(
    counted: FloatArray, rate: FloatArray, first: NDArray[np.intp], boundaries: Sequence[int]
) -> FloatArray:
    """Return what is counted at sites that begin at ``first``, step by step, and of all steps."""
    size = counted.shape[1]
    first = first[(first > 0) & (first + boundaries[-1] < size)]
    found = counted[:, first[:, None] + np.asarray(boundaries)]
    found[2] *= rate[first, None]
    if len(boundaries) > 1:
        found = np.concatenate([found, found.sum(axis=2, keepdims=True)], axis=2)
    kept: FloatArray = found[:, np.isfinite(found).all(axis=(0, 2)) & (found[0] > 0).all(axis=1)]
    return kept


def _residuals(sites: FloatArray) -> FloatArray:
    _, changes, expected = sites
    found: FloatArray = (changes - expected) / np.sqrt(expected + 1)
    # ^ as of counts: however much the rate varies over the map, residuals are alike
    return found


def _drop_constant_sites(residuals: FloatArray, expected: FloatArray) -> FloatArray:
    """Leave out where nothing ever changes, as inside the cells of a coarser grid."""
    told = expected > 0
    return residuals[told] if told.sum() >= MIN_INTERIOR_BOUNDARIES else residuals


def _normal_scores(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the normal scores of values among usual ones; beyond all of them, in proportion."""
    reference = np.sort(reference)
    rank = (np.searchsorted(reference, values) + np.searchsorted(reference, values, "right")) / 2
    score = ndtri((rank + 0.5) / (len(reference) + 1))
    top = ndtri((len(reference) + 0.5) / (len(reference) + 1))
    over, under = values / max(reference[-1], 1.0), values / min(reference[0], -1.0)
    score = np.where(values > reference[-1], top * np.maximum(over, 1.0), score)
    found: FloatArray = np.where(values < reference[0], -top * np.maximum(under, 1.0), score)
    return found


def _null_maxima(ready: Sequence[_LineComparison], weight: FloatArray) -> FloatArray:
    """Return the largest z of as many lines drawn from the interior, again and again."""
    chance = np.random.default_rng(0)
    total = np.zeros((RANDOM_DRAWS, weight.shape[1]))
    start = 0
    for one in ready:
        scores = one.normal_scores(one.reference)
        for line in weight[start : start + one.lines.shape[1]]:
            total += line * scores[chance.integers(len(scores), size=RANDOM_DRAWS)]
        start += one.lines.shape[1]
    found: FloatArray = total.max(axis=1)
    return found
