"""Read and composite all modalities of a plan on one grid, into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.base
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Scene
from pipeline.compositing import modality_composite
from pipeline.grid.grid import Grid
from pipeline.grid.scene_index import find_intersecting_scenes
from pipeline.plan.plan import Plan
from pipeline.reading import asset_opener, units
from pipeline.runtime import cancellation


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeBlock:
    """The composites of one grid, computed."""

    values: Mapping[str, xr.DataArray]
    """Modality → (band, y, x) in the unit of its modality; NaN = no value."""

    observations: NDArray[np.uint16]
    """(y, x): days with a clear Sentinel-2 observation; of Sentinel-1 where no Sentinel-2 is
    an input."""

    first_day: NDArray[np.uint16]
    """(y, x): day of the earliest observation in days since 1970-01-01; 0 = none."""

    last_day: NDArray[np.uint16]
    """(y, x): day of the latest observation in days since 1970-01-01; 0 = none."""

    steps: tuple[CompositeBlock, ...] = ()
    """The composites of each part of the period, where the recipe divides it."""


def compose(plan: Plan, scenes: Sequence[Scene], area: Grid, *, threads: int) -> CompositeBlock:
    """Read and composite scenes on a grid, by a plan's recipe.

    Args:
        plan: the plan, for its recipe, bands and inputs.
        scenes: candidate scenes; those that do not intersect the grid are ignored.
        area: the output grid, in pixels.
        threads: threads that read and composite.

    Raises:
        AssetReadError: an asset could not be read.
    """
    nearby = find_intersecting_scenes(scenes, area)
    steps = plan.recipe.steps if plan.recipe.composites else ()
    lazy = [_lazy_composites(plan, nearby, area)]
    lazy += [
        _lazy_composites(plan, modality_composite.select_scenes_in_step(nearby, step), area)
        for step in steps
    ]
    num_readers = asset_opener.count_read_threads(nearby, threads)
    with cancellation.CancellableThreadPool(num_readers, "read", wait_on_error=False) as pool:
        (computed,) = dask.base.compute(lazy, scheduler="threads", pool=pool)
        # ^ not by dask.config, which is global while tiles are built in parallel; and with our own
        #   threads, because dask's would not carry the context variables of this tile
    whole_period, *parts = (_to_composite_block(plan, arrays, area) for arrays in computed)
    return replace(whole_period, steps=tuple(parts))


def _lazy_composites(plan: Plan, scenes: Sequence[Scene], area: Grid) -> dict[str, tuple[Any, ...]]:
    """Return modality → values, observations, first and last days, as dask arrays."""
    lazy: dict[str, tuple[Any, ...]] = {}
    for modality in plan.recipe.inputs:
        selected = [scene for scene in scenes if scene.modality == modality]
        bands = plan.bands(modality)
        if selected and bands:
            result = modality_composite.compose_modality(
                modality, selected, bands, area, recipe=plan.recipe
            )
            planes = (result.observations.data, result.first_day.data, result.last_day.data)
            lazy[modality] = (result.values, *planes)
    return lazy


def _to_composite_block(
    plan: Plan, computed: Mapping[str, tuple[Any, ...]], area: Grid
) -> CompositeBlock:
    empty = np.zeros(area.shape, dtype=np.uint16)
    _, observations, first_day, last_day = computed.get(
        plan.counted_modality, (None, *(empty,) * 3)
    )
    return CompositeBlock(
        values={modality: values for modality, (values, *_) in computed.items()},
        observations=observations,
        first_day=first_day,
        last_day=last_day,
    )


def to_model_inputs(plan: Plan, block: CompositeBlock) -> dict[str, NDArray[np.float32]]:
    """Convert composites to model inputs: linear power becomes decibel here and nowhere earlier.

    Returns:
        Modality → (band, y, x) in the model's units.

    Raises:
        InvalidInputError: an input is not in its modality's unit.
    """
    return {
        modality: units.to_model_unit(values, modality).values
        for modality, values in block.values.items()
        if plan.model is None or modality in plan.model.inputs
    }
