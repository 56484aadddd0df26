"""Many observations → one: median of clear Sentinel-2 days, mean Sentinel-1 power, heights.

Everything is lazy: one dask chunk is one layer of the grid it is asked for.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import Scene
from pipeline import cube, masks, radiometry
from pipeline.grid import Grid

EPOCH = dt.date(1970, 1, 1)

STRIP = 256
"""Rows that are composed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """One modality, one value per band and pixel."""

    values: xr.DataArray
    """(band, y, x) float32 in ``attrs["units"]``; NaN = no value."""

    observations: xr.DataArray
    """(y, x) uint16: days with a usable observation; granules of one pass count once."""

    last: xr.DataArray
    """(y, x) uint16: days since 1970-01-01 of the latest of them, 0 = none."""


def of(
    modality: str,
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    clear_scl: Sequence[int],
    dilate_m: float,
) -> Composite:
    """Compose the scenes of a modality on a grid, lazily.

    Args:
        modality: ``S2L2A``, ``S1RTC``, ``S1GRD`` or ``DEM``.
        scenes: the scenes that meet the grid; at least one.
        bands: bands of the result, in order.
        grid: the output grid.
        clear_scl: scene classes that count as clear.
        dilate_m: metres by which clouds and shadows are widened.
    """
    if modality == "S2L2A":
        return optical(scenes, bands, grid, clear_scl=clear_scl, dilate_m=dilate_m)
    if modality.startswith("S1"):
        return radar(scenes, bands, grid)
    return elevation(scenes, bands, grid)


def by_day(scenes: Sequence[Scene], epsg: int) -> list[Scene]:
    """Order scenes by solar day; within a day those of the grid's own system first, then by id."""

    def key(scene: Scene) -> tuple[dt.date, bool, str]:
        own = any(asset.epsg == epsg for asset in scene.assets.values())
        return (scene.solar_day, not own, scene.id)

    return sorted(scenes, key=key)


def optical(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    clear_scl: Sequence[int],
    dilate_m: float,
) -> Composite:
    """Median of the clear observations of each band; one observation a solar day.

    Where several granules of a day are clear, the first in :func:`by_day`'s order is the
    observation. A scene without SCL counts as clear wherever it has data.
    """
    reach = dilate_m / grid.resolution
    pad = int(np.ceil(reach))
    ordered = by_day(scenes, grid.epsg)
    stored = cube.stack(ordered, bands, grid, dtype="uint16", fill=0)
    clear = _clear(ordered, stored, grid, clear_scl=clear_scl, reach=reach, pad=pad)
    days = [scene.solar_day for scene in ordered]
    layers = [
        _per_pixel(
            _median_of_days,
            [stored.sel(band=band).data, clear],
            np.float32,
            days=days,
            radiometries=[
                scene.assets[band].radiometry if band in scene.assets else None for scene in ordered
            ],
        )
        for band in bands
    ]
    values = _stacked(layers, bands, stored, units=radiometry.DN)
    count = _per_pixel(_count_days, [clear], np.uint16, days=days)
    last = _per_pixel(_last_day, [clear], np.uint16, days=days)
    return Composite(values=values, observations=_plane(count, stored), last=_plane(last, stored))


