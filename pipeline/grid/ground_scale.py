"""The size of map pixels on the ground: coordinate systems enlarge, shrink and stretch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from pipeline.grid.grid import Grid

FloatArray = NDArray[np.floating[Any]]

ELLIPSOID = Geod(ellps="WGS84")

MAX_AREA_DEVIATION = 0.02
"""Relative difference of areas on the map and on the ground that is ignored.

It is below 0.6 % in UTM zones and their surroundings, and 1.2 % at the poles (UPS).
"""

MAX_SIDE_DEVIATION = 0.05
"""Relative difference of lengths that is ignored: 4 % at the edges of EPSG:3035."""

AREA_BLOCK = 512
"""Side of the blocks whose pixels count as equally large, pixels."""

_STEP = 50.0
"""Metres between the two positions from which a derivative is computed."""

_SAMPLES = 9
"""Positions along either side of an extent at which the scale is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundScale:
    """The ground that is covered by a square of 1 m on the map, at several positions."""

    area: FloatArray
    """Square metres."""

    short_side: FloatArray
    """Length of the ground along the direction in which the map stretches it most, metres."""

    long_side: FloatArray
    """Length of the ground along the direction in which the map stretches it least, metres."""

    @property
    def has_true_areas(self) -> bool:
        """Return whether areas on the map deviate by less than :data:`MAX_AREA_DEVIATION`."""
        return bool((np.abs(self.area - 1) <= MAX_AREA_DEVIATION).all())

    @property
    def has_true_lengths(self) -> bool:
        """Return whether lengths on the map deviate by less than :data:`MAX_SIDE_DEVIATION`."""
        sides = np.stack([self.short_side, self.long_side])
        return bool((np.abs(sides - 1) <= MAX_SIDE_DEVIATION).all())


def compute_ground_scale(epsg: int, xs: Any, ys: Any) -> GroundScale:
    """Compute the ground scale at positions of a coordinate system, on the WGS 84 ellipsoid.

    The derivatives of the inverse projection give the ellipse on the ground that a circle on the
    map covers: Tissot's indicatrix of the inverse. Works for spherical systems too (EPSG:3857),
    whose own scale factors refer to a sphere.

    Args:
        epsg: EPSG code of the coordinate system.
        xs: easting, metres.
        ys: northing, metres.

    Returns:
        The scale at each position; NaN outside of the projection.
    """
    x, y = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    half = _STEP / 2
    lon_east, lat_east = _to_lonlat(epsg, x + half, y)
    lon_west, lat_west = _to_lonlat(epsg, x - half, y)
    lon_north, lat_north = _to_lonlat(epsg, x, y + half)
    lon_south, lat_south = _to_lonlat(epsg, x, y - half)
    latitude = np.radians((lat_east + lat_west) / 2)
    flattening = 1 - ELLIPSOID.es * np.sin(latitude) ** 2
    along_meridian = ELLIPSOID.a * (1 - ELLIPSOID.es) / flattening**1.5
    along_parallel = ELLIPSOID.a / np.sqrt(flattening) * np.cos(latitude)
    # ^ radii of curvature: metres per radian of latitude and longitude
    east_by_x = along_parallel * _longitude_difference(lon_east, lon_west) / _STEP
    east_by_y = along_parallel * _longitude_difference(lon_north, lon_south) / _STEP
    north_by_x = along_meridian * np.radians(lat_east - lat_west) / _STEP
    north_by_y = along_meridian * np.radians(lat_north - lat_south) / _STEP
    area = np.abs(east_by_x * north_by_y - east_by_y * north_by_x)
    squares = east_by_x**2 + east_by_y**2 + north_by_x**2 + north_by_y**2
    root = np.sqrt(np.maximum(squares**2 - 4 * area**2, 0))
    return GroundScale(
        area=area,
        short_side=np.sqrt(np.maximum((squares - root) / 2, 0)),
        long_side=np.sqrt((squares + root) / 2),
    )


