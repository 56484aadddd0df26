"""Scenes on a grid: the one call of stackstac, lazy and aligned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import stackstac
import xarray as xr
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import Resampling

from catalogs.scene import Asset, Scene
from pipeline.grid.grid import Grid
from pipeline.reading import raster_reader, reprojection

NEAREST_UNITS = ("class", "probability", "dB")
"""Units of numbers that are never mixed: codes, the masks that go with them, logarithms."""

_crs_from_epsg = functools.lru_cache(maxsize=256)(CRS.from_epsg)


def _choose_resampling(asset: Asset, grid: Grid) -> Resampling:
    """Choose the kernel of an asset that does not lie on the output grid.

    The asset and the grid decide, not the scenes beside it: these differ from tile to tile.
    Pixels finer than the grid's are averaged. Of the others, reflectances are picked within one
    coordinate system (TerraMind's training data were upsampled so; TerraMesh, § 3) and
    interpolated across systems; power and heights are interpolated. Classes, probabilities and
    decibels are picked whatever their size.
    """
    unit = asset.radiometry.unit
    if unit in NEAREST_UNITS:
        return Resampling.nearest
    if _is_finer(asset, grid):
        return Resampling.average
    if unit == "reflectance" and asset.epsg == grid.epsg:
        return Resampling.nearest
    return Resampling.bilinear


def _is_finer(asset: Asset, grid: Grid) -> bool:
    if asset.transform is None or asset.epsg is None:
        return False
    try:
        system = _crs_from_epsg(asset.epsg)
    except CRSError:
        return False
        # ^ the file may know better
    return (
        reprojection.pixel_size_metres(system, Affine(*asset.transform)) < 0.999 * grid.resolution
    )


def _stackstac_item(name: str, scene: Scene, bands: Sequence[str], grid: Grid) -> dict[str, Any]:
    """Describe a scene to stackstac, every asset as if it lay on the whole grid.

    Left to itself stackstac drops what it takes to lie outside, by four corners: curved edges,
    poles and the antimeridian deceive it. The reader knows the file and finds out.
    """
    place = {
        "type": "image/tiff",
        "proj:epsg": grid.epsg,
        "proj:transform": list(grid.transform)[:6],
        "proj:shape": list(grid.shape),
    }
    time = scene.datetime.isoformat() if scene.datetime else "1970-01-01T00:00:00Z"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "bbox": list(scene.bbox),
        "geometry": dict(scene.footprint),
        "properties": {"datetime": time},
        "links": [],
        "assets": {
            band: {"href": scene.assets[band].href, **place}
            for band in bands
            if band in scene.assets
        },
    }


def stack(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    dtype: str,
    fill_value: float,
) -> xr.DataArray:
    """Stack one asset per scene and band on a grid, lazily, as stored: nothing is rescaled.

    Args:
        scenes: scenes of one modality, in the order wanted.
        bands: band names; where a scene lacks one, its layer is ``fill_value``.
        grid: the output grid; one chunk is one whole layer of it.
        dtype: NumPy type of the stored values.
        fill_value: value of missing pixels.

    Returns:
        (time, band, y, x) with ``y`` and ``x`` at pixel centres, and no unit: what the numbers
        mean differs from scene to scene.
    """
    assets = [
        (scene, scene.assets[band]) for scene in scenes for band in bands if band in scene.assets
    ]
    sources = {
        asset.href: raster_reader.AssetInfo(
            scene_id=scene.id,
            provider=scene.provider,
            nodata=asset.nodata,
            modality=scene.modality,
        )
        for scene, asset in assets
    }
    kernels = {asset.href: _choose_resampling(asset, grid) for _, asset in assets}
    value = np.dtype(dtype).type(fill_value)
    items = [_stackstac_item(str(index), scene, bands, grid) for index, scene in enumerate(scenes)]
    # ^ named by their place: two collections may hold scenes of one id
    reader = functools.partial(raster_reader.AssetReader, sources=sources, kernels=kernels)
    layers = (
        _arrays_by_item_and_band(_call_stackstac(items, bands, grid, value, reader), grid)
        if assets
        else {}
    )
    empty = da.full(grid.shape, value, dtype=dtype, chunks=grid.shape)
    # ^ stackstac drops scenes without any of the bands, and bands without any scene
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    return xr.DataArray(
        da.stack(
            [da.stack([layers.get((item["id"], band), empty) for band in bands]) for item in items]
        ),
        dims=("time", "band", "y", "x"),
        coords={
            "id": ("time", [scene.id for scene in scenes]),
            "band": list(bands),
            "y": ys,
            "x": xs,
        },
    )


def _call_stackstac(
    items: list[dict[str, Any]],
    bands: Sequence[str],
    grid: Grid,
    fill_value: Any,
    reader_class: Callable[..., raster_reader.AssetReader],
) -> xr.DataArray:
    stacked: xr.DataArray = stackstac.stack(
        items,
        assets=list(bands),
        epsg=grid.epsg,
        resolution=grid.resolution,
        bounds=grid.bounds,
        snap_bounds=False,
        xy_coords="center",
        rescale=False,
        sortby_date=False,
        dtype=fill_value.dtype,
        fill_value=fill_value,
        chunksize=(1, 1, -1, -1),
        # ^ small chunks read the blocks of a COG again and again
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        # ^ the default turns a missing file into nodata
        reader=reader_class,
    )
    return stacked


def _arrays_by_item_and_band(part: xr.DataArray, grid: Grid) -> dict[tuple[str, str], da.Array]:
    """Return what stackstac made, by item and band; an asset that is not there is all fill."""
    if part.shape[-2:] != grid.shape:
        raise AssertionError(f"stackstac made {part.shape[-2:]} of the grid {grid.shape}")
    return {
        (item, band): part.data[row, column]
        for row, item in enumerate(part["id"].values.tolist())
        for column, band in enumerate(part["band"].values.tolist())
    }