def radar(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> Composite:
    """Mean in linear power per orbit, then the mean of the orbits.

    Each look at the ground weighs the same however often it was taken: slopes that face one
    orbit and turn from the other are balanced.
    """
    ordered = by_day(scenes, grid.epsg)
    stored = cube.stack(ordered, bands, grid, dtype="float32", fill=np.nan)
    orbits = [f"{scene.orbit_state}/{scene.relative_orbit}" for scene in ordered]
    days = [scene.solar_day for scene in ordered]
    layers = [
        _per_pixel(
            _mean_of_orbits,
            [stored.sel(band=band).data],
            np.float32,
            orbits=orbits,
            radiometries=[
                scene.assets[band].radiometry if band in scene.assets else None for scene in ordered
            ],
        )
        for band in bands
    ]
    seen = _finite(stored.sel(band=bands[0]).data)
    values = _stacked(layers, bands, stored, units=radiometry.POWER)
    count = _per_pixel(_count_days, [seen], np.uint16, days=days)
    last = _per_pixel(_last_day, [seen], np.uint16, days=days)
    return Composite(values=values, observations=_plane(count, stored), last=_plane(last, stored))


def elevation(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> Composite:
    """Take the first scene that has a height, in the order of the ids."""
    ordered = sorted(scenes, key=lambda scene: scene.id)
    stored = cube.stack(ordered, bands, grid, dtype="float32", fill=np.nan)
    layers = [
        _per_pixel(
            _first,
            [stored.sel(band=band).data],
            np.float32,
            radiometries=[
                scene.assets[band].radiometry if band in scene.assets else None for scene in ordered
            ],
        )
        for band in bands
    ]
    values = _stacked(layers, bands, stored, units=radiometry.METRE)
    some = _per_pixel(_any, [_finite(stored.sel(band=bands[0]).data)], np.uint16)
    none = da.zeros(grid.shape, dtype=np.uint16, chunks=grid.shape)
    return Composite(values=values, observations=_plane(some, stored), last=_plane(none, stored))


def _clear(
    scenes: Sequence[Scene],
    stored: xr.DataArray,
    grid: Grid,
    *,
    clear_scl: Sequence[int],
    reach: float,
    pad: int,
) -> da.Array:
    """Return (time, y, x) where each scene is a clear observation."""
    with_scl = [scene for scene in scenes if "SCL" in scene.assets]
    classified: dict[str, da.Array] = {}
    if with_scl:
        wider = grid.window(
            row=-pad, column=-pad, height=grid.height + 2 * pad, width=grid.width + 2 * pad
        )
        # ^ a cloud outside the grid throws its margin into it
        scl = cube.stack(with_scl, ["SCL"], wider, dtype="uint8", fill=masks.NODATA)
        codes = scl.sel(band="SCL").data
        clear = codes.map_blocks(masks.clear, classes=tuple(clear_scl), dilate=reach, dtype=bool)
        clear = clear[:, pad : pad + grid.height, pad : pad + grid.width]
        classified = {scene.id: clear[index] for index, scene in enumerate(with_scl)}
    layers: list[da.Array] = [
        classified[scene.id]
        if scene.id in classified
        else (stored.isel(time=index).data != 0).any(axis=0)
        for index, scene in enumerate(scenes)
    ]
    stacked: da.Array = da.stack(layers)
    return stacked


def _finite(stored: da.Array) -> da.Array:
    finite: da.Array = da.isfinite(stored)
    return finite


def _per_pixel(
    function: Callable[..., NDArray[Any]], arrays: Sequence[da.Array], dtype: Any, **kwargs: Any
) -> da.Array:
    """Apply a function of whole (time, y, x) stacks that returns (y, x)."""
    whole = [array.rechunk({0: -1}) for array in arrays]
    planes: da.Array = da.map_blocks(function, *whole, drop_axis=0, dtype=dtype, **kwargs)
    return planes


def _stacked(
    layers: Sequence[da.Array], bands: Sequence[str], like: xr.DataArray, *, units: str
) -> xr.DataArray:
    return xr.DataArray(
        da.stack(list(layers)),
        dims=("band", "y", "x"),
        coords={"band": list(bands), "y": like.y, "x": like.x},
        attrs={"units": units},
    )


def _plane(layer: da.Array, like: xr.DataArray) -> xr.DataArray:
    return xr.DataArray(layer, dims=("y", "x"), coords={"y": like.y, "x": like.x})


def _runs(keys: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return the positions of each distinct key, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.items())


def _median_of_days(
    stored: NDArray[np.uint16],
    clear: NDArray[np.bool_],
    *,
    days: Sequence[dt.date],
    radiometries: Sequence[Any],
) -> NDArray[np.float32]:
    result = np.empty(stored.shape[1:], dtype=np.float32)
    for start in range(0, stored.shape[1], STRIP):
        # ^ sorting a whole tile at once would take ten times the memory of its scenes
        rows = slice(start, start + STRIP)
        values = radiometry.convert(stored[:, rows], radiometries, "S2L2A")
        values[(stored[:, rows] == 0) | ~clear[:, rows]] = np.nan
        daily = np.stack([_first_finite(values[indices]) for _, indices in _runs(days)])
        result[rows] = median(daily)
    return result


def _first_finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = values[0].copy()
    for later in values[1:]:
        missing = np.isnan(result)
        result[missing] = later[missing]
    return result


def median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median over the first axis without NaN; NaN where there is no value at all.

    An even number of values gives the mean of the middle two.
    """
    ordered = np.sort(values, axis=0)
    # ^ NaN sorts last; several times faster than nanmedian
    count = np.count_nonzero(~np.isnan(values), axis=0)
    lower = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[None], axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[None], axis=0)[0]
    return np.asarray(np.where(count > 0, (lower + upper) / 2, np.nan), dtype=np.float32)


def _mean_of_orbits(
    stored: NDArray[np.float32], *, orbits: Sequence[str], radiometries: Sequence[Any]
) -> NDArray[np.float32]:
    power = radiometry.convert(stored, radiometries, "S1RTC")
    means = np.stack([_mean(power[indices]) for _, indices in _runs(orbits)])
    return _mean(means)


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(values) == 1:
        only: NDArray[np.float32] = values[0].copy()
        return only
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0).sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(
        np.float32
    )
    return mean


def _first(stored: NDArray[np.float32], *, radiometries: Sequence[Any]) -> NDArray[np.float32]:
    return _first_finite(radiometry.convert(stored, radiometries, "DEM"))


def _any(seen: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.asarray(seen.any(axis=0), dtype=np.uint16)


def _count_days(seen: NDArray[np.bool_], *, days: Sequence[dt.date]) -> NDArray[np.uint16]:
    total = np.zeros(seen.shape[1:], dtype=np.uint16)
    for _, indices in _runs(days):
        total += seen[indices].any(axis=0)
    return total


def _last_day(seen: NDArray[np.bool_], *, days: Sequence[dt.date]) -> NDArray[np.uint16]:
    last = np.zeros(seen.shape[1:], dtype=np.uint16)
    for day, indices in _runs(days):
        there = seen[indices].any(axis=0)
        last[there] = np.maximum(last[there], (day - EPOCH).days)
    return last
