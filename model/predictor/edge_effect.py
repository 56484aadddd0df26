"""How far the edge of a window reaches: where an answer still depends on where the window ends.

The same pixel is predicted once in the middle of a window and once at a distance from the edge of
a window beside it, which begins whole patches away. What differs is the edge's doing: the curve
says over how many pixels neighbouring windows should blend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.terramind.modalities import PATCH_SIZE

DISTANCE_BOUNDS = (
    0,
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    1024,
    2048,
)
"""Distances from the edge at which the steps of a curve begin, px."""

_COMPARED_WIDTH = 2 * PATCH_SIZE
# ^ width of the middle of a window that is compared
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
_MIN_OBSERVED_SHARE = 0.98
# ^ least share of pixels that a place must have: holes are filled, and that is not the edge's doing
_MAX_ERROR_RATIO = 2.0
# ^ times what windows differ by in the middle: nearer than that the edge is no longer felt
_TRIES_PER_SITE = 50

Images = Mapping[str, NDArray[np.float32]]


class MeasuredPredictor(Protocol):
    """What a curve is measured of: see :class:`model.predictor.predictor.Predictor`."""

    @property
    def window(self) -> int:
        """Side of one input, px."""

    @property
    def outputs(self) -> Sequence[Any]:
        """Specifications of the outputs; the first one is measured."""

    def predict(
        self, chips: Images, places: Sequence[tuple[int, int]] | None = None
    ) -> tuple[NDArray[np.float32], ...]:
        """Return (B, K, H / stride, W / stride) for each of the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceBin:
    """The pixels from one distance from the edge to the next."""

    first: int
    """Distance from the edge, px."""

    stop: int
    differs: float | None
    """Share of pixels whose most probable class is another one than in the middle of a window;
    None where there are no classes."""

    change: float
    """Mean over the pixels: of the largest change of a probability, or of the mean change of
    all channels over their standard deviations."""

    pixels: int
    """That were compared; cells, where an answer has cells."""

    @property
    def error(self) -> float:
        """Return what the curve is read by."""
        return self.change if self.differs is None else self.differs


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeEffect:
    """A measured curve."""

    window: int
    """Side of the windows, px."""

    steps: tuple[DistanceBin, ...]
    """From the edge inwards, each beginning where the one before ends."""

    measured_on: str = ""
    """What it was measured on, for people."""

    def __post_init__(self) -> None:
        ends = [0, *(step.stop for step in self.steps)]
        firsts = [step.first for step in self.steps]
        if not self.steps or firsts != ends[:-1] or any(b <= a for a, b in pairwise(ends)):
            raise ModelError(
                f"reach: steps from {firsts} to {ends[1:]}: the first begins at 0, each where the "
                "one before it stops"
            )

    @property
    def distance(self) -> int:
        """Return from where on the edge is not felt, px.

        There and deeper answers differ at most twice as much as where the curve ends, which is
        what any other context would change.
        """
        limit = _MAX_ERROR_RATIO * self.steps[-1].error
        felt = [step.stop for step in self.steps if step.error > limit]
        return max(felt, default=0)

    @property
    def overlap(self) -> int:
        """Return by how much neighbouring windows should overlap, px: the stride is the rest.

        The pixels over which the edge is felt, in whole patches; two patches at least, for
        windows that disagree as wholes, and no more than a quarter of a window, but one at least.
        All of it is blended: a margin without weight was never better than a longer blend
        (docs/mapping.md).
        """
        whole = max(-(-self.distance // PATCH_SIZE), 2)
        most = max(self.window // 4 // PATCH_SIZE, 1)
        return PATCH_SIZE * min(whole, most)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values, as a card holds them."""
        steps = [asdict(step) for step in self.steps]
        return {"window": self.window, "on": self.measured_on, "steps": steps}

    def to_summary(self) -> dict[str, Any]:
        """Return plain values for people and programs: with the overlap that follows."""
        return {**self.to_mapping(), "overlap": self.overlap}


def from_mapping(mapping: Mapping[str, Any]) -> EdgeEffect:
    """Read what :meth:`EdgeEffect.to_mapping` gave.

    Raises:
        ModelError: it is something else.
    """
    try:
        steps = tuple(DistanceBin(**step) for step in mapping["steps"])
        return EdgeEffect(
            window=int(mapping["window"]), measured_on=str(mapping.get("on", "")), steps=steps
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            "reach: {window, on, steps: [{first, stop, differs, change, pixels}, …]} expected, as "
            f"`edge_effect.measure` gives it ({error!r})"
        ) from error


def measure(
    predictor: MeasuredPredictor,
    images: Sequence[Images],
    *,
    sites: int = 64,
    seed: int = 0,
    measured_on: str = "",
) -> EdgeEffect:
    """Measure how an answer depends on the distance from the window's edge.

    At each site one window is predicted, and windows around it whose edges run through its middle
    or lie up to there; all begin whole patches apart, as on a lattice.

    Args:
        predictor: the model; its first answer is measured.
        images: (C, H, W) by modality, in the predictor's units; NaN = missing.
        sites: places, spread over the images at random.
        seed: of the places.
        measured_on: what the images are, for people.

    Raises:
        ModelError: windows or images are too small, or nowhere well enough observed.
    """
    side, cell = predictor.window, predictor.outputs[0].stride
    middle = side // 2 // PATCH_SIZE * PATCH_SIZE - PATCH_SIZE
    if middle < PATCH_SIZE:
        raise ModelError(
            f"windows of {side} px are too small for a curve: {4 * PATCH_SIZE} px at least"
        )
    shifts = range(middle, 0, -_COMPARED_WIDTH)
    sums = np.zeros((4, middle - shifts[-1] + _COMPARED_WIDTH))
    # ^ by distance: pixels, differing pixels, change, pixels with classes
    for image, row, column in _sample_sites(images, side, middle, sites, seed):
        places = [(row, column)]
        places += [(row + s * dy, column + s * dx) for s in shifts for dy, dx in _DIRECTIONS]
        chips = {
            name: np.stack([values[:, r : r + side, c : c + side] for r, c in places])
            for name, values in image.items()
        }
        centre, *beside = predictor.predict(chips, places)[0]
        scale = _channel_deviation(centre, predictor.outputs[0].class_names)
        pairs = ((s, way) for s in shifts for way in _DIRECTIONS)
        for (shift, way), other in zip(pairs, beside, strict=True):
            first = (middle - shift) // cell
            rows = slice(side // 4 // cell, side * 3 // 4 // cell)
            # ^ the other edges are far
            one = _align_edge(centre, way)[
                :, rows, middle // cell : (middle + _COMPARED_WIDTH) // cell
            ]
            two = _align_edge(other, way)[:, rows, first : first + _COMPARED_WIDTH // cell]
            found = _sum_differences(one, two, scale).repeat(cell, axis=1)
            sums[:, middle - shift : middle - shift + _COMPARED_WIDTH] += found
    return EdgeEffect(
        window=side, measured_on=measured_on, steps=tuple(_bin_by_distance(sums, cell))
    )


def _sample_sites(
    images: Sequence[Images], side: int, middle: int, sites: int, seed: int
) -> Iterator[tuple[Images, int, int]]:
    """Yield images and places, whole patches from their corners, that are observed."""
    rng = np.random.default_rng(seed)
    whole = side + 2 * middle
    sizes = [next(iter(image.values())).shape[1:] for image in images]
    large = [index for index, size in enumerate(sizes) if min(size) >= whole]
    if not large:
        raise ModelError(f"images of {sizes}: {whole} x {whole} px at least for a curve")
    found = 0
    for _ in range(_TRIES_PER_SITE * sites):
        index = int(rng.choice(large))
        image, (height, width) = images[index], sizes[index]
        row, column = (
            int(rng.integers(0, (length - whole) // PATCH_SIZE + 1)) * PATCH_SIZE
            for length in (height, width)
        )
        part = (slice(row, row + whole), slice(column, column + whole))
        if all(np.isfinite(v[:, *part]).mean() >= _MIN_OBSERVED_SHARE for v in image.values()):
            yield image, row + middle, column + middle
            found += 1
        if found == sites:
            return
    if not found:
        raise ModelError(f"nowhere are {whole} x {whole} px observed: no curve can be measured")


def _align_edge(answer: NDArray[np.float32], way: tuple[int, int]) -> NDArray[np.float32]:
    """Turn an answer so that the window beside it begins further to the right."""
    across = np.swapaxes(answer, 1, 2) if way[0] else answer
    return across[..., ::-1] if sum(way) < 0 else across


def _channel_deviation(
    answer: NDArray[np.float32], classes: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the deviation of each channel; None for probabilities."""
    if classes:
        return None
    spread: NDArray[np.float32] = answer.std(axis=(1, 2), keepdims=True)
    return np.where(spread > 0, spread, np.float32(1))


def _sum_differences(
    one: NDArray[np.float32], two: NDArray[np.float32], scale: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Return the sums of a pair by distance: (4, columns)."""
    there = np.isfinite(one).all(axis=0) & np.isfinite(two).all(axis=0)
    apart = np.abs(two - one)
    change = apart.max(axis=0) if scale is None else (apart / scale).mean(axis=0)
    differs = (one.argmax(axis=0) != two.argmax(axis=0)) & there
    every = there.sum(axis=0)
    classed = every if scale is None else np.zeros_like(every)
    return np.stack([every, differs.sum(axis=0), np.where(there, change, 0).sum(axis=0), classed])


def _bin_by_distance(sums: NDArray[np.float64], cell: int) -> Iterator[DistanceBin]:
    end = sums.shape[1]
    bounds = [bound for bound in DISTANCE_BOUNDS if bound < end and bound % cell == 0]
    for first, stop in pairwise([*bounds, end]):
        pixels, differs, change, classed = sums[:, first:stop].sum(axis=1)
        if not pixels:
            raise ModelError("the model gave no finite answer: no curve can be measured")
        yield DistanceBin(
            first=first,
            stop=stop,
            differs=round(float(differs / classed), 5) if classed else None,
            change=round(float(change / pixels), 5),
            pixels=int(pixels),
        )
