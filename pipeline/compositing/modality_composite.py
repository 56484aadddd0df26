"""Compose the scenes of a modality to one value per pixel, for a period or a step of it.

Everything is lazy: one dask chunk is one (y, x) layer of the grid.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from catalogs.scene import Radiometry, Scene
from catalogs.sensors import METRE, get_sensor
from pipeline.compositing.composite_record import (
    Composite,
    first_finite,
    reduce_over_time,
    to_band_array,
    to_plane_array,
)
from pipeline.compositing.optical import compose_optical
from pipeline.compositing.radar import compose_radar, describe_mixed_satellites
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube, units

__all__ = [
    "Composite",
    "compose_elevation",
    "compose_modality",
    "compose_optical",
    "compose_radar",
    "describe_mixed_satellites",
    "select_scenes_in_step",
]


def compose_modality(
    modality: str, scenes: Sequence[Scene], bands: Sequence[str], grid: Grid, *, recipe: Recipe
) -> Composite:
    """Compose the scenes of a modality on a grid, lazily.

    The order of the scenes does not matter, and a part of the grid gives the part of the result.

    Args:
        modality: name of a sensor.
        scenes: the scenes that intersect the grid; at least one.
        bands: bands of the result, in order; NaN where no scene has the band.
        grid: the output grid.
        recipe: cloud mask and method of the composite.
    """
    sensor = get_sensor(modality)
    if sensor.group == "optical":
        result = compose_optical(scenes, bands, grid, recipe=recipe)
    elif sensor.group == "radar":
        result = compose_radar(scenes, bands, grid)
    else:
        result = compose_elevation(scenes, bands, grid)
    units.check_unit(result.values, sensor.unit)
    return result


def select_scenes_in_step(scenes: Sequence[Scene], step: tuple[str, str]) -> tuple[Scene, ...]:
    """Return the scenes whose time lies in a step, and the timeless ones.

    The day in UTC decides, as it does for periods. So each scene of a period is in one step of it,
    and a step has the scenes that a product over its days would have.

    Args:
        scenes: of any modality.
        step: first and last day, YYYY-MM-DD, both inclusive.
    """
    first, last = (dt.date.fromisoformat(day) for day in step)
    return tuple(
        scene
        for scene in scenes
        if not get_sensor(scene.modality).is_temporal
        or (scene.datetime is not None and first <= scene.datetime.date() <= last)
    )


def compose_elevation(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> Composite:
    """Compose elevation models: each pixel is that of the first scene with a height, by id.

    Voids stay NaN, and so do pixels without a scene, such as the open sea: 0 m would be a
    measurement. The model fills missing values.
    """
    ordered = sorted(scenes, key=lambda scene: (scene.id, scene.collection))
    stored = cube.load(ordered, bands, grid, stored=True)
    layers = da.stack(
        [
            reduce_over_time(
                _first_valid,
                [stored.sel(band=band).data],
                np.float32,
                radiometries=cube.band_radiometries(ordered, band),
            )
            for band in bands
        ]
    )
    values = to_band_array(layers, bands, stored, units=METRE)
    observed = da.isfinite(layers).any(axis=0).astype(np.uint16)
    no_day = to_plane_array(da.zeros(grid.shape, dtype=np.uint16, chunks=grid.shape), values)
    return Composite(
        values=values,
        observations=to_plane_array(observed, values),
        first_day=no_day,
        last_day=no_day,
    )


def _first_valid(
    stored: NDArray[np.float32], *, radiometries: Sequence[Radiometry | None]
) -> NDArray[np.float32]:
    return first_finite(units.convert(stored, radiometries, METRE))
