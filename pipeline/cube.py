"""Scenes on a grid: the one call of stackstac, lazy and aligned."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import stackstac
import xarray as xr
from rasterio.enums import Resampling

from catalogs.scene import Asset, Scene
from pipeline import reading
from pipeline.grid import Grid

WGS84 = 4326


def _resampling(asset: Asset, modality: str, grid: Grid) -> Resampling:
    """Choose the kernel of an asset that does not lie on the output grid.

    The asset decides, not the scenes beside it: these differ from tile to tile. Classes are
    picked. Optical bands are picked within one coordinate system when they are coarser than the
    grid (TerraMind's training data were upsampled so; TerraMesh, § 3), averaged when they are
    finer, and interpolated across systems. Power and heights are interpolated.
    """
    if asset.band == "SCL":
        return Resampling.nearest
    size = abs(asset.transform[0]) if asset.transform is not None and asset.epsg != WGS84 else None
    if size is not None and size < 0.999 * grid.resolution:
        return Resampling.average
    if modality == "S2L2A" and asset.epsg == grid.epsg:
        return Resampling.nearest
    return Resampling.bilinear


def _item(scene: Scene, bands: Sequence[str]) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for band in bands:
        asset = scene.assets.get(band)
        if asset is None:
            continue
        entry: dict[str, Any] = {"href": asset.href, "type": "image/tiff"}
        if asset.epsg is not None and asset.transform is not None and asset.shape is not None:
            entry["proj:epsg"] = asset.epsg
            entry["proj:transform"] = list(asset.transform)
            entry["proj:shape"] = list(asset.shape)
        assets[band] = entry
    time = scene.datetime.isoformat() if scene.datetime else "1970-01-01T00:00:00Z"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene.id,
        "bbox": list(scene.bbox),
        "geometry": dict(scene.footprint),
        "properties": {"datetime": time},
        "links": [],
        "assets": assets,
    }


def stack(
    scenes: Sequence[Scene],
    bands: Sequence[str],
    grid: Grid,
    *,
    dtype: str,
    fill: float,
) -> xr.DataArray:
    """Stack one asset per scene and band on a grid, lazily, as stored: nothing is rescaled.

    Args:
        scenes: scenes of one modality, in the order wanted.
        bands: band names; where a scene lacks one, its layer is ``fill``.
        grid: the output grid; one chunk is one whole layer of it.
        dtype: NumPy type of the stored values.
        fill: value of missing pixels.

    Returns:
        (time, band, y, x) with ``y`` and ``x`` at pixel centres.
    """
    sources = {
        asset.href: reading.Source(scene=scene.id, provider=scene.provider, nodata=asset.nodata)
        for scene in scenes
        for asset in scene.assets.values()
        if asset.band in bands
    }
    value = np.dtype(dtype).type(fill)
    kernels: dict[Resampling, list[Scene]] = {}
    for scene in scenes:
        for kernel in _kernels(scene, bands, grid):
            kernels.setdefault(kernel, []).append(scene)
    layers: dict[tuple[str, str], da.Array] = {}
    for kernel, some in kernels.items():
        chosen = {scene.id: _kernels(scene, bands, grid)[kernel] for scene in some}
        items = [_item(scene, chosen[scene.id]) for scene in some]
        layers |= _layers(_stacked(items, bands, grid, kernel, value, sources), chosen, grid)
    empty = da.full(grid.shape, value, dtype=dtype, chunks=grid.shape)
    # ^ stackstac drops the scenes and bands that do not meet the grid: they are put back
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    return xr.DataArray(
        da.stack(
            [da.stack([layers.get((scene.id, band), empty) for band in bands]) for scene in scenes]
        ),
        dims=("time", "band", "y", "x"),
        coords={
            "id": ("time", [scene.id for scene in scenes]),
            "band": list(bands),
            "y": ys,
            "x": xs,
        },
    )


def _kernels(scene: Scene, bands: Sequence[str], grid: Grid) -> dict[Resampling, list[str]]:
    """Return the bands that a scene has, by the kernel that each needs."""
    found: dict[Resampling, list[str]] = {}
    for band in bands:
        if band in scene.assets:
            kernel = _resampling(scene.assets[band], scene.modality, grid)
            found.setdefault(kernel, []).append(band)
    return found


def _stacked(
    items: list[dict[str, Any]],
    bands: Sequence[str],
    grid: Grid,
    kernel: Resampling,
    fill: Any,
    sources: Mapping[str, reading.Source],
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
        resampling=kernel,
        dtype=fill.dtype,
        fill_value=fill,
        chunksize=(1, 1, -1, -1),
        # ^ small chunks read the blocks of a COG again and again
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        # ^ the default turns a missing file into nodata
        reader=functools.partial(reading.AssetReader, sources=sources),
    )
    return stacked


def _layers(
    part: xr.DataArray, chosen: Mapping[str, Sequence[str]], grid: Grid
) -> dict[tuple[str, str], da.Array]:
    """Return what stackstac kept of the chosen bands, by scene id and band."""
    if part.shape[-2:] != grid.shape:
        raise AssertionError(f"stackstac made {part.shape[-2:]} of the grid {grid.shape}")
    return {
        (scene, band): part.data[row, column]
        for row, scene in enumerate(part["id"].values.tolist())
        for column, band in enumerate(part["band"].values.tolist())
        if band in chosen[scene]
    }
