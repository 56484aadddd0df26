"""Compose Sentinel-1: the mean of the mean backscatter of each orbit, in linear power.

Border noise at the edges of swaths is left out.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from catalogs.scene import Radiometry, Scene
from catalogs.sensors import POWER, get_sensor
from pipeline.compositing.composite_record import (
    Composite,
    build_composite,
    group_indices,
    reduce_over_time,
    sort_by_day,
    to_band_array,
)
from pipeline.grid.grid import Grid
from pipeline.reading import cube, units

BORDER_NOISE_DB = -35.0
"""Backscatter in dB below which a pixel beside the edge of a swath is border noise.

The noise-equivalent backscatter of Sentinel-1 is -22 dB by requirement and about -30 dB at its
best: calm water is not darker, border noise is. IPF 2.9 (March 2018) and later write zeros instead.
ESA, Masking "No-value" Pixels on GRD Products, MPC-0243, 2018; Stasolla and Neyt, Sensors 18
(2018) 3454.
"""

BORDER_NOISE_M = 500.0
"""Distance from the edge in metres within which dark pixels are taken for border noise."""

MIN_EDGE_SIZE = 5
"""Side in pixels of the smallest square of nodata that is an edge of the swath, not a speckle."""


def compose_radar(scenes: Sequence[Scene], bands: Sequence[str], grid: Grid) -> Composite:
    """Average linear power per orbit, then average the orbits.

    Each orbit has the same weight, however many scenes it has: so slopes that face one orbit and
    turn away from another are balanced. Zeros and border noise are no observations.
    """
    ordered = sort_by_day(scenes, grid.epsg)
    pad = border_noise_reach(grid.resolution)
    wider = grid.window(
        row=-pad, column=-pad, height=grid.height + 2 * pad, width=grid.width + 2 * pad
    )
    # ^ whether a pixel is border noise may depend on the edge of a swath outside the grid
    inner = (slice(None), slice(pad, pad + grid.height), slice(pad, pad + grid.width))
    stored = cube.load(ordered, bands, wider, stored=True)
    orbits = [f"{scene.orbit_state}/{scene.relative_orbit}" for scene in ordered]
    powers = {
        band: da.stack(
            [
                layer.map_blocks(_scene_power, radiometry, grid.resolution, dtype=np.float32)
                for layer, radiometry in zip(
                    stored.sel(band=band).data, cube.band_radiometries(ordered, band), strict=True
                )
            ]
        )[inner]
        for band in bands
    }
    layers = [
        reduce_over_time(_mean_of_orbits, [powers[band]], np.float32, orbits=orbits)
        for band in bands
    ]
    usable = functools.reduce(operator.or_, [da.isfinite(power) for power in powers.values()])
    values = to_band_array(da.stack(layers), bands, stored[..., inner[1], inner[2]], units=POWER)
    return build_composite(values, usable, [scene.solar_day for scene in ordered])


def describe_mixed_satellites(scenes: Sequence[Scene]) -> str | None:
    """Return a note for products that average several Sentinel-1 satellites; None for others."""
    platforms = {
        scene.platform
        for scene in scenes
        if get_sensor(scene.modality).group == "radar" and scene.platform
    }
    if len(platforms) < 2:
        return None
    return (
        f"Backscatter of {', '.join(sorted(platforms))} is averaged together. Their calibrations "
        "differ by some tenths of a decibel; a difference that small between places or dates may "
        "be that of the satellites."
    )


def detect_border_noise(power: NDArray[np.floating], spacing: float) -> NDArray[np.bool_]:
    """Return where a radar image is border noise: dark, and beside the edge of the swath.

    The result depends on pixels within :func:`border_noise_reach` only, so that a part of an image
    gives the part of the result. Dark water away from an edge is no border noise, even if it
    contains speckles of nodata.

    Args:
        power: (y, x) linear power; NaN = nodata.
        spacing: distance of neighbouring pixels in metres.
    """
    dark = power < 10 ** (BORDER_NOISE_DB / 10)
    if not dark.any():
        return np.asarray(dark)
    edge = ndimage.binary_opening(
        np.isnan(power), structure=np.ones((MIN_EDGE_SIZE, MIN_EDGE_SIZE), dtype=np.bool_)
    )
    if not edge.any():
        return np.zeros_like(dark)
    return np.asarray(dark & (ndimage.distance_transform_edt(~edge) <= BORDER_NOISE_M / spacing))


def border_noise_reach(spacing: float) -> int:
    """Return the distance in pixels up to which others decide whether a pixel is border noise."""
    return int(np.ceil(BORDER_NOISE_M / spacing)) + MIN_EDGE_SIZE - 1


def _scene_power(
    stored: NDArray[np.float32], radiometry: Radiometry | None, spacing: float
) -> NDArray[np.float32]:
    """Return (y, x) linear power of a scene; NaN = no measurement, or border noise."""
    power: NDArray[np.float32] = units.convert(stored[None], [radiometry], POWER)[0]
    power[detect_border_noise(power, spacing)] = np.nan
    return power


def _mean_of_orbits(power: NDArray[np.float32], *, orbits: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean over the orbits of (time, y, x) power."""
    return _nanmean(np.stack([_nanmean(power[indices]) for _, indices in group_indices(orbits)]))


def _nanmean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean over the first axis without NaN; NaN where there is no value at all."""
    if len(values) == 1:
        only: NDArray[np.float32] = values[0].copy()
        return only
    valid = ~np.isnan(values)
    count = valid.sum(axis=0)
    total = np.where(valid, values, 0).sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(
        np.float32
    )
    return mean
