"""Where the work on a product was cut, into windows, tiles and zones, and what its map does there.

Windows that blend over a ramp can leave a step at any of its boundaries: at an end, where the
slope of the weights changes, in the middle, where overlaps that were trimmed meet, or spread over
all. So every boundary of the blend counts as line, by itself and together with the others. In maps
with planted seams that finds a hard step of one boundary, noise at windows' edges and blended
offsets alike; ends and middle alone miss what lies between, and the whole alone a single step.
Where the ramp leaves less than half of the stride, only its ends do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.grid import grid as grids
from pipeline.grid.grid import Grid
from pipeline.grid.window_lattice import Lattice
from pipeline.plan import layers
from pipeline.plan.layers import Layer
from pipeline.plan.plan import Plan
from pipeline.plan.recipe import Answer
from pipeline.quality import seam_test
from pipeline.quality.seam_test import Axis, Block, Near, Profile, Seam
from pipeline.storage import mosaic, zarr_store

PATCH = 16
"""Pixels: what a vision transformer answers repeats its texture by its patch."""

APART = 4
"""Pixels between the two of a pair across the border of zones.

The nearest pixels of two grids do not lie a pixel apart: neighbours across the border differ more
often than others, by a sixth and more, only for that. Four pixels apart that is one in 200.
"""

REACH = 208
"""Pixels on either side of the border of two zones that it is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """The lines of windows and tiles over both axes of all grids of a product."""

    layer: Layer
    lattice: Lattice
    """In cells of the layer."""

    tile: int
    """Side of a tile, cells of the layer."""

    period: int
    """Cells of a patch."""

    profiles: tuple[tuple[int, Profile], ...]
    """What was counted along each axis, and its first cell, counted from the origin of the CRS."""

    @property
    def steps(self) -> range:
        """Return the boundaries of a line of windows, from its first one."""
        whole = self.lattice.ramp + 1
        return range(whole if 2 * whole <= self.lattice.stride else 1)

    @property
    def near(self) -> Near:
        """Return what lines are compared with: within the two windows beside them."""
        stride = self.lattice.stride
        return Near(
            period=self.period,
            guard=min(max(stride // 32, 1), 4),
            flank=min(max((stride - len(self.steps)) // 6, 2), PATCH),
        )

    def windows(self) -> Seam | None:
        """Judge the lines at which windows blend."""
        ends = {0, self.lattice.ramp % self.lattice.stride} if len(self.steps) == 1 else {0}
        axes = []
        for first, profile in self.profiles:
            phase = self._phase(first, profile)
            lines = np.flatnonzero(np.isin(phase, list(ends)))
            on = np.isin(phase, list(ends)) if len(self.steps) == 1 else phase < len(self.steps)
            axes.append(
                Axis(
                    profile=profile,
                    lines=lines,
                    cut=on | self._between(profile),
                    texture=self._texture(phase),
                )
            )
        return judged(self.layer, axes, self.steps, self.near)

    def tiles(self) -> Seam | None:
        """Judge the lines between tiles; what windows do there they do in other places as well."""
        axes = []
        for first, profile in self.profiles:
            phase, cut = self._phase(first, profile), self._between(profile)
            blend = phase <= self.lattice.ramp
            axes.append(
                Axis(
                    profile=profile,
                    lines=np.flatnonzero(cut),
                    cut=cut,
                    texture=np.where(blend, self.period + phase, self._texture(phase)),
                )
            )
        return judged(self.layer, axes, (0,), self.near)

    def around(self) -> tuple[float, ...]:
        """Return the rate at each boundary of a stride, from the first of a blend on."""
        pairs, changes = np.zeros((2, self.lattice.stride))
        for first, profile in self.profiles:
            phase = self._phase(first, profile)
            pairs += np.bincount(phase, profile.pairs, len(pairs))
            changes += np.bincount(phase, profile.changes, len(pairs))
        rates = self.layer.scale * changes / np.maximum(pairs, 1)
        return tuple(rates.tolist()) if pairs.all() else ()

    def _phase(self, first: int, profile: Profile) -> NDArray[np.intp]:
        """Return where in the lattice each boundary lies: 0 where a window begins to count."""
        number = first + np.arange(len(profile.pairs)) - self.lattice.margin
        return number % self.lattice.stride

    def _texture(self, phase: NDArray[np.intp]) -> NDArray[np.intp]:
        return (phase + self.lattice.margin) % self.period

    def _between(self, profile: Profile) -> NDArray[np.bool_]:
        number = np.arange(len(profile.pairs))
        between: NDArray[np.bool_] = (number % self.tile == 0) & (number > 0)
        return between


def of(plan: Plan, folder: Path, answer: Answer, lattice: Lattice) -> Cuts:
    """Count what the map of a plan does at all boundaries, in one pass over its store.

    Args:
        plan: the plan.
        folder: the plan's folder.
        answer: the answer whose layer is looked at.
        lattice: the lattice of the model's windows, in pixels.

    Raises:
        TerramosaicError: the store is damaged.
    """
    layer, factor = layers.get(answer.layer), plan.factor(answer.layer)
    tile = plan.tile // factor
    profiles = []
    for grid in plan.grids:
        path, cells = zarr_store.of(folder, plan, grid.epsg, factor), grid.coarsened(factor)
        axes = seam_test.count(_blocks(path, layer, cells, tile), cells.shape)
        profiles += list(zip(cells.origin_index(), axes, strict=True))
    return Cuts(
        layer=layer,
        lattice=lattice.coarse(answer.cell),
        tile=tile,
        period=max(PATCH // answer.cell, 1),
        profiles=tuple(profiles),
    )


def _blocks(path: Path, layer: Layer, grid: Grid, tile: int) -> Iterator[Block]:
    for one in grids.tiles(grid, tile):
        rows = slice(one.row, one.row + one.height)
        columns = slice(one.column, one.column + one.width)
        yield one.row, one.column, *_ready(layer, zarr_store.read(path, layer.name, rows, columns))


def _ready(layer: Layer, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return labels (y, x) or quantities (band, y, x), and where they are valid (y, x)."""
    if layer.categorical:
        return values, layer.valid(values)
    bands = values.reshape(-1, *values.shape[-2:])
    valid: NDArray[np.bool_] = np.all(layer.valid(bands), axis=0)
    return bands.astype(np.float32), valid


def judged(layer: Layer, axes: Sequence[Axis], steps: Sequence[int], near: Near) -> Seam | None:
    """Judge lines; the steps of a continuous layer count in units of their own mean."""
    if layer.categorical:
        return seam_test.judge(axes, steps, near)
    pairs = sum(float(axis.profile.pairs.sum()) for axis in axes)
    unit = sum(float(axis.profile.changes.sum()) for axis in axes) / max(pairs, 1.0)
    if not unit:
        return None
    alike = [
        replace(axis, profile=Profile(axis.profile.pairs, axis.profile.changes / unit))
        for axis in axes
    ]
    seam = seam_test.judge(alike, steps, near)
    physical = unit * layer.scale
    return seam and replace(
        seam,
        rate=seam.rate * physical,
        excess=seam.excess * physical,
        worst=seam.worst * physical,
    )


def zones(plan: Plan, folder: Path, answer: Answer) -> Seam | None:
    """Judge the borders of the zones on the first mosaic; None where there are none.

    The border is no column, so it is moved as a whole: pairs of pixels across it are compared with
    the pairs so many pixels to the side, row by row, and column by column.
    """
    layer = layers.get(answer.layer)
    if not plan.mosaics or plan.factor(layer.name) > 1:
        return None
    names = {layer.name: answer.channels, mosaic.WITNESS: ()}
    down, across = Profile.of(2 * REACH + 1), Profile.of(2 * REACH + 1)
    for values, owner in mosaic.borders(plan, folder, plan.mosaics[0], names):
        held, valid = _ready(layer, values[layer.name])
        _beside(across, held, valid, owner)
        _beside(down, held.swapaxes(-1, -2), valid.T, owner.T)
    middle = np.arange(2 * REACH + 1) == REACH
    axes = [
        Axis(
            profile=profile,
            lines=np.flatnonzero(middle),
            cut=middle,
            texture=np.zeros(len(middle), dtype=np.intp),
        )
        for profile in (down, across)
    ]
    return judged(layer, axes, (0,), Near(period=1, guard=4, flank=PATCH))


def _beside(
    profile: Profile, values: NDArray[Any], valid: NDArray[np.bool_], owner: NDArray[np.uint8]
) -> None:
    """Count pairs of neighbouring columns by how far they lie from the border of two zones."""
    both = valid[:, APART:] & valid[:, :-APART]
    change = seam_test.changes(values, both, APART)
    border = (owner[:, 1:] != owner[:, :-1]) & (owner[:, 1:] > 0) & (owner[:, :-1] > 0)
    rows, columns = np.nonzero(border)
    for number in range(2 * REACH + 1):
        at = columns + 1 - APART // 2 + number - REACH
        inside = (at >= 0) & (at < both.shape[1])
        here = rows[inside], at[inside]
        profile.pairs[number] += both[here].sum()
        profile.changes[number] += change[here].sum()
