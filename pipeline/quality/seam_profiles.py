"""Profile the changes of a map at the lines between windows, tiles and zones.

Windows that blend over a ramp can leave a step at any boundary of the ramp: at an end, where the
slope of the weights changes; in the middle, where trimmed overlaps meet; or spread over all of it.
So every boundary of the blend is tested, by itself and together with the others. In maps with
artificial seams this detects a hard step at one boundary, noise at the edges of windows, and
blended offsets; testing only the ends and the middle misses what lies between, and testing only the
whole misses a single step. Where the ramp leaves less than half of the stride, only its ends are
tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.grid import Tile
from pipeline.grid.window_lattice import Lattice
from pipeline.layer_table import Layer
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.plan import Plan
from pipeline.quality import seam_test
from pipeline.quality.seam_test import BoundaryProfile, Neighbourhood, PixelBlock, Seam, SeamAxis
from pipeline.storage import mosaic, zarr_store
from pipeline.storage.store import Store, StoreLike

PATCH_SIZE = 16
"""Pixels: the texture of a vision transformer's output repeats with its patches."""

ZONE_PAIR_DISTANCE = 4
"""Pixels between the two of a pair across the border of zones.

The nearest pixels of two grids do not lie exactly one pixel apart: for that reason alone,
neighbours across the border differ more often than others, by a sixth and more. At a distance of
four pixels it is one in 200.
"""

ZONE_COMPARISON_RADIUS = 208
"""Pixels on either side of the border of two zones with which the border is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamProfiles:
    """Changes at all boundaries along both axes of all grids of a product."""

    layer: Layer
    lattice: Lattice
    """In cells of the layer."""

    tile_size: int
    """Side of a tile, cells of the layer."""

    period: int
    """Cells of a patch."""

    profiles: tuple[tuple[int, BoundaryProfile], ...]
    """Of each axis: index of its first cell from the origin of the CRS, and its profile."""

    @property
    def boundaries(self) -> range:
        """Return the boundaries of a line between windows, counted from its first one."""
        blend_length = self.lattice.overlap + 1
        return range(blend_length if 2 * blend_length <= self.lattice.stride else 1)

    @property
    def neighbourhood(self) -> Neighbourhood:
        """Return the neighbourhood of a line, which lies within the two windows beside it."""
        stride = self.lattice.stride
        return Neighbourhood(
            period=self.period,
            guard=min(max(stride // 32, 1), 4),
            flank=min(max((stride - len(self.boundaries)) // 6, 2), PATCH_SIZE),
        )

    def evaluate_windows(self) -> Seam | None:
        """Test the lines at which windows blend."""
        ends = {0, self.lattice.overlap % self.lattice.stride} if len(self.boundaries) == 1 else {0}
        axes = []
        for first, profile in self.profiles:
            phase = self._phase(first, profile)
            lines = np.flatnonzero(np.isin(phase, list(ends)))
            is_line = (
                np.isin(phase, list(ends))
                if len(self.boundaries) == 1
                else phase < len(self.boundaries)
            )
            axes.append(
                SeamAxis(
                    profile=profile,
                    line_starts=lines,
                    excluded=is_line | self._is_tile_boundary(profile),
                    texture_class=self._texture_class(phase),
                )
            )
        return evaluate_layer(self.layer, axes, self.boundaries, self.neighbourhood)

    def evaluate_tiles(self) -> Seam | None:
        """Test the lines between tiles; effects of windows occur in other places as well."""
        axes = []
        for first, profile in self.profiles:
            phase, is_line = self._phase(first, profile), self._is_tile_boundary(profile)
            is_blend = phase <= self.lattice.overlap
            axes.append(
                SeamAxis(
                    profile=profile,
                    line_starts=np.flatnonzero(is_line),
                    excluded=is_line,
                    texture_class=np.where(
                        is_blend, self.period + phase, self._texture_class(phase)
                    ),
                )
            )
        return evaluate_layer(self.layer, axes, (0,), self.neighbourhood)

    def rate_by_phase(self) -> tuple[float, ...]:
        """Return the rate at each boundary of a stride, from the first boundary of a blend on."""
        pairs, changes = np.zeros((2, self.lattice.stride))
        for first, profile in self.profiles:
            phase = self._phase(first, profile)
            pairs += np.bincount(phase, profile.pairs, len(pairs))
            changes += np.bincount(phase, profile.changes, len(pairs))
        rates = self.layer.scale * changes / np.maximum(pairs, 1)
        return tuple(rates.tolist()) if pairs.all() else ()

    def _phase(self, first: int, profile: BoundaryProfile) -> NDArray[np.intp]:
        """Return the phase of each boundary in the stride; 0 where a window's weight begins."""
        number = first + np.arange(len(profile.pairs)) - self.lattice.context_width
        return number % self.lattice.stride

    def _texture_class(self, phase: NDArray[np.intp]) -> NDArray[np.intp]:
        return (phase + self.lattice.context_width) % self.period

    def _is_tile_boundary(self, profile: BoundaryProfile) -> NDArray[np.bool_]:
        number = np.arange(len(profile.pairs))
        between: NDArray[np.bool_] = (number % self.tile_size == 0) & (number > 0)
        return between


