"""Edge effect: how much the output near the edge of a window differs from that in its middle.

The same pixel is predicted once in the middle of a window, and once at some distance from the edge
of a shifted window, which begins whole patches away. The difference by distance from the edge
decides over how many pixels neighbouring windows overlap and blend.
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
"""Distances from the edge at which the bins of a curve begin, px."""

_COMPARED_WIDTH = 2 * PATCH_SIZE
# ^ width of the part of a window's middle that is compared, px
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
_MIN_OBSERVED_SHARE = 0.98
# ^ minimum share of valid pixels at a site: filled pixels would add differences of their own
_MAX_ERROR_RATIO = 2.0
# ^ the edge effect ends where the error is at most this many times that in the middle
_TRIES_PER_SITE = 50

Images = Mapping[str, NDArray[np.float32]]


class MeasuredPredictor(Protocol):
    """The members of :class:`model.predictor.predictor.Predictor` that are used here."""

    @property
    def window(self) -> int:
        """Side of one input, px."""

    @property
    def outputs(self) -> Sequence[Any]:
        """Specifications of the outputs; the first one is measured."""

    def predict(
        self, chips: Images, origins: Sequence[tuple[int, int]] | None = None
    ) -> tuple[NDArray[np.float32], ...]:
        """Return (B, K, H / stride, W / stride) for each output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceBin:
    """Differences of the pixels within a range of distances from the edge."""

    first: int
    """First distance from the edge, px."""

    stop: int
    """First distance of the next bin, px."""

    differs: float | None
    """Share of pixels with another most probable class than in the middle of a window; None where
    the output has no classes."""

    change: float
    """Mean over the pixels of the largest change of a probability; without classes, of the mean
    change of all channels, each divided by its standard deviation."""

    pixels: int
    """Number of compared pixels; of values, where the output has a stride."""

    @property
    def error(self) -> float:
        """Return the measure that the overlap is derived from: `differs`, or else `change`."""
        return self.change if self.differs is None else self.differs


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeEffect:
    """A measured curve of differences by distance from the edge."""

    window: int
    """Side of the windows, px."""

    steps: tuple[DistanceBin, ...]
    """From the edge inwards, each beginning where the previous one stops."""

    measured_on: str = ""
    """What the images were, for readers."""

    def __post_init__(self) -> None:
        ends = [0, *(step.stop for step in self.steps)]
        firsts = [step.first for step in self.steps]
        if not self.steps or firsts != ends[:-1] or any(b <= a for a, b in pairwise(ends)):
            raise ModelError(
                f"reach: steps from {firsts} to {ends[1:]}: the first must begin at 0, and each "
                "other one where the previous one stops"
            )

    @property
    def distance(self) -> int:
        """Return the distance from which on there is no edge effect, px.

        There and further inwards outputs differ at most twice as much as in the middle, where
        they differ because the context does.
        """
        limit = _MAX_ERROR_RATIO * self.steps[-1].error
        affected = [step.stop for step in self.steps if step.error > limit]
        return max(affected, default=0)

    @property
    def overlap(self) -> int:
        """Return the overlap of neighbouring windows that follows from the curve, px.

        It is the distance of the edge effect in whole patches: at least two patches, because whole
        windows differ too, and at most a quarter of a window, but at least one patch. All of it is
        blended: discarding a margin was never better than a longer blend (docs/mapping.md).
        """
        patches = max(-(-self.distance // PATCH_SIZE), 2)
        max_patches = max(self.window // 4 // PATCH_SIZE, 1)
        return PATCH_SIZE * min(patches, max_patches)

    def to_mapping(self) -> dict[str, Any]:
        """Return JSON-ready values, as in a model card."""
        steps = [asdict(step) for step in self.steps]
        return {"window": self.window, "on": self.measured_on, "steps": steps}


def from_mapping(mapping: Mapping[str, Any]) -> EdgeEffect:
    """Build an edge effect from :meth:`EdgeEffect.to_mapping`'s values.

    Raises:
        ModelError: the values are of another form.
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
    """Measure how the primary output depends on the distance from a window's edge.

    At each site a central window is predicted, and windows that are shifted against it by whole
    patches, so that the middle of the central one lies at all distances from their edges.

    Args:
        predictor: the model; its primary output is measured.
        images: (C, H, W) by modality, in the predictor's units; NaN = missing.
        sites: number of positions, drawn at random over the images.
        seed: of the positions.
        measured_on: what the images are, for readers.

    Raises:
        ModelError: windows or images are too small, or no site has enough valid pixels.
    """
    side, stride = predictor.window, predictor.outputs[0].stride
    middle = side // 2 // PATCH_SIZE * PATCH_SIZE - PATCH_SIZE
    if middle < PATCH_SIZE:
        raise ModelError(
            f"windows of {side} px are too small to measure the edge effect: at least "
            f"{4 * PATCH_SIZE} px needed"
        )
    shifts = range(middle, 0, -_COMPARED_WIDTH)
    sums = np.zeros((4, middle - shifts[-1] + _COMPARED_WIDTH))
    # ^ by distance: pixels, pixels of another class, change, pixels with classes
    for image, row, column in _sample_sites(images, side, middle, sites, seed):
        moves = [(shift, direction) for shift in shifts for direction in _DIRECTIONS]
        origins = [(row, column)]
        origins += [(row + shift * dy, column + shift * dx) for shift, (dy, dx) in moves]
        chips = {
            name: np.stack([values[:, r : r + side, c : c + side] for r, c in origins])
            for name, values in image.items()
        }
        central, *shifted = predictor.predict(chips, origins)[0]
        scale = _channel_deviation(central, predictor.outputs[0].class_names)
        for (shift, direction), output in zip(moves, shifted, strict=True):
            first = (middle - shift) // stride
            rows = slice(side // 4 // stride, side * 3 // 4 // stride)
            # ^ far from the other edges
            reference = _align_edge(central, direction)[
                :, rows, middle // stride : (middle + _COMPARED_WIDTH) // stride
            ]
            compared = _align_edge(output, direction)[
                :, rows, first : first + _COMPARED_WIDTH // stride
            ]
            differences = _sum_differences(reference, compared, scale).repeat(stride, axis=1)
            sums[:, middle - shift : middle - shift + _COMPARED_WIDTH] += differences
    return EdgeEffect(
        window=side, measured_on=measured_on, steps=tuple(_bin_by_distance(sums, stride))
    )


def _sample_sites(
    images: Sequence[Images], side: int, middle: int, sites: int, seed: int
) -> Iterator[tuple[Images, int, int]]:
    """Yield images, and rows and columns of sites whose surroundings are valid."""
    rng = np.random.default_rng(seed)
    extent = side + 2 * middle
    sizes = [next(iter(image.values())).shape[1:] for image in images]
    large = [index for index, size in enumerate(sizes) if min(size) >= extent]
    if not large:
        raise ModelError(
            f"images of {sizes} are too small to measure the edge effect: at least {extent} x "
            f"{extent} px needed"
        )
    count = 0
    for _ in range(_TRIES_PER_SITE * sites):
        index = int(rng.choice(large))
        image, (height, width) = images[index], sizes[index]
        row, column = (
            int(rng.integers(0, (length - extent) // PATCH_SIZE + 1)) * PATCH_SIZE
            for length in (height, width)
        )
        part = (slice(row, row + extent), slice(column, column + extent))
        if all(
            np.isfinite(values[:, *part]).mean() >= _MIN_OBSERVED_SHARE for values in image.values()
        ):
            yield image, row + middle, column + middle
            count += 1
        if count == sites:
            return
    if not count:
        raise ModelError(
            f"no {extent} x {extent} px of the images are valid: the edge effect cannot be measured"
        )


def _align_edge(output: NDArray[np.float32], direction: tuple[int, int]) -> NDArray[np.float32]:
    """Turn an output so that a window shifted in a direction lies to the right."""
    horizontal = np.swapaxes(output, 1, 2) if direction[0] else output
    return horizontal[..., ::-1] if sum(direction) < 0 else horizontal


def _channel_deviation(
    output: NDArray[np.float32], classes: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the standard deviation of each channel; None for probabilities."""
    if classes:
        return None
    deviation: NDArray[np.float32] = output.std(axis=(1, 2), keepdims=True)
    return np.where(deviation > 0, deviation, np.float32(1))


def _sum_differences(
    reference: NDArray[np.float32],
    compared: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
) -> NDArray[np.float64]:
    """Return the sums over the rows of two outputs (K, rows, columns) by column: (4, columns)."""
    valid = np.isfinite(reference).all(axis=0) & np.isfinite(compared).all(axis=0)
    difference = np.abs(compared - reference)
    change = difference.max(axis=0) if scale is None else (difference / scale).mean(axis=0)
    differs = (reference.argmax(axis=0) != compared.argmax(axis=0)) & valid
    pixels = valid.sum(axis=0)
    classed = pixels if scale is None else np.zeros_like(pixels)
    return np.stack([pixels, differs.sum(axis=0), np.where(valid, change, 0).sum(axis=0), classed])


def _bin_by_distance(sums: NDArray[np.float64], stride: int) -> Iterator[DistanceBin]:
    end = sums.shape[1]
    bounds = [bound for bound in DISTANCE_BOUNDS if bound < end and bound % stride == 0]
    for first, stop in pairwise([*bounds, end]):
        pixels, differs, change, classed = sums[:, first:stop].sum(axis=1)
        if not pixels:
            raise ModelError("the model's output is not finite: the edge effect cannot be measured")
        yield DistanceBin(
            first=first,
            stop=stop,
            differs=round(float(differs / classed), 5) if classed else None,
            change=round(float(change / pixels), 5),
            pixels=int(pixels),
        )
