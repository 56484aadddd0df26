"""Find from a sample of pixels how many of a scene's pixels in a region are valid.

Headers do not tell whether a file holds data: reprocessed scenes exist that are nodata throughout.
A sample can miss a few valid pixels; what it shows is therefore used to choose between documents of
one acquisition and for warnings, and never to leave out the only document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import shape

from catalogs import lonlat_geometry
from catalogs.scene import Asset, Scene
from catalogs.sensors import get_sensor
from pipeline.grid import grid
from pipeline.reading import raster_reader, units
from pipeline.reading.asset_opener import AssetInfo
from pipeline.reading.raster_reader import Bounds
from pipeline.reading.resampling import MASK_UNITS
from pipeline.runtime import cancellation

SAMPLE_SIZE = 256
"""Approximate side of the sample of a band, pixels."""


def sample_scenes(scenes: Sequence[Scene], region: Any, *, threads: int) -> list[Scene]:
    """Sample the pixels of scenes in parallel; see :func:`sample_scene`."""
    with cancellation.CancellableThreadPool(threads, "sample") as pool:
        return list(pool.map(lambda scene: sample_scene(scene, region), scenes))


def sample_scene(scene: Scene, region: Any) -> Scene:
    """Return a scene whose assets state the share of valid pixels in a sample of a region.

    Args:
        scene: a settled scene; all of its assets are read.
        region: shapely area in longitude and latitude.

    Raises:
        AssetReadError: a file could not be read.
        InvalidInputError: a file is not as its header said.
    """
    assets = {}
    for band, asset in scene.assets.items():
        bounds = _project_region(scene, asset, region)
        if bounds is None:
            continue
        stored = raster_reader.read_sample(
            asset.href, AssetInfo.from_scene(scene, asset), bounds, size=SAMPLE_SIZE
        )
        if stored.size:
            share = float(np.mean(_is_valid(scene, asset, stored)))
            assets[band] = replace(asset, valid_share=share)
    return replace(scene, assets={**scene.assets, **assets})


def find_empty_bands(
    scene: Scene, thumbnails: Mapping[str, NDArray[np.float32]], region: Any
) -> tuple[str, ...]:
    """Return the bands whose thumbnails have no valid pixel in a region.

    Bands of which the thumbnail does not tell are not returned: windows of a large raster, or a
    scene outside of the region.

    Args:
        scene: a settled scene.
        thumbnails: band → (height, width) values of its file at reduced resolution; NaN = nodata.
        region: shapely area in longitude and latitude.
    """
    return tuple(
        band
        for band, thumbnail in thumbnails.items()
        if _is_empty_in_region(scene, scene.assets[band], thumbnail, region)
    )


def _is_empty_in_region(
    scene: Scene, asset: Asset, thumbnail: NDArray[np.float32], region: Any
) -> bool:
    bounds = _project_region(scene, asset, region)
    if bounds is None or asset.transform is None or asset.shape is None:
        return False
    if not raster_reader.is_whole_raster(thumbnail, asset.shape):
        return False
    rows, columns = asset.shape
    height, width = thumbnail.shape
    transform = Affine(*asset.transform) @ Affine.scale(columns / width, rows / height)
    window = raster_reader.find_window(transform, thumbnail.shape, bounds)
    values = thumbnail[window.toslices()]
    return bool(values.size) and not _is_valid(scene, asset, values).any()


def _project_region(scene: Scene, asset: Asset, region: Any) -> Bounds | None:
    """Return the bounds of a region within a scene's footprint in the system of an asset.

    Returns:
        None where the scene does not touch the region, or the system of the asset is not known.
    """
    covered = shapely.intersection(lonlat_geometry.wrap_longitudes(region), shape(scene.footprint))
    if covered.is_empty or asset.epsg is None:
        return None
    left, bottom, right, top = grid.project(covered, asset.epsg).bounds
    return (left, bottom, right, top)


def _is_valid(scene: Scene, asset: Asset, stored: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where stored values, with NaN for nodata, are measurements or classes."""
    if asset.radiometry.unit in MASK_UNITS:
        lowest = 1 if asset.radiometry.unit == "class" else 0
        # ^ the class 0 is nodata, a probability of 0 is none
        return np.asarray(stored >= lowest)
    values: NDArray[Any] = stored
    if units.is_unsigned_dn(asset):
        values = np.nan_to_num(stored).astype(np.uint16)
        # ^ as composites read them: 0 is nodata, whatever the file states
    unit = get_sensor(scene.modality).unit
    return np.asarray(np.isfinite(units.convert(values[None], [asset.radiometry], unit)[0]))