def build_profiles(
    plan: Plan, plan_dir: StoreLike, output_spec: OutputSpec, lattice: Lattice
) -> SeamProfiles:
    """Count the changes at all boundaries of a plan's layer, in one pass over its store.

    Args:
        plan: the plan.
        plan_dir: the plan's folder.
        output_spec: the output whose layer is read.
        lattice: the lattice of the model's windows, in pixels.

    Raises:
        TerramosaicError: the store is damaged.
    """
    layer = output_spec.main_layer
    factor = plan.coarsening_factor(layer.name)
    profiles = []
    for grid in plan.grids:
        source = zarr_store.grid_store(plan_dir, plan, grid.epsg, factor)
        cells = grid.coarsen(factor)
        tiles = [tile.coarsen(factor) for tile in plan.tiles if tile.epsg == grid.epsg]
        axes = seam_test.count_boundaries(_iter_blocks(source, layer, tiles), cells.shape)
        profiles += list(zip(cells.origin_index(), axes, strict=True))
    return SeamProfiles(
        layer=layer,
        lattice=lattice.coarsen(output_spec.stride),
        tile_size=plan.tile_size // factor,
        period=max(PATCH_SIZE // output_spec.stride, 1),
        profiles=tuple(profiles),
    )


def _iter_blocks(source: Store, layer: Layer, tiles: Sequence[Tile]) -> Iterator[PixelBlock]:
    for block in tiles:
        rows = slice(block.row, block.row + block.height)
        columns = slice(block.column, block.column + block.width)
        yield (
            block.row,
            block.column,
            *_prepare_values(layer, zarr_store.read_layer(source, layer.name, rows, columns)),
        )


def _prepare_values(layer: Layer, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return labels (y, x) or quantities (band, y, x), and where they are valid (y, x)."""
    if layer.is_categorical:
        return values, layer.valid_mask(values)
    bands = values.reshape(-1, *values.shape[-2:])
    valid: NDArray[np.bool_] = np.all(layer.valid_mask(bands), axis=0)
    return bands.astype(np.float32), valid


def evaluate_layer(
    layer: Layer, axes: Sequence[SeamAxis], boundaries: Sequence[int], neighbourhood: Neighbourhood
) -> Seam | None:
    """Test lines; the steps of a continuous layer are divided by their mean."""
    if layer.is_categorical:
        return seam_test.evaluate_lines(axes, boundaries, neighbourhood)
    pairs = sum(float(axis.profile.pairs.sum()) for axis in axes)
    unit = sum(float(axis.profile.changes.sum()) for axis in axes) / max(pairs, 1.0)
    if not unit:
        return None
    normalised = [
        replace(axis, profile=BoundaryProfile(axis.profile.pairs, axis.profile.changes / unit))
        for axis in axes
    ]
    seam = seam_test.evaluate_lines(normalised, boundaries, neighbourhood)
    physical = unit * layer.scale
    return seam and replace(
        seam,
        rate=seam.rate * physical,
        excess=seam.excess * physical,
        worst=seam.worst * physical,
    )


def evaluate_zones(plan: Plan, plan_dir: StoreLike, output_spec: OutputSpec) -> Seam | None:
    """Test the borders of the zones on the first mosaic; None where there are none.

    A border is not a column of pixels, so it is shifted as a whole: pairs of pixels across it are
    compared with the pairs at given distances from it, row by row and column by column.
    """
    layer = output_spec.main_layer
    if not plan.mosaic_grids or plan.coarsening_factor(layer.name) > 1:
        return None
    names = {layer.name: output_spec.channels, mosaic.OBSERVATION_LAYER: ()}
    down, across = (
        BoundaryProfile.empty(2 * ZONE_COMPARISON_RADIUS + 1),
        BoundaryProfile.empty(2 * ZONE_COMPARISON_RADIUS + 1),
    )
    for values, owner in mosaic.iter_border_tiles(plan, plan_dir, plan.mosaic_grids[0], names):
        pixels, valid = _prepare_values(layer, values[layer.name])
        _count_border_pairs(across, pixels, valid, owner)
        _count_border_pairs(down, pixels.swapaxes(-1, -2), valid.T, owner.T)
    is_border = np.arange(2 * ZONE_COMPARISON_RADIUS + 1) == ZONE_COMPARISON_RADIUS
    axes = [
        SeamAxis(
            profile=profile,
            line_starts=np.flatnonzero(is_border),
            excluded=is_border,
            texture_class=np.zeros(len(is_border), dtype=np.intp),
        )
        for profile in (down, across)
    ]
    return evaluate_layer(layer, axes, (0,), Neighbourhood(period=1, guard=4, flank=PATCH_SIZE))


def _count_border_pairs(
    profile: BoundaryProfile,
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    owner: NDArray[np.uint8],
) -> None:
    """Count pairs of neighbouring columns by their distance from the border of two zones."""
    both = valid[:, ZONE_PAIR_DISTANCE:] & valid[:, :-ZONE_PAIR_DISTANCE]
    change = seam_test.column_changes(values, both, ZONE_PAIR_DISTANCE)
    border = (owner[:, 1:] != owner[:, :-1]) & (owner[:, 1:] > 0) & (owner[:, :-1] > 0)
    rows, columns = np.nonzero(border)
    for number in range(2 * ZONE_COMPARISON_RADIUS + 1):
        first_columns = columns + 1 - ZONE_PAIR_DISTANCE // 2 + number - ZONE_COMPARISON_RADIUS
        inside = (first_columns >= 0) & (first_columns < both.shape[1])
        pairs = rows[inside], first_columns[inside]
        profile.pairs[number] += both[pairs].sum()
        profile.changes[number] += change[pairs].sum()
