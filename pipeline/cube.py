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
        wanted = [band for band in bands if kernels[band] == kernel]
        parts.append(
            stackstac.stack(
                [_item(scene, bands) for scene in scenes],
                assets=wanted,
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
            ).assign_attrs(wanted=wanted)
        )
    whole = [_completed(part, scenes, grid, kind.type(fill)) for part in parts]
    joined = whole[0] if len(whole) == 1 else xr.concat(whole, dim="band", join="exact")
    return joined.sel(band=list(bands))


def _completed(part: xr.DataArray, scenes: Sequence[Scene], grid: Grid, fill: Any) -> xr.DataArray:
    """Put back the scenes and bands that stackstac drops when they do not meet the grid."""
    if part.shape[-2:] != grid.shape:
        raise AssertionError(f"stackstac made {part.shape[-2:]} of the grid {grid.shape}")
    wanted = part.attrs.pop("wanted")
    rows = {name: index for index, name in enumerate(part["id"].values.tolist())}
    columns = {name: index for index, name in enumerate(part["band"].values.tolist())}
    empty = da.full(grid.shape, fill, dtype=part.dtype, chunks=grid.shape)
    layers = [
        da.stack(
            [
                part.data[rows[scene.id], columns[band]]
                if scene.id in rows and band in columns
                else empty
                for band in wanted
            ]
        )
        for scene in scenes
    ]
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    return xr.DataArray(
        da.stack(layers),
        dims=("time", "band", "y", "x"),
        coords={"id": ("time", [scene.id for scene in scenes]), "band": wanted, "y": ys, "x": xs},
    )
