"""Test whether a map changes more often at the lines between windows or tiles than beside them.

A boundary lies between two neighbouring columns, or rows. Its rate is the share of its pairs of
valid pixels that differ in class, or the mean step of a continuous layer. A line is compared with
boundaries of the same windows that lie on no line: effects of the ground, of the model's patches or
of the sensor's grid cancel out, and so does a trend, as both sides have the same weight. The null
distribution is taken from the map itself: every boundary on no line is compared with its own
neighbours in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_CHANGES = 100
"""Fewest changes in a map that can be tested."""

MIN_INTERIOR_BOUNDARIES = 100
"""Fewest boundaries on no line from which the null distribution can be taken."""

SUFFICIENT_INTERIOR_BOUNDARIES = 300
"""Boundaries on no line that suffice for the null distribution."""

RANDOM_DRAWS = 999
"""Random draws of lines from the interior, for the null distribution of the largest z."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoundaryProfile:
    """Pairs and changes at the boundaries along one axis; boundary j lies before pixel j."""

    pairs: FloatArray
    changes: FloatArray

    @classmethod
    def empty(cls, length: int) -> BoundaryProfile:
        """Return an empty profile of an axis of ``length`` pixels."""
        return cls(np.zeros(length), np.zeros(length))

    def add(self, first: int, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Count the boundaries between neighbouring columns.

        Args:
            first: the boundary between the first two columns.
            values: (y, x) labels, or (band, y, x) quantities.
            valid: (y, x) whether they are data.
        """
        both = valid[:, 1:] & valid[:, :-1]
        boundaries = slice(first, first + both.shape[1])
        self.pairs[boundaries] += _sum_columns(both)
        self.changes[boundaries] += _sum_columns(column_changes(values, both))


def column_changes(values: NDArray[Any], valid: NDArray[np.bool_], lag: int = 1) -> NDArray[Any]:
    """Return the changes between columns: whether labels differ, or the mean absolute step.

    Args:
        values: (y, x) labels, or (band, y, x) quantities.
        valid: (y, x - lag) whether both pixels of a pair are data.
        lag: distance of the two pixels, columns.
    """
    if values.ndim == 2:
        differ: NDArray[Any] = (values[:, lag:] != values[:, :-lag]) & valid
        return differ
    step: NDArray[Any] = np.abs(values[..., lag:] - values[..., :-lag]).mean(axis=0)
    return np.where(valid, step, 0)


def _sum_columns(values: NDArray[Any]) -> NDArray[Any]:
    narrow, wide = (np.uint8, np.uint32) if values.dtype == bool else (values.dtype, np.float64)
    total: NDArray[Any] = np.add.reduce(values.view(narrow), axis=0, dtype=wide)
    # ^ takes half the time of a sum of booleans
    return total


PixelBlock = tuple[int, int, NDArray[Any], NDArray[np.bool_]]
"""Row and column of the first pixel, values, and where they are valid."""


def count_boundaries(
    blocks: Iterable[PixelBlock], shape: tuple[int, int]
) -> tuple[BoundaryProfile, BoundaryProfile]:
    """Count pairs and changes at all boundaries of a layer, in one pass.

    Args:
        blocks: labels (y, x) or quantities (band, y, x): row of blocks by row of blocks, each from
            left to right; empty ones may be missing. Only the last row and column of pixels are
            kept between them.
        shape: rows and columns of the layer.

    Returns:
        The profiles over the rows' boundaries and over the columns'.
    """
    down, across = BoundaryProfile.empty(shape[0]), BoundaryProfile.empty(shape[1])
    above: dict[int, tuple[int, _Edge]] = {}
    # ^ column -> first row below the last block, and that block's last row
    beside: tuple[int, int, _Edge] | None = None
    for row, column, values, valid in blocks:
        left = beside[2] if beside and beside[:2] == (row, column) else None
        wide = _prepend(left, values, valid, -1)
        across.add(column + (left is None), *wide)
        next_row, last_row = above.get(column, (row, None))
        top = last_row if next_row == row else None
        tall = _prepend(top, values, valid, -2)
        down.add(row + (top is None), *(part.swapaxes(-1, -2) for part in tall))
        height, width = valid.shape
        beside = row, column + width, (values[..., -1:].copy(), valid[:, -1:].copy())
        above[column] = row + height, (values[..., -1:, :].copy(), valid[-1:].copy())
    return down, across


_Edge = tuple[NDArray[Any], NDArray[np.bool_]]
"""The last row or column of pixels of a block, and where they are valid."""


def _prepend(
    before: _Edge | None,
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    axis: int,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if before is None:
        return values, valid
    return np.concatenate([before[0], values], axis), np.concatenate([before[1], valid], axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamAxis:
    """One axis of one grid, to be tested."""

    profile: BoundaryProfile
    line_starts: NDArray[np.intp]
    """First boundary of each line; it may lie outside the map."""

    excluded: NDArray[np.bool_]
    """Boundaries that lie on a line and are no part of the null distribution."""

    texture_class: NDArray[np.intp]
    """Boundaries of one class change equally often, relative to their neighbourhood: those at the
    same position in a patch, or in the zone where windows blend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """The boundaries with which a line is compared."""

    period: int
    """Boundaries after which a texture repeats."""

    guard: int
    """Boundaries next to a line that count neither as line nor as interior."""

    flank: int
    """Boundaries beyond the guard, on either side, whose rate is expected on the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """Result of testing the lines of one kind, over both axes of all grids."""

    z: float
    """Excess in standard deviations of the null distribution: N(0, 1) without a seam."""

    lines: int
    """Lines that could be tested."""

    rate: float
    """Changes per pair on the lines, over all their boundaries."""

    excess: float
    """Difference from the rate at the boundaries nearby."""

    worst: float
    """The largest such difference at a single boundary of the lines."""


def evaluate_lines(
    axes: Sequence[SeamAxis], boundaries: Sequence[int], neighbourhood: Neighbourhood
) -> Seam | None:
    """Test all lines of one kind together.

    A line has one boundary, or several where windows blend: a hard step may lie at any one of
    them, and blended offsets spread over all. Each is tested by itself, and all together; the
    result is the largest z, by its rank among the largest z of lines drawn from the interior.

    Args:
        axes: the axes.
        boundaries: the boundaries of a line, counted from its first one.
        neighbourhood: the boundaries with which a line is compared.

    Returns:
        None where the map is too small or too uniform for a test.
    """
    if sum(axis.profile.changes.sum() for axis in axes) < MIN_CHANGES:
        return None
    compared = [_LineComparison.from_axis(axis, boundaries, neighbourhood) for axis in axes]
    usable = [
        comparison
        for comparison in compared
        if comparison.lines.shape[1] and comparison.reference.shape[1] >= MIN_INTERIOR_BOUNDARIES
    ]
    if not usable:
        return None
    weight = np.concatenate([np.sqrt(comparison.lines[2] + 1) for comparison in usable])
    weight /= np.linalg.norm(weight, axis=0)
    scores = np.concatenate(
        [comparison.normal_scores(comparison.lines) / comparison.spread for comparison in usable]
    )
    z = (weight * scores).sum(axis=0)
    best = int(z.argmax())
    pairs, changes, expected = (
        sum(comparison.lines.sum(axis=1) for comparison in usable).T[[-1, best]].T
    )
    excess = (changes - expected) / pairs
    return Seam(
        z=float(_normal_scores(z[best], _null_maxima(usable, weight))),
        lines=len(weight),
        rate=float(changes[0] / pairs[0]),
        excess=float(excess[0]),
        worst=float(excess[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LineComparison:
    """The lines of an axis, and sites of the same length in its interior: (3, site, test) each.

    The three are pairs, changes, and the changes expected from the boundaries nearby. A test is one
    boundary of the line, or all of them together.
    """

    lines: FloatArray
    reference: FloatArray
    spread: float
    """Factor on the standard deviation of all lines: textures are known from few boundaries."""

    @classmethod
    def from_axis(
        cls, axis: SeamAxis, boundaries: Sequence[int], neighbourhood: Neighbourhood
    ) -> _LineComparison:
        pairs, changes = axis.profile.pairs, axis.profile.changes
        near_line = np.convolve(axis.excluded, np.ones(2 * neighbourhood.guard + 1), "same") > 0
        interior = ~near_line & (pairs > 0)
        share = _texture_factors(pairs, changes, interior, axis.texture_class)
        interior_counts = np.where(interior, [changes, pairs * share, np.ones_like(pairs)], 0.0)
        rate = _neighbour_rate(interior_counts, boundaries[-1] + 1, neighbourhood)
        counted = np.stack([pairs, changes, pairs * share])
        lines = _collect_sites(counted, rate, axis.line_starts, boundaries)
        boundaries_per_class = interior.sum() / len(np.unique(axis.texture_class))
        return cls(
            lines=lines,
            spread=float(np.sqrt(1 + lines.shape[1] / max(boundaries_per_class, 1))),
            reference=_reference_sites(
                np.where(interior, counted, np.nan),
                rate,
                axis.line_starts,
                boundaries,
                neighbourhood.period,
            ),
        )

    def normal_scores(self, sites: FloatArray) -> FloatArray:
        """Return the normal scores of sites by their rank among the reference sites: (site, test).

        Without a seam they are standard normal, however heavy the tails of the residuals.
        """
        columns = zip(
            _residuals(sites).T, _residuals(self.reference).T, self.reference[2].T, strict=True
        )
        return np.stack(
            [
                _normal_scores(values, _drop_constant_sites(reference, expected))
                for values, reference, expected in columns
            ],
            1,
        )


def _texture_factors(
    pairs: FloatArray, changes: FloatArray, interior: NDArray[np.bool_], texture: NDArray[np.intp]
) -> FloatArray:
    """Return the rate of each boundary's texture class as a factor of the mean; NaN if unknown."""
    pair_sums, change_sums = (np.bincount(texture, part * interior) for part in (pairs, changes))
    if not change_sums.any():
        return np.ones_like(pairs)
    mean_rate = change_sums.sum() / pair_sums.sum()
    with np.errstate(invalid="ignore"):
        factors: FloatArray = (change_sums / pair_sums / mean_rate)[texture]
    return factors


def _neighbour_rate(counts: FloatArray, length: int, neighbourhood: Neighbourhood) -> FloatArray:
    """Return the mean rate on both sides of sites that begin at each boundary; NaN if unknown."""
    reach = neighbourhood.guard + neighbourhood.flank
    padded = np.pad(counts, ((0, 0), (reach + 1, reach + length)))
    summed = padded.cumsum(axis=1)
    size = counts.shape[1]
    before, after = reach + 1 - neighbourhood.guard - 1, reach + length + neighbourhood.guard
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
    """Return the interior sites that begin at the same phase of the period as the lines.

    Where they are few, the phase in half a period is enough, then in a quarter, and so on.
    """
    sites = counted[:, :0, None]
    while len(lines) and period and sites.shape[1] < SUFFICIENT_INTERIOR_BOUNDARIES:
        first = np.arange(lines[0] % period, counted.shape[1], period)
        sites = _collect_sites(counted, rate, first, boundaries)
        period //= 2
    return sites


def _collect_sites(
    counted: FloatArray, rate: FloatArray, first: NDArray[np.intp], boundaries: Sequence[int]
) -> FloatArray:
    """Return the counts at sites that begin at ``first``: per boundary, and over all of them."""
    size = counted.shape[1]
    first = first[(first > 0) & (first + boundaries[-1] < size)]
    sites = counted[:, first[:, None] + np.asarray(boundaries)]
    sites[2] *= rate[first, None]
    if len(boundaries) > 1:
        sites = np.concatenate([sites, sites.sum(axis=2, keepdims=True)], axis=2)
    is_known = np.isfinite(sites).all(axis=(0, 2)) & (sites[0] > 0).all(axis=1)
    known_sites: FloatArray = sites[:, is_known]
    return known_sites


def _residuals(sites: FloatArray) -> FloatArray:
    _, changes, expected = sites
    residuals: FloatArray = (changes - expected) / np.sqrt(expected + 1)
    # ^ scaled as counts are: the variance is then the same wherever the rate differs
    return residuals


def _drop_constant_sites(residuals: FloatArray, expected: FloatArray) -> FloatArray:
    """Drop the sites without any expected change, as inside the cells of a coarser grid."""
    changing = expected > 0
    return residuals[changing] if changing.sum() >= MIN_INTERIOR_BOUNDARIES else residuals


def _normal_scores(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the normal scores of values among reference values; beyond them, in proportion."""
    from scipy.special import ndtri  # noqa: PLC0415

    # ^ slow to import, and who only reads published figures does not need it
    reference = np.sort(reference)
    rank = (np.searchsorted(reference, values) + np.searchsorted(reference, values, "right")) / 2
    score = ndtri((rank + 0.5) / (len(reference) + 1))
    top = ndtri((len(reference) + 0.5) / (len(reference) + 1))
    over, under = values / max(reference[-1], 1.0), values / min(reference[0], -1.0)
    score = np.where(values > reference[-1], top * np.maximum(over, 1.0), score)
    scores: FloatArray = np.where(values < reference[0], -top * np.maximum(under, 1.0), score)
    return scores


def _null_maxima(comparisons: Sequence[_LineComparison], weight: FloatArray) -> FloatArray:
    """Return the largest z of equally many lines drawn from the interior, of each draw."""
    generator = np.random.default_rng(0)
    total = np.zeros((RANDOM_DRAWS, weight.shape[1]))
    start = 0
    for comparison in comparisons:
        scores = comparison.normal_scores(comparison.reference)
        for line_weight in weight[start : start + comparison.lines.shape[1]]:
            total += line_weight * scores[generator.integers(len(scores), size=RANDOM_DRAWS)]
        start += comparison.lines.shape[1]
    maxima: FloatArray = total.max(axis=1)
    return maxima
