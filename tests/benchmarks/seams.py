"""How much of the windows a map shows, on a network that makes them show: ours and TerraTorch's.

The network answers by a pixel's value and by twice its window's mean, so that windows disagree
about every pixel. What is measured is the largest mean step of the probability across a line of
pixels in or beside a blend of two windows, over the median of all lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pipeline.grid.grid import Grid
from pipeline.grid.window_lattice import Lattice
from tests.reference import terramind
from tests.support import fake_predictors

SIDE, WINDOW, SEEDS = 1344, 224, 5
DECAY = 1.8
"""The field's amplitude falls with the wave number to this power."""

AREA = Grid(
    epsg=32632, resolution=10.0, left=0.0, top=0.0, height=SIDE, width=SIDE
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What one way of tiling showed."""

    way: str
    density: float
    """Windows per km² of a large region at 10 m."""

    used: int
    """Windows that this field took."""

    steps: tuple[float, ...]
    """Largest mean step over the median, for each seed and axis."""

    @property
    def mean(self) -> float:
        """Return the mean over seeds and axes."""
        return float(np.mean(self.steps))


def field(seed: int) -> np.ndarray:
    """Return a periodic random field, (SIDE, SIDE), of mean 0 and deviation 1."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((SIDE, SIDE)))
    number = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2, indexing="ij"))
    number[0, 0] = np.inf
    values = np.fft.ifft2(noise * number**-DECAY).real
    return (values / values.std()).astype(np.float32)


def ours(lattice: Lattice) -> Seams:
    """Blend as a tile does; beyond the field it goes on as it is periodic."""
    steps: list[float] = []
    for seed in range(SEEDS):
        ground, asked = field(seed), fake_predictors.Moody(WINDOW)

        def around(grid: Grid, ground: np.ndarray = ground) -> np.ndarray:
            row, column = grid.origin_index()
            rows = np.arange(row, row + grid.height) % SIDE
            return ground[rows][:, np.arange(column, column + grid.width) % SIDE]

        answer = fake_predictors.blend(AREA, lattice, asked, around)[0][0]
        row, column = AREA.origin_index()
        for axis, first in enumerate((row, column)):
            steps.append(largest(line_steps(answer, axis), our_blends(lattice, first, SIDE)))
    way = f"ours, stride {lattice.stride}, margin {lattice.context_width}"
    used = len(lattice.window_starts(row, SIDE)) * len(lattice.window_starts(column, SIDE))
    return Seams(way=way, density=density_of(lattice.stride), used=used, steps=tuple(steps))


def theirs(stride: int = 192, delta: int = 8) -> Seams:
    """Run TerraTorch's tiled inference; without arguments as it runs by itself."""
    tiling = terramind.tiling()
    steps: list[float] = []
    for seed in range(SEEDS):
        asked = fake_predictors.Moody(WINDOW)

        def forward(chips: torch.Tensor, asked: fake_predictors.Moody = asked) -> torch.Tensor:
            return torch.from_numpy(asked.predict_values(chips.numpy(), []))

        image = torch.from_numpy(field(seed))[None, None]
        options = {"crop": WINDOW, "stride": stride, "delta": delta}
        answer = tiling.tiled_inference(forward, image, **options)[0, 0].numpy()
        chips = tiling.prepare_tiled_inference_input(image, **options)[0]
        steps += [
            largest(line_steps(answer, axis), their_blends(chips, axis, delta)) for axis in (0, 1)
        ]
    way = f"TerraTorch, stride {stride}, delta {delta}"
    return Seams(way=way, density=density_of(stride), used=len(chips), steps=tuple(steps))


def our_blends(lattice: Lattice, first: int, count: int) -> list[tuple[int, int]]:
    """Return where windows blend in ``count`` pixels from ``first``, in these pixels."""
    starts = [
        start + lattice.context_width - first for start in lattice.window_starts(first, count)
    ]
    return [(start, start + lattice.overlap) for start in starts]


def their_blends(chips: list, axis: int, delta: int) -> list[tuple[int, int]]:
    """Return where neighbouring chips overlap in the answer, from their own coordinates."""
    kept = sorted({(chip.input_coords[axis].start, chip.input_coords[axis].stop) for chip in chips})
    return [
        (after[0] - delta, before[1] - delta)
        # ^ their coordinates count the padding
        for before, after in pairwise(kept)
    ]


def density_of(stride: int) -> float:
    return (100 / stride) ** 2


def line_steps(answer: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean step between each two neighbouring lines of pixels."""
    return np.abs(np.diff(answer.astype(np.float64), axis=axis)).mean(axis=1 - axis)


def largest(steps: np.ndarray, blends: list[tuple[int, int]]) -> float:
    """Return the largest step into, within and out of the blends, over the median of all."""
    near = [steps[max(first - 1, 0) : max(stop, 0)] for first, stop in blends]
    return float(np.concatenate(near).max() / np.median(steps))


def told() -> Iterator[str]:
    """Yield the rows of a table."""
    base = theirs()
    yield (
        "| tiling | windows per km² | windows of the field | step at a line over the median "
        "| of theirs |"
    )
    yield "|---|---|---|---|---|"
    for one in (base, *(ours(lattice) for lattice in LATTICES)):
        spread = f"{one.mean:.2f} ({min(one.steps):.1f} to {max(one.steps):.1f})"
        yield (
            f"| {one.way} | {one.density:.3f} | {one.used} | {spread} | "
            f"**{one.mean / base.mean:.2f}** |"
        )


LATTICES = tuple(
    Lattice(window=WINDOW, stride=stride, context_width=margin)
    for stride, margin in ((160, 0), (176, 0), (192, 0), (192, 8), (205, 0), (208, 0))
)
