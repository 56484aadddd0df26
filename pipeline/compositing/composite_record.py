"""The composite record, and the reductions over time that all composites share."""

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
from catalogs.search.duplicates import recency_key

EPOCH = dt.date(1970, 1, 1)
"""Day 0 of the days of composites."""

ROW_CHUNK = 64
"""Rows that are composed at a time, to limit the memory of temporary arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """Composite of one modality: one value per band and pixel."""

    values: xr.DataArray
    """(band, y, x) float32 in ``attrs["units"]``; NaN = no value."""

    observations: xr.DataArray
    """(y, x) uint16 number of days with a usable observation; granules of a pass count once."""

    first_day: xr.DataArray
    """(y, x) uint16 earliest of these days, in days since 1970-01-01; 0 = none."""

    last_day: xr.DataArray
    """(y, x) uint16 latest of these days, in days since 1970-01-01; 0 = none."""


def sort_by_day(scenes: Sequence[Scene], epsg: int) -> list[Scene]:
    """Sort scenes by solar day; within a day, those in the grid's coordinate system come first.

    They are followed by the order of the granules' names; of the same granule the newest
    processing comes first, as the first scene of a day provides the value.
    """

    def key(scene: Scene) -> tuple[dt.date, bool, str]:
        has_grid_crs = any(asset.epsg == epsg for asset in scene.assets.values())
        return (scene.solar_day, not has_grid_crs, scene.tile or scene.id)

    return sorted(sorted(scenes, key=recency_key, reverse=True), key=key)


def group_indices(keys: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return (key, indices) of each distinct key, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.items())


def build_composite(values: xr.DataArray, usable: da.Array, days: Sequence[dt.date]) -> Composite:
    """Build a composite with the count, the first and the last of the days of each pixel.

    Args:
        values: (band, y, x) values of the composite.
        usable: (time, y, x) mask of the usable observations of each scene.
        days: solar day of each scene.
    """
    planes = {
        "observations": reduce_over_time(_count_days, [usable], np.uint16, days=days),
        "first_day": reduce_over_time(_first_day, [usable], np.uint16, days=days),
        "last_day": reduce_over_time(_last_day, [usable], np.uint16, days=days),
    }
    return Composite(
        values=values, **{name: to_plane_array(plane, values) for name, plane in planes.items()}
    )


def reduce_over_time(
    function: Callable[..., NDArray[Any]], arrays: Sequence[da.Array], dtype: Any, **kwargs: Any
) -> da.Array:
    """Apply a function that reduces (time, y, x) arrays to one of (y, x)."""
    single_chunks = [array.rechunk({0: -1}) for array in arrays]
    plane: da.Array = da.map_blocks(function, *single_chunks, drop_axis=0, dtype=dtype, **kwargs)
    return plane


def to_plane_array(layer: da.Array, like: xr.DataArray) -> xr.DataArray:
    """Return a (y, x) layer with the coordinates of another array."""
    return xr.DataArray(layer, dims=("y", "x"), coords={"y": like.y, "x": like.x})


def to_band_array(
    layers: da.Array, bands: Sequence[str], like: xr.DataArray, *, units: str
) -> xr.DataArray:
    """Return (band, y, x) layers with the ``y`` and ``x`` of another array, and a unit."""
    return xr.DataArray(
        layers,
        dims=("band", "y", "x"),
        coords={"band": list(bands), "y": like.y, "x": like.x},
        attrs={"units": units},
    )


def first_finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first value along the first axis that is not NaN."""
    result: NDArray[np.float32] = values[0].copy()
    for later in values[1:]:
        missing = np.isnan(result)
        result[missing] = later[missing]
    return result


def _count_days(usable: NDArray[np.bool_], *, days: Sequence[dt.date]) -> NDArray[np.uint16]:
    total = np.zeros(usable.shape[1:], dtype=np.uint16)
    for _, indices in group_indices(days):
        total += usable[indices].any(axis=0)
    return total


def _last_day(usable: NDArray[np.bool_], *, days: Sequence[dt.date]) -> NDArray[np.uint16]:
    last = np.zeros(usable.shape[1:], dtype=np.uint16)
    for day, indices in sorted(group_indices(days)):
        last[usable[indices].any(axis=0)] = (day - EPOCH).days
    return last


def _first_day(usable: NDArray[np.bool_], *, days: Sequence[dt.date]) -> NDArray[np.uint16]:
    first = np.zeros(usable.shape[1:], dtype=np.uint16)
    for day, indices in sorted(group_indices(days), reverse=True):
        first[usable[indices].any(axis=0)] = (day - EPOCH).days
    return first
