"""Sentinel-2: many days → one, by the clear observations of each pixel.

A day is one observation: where several granules of it are clear, each band is that of the first
in :func:`pipeline.compositing.observations.sort_by_day`'s order. A scene without SCL counts as clear wherever it
has data.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Radiometry, Scene
from pipeline.compositing import masks, units
from pipeline.compositing.observations import (
    ROW_CHUNK,
    Composite,
    band_radiometries,
    build_composite,
    first_finite,
    group_indices,
    reduce_over_time,
    sort_by_day,
    to_band_array,
)
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube


def compose_optical(
    scenes: Sequence[Scene], bands: Sequence[str], grid: Grid, *, recipe: Recipe
) -> Composite:
    """Compose the clear observations of each pixel by the recipe's method.

    ``median``: of each band for itself. The others choose a day, and all bands are of that day;
    a day that has more of the bands at a pixel goes before one that has fewer:

    * ``medoid``: the day nearest to the median, by the sum over the bands of squared distances;
      of equally near ones the earliest (Flood, Remote Sensing 5 (2013) 6481).
    * ``least_cloudy``: the scene of the lowest cloud cover that the catalog states; of equal ones
      the earliest, then by id; those without a statement last.
    * ``latest``: the newest day.
    """
    ordered = sort_by_day(scenes, grid.epsg)
    dtype, fill = _storage_dtype(ordered, bands)
    stored = cube.stack(ordered, bands, grid, dtype=dtype, fill_value=fill)
    clear = _clear_masks(ordered, stored, grid, recipe)
    days = [scene.solar_day for scene in ordered]
    if recipe.method == "median":
        layers = da.stack(
            [
                reduce_over_time(
                    _median_of_days,
                    [stored.sel(band=band).data, clear],
                    np.float32,
                    days=days,
                    radiometries=band_radiometries(ordered, band),
                )
                for band in bands
            ]
        )
    else:
        layers = _select_days(ordered, bands, stored, clear, recipe.method)
    return build_composite(to_band_array(layers, bands, stored, units=units.DN), clear, days)


def _storage_dtype(scenes: Sequence[Scene], bands: Sequence[str]) -> tuple[str, float]:
    """Return the smallest type that holds what the scenes store, and its fill."""
    counted = all(
        units.is_stored_as_dn(asset.radiometry)
        for scene in scenes
        for band, asset in scene.assets.items()
        if band in bands
    )
    return ("uint16", 0) if counted else ("float32", math.nan)


def _clear_masks(
    scenes: Sequence[Scene], stored: xr.DataArray, grid: Grid, recipe: Recipe
) -> da.Array:
    """Return (time, y, x) where each scene is a clear observation."""
    reach = recipe.dilate_m / grid.resolution
    pad = int(np.ceil(reach))
    wider = grid.window(
        row=-pad, column=-pad, height=grid.height + 2 * pad, width=grid.width + 2 * pad
    )
    # ^ a cloud outside the grid throws its margin into it
    inner = (slice(pad, pad + grid.height), slice(pad, pad + grid.width))
    limit = recipe.max_cloud_probability
    codes = _stack_masks(scenes, "SCL", wider, fill=masks.SCL_NODATA)
    chances = _stack_masks(scenes, "CLD", wider, fill=0) if limit is not None else {}
    layers = []
    for index, scene in enumerate(scenes):
        if index in codes:
            usable = da.map_blocks(
                masks.is_in_classes, codes[index][inner], recipe.clear_scl, dtype=np.bool_
            )
        else:
            usable = _has_data(scene, stored[index])
        clouds = []
        if index in codes:
            around = set(recipe.dilate_scl) - set(recipe.clear_scl)
            clouds.append(
                da.map_blocks(masks.is_in_classes, codes[index], tuple(around), dtype=np.bool_)
            )
        if index in chances:
            clouds.append(chances[index] > limit)
        if clouds:
            cloudy = functools.reduce(operator.or_, clouds).map_blocks(
                masks.dilate_mask, reach, dtype=np.bool_
            )
            usable = usable & ~cloudy[inner]
        layers.append(usable)
    clear: da.Array = da.stack(layers)
    return clear


def _stack_masks(
    scenes: Sequence[Scene], band: str, area: Grid, *, fill: int
) -> dict[int, da.Array]:
    """Return (y, x) of a mask by the place of each scene that has it."""
    places = [index for index, scene in enumerate(scenes) if band in scene.assets]
    if not places:
        return {}
    stack = cube.stack(
        [scenes[index] for index in places], [band], area, dtype="uint8", fill_value=fill
    )
    return {index: stack.data[row, 0] for row, index in enumerate(places)}


def _has_data(scene: Scene, stored: xr.DataArray) -> da.Array:
    """Return (y, x) where any band of a scene holds a value."""
    there: da.Array = da.zeros(stored.shape[1:], dtype=np.bool_, chunks=stored.shape[1:])
    for band, raw in zip(stored.band.values.tolist(), stored.data, strict=True):
        if band in scene.assets:
            there |= raw.map_blocks(
                units.valid_reflectance_mask, scene.assets[band].radiometry, dtype=np.bool_
            )
    return there


def _convert_clear(
    stored: NDArray[np.generic],
    clear: NDArray[np.bool_],
    scene_radiometries: Sequence[Radiometry | None],
) -> NDArray[np.float32]:
    """Return (time, …) DN without offset; NaN where a scene is not clear or has no value."""
    values = units.convert(stored, scene_radiometries, units.DN)
    values[~clear] = np.nan
    return values


def _median_of_days(
    stored: NDArray[np.generic],
    clear: NDArray[np.bool_],
    *,
    days: Sequence[dt.date],
    radiometries: Sequence[Radiometry | None],
) -> NDArray[np.float32]:
    result = np.empty(stored.shape[1:], dtype=np.float32)
    for start in range(0, stored.shape[1], ROW_CHUNK):
        # ^ sorting a whole tile at once would take ten times the memory of its scenes
        rows = slice(start, start + ROW_CHUNK)
        values = _convert_clear(stored[:, rows], clear[:, rows], radiometries)
        daily = np.stack([first_finite(values[indices]) for _, indices in group_indices(days)])
        result[rows] = nanmedian(daily)
    return result


def _select_days(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    stored: xr.DataArray,
    clear: da.Array,
    method: str,
) -> da.Array:
    """Return (band, y, x) in which all bands of a pixel are of one day."""
    planes = [stored.data[time, band] for time in range(len(scenes)) for band in range(len(bands))]
    # ^ one by one: joined they would lie in memory twice
    height, width = stored.shape[-2:]
    chosen: da.Array = da.map_blocks(
        _select_best_day,
        *planes,
        *(clear[time] for time in range(len(scenes))),
        new_axis=0,
        chunks=((len(bands),), (height,), (width,)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), dtype=np.float32),
        groups=_group_observations(scenes, method),
        radiometries=[band_radiometries(scenes, band) for band in bands],
        method=method,
    )
    return chosen


def _group_observations(scenes: Sequence[Scene], method: str) -> list[list[int]]:
    """Return the places of the scenes of each observation, the one that is preferred first."""
    if method == "least_cloudy":
        return [
            [index]
            for index in sorted(range(len(scenes)), key=lambda i: _cloud_cover_key(scenes[i]))
        ]
    groups = [indices for _, indices in group_indices([scene.solar_day for scene in scenes])]
    return groups[::-1] if method == "latest" else groups


def _cloud_cover_key(scene: Scene) -> tuple[float, dt.datetime, str, str]:
    if scene.datetime is None:
        raise AssertionError("only a timeless modality may lack a time")
    cover = math.inf if scene.cloud_cover is None else scene.cloud_cover
    return (cover, scene.datetime, scene.id, scene.collection)


def _select_best_day(
    *planes: NDArray[Any],
    groups: Sequence[Sequence[int]],
    radiometries: Sequence[Sequence[Radiometry | None]],
    method: str,
) -> NDArray[np.float32]:
    times, bands = len(radiometries[0]), len(radiometries)
    stored, clear = planes[: times * bands], planes[times * bands :]
    height, width = clear[0].shape
    result = np.empty((bands, height, width), dtype=np.float32)
    for start in range(0, height, ROW_CHUNK // 4):
        # ^ here all bands are open at once
        rows = slice(start, start + ROW_CHUNK // 4)
        usable = np.stack([layer[rows] for layer in clear])
        values = np.empty((len(groups), bands, *usable.shape[1:]), dtype=np.float32)
        for band in range(bands):
            raw = np.stack([layer[rows] for layer in stored[band::bands]])
            known = _convert_clear(raw, usable, radiometries[band])
            for place, indices in enumerate(groups):
                values[place, band] = first_finite(known[indices])
        distance = _distance_to_median(values) if method == "medoid" else None
        result[:, rows] = np.take_along_axis(
            values, _best_observation(values, distance)[None, None], axis=0
        )[0]
    return result


def _best_observation(
    values: NDArray[np.float32], distance: NDArray[np.float64] | None
) -> NDArray[np.intp]:
    """Return the place of the observation with the most bands, then the nearest, then the first.

    Args:
        values: (observation, band, y, x) in the order of preference; NaN = no value.
        distance: (observation, y, x); None where they are all as good.
    """
    bands = np.isfinite(values).sum(axis=1)
    if distance is None:
        return np.asarray(bands.argmax(axis=0))
    complete = bands == bands.max(axis=0)
    return np.asarray(np.where(complete, distance, np.inf).argmin(axis=0))


def _distance_to_median(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each observation's squared distance to the median, over the bands it has."""
    total = np.zeros((len(values), *values.shape[2:]), dtype=np.float64)
    for band in range(values.shape[1]):
        apart = values[:, band].astype(np.float64) - nanmedian(values[:, band])
        total += np.where(np.isnan(apart), 0, apart) ** 2
    return total


def nanmedian(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median over the first axis without NaN; NaN where there is no value at all.

    An even number of values gives the mean of the middle two.
    """
    ordered = np.sort(values, axis=0)
    # ^ NaN sorts last; several times faster than nanmedian
    count = np.count_nonzero(~np.isnan(values), axis=0)
    lower = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[None], axis=0)[0]
    return np.asarray(np.where(count > 0, (lower + upper) / 2, np.nan), dtype=np.float32)
