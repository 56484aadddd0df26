"""What the header of a raster file says of its pixels: georeference, type, nodata, scale, unit."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS

from catalogs import number_format
from catalogs.scene import Asset
from pipeline.grid.crs import horizontal_crs, is_same_crs
from pipeline.reading import asset_opener, dataset_mask, stored_values
from pipeline.reading.asset_opener import AssetInfo

Transform = tuple[float, float, float, float, float, float]

MAX_CORNER_SHIFT = 0.01
"""Pixels by which a stated transform may displace a corner: coordinates are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterHeader:
    """The header of a raster file."""

    bands: int
    """Number of bands, without an alpha band."""

    crs_wkt: str | None
    """Coordinate system as WKT; None if the file has none."""

    transform: Transform
    """Affine a, b, c, d, e, f from (column, row) to (x, y) of a pixel's outer corner."""

    shape: tuple[int, int]
    """(rows, columns)."""

    dtype: str

    nodata: float | None = None
    """Nodata tag; None without one, and where no pixel of this type can hold it."""

    scale: float = 1.0
    """Tag of the scale; 1 if there is none."""

    offset: float = 0.0
    """Tag of the offset; 0 if there is none."""

    unit: str = ""
    """Tag of the unit of the values; empty if there is none."""

    description: str = ""
    """Name of the band; empty if there is none."""

    has_mask: bool = False
    """Whether an internal mask or an alpha band states which pixels are valid."""

    @property
    def epsg(self) -> int | None:
        """Return the EPSG code of the horizontal coordinate system; None if it has none."""
        if self.crs_wkt is None:
            return None
        code = horizontal_crs(self.crs_wkt).to_epsg()
        return None if code is None else int(code)

    @property
    def vertical_unit(self) -> str | None:
        """Return the unit of heights in a compound or 3D system, as PROJ names it."""
        return None if self.crs_wkt is None else _vertical_unit(self.crs_wkt)

    def has_crs(self, epsg: int) -> bool:
        """Return whether the horizontal coordinate system is that of an EPSG code."""
        return self.crs_wkt is not None and is_same_crs(self.crs_wkt, epsg)

    def corner_shift(self, transform: Transform) -> float:
        """Return by how many pixels another transform displaces a corner of the raster at most."""
        rows, columns = self.shape
        to_pixels, displaced = ~Affine(*self.transform), Affine(*transform)
        corners = ((0, 0), (columns, 0), (0, rows), (columns, rows))
        return max(math.dist(to_pixels * (displaced * corner), corner) for corner in corners)


def read_header(href: str, asset: AssetInfo) -> RasterHeader:
    """Read the header of an asset.

    Args:
        href: unsigned href, as the catalog states it.
        asset: facts about the asset.

    Raises:
        AssetReadError: the asset could not be opened; several attempts were made if it is remote.
    """
    return asset_opener.call_with_dataset(href, asset, parse_header)


def parse_header(dataset: Any) -> RasterHeader:
    """Return the header of an open rasterio dataset."""
    dtype = dataset.dtypes[0]
    transform = dataset.transform
    return RasterHeader(
        bands=dataset.count - (dataset_mask.find_alpha_band(dataset) is not None),
        crs_wkt=dataset.crs.to_wkt() if dataset.crs is not None else None,
        transform=(
            *(transform.a, transform.b, transform.c),
            *(transform.d, transform.e, transform.f),
        ),
        shape=dataset.shape,
        dtype=dtype,
        nodata=dataset.nodata if can_hold(dtype, dataset.nodata) else None,
        scale=dataset.scales[0],
        offset=dataset.offsets[0],
        unit=dataset.units[0] or "",
        description=dataset.descriptions[0] or "",
        has_mask=dataset_mask.has_mask(dataset),
    )


def find_mismatch(asset: Asset, header: RasterHeader) -> str | None:
    """Return what a header says otherwise than an asset, as a clause; None where both agree.

    Only what decides pixels and is known of the asset is compared.
    """
    if asset.epsg is not None and not header.has_crs(asset.epsg):
        actual = "another coordinate system" if header.epsg is None else f"EPSG:{header.epsg}"
        return f"it is in {actual} and not in EPSG:{asset.epsg}"
    if asset.transform is not None and header.corner_shift(asset.transform) > MAX_CORNER_SHIFT:
        return f"its transform is {list(header.transform)} and not {list(asset.transform)}"
    if asset.shape is not None and asset.shape != header.shape:
        return f"its shape is {list(header.shape)} and not {list(asset.shape)}"
    tag, stated = header.nodata, asset.nodata
    if tag is not None and stated is not None and not is_same_value(tag, stated):
        tag_text, stated_text = number_format.format_apart(tag, stated)
        return f"its nodata tag is {tag_text} and not {stated_text}"
    if asset.dtype is not None and asset.dtype != header.dtype:
        return f"its type is {header.dtype} and not {asset.dtype}"
    return None


def is_real(dtype: str) -> bool:
    """Return whether a type is one of real numbers; GDAL's complex integers are no numpy type."""
    return not dtype.startswith("complex")


def can_hold(dtype: str, nodata: float | None) -> bool:
    """Return whether a pixel of a type can hold a nodata value."""
    if nodata is None or not is_real(dtype):
        return False
    return stored_values.representable_nodata(nodata, np.dtype(dtype)) is not None


def is_same_value(first: float | None, second: float | None) -> bool:
    """Return whether two nodata values are the same; NaN is the same as NaN."""
    if first is None or second is None:
        return first is second
    return first == second or (math.isnan(first) and math.isnan(second))


@functools.lru_cache(maxsize=64)
def _vertical_unit(wkt: str) -> str | None:
    crs = CRS.from_wkt(wkt)
    axes = crs.sub_crs_list[1].axis_info if crs.is_compound else crs.axis_info[2:]
    return str(axes[0].unit_name) if axes else None