def _to_lonlat(epsg: int, xs: FloatArray, ys: FloatArray) -> tuple[FloatArray, FloatArray]:
    to_crs = lonlat_geometry.get_transformer(epsg)
    longitudes, latitudes = to_crs.transform(xs, ys, direction="INVERSE")
    is_defined = np.isfinite(longitudes) & np.isfinite(latitudes)
    return np.where(is_defined, longitudes, np.nan), np.where(is_defined, latitudes, np.nan)


def _longitude_difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the difference of longitudes in radians; it is small, also across 180 degrees."""
    difference: FloatArray = np.radians((first - second + 180) % 360 - 180)
    return difference


def sample_region(region: BaseGeometry, epsg: int) -> GroundScale:
    """Compute the ground scale at positions of a projected region, its outline among them."""
    west, south, east, north = region.bounds
    xs, ys = np.meshgrid(np.linspace(west, east, _SAMPLES), np.linspace(south, north, _SAMPLES))
    inside = shapely.contains_xy(region, xs, ys)
    outline = shapely.get_coordinates(region)
    outline = outline[:: max(len(outline) // _SAMPLES**2, 1)]
    return compute_ground_scale(
        epsg, np.append(xs[inside], outline[:, 0]), np.append(ys[inside], outline[:, 1])
    )


@functools.lru_cache(maxsize=64)
def has_true_areas(grid: Grid) -> bool:
    """Return whether the pixels of a grid have their nominal area on the ground."""
    left, bottom, right, top = grid.bounds
    xs, ys = np.meshgrid(np.linspace(left, right, _SAMPLES), np.linspace(bottom, top, _SAMPLES))
    return compute_ground_scale(grid.epsg, xs, ys).has_true_areas


def sum_areas(grid: Grid, first_row: int, values: NDArray[np.uint8]) -> FloatArray:
    """Return the area on the ground of each value in a strip of a grid, km².

    Args:
        grid: the grid.
        first_row: first row of the strip.
        values: (rows, columns) of the strip.
    """
    areas = np.zeros(256)
    columns = np.arange(0, grid.width, AREA_BLOCK)
    centres = (columns + np.minimum(columns + AREA_BLOCK, grid.width)) / 2
    scale = compute_ground_scale(
        grid.epsg,
        grid.left + centres * grid.resolution,
        grid.top - np.full(len(columns), first_row + len(values) / 2) * grid.resolution,
    )
    for column, area in zip(columns, np.nan_to_num(scale.area), strict=True):
        # ^ outside of the projection there is no ground
        counts = np.bincount(values[:, column : column + AREA_BLOCK].ravel(), minlength=256)
        areas += counts * (area * grid.resolution**2 / 1e6)
    return areas


def describe_distortion(region: BaseGeometry, epsg: int, resolution: float) -> Iterator[str]:
    """Yield a sentence if the pixels of a map in a CRS differ much from squares on the ground.

    Args:
        region: the region in the CRS.
        epsg: EPSG code of the CRS.
        resolution: metres per pixel.
    """
    scale = sample_region(region, epsg)
    if scale.has_true_areas and scale.has_true_lengths:
        return
    short, long = resolution * scale.short_side.min(), resolution * scale.long_side.max()
    pixel = (
        f"in {CRS.from_epsg(epsg).name}, a pixel of {resolution:g} m has sides of "
        f"{_format_range(short, long, 1)} m on the ground in this region"
    )
    if scale.has_true_areas:
        yield f"{pixel}: shapes are stretched, areas are true"
        return
    area = np.maximum(scale.area, 1e-6)
    # ^ cylinders touch no pole
    factor = _format_range(1 / area.max(), 1 / area.min(), 2)
    yield (
        f"{pixel}, and areas measured on the map are {factor} times the true ones; the report "
        "states true areas. For measurements of your own, set grid: {crs: utm}, or an equal-area "
        "system such as EPSG:3035 or EPSG:6933"
    )


def _format_range(low: float, high: float, digits: int) -> str:
    texts = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)
