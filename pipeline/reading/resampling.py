"""Choose the resampling method of an asset by its unit, pixel size and coordinate system."""

from __future__ import annotations

import functools

from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import Resampling

from catalogs.scene import Asset
from pipeline.grid.crs import pixel_size_metres
from pipeline.grid.grid import Grid

MASK_UNITS = ("class", "probability")
"""Units of mask bands: they have no physical unit, and are stored as bytes."""

NEAREST_UNITS = (*MASK_UNITS, "dB")
"""Units whose values are never averaged or interpolated: codes, percentages and logarithms."""

MIN_BILINEAR_RATIO = 0.999
"""Size of a source pixel in pixels of the grid from which on a raster is interpolated between the
two nearest pixels along each axis; finer rasters are averaged."""


def choose_resampling(asset: Asset, grid: Grid) -> Resampling:
    """Choose the resampling method of an asset whose pixels do not coincide with the grid's.

    It depends on the asset and the grid alone, not on other scenes, which differ from tile to tile.
    Assets with smaller pixels than the grid are averaged. Of the others, reflectances of the same
    coordinate system use nearest neighbour (TerraMind's training data were upsampled so; TerraMesh,
    § 3), those of another system are interpolated, and so are power and heights. Classes,
    probabilities and decibels use nearest neighbour whatever their pixel size.
    """
    unit = asset.radiometry.unit
    if unit in NEAREST_UNITS:
        return Resampling.nearest
    if _is_finer(asset, grid):
        return Resampling.average
    if unit == "reflectance" and asset.epsg == grid.epsg:
        return Resampling.nearest
    return Resampling.bilinear


_crs_from_epsg = functools.lru_cache(maxsize=256)(CRS.from_epsg)


def _is_finer(asset: Asset, grid: Grid) -> bool:
    """Return whether the pixels of an asset are smaller than the grid's."""
    if asset.transform is None or asset.epsg is None:
        return False
    try:
        crs = _crs_from_epsg(asset.epsg)
    except CRSError:
        return False
        # ^ a code that PROJ does not know; the file may state its coordinate system otherwise
    pixel_size = pixel_size_metres(crs, Affine(*asset.transform))
    return pixel_size < MIN_BILINEAR_RATIO * grid.resolution
