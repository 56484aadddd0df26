"""Small synthetic scenes on disk, for the tests of the pipeline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from catalogs.scene import Asset, Radiometry, Scene

EPSG = 32633
LEFT, TOP = 500_000.0, 5_200_000.0
REFLECTANCE = Radiometry(scale=1e-4, offset=0.0, unit="reflectance")
SHIFTED = Radiometry(scale=1e-4, offset=-0.1, unit="reflectance")
POWER = Radiometry(scale=1.0, offset=0.0, unit="power")
CLASS = Radiometry(scale=1.0, offset=0.0, unit="class")
METRE = Radiometry(scale=1.0, offset=0.0, unit="m")


def raster(
    path: Path,
    values: np.ndarray,
    *,
    resolution: float = 10.0,
    left: float = LEFT,
    top: float = TOP,
    epsg: int = EPSG,
    nodata: float | None = None,
) -> Path:
    """Write a one-band GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=f"EPSG:{epsg}",
        transform=from_origin(left, top, resolution, resolution),
        nodata=nodata,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        compress="deflate",
    ) as file:
        file.write(values, 1)
    return path


def asset(path: Path, band: str, radiometry: Radiometry, nodata: float | None) -> Asset:
    """Describe a raster as a catalog would."""
    with rasterio.open(path) as file:
        return Asset(
            band=band,
            href=str(path),
            radiometry=radiometry,
            epsg=file.crs.to_epsg(),
            transform=tuple(file.transform)[:6],
            shape=file.shape,
            nodata=nodata,
        )


def scene(
    identity: str,
    modality: str,
    assets: Mapping[str, Asset],
    *,
    when: str = "2024-06-01T10:00:00+00:00",
    **fields: Any,
) -> Scene:
    """Build a scene with the footprint of its first asset."""
    first = next(iter(assets.values()))
    with rasterio.open(first.href) as file:
        west, south, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return Scene(
        id=identity,
        collection="test",
        provider="planetary-computer",
        modality=modality,
        datetime=dt.datetime.fromisoformat(when),
        footprint={"type": "Polygon", "coordinates": [ring]},
        bbox=(west, south, east, north),
        assets=dict(assets),
        **fields,
    )


def optical(
    folder: Path,
    identity: str,
    bands: Mapping[str, np.ndarray],
    scl: np.ndarray | None = None,
    *,
    radiometry: Radiometry = REFLECTANCE,
    when: str = "2024-06-01T10:00:00+00:00",
    sizes: Mapping[str, float] | None = None,
    **georeference: Any,
) -> Scene:
    """Build a Sentinel-2 scene; the SCL has 20 m pixels unless it has as many as the bands."""
    assets = {}
    for band, values in bands.items():
        size = (sizes or {}).get(band, 10.0)
        path = raster(folder / identity / f"{band}.tif", values, resolution=size, **georeference)
        assets[band] = asset(path, band, radiometry, 0.0)
    if scl is not None:
        any_band = next(iter(bands.values()))
        size = 10.0 * any_band.shape[0] / scl.shape[0]
        path = raster(folder / identity / "SCL.tif", scl, resolution=size, **georeference)
        assets["SCL"] = asset(path, "SCL", CLASS, 0.0)
    return scene(identity, "S2L2A", assets, when=when)
