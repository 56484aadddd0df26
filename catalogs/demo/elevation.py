"""The elevation model: 30 m in longitude and latitude, cut at whole degrees like the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rasterio.transform import Affine
from scipy import ndimage
from shapely.geometry import box, mapping

from catalogs.demo import cog, frame
from catalogs.demo.scenes import File, Record

if TYPE_CHECKING:
    from pathlib import Path

    from catalogs.demo.frame import Frame
    from catalogs.demo.noise import Field

_STEP = 1 / 3600
_MARGIN = 8


def survey(plan: Frame, surface: Field, folder: Path) -> list[Record]:
    """Write a tile for each square degree that the country touches, cut down to the country.

    Args:
        plan: of the canvas.
        surface: metres, on the canvas.
        folder: of the collection.

    """
    soft = ndimage.uniform_filter(surface, 3, mode="nearest")
    west, south, east, north = frame.outline_lonlat(frame.rectangle(plan)).bounds
    records = []
    for latitude in range(int(np.floor(south)), int(np.floor(north)) + 1):
        for longitude in range(int(np.floor(west)), int(np.floor(east)) + 1):
            window = _window(longitude, latitude, (west, south, east, north))
            records.append(_tile(plan, soft, longitude, latitude, window, folder))
    return records


def _window(
    longitude: int, latitude: int, bounds: tuple[float, float, float, float]
) -> tuple[int, int, int, int]:
    """Return first and last column and row (exclusive) of the country within a tile."""
    west, south, east, north = bounds
    left = np.floor((west - longitude) / _STEP) - _MARGIN
    right = np.ceil((east - longitude) / _STEP) + _MARGIN
    upper = np.floor((latitude + 1 - north) / _STEP) - _MARGIN
    lower = np.ceil((latitude + 1 - south) / _STEP) + _MARGIN
    first, last, top, bottom = (int(np.clip(v, 0, 3600)) for v in (left, right, upper, lower))
    return first, last, top, bottom


def _tile(
    plan: Frame,
    surface: Field,
    longitude: int,
    latitude: int,
    window: tuple[int, int, int, int],
    folder: Path,
) -> Record:
    first, last, top, bottom = window
    transform = Affine(
        _STEP,
        0.0,
        longitude + (first - 0.5) * _STEP,
        0.0,
        -_STEP,
        latitude + 1 - (top - 0.5) * _STEP,
    )
    # ^ whole arc seconds are the middles of pixels
    shape = (bottom - top, last - first)
    rows, columns = plan.positions(4326, transform, shape)
    pixels = ndimage.map_coordinates(surface, (rows, columns), order=1, mode="nearest")
    name = f"Copernicus_DSM_COG_10_N{latitude:02d}_00_E{longitude:03d}_00_DEM"
    (folder / name).mkdir(parents=True)
    path = folder / name / f"{name}.tif"
    cog.write(path, pixels.astype(np.float32), epsg=4326, transform=transform, nodata=None)
    right, lower = transform @ (shape[1], shape[0])
    return Record(
        id=name,
        footprint=dict(mapping(box(transform.c, lower, right, transform.f))),
        files={"data": File(path=path, epsg=4326, transform=transform, shape=shape)},
        facts={"title": f"N{latitude:02d}_00_E{longitude:03d}_00"},
    )
