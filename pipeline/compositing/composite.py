"""Many observations → one, by modality, and for each step of the period.

Everything is lazy: one dask chunk is one layer of the grid it is asked for.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from catalogs.scene import TIMELESS, Radiometry, Scene
from pipeline.compositing import units
from pipeline.compositing.observations import (
    Composite,
    banded,
    first_finite,
    per_pixel,
    plane,
    radiometries,
)
from pipeline.compositing.optical import optical
from pipeline.compositing.radar import mixed, radar
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube

__all__ = ["Composite", "elevation", "in_step", "mixed", "of", "optical", "radar"]


def of(
    modality: str, scenes: Sequence[Scene], bands: Sequence[str], grid: Grid, *, recipe: Recipe
) -> Composite:
    """Compose the scenes of a modality on a grid, lazily.

    The order of the scenes does not matter, and a part of the grid gives the part of the result.

    Args:
        modality: one of :data:`radiometry.UNITS`.
        scenes: the scenes that meet the grid; at least one.
        bands: bands of the result, in order; NaN where no scene has one.
        grid: the output grid.
        recipe: what is clear, and how clear observations become one.
    """
    if modality.startswith("S2"):
        made = optical(scenes, bands, grid, recipe=recipe)
    elif modality.startswith("S1"):
        made = radar(scenes, bands, grid)
    else:
        made = elevation(scenes, bands, grid)
    units.expect(made.values, units.UNITS[modality])
    return made


def in_step(scenes: Sequence[Scene], step: tuple[str, str]) -> tuple[Scene, ...]:
    """Return the scenes whose solar day lies in a step, and those that have no day.

    Args:
        scenes: of any modality.
        step: first and last day, YYYY-MM-DD, both inclusive.
    """
    first, last = (dt.date.fromisoformat(day) for day in step)
    return tuple(
        scene for scene in scenes if scene.modality in TIMELESS or first <= scene.solar_day <= last
    )


def elevation(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> Composite:
    """Take the first scene that has a height, in the order of the ids.

    A void stays a void, and where no scene lies, as over the open sea, there is none: 0 m would
    be a measurement. The model fills what is missing.
    """
    ordered = sorted(scenes, key=lambda scene: (scene.id, scene.collection))
    stored = cube.stack(ordered, bands, grid, dtype="float32", fill=np.nan)
    layers = da.stack(
        [
            per_pixel(
                _first,
                [stored.sel(band=band).data],
                np.float32,
                radiometries=radiometries(ordered, band),
            )
            for band in bands
        ]
    )
    values = banded(layers, bands, stored, units=units.METRE)
    some = da.isfinite(layers).any(axis=0).astype(np.uint16)
    never = plane(da.zeros(grid.shape, dtype=np.uint16, chunks=grid.shape), values)
    return Composite(values=values, observations=plane(some, values), first=never, last=never)


def _first(
    stored: NDArray[np.float32], *, radiometries: Sequence[Radiometry | None]
) -> NDArray[np.float32]:
    return first_finite(units.convert(stored, radiometries, "DEM"))
