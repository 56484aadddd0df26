"""Masks of clear observations: scene classes, cloud probability and dilated clouds."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Scene
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube, units

SCL_NODATA = 0
"""Scene classification (SCL) code of nodata; Sen2Cor Configuration and User Manual."""

MAX_SCL_CODE = 11
"""Highest SCL code. Lossy copies hold higher ones, which mean nothing."""


def load_clear_masks(
    scenes: Sequence[Scene], stored: xr.DataArray, grid: Grid, recipe: Recipe
) -> da.Array:
    """Return the (time, y, x) mask of the clear observations of each scene."""
    radius = recipe.dilate_m / grid.resolution
    pad = int(np.ceil(radius))
    wider = grid.window(
        row=-pad, column=-pad, height=grid.height + 2 * pad, width=grid.width + 2 * pad
    )
    # ^ a dilated cloud outside the grid may reach into it
    inner = (slice(pad, pad + grid.height), slice(pad, pad + grid.width))
    max_probability = recipe.max_cloud_probability
    scl = _load_masks(scenes, "SCL", wider)
    probability = {} if max_probability is None else _load_masks(scenes, "CLD", wider)
    layers = []
    for index, scene in enumerate(scenes):
        if index in scl:
            clear = da.map_blocks(
                clear_mask,
                scl[index],
                classes=recipe.clear_scl,
                dilated_classes=recipe.dilate_scl,
                dilation_radius=radius,
                dtype=np.bool_,
            )[inner]
        else:
            clear = _has_data(scene, stored[index])
        if index in probability:
            cloudy = (probability[index] > max_probability).map_blocks(
                dilate_mask, radius, dtype=np.bool_
            )
            clear = clear & ~cloudy[inner]
        layers.append(clear)
    stacked: da.Array = da.stack(layers)
    return stacked


def _load_masks(scenes: Sequence[Scene], band: str, grid: Grid) -> dict[int, da.Array]:
    """Return index of the scene -> (y, x) mask band, for the scenes that have it; 0 = nodata."""
    indices = [index for index, scene in enumerate(scenes) if band in scene.assets]
    if not indices:
        return {}
    stack = cube.load([scenes[index] for index in indices], [band], grid, stored=True)
    return {index: stack.data[time, 0] for time, index in enumerate(indices)}


def _has_data(scene: Scene, stored: xr.DataArray) -> da.Array:
    """Return (y, x) where any band of a scene has a value."""
    has_data: da.Array = da.zeros(stored.shape[1:], dtype=np.bool_, chunks=stored.shape[1:])
    for band, layer in zip(stored.band.values.tolist(), stored.data, strict=True):
        if band in scene.assets:
            has_data |= layer.map_blocks(
                units.valid_reflectance_mask, scene.assets[band].radiometry, dtype=np.bool_
            )
    return has_data


def is_in_classes(scl: NDArray[np.integer], classes: Collection[int]) -> NDArray[np.bool_]:
    """Return where an SCL code is one of some classes; False for nodata and codes above 11."""
    table = np.zeros(256, dtype=np.bool_)
    table[[code for code in classes if SCL_NODATA < code <= MAX_SCL_CODE]] = True
    return np.asarray(table[scl])


def dilate_mask(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilate a (..., y, x) mask by a radius in pixels, each (y, x) layer for itself."""
    result = mask.copy()
    if radius < 1 or not mask.any():
        return result
    distance = _distance_in_row(mask, math.floor(radius))
    height = mask.shape[-2]
    furthest = min(math.floor(radius), height - 1)
    for shift in range(-furthest, furthest + 1):
        reach = math.isqrt(math.floor(radius**2) - shift**2)
        target = slice(max(-shift, 0), height - max(shift, 0))
        source = slice(max(shift, 0), height - max(-shift, 0))
        result[..., target, :] |= distance[..., source, :] <= reach
    return result


def _distance_in_row(mask: NDArray[np.bool_], limit: int) -> NDArray[np.unsignedinteger]:
    """Return how many columns away the nearest True of the row is; limit + 1 if further away."""
    columns = np.arange(mask.shape[-1], dtype=np.int32)
    before = np.maximum.accumulate(np.where(mask, columns, -limit - 1), axis=-1)
    after = np.minimum.accumulate(
        np.where(mask, columns, columns.size + limit)[..., ::-1], axis=-1
    )[..., ::-1]
    distance = np.minimum(np.minimum(columns - before, after - columns), limit + 1)
    return distance.astype(np.min_scalar_type(limit + 1))


def clear_mask(
    scl: NDArray[np.integer],
    *,
    classes: Collection[int],
    dilated_classes: Collection[int],
    dilation_radius: float,
) -> NDArray[np.bool_]:
    """Return which pixels are clear observations.

    Args:
        scl: (..., y, x) scene classification codes; 0 = nodata.
        classes: codes of clear pixels.
        dilated_classes: codes that are dilated unless they are clear. All other codes that are not
            clear, nodata included, are not dilated.
        dilation_radius: radius of the dilation in pixels.
    """
    return is_in_classes(scl, classes) & ~dilate_mask(
        is_in_classes(scl, set(dilated_classes) - set(classes)), dilation_radius
    )
