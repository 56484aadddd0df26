"""Compose Sentinel-2: reduce the clear observations of each pixel to one.

A day is one observation: if several granules of it are clear, each band is that of the first one
in the order of :func:`pipeline.compositing.composite_record.sort_by_day`. A scene without SCL is
clear wherever it has data.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Radiometry, Scene
from catalogs.sensors import DN
from pipeline.compositing import masks
from pipeline.compositing.composite_record import (
    ROW_CHUNK,
    Composite,
    build_composite,
    first_finite,
    group_indices,
    sort_by_day,
    to_band_array,
)
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube, units

MEDIAN_VALUES = 2**18
"""Values of all days that are sorted at a time, so that they stay in the cache of the processor."""


def compose_optical(
    scenes: Sequence[Scene], bands: Sequence[str], grid: Grid, *, recipe: Recipe
) -> Composite:
    """Compose the clear observations of each pixel by the recipe's method.

    ``median`` takes the median of each band. The other methods select one day for all bands of a
    pixel; a day that has values in more bands is preferred to all that have fewer:

    * ``medoid``: the day with the smallest sum over the bands of squared distances to the median;
      of equal ones the earliest (Flood, Remote Sensing 5 (2013) 6481).
    * ``least_cloudy``: the scene with the lowest cloud cover in the catalog; of equal ones the
      earliest, then by id; those without a cloud cover last.
    * ``latest``: the latest day.
    """
    ordered = sort_by_day(scenes, grid.epsg)
    stored = cube.load(ordered, bands, grid, stored=True)
    clear = masks.load_clear_masks(ordered, stored, grid, recipe)
    days = [scene.solar_day for scene in ordered]
    if recipe.method == "median":
        layers = da.stack(
            [
                da.blockwise(
                    _median_of_days,
                    "yx",
                    stored.sel(band=band).data,
                    "tyx",
                    clear,
                    "tyx",
                    concatenate=False,
                    # ^ passed one by one: a stacked array would be a second copy in memory
                    dtype=np.float32,
                    meta=np.empty((0, 0), dtype=np.float32),
                    days=days,
                    radiometries=cube.band_radiometries(ordered, band),
                )
                for band in bands
            ]
        )
    else:
        layers = _select_days(ordered, bands, stored, clear, recipe.method)
    return build_composite(to_band_array(layers, bands, stored, units=DN), clear, days)


def _convert_clear(
    stored: NDArray[np.generic],
    clear: NDArray[np.bool_],
    radiometries: Sequence[Radiometry | None],
) -> NDArray[np.float32]:
    """Return (time, ...) DN without offset; NaN where a scene is not clear or has no value."""
    values = units.convert(stored, radiometries, DN)
    values[~clear] = np.nan
    return values


def _median_of_days(
    stored: Sequence[NDArray[Any]],
    clear: Sequence[NDArray[np.bool_]],
    *,
    days: Sequence[dt.date],
    radiometries: Sequence[Radiometry | None],
) -> NDArray[np.float32]:
    """Return the (y, x) median of the days of one band.

    Args:
        stored: (1, y, x) stored values of each scene.
        clear: (1, y, x) mask of the clear observations of each scene.
        days: solar day of each scene.
        radiometries: radiometry of each scene; None if it lacks the band.
    """
    from pipeline.compositing import median  # noqa: PLC0415
    # ^ numba takes a moment to import

    groups = [indices for _, indices in group_indices(days)]
    conversions = {}
    for index, radiometry in enumerate(radiometries):
        if radiometry is not None:
            units.check_convertible(radiometry, DN)
            conversions[index] = np.array(
                [
                    units.dn_factors(radiometry),
                    units.reflectance_limits(radiometry, stored[index].dtype),
                ],
                dtype=np.float32,
            )
    height, width = stored[0].shape[1:]
    result = np.empty((height, width), dtype=np.float32)
    row_count = max(MEDIAN_VALUES // (len(groups) * max(width, 1)), 1)
    for start in range(0, height, row_count):
        rows = slice(start, start + row_count)
        daily = np.full((len(groups), *result[rows].shape), median.NO_VALUE)
        for day, indices in enumerate(groups):
            for index in indices:
                if index in conversions:
                    factors, limits = conversions[index]
                    median.add_scene(
                        np.ascontiguousarray(stored[index][0, rows]),
                        np.ascontiguousarray(clear[index][0, rows]),
                        factors,
                        limits,
                        daily[day],
                    )
        median.compute_median(daily, result[rows])
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
    # ^ passed one by one: a stacked array would be a second copy in memory
    height, width = stored.shape[-2:]
    selected: da.Array = da.map_blocks(
        _select_best_day,
        *planes,
        *(clear[time] for time in range(len(scenes))),
        new_axis=0,
        chunks=((len(bands),), (height,), (width,)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), dtype=np.float32),
        groups=_group_observations(scenes, method),
        radiometries=[cube.band_radiometries(scenes, band) for band in bands],
        method=method,
    )
    return selected


def _group_observations(scenes: Sequence[Scene], method: str) -> list[list[int]]:
    """Return the indices of the scenes of each observation, in the order of preference."""
    if method == "least_cloudy":
        return [
            [index]
            for index in sorted(range(len(scenes)), key=lambda i: _cloud_cover_key(scenes[i]))
        ]
    groups = [indices for _, indices in group_indices([scene.solar_day for scene in scenes])]
    return groups[::-1] if method == "latest" else groups


def _cloud_cover_key(scene: Scene) -> tuple[float, dt.datetime, str, str]:
    if scene.datetime is None:
        raise AssertionError("a Sentinel-2 scene has a time")
    cover = math.inf if scene.cloud_cover is None else scene.cloud_cover
    return (cover, scene.datetime, scene.id, scene.collection)


def _select_best_day(
    *planes: NDArray[Any],
    groups: Sequence[Sequence[int]],
    radiometries: Sequence[Sequence[Radiometry | None]],
    method: str,
) -> NDArray[np.float32]:
    """Return (band, y, x) of the best observation of each pixel.

    Args:
        planes: (y, x) stored values of every scene and band, then the clear mask of every scene.
        groups: indices of the scenes of each observation, in the order of preference.
        radiometries: by band and scene; None if the scene lacks the band.
        method: method of the composite.
    """
    times, bands = len(radiometries[0]), len(radiometries)
    stored, clear = planes[: times * bands], planes[times * bands :]
    height, width = clear[0].shape
    result = np.empty((bands, height, width), dtype=np.float32)
    for start in range(0, height, ROW_CHUNK // 4):
        # ^ fewer rows than for a median: all bands are in memory at once
        rows = slice(start, start + ROW_CHUNK // 4)
        clear_rows = np.stack([layer[rows] for layer in clear])
        values = np.empty((len(groups), bands, *clear_rows.shape[1:]), dtype=np.float32)
        for band in range(bands):
            stored_rows = np.stack([layer[rows] for layer in stored[band::bands]])
            converted = _convert_clear(stored_rows, clear_rows, radiometries[band])
            for observation, indices in enumerate(groups):
                values[observation, band] = first_finite(converted[indices])
        distance = _distance_to_median(values) if method == "medoid" else None
        result[:, rows] = np.take_along_axis(
            values, _best_observation(values, distance)[None, None], axis=0
        )[0]
    return result


def _best_observation(
    values: NDArray[np.float32], distance: NDArray[np.float64] | None
) -> NDArray[np.intp]:
    """Return the index of the observation with the most bands, of these the nearest, or the first.

    Args:
        values: (observation, band, y, x) in the order of preference; NaN = no value.
        distance: (observation, y, x) distance to the median; None to take the first.
    """
    band_count = np.isfinite(values).sum(axis=1)
    if distance is None:
        return np.asarray(band_count.argmax(axis=0))
    has_most_bands = band_count == band_count.max(axis=0)
    return np.asarray(np.where(has_most_bands, distance, np.inf).argmin(axis=0))


def _distance_to_median(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each observation's squared distance to the median, over the bands it has."""
    total = np.zeros((len(values), *values.shape[2:]), dtype=np.float64)
    for band in range(values.shape[1]):
        difference = values[:, band].astype(np.float64) - nanmedian(values[:, band])
        total += np.where(np.isnan(difference), 0, difference) ** 2
    return total


def nanmedian(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median over the first axis without NaN; NaN where there is no value at all.

    An even number of values gives the mean of the middle two.
    """
    ordered = np.sort(values, axis=0)
    # ^ NaN sorts last; several times faster than numpy.nanmedian
    count = np.count_nonzero(~np.isnan(values), axis=0)
    lower = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[None], axis=0)[0]
    return np.asarray(np.where(count > 0, (lower + upper) / 2, np.nan), dtype=np.float32)
