"""Scenes on a grid: the one call of stackstac, lazy and aligned."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import stackstac
import xarray as xr
from rasterio.enums import Resampling

from catalogs.scene import Asset, Scene
from pipeline import reading
from pipeline.grid import Grid


def _resampling(modality: str, band: str, scenes: Sequence[Scene], grid: Grid) -> Resampling:
    """Choose the kernel of a band that does not lie on the output grid.

    Classes are picked. Optical bands are picked within one coordinate system when they are
    coarser than the grid (TerraMind's training data were upsampled so; TerraMesh, § 3), averaged
    when they are finer, and interpolated across systems. Power and heights are interpolated.
    """
    if band == "SCL":
        return Resampling.nearest
    assets = [scene.assets[band] for scene in scenes if band in scene.assets]
    sizes = [abs(asset.transform[0]) for asset in assets if asset.transform is not None]
    if sizes and min(sizes) < 0.999 * grid.resolution and _in_metres(assets):
        return Resampling.average
    if modality == "S2L2A" and all(asset.epsg == grid.epsg for asset in assets):
        return Resampling.nearest
    return Resampling.bilinear


def _in_metres(assets: Sequence[Asset]) -> bool:
    return all(asset.epsg is not None and asset.epsg != 4326 for asset in assets)


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
    sources: Mapping[str, reading.Source] = {
        asset.href: reading.Source(scene=scene.id, provider=scene.provider, nodata=asset.nodata)
        for scene in scenes
        for band, asset in scene.assets.items()
        if band in bands
    }
    kind = np.dtype(dtype)
    kernels = {band: _resampling(scenes[0].modality, band, scenes, grid) for band in bands}
    parts = []
    for kernel in dict.fromkeys(kernels.values()):
        parts.append(
            stackstac.stack(
                [_item(scene, bands) for scene in scenes],
                assets=[band for band in bands if kernels[band] == kernel],
                epsg=grid.epsg,
                resolution=grid.resolution,
                bounds=grid.bounds,
                snap_bounds=False,
                xy_coords="center",
                rescale=False,
                sortby_date=False,
                resampling=kernel,
                dtype=kind,
                fill_value=kind.type(fill),
                chunksize=(1, 1, -1, -1),
                # ^ small chunks read the blocks of a COG again and again
                properties=False,
                band_coords=False,
                errors_as_nodata=(),
                # ^ the default turns a missing file into nodata
                reader=functools.partial(reading.AssetReader, sources=sources),
            )
        )
    joined = parts[0] if len(parts) == 1 else xr.concat(parts, dim="band", join="exact")
    if joined.shape[-2:] != grid.shape:
        raise AssertionError(f"stackstac made {joined.shape[-2:]} of the grid {grid.shape}")
    return joined.sel(band=list(bands)).drop_attrs().rename(None)
