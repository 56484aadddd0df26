"""Read one window of an asset onto a grid.

A failed read raises an error and never becomes nodata. What is requested of GDAL depends only on
the position of the grid in its coordinate system, so that two tiles that contain the same pixel
read the same value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import Grid
from pipeline.reading import asset_opener, dataset_mask, raster_header, reprojection
from pipeline.reading.asset_opener import AssetInfo
from pipeline.reading.resampling import MASK_UNITS

Bounds = tuple[float, float, float, float]
"""(left, bottom, right, top) in a coordinate system."""


def read(
    href: str,
    asset: AssetInfo,
    grid: Grid,
    *,
    resampling: Resampling,
    dtype: DTypeLike,
    fill_value: float,
) -> NDArray[Any]:
    """Read the pixels of a single-band asset that fall on a grid.

    Args:
        href: unsigned href, as the catalog states it.
        asset: facts about the asset.
        grid: the output grid.
        resampling: resampling method where the pixels of the asset do not coincide with the
            grid's; where they do, they are copied.
        dtype: type of the result; it must be able to hold the stored values.
        fill_value: value of pixels that the asset does not have.

    Returns:
        (height, width) stored values.

    Raises:
        AssetReadError: the asset could not be read; several attempts were made if it is remote.
        InvalidInputError: the asset is not a single-band raster with a coordinate system.
    """
    read_on_grid = functools.partial(
        _read_on_grid,
        asset=asset,
        grid=grid,
        resampling=resampling,
        dtype=np.dtype(dtype),
        fill_value=fill_value,
    )
    return asset_opener.call_with_dataset(href, asset, read_on_grid)


def read_thumbnail(href: str, asset: AssetInfo, *, size: int) -> NDArray[np.float32]:
    """Read an asset at reduced resolution, as stored values.

    If the asset has overviews, one of them is read. If it has none, if this one is empty, or if
    they save nothing (JPEG 2000 keeps them inside each tile), a small raster is read whole, and of
    a large one nine evenly spread windows, one below the other.

    Args:
        href: unsigned href, as the catalog states it.
        asset: facts about the asset.
        size: approximate side of the result, in pixels.

    Returns:
        (height, width) stored values; NaN = nodata.

    Raises:
        AssetReadError: as :func:`read`.
        InvalidInputError: as :func:`read`.
    """
    read_reduced = functools.partial(_read_reduced, asset=asset, size=size)
    return asset_opener.call_with_dataset(href, asset, read_reduced)


def read_sample(href: str, asset: AssetInfo, bounds: Bounds, *, size: int) -> NDArray[np.float32]:
    """Read a part of an asset at reduced resolution, as :func:`read_thumbnail` reads all of it.

    Args:
        href: unsigned href, as the catalog states it.
        asset: facts about the asset.
        bounds: (left, bottom, right, top) of the part in the coordinate system of the asset.
        size: approximate side of the result, in pixels.

    Returns:
        (height, width) stored values of all pixels that the part touches; NaN = nodata. Empty
        where it lies outside of the raster.

    Raises:
        AssetReadError: as :func:`read`.
        InvalidInputError: as :func:`read`.
    """
    read_reduced = functools.partial(_read_reduced, asset=asset, size=size, bounds=bounds)
    return asset_opener.call_with_dataset(href, asset, read_reduced)


def _read_reduced(
    dataset: Any, *, asset: AssetInfo, size: int, bounds: Bounds | None = None
) -> NDArray[np.float32]:
    second_nodata = asset.planned.second_nodata if asset.planned else None
    missing = (_nodata_value(dataset, asset), second_nodata)
    area = Window(0, 0, dataset.width, dataset.height)
    if bounds is not None:
        area = find_window(dataset.transform, dataset.shape, bounds)
    height, width = area.height, area.width
    factors = dataset.overviews(1) if dataset.driver == "GTiff" else []
    sufficient = [factor for factor in factors if max(height, width) / factor <= 2 * size]
    if not height or not width:
        return np.empty((0, 0), np.float32)
    if max(height, width) <= (2 if factors else 4) * size:
        return _read_valid(dataset, missing, window=area)
    overview = None
    if factors:
        factor = min(sufficient, default=factors[-1])
        shape = (-(-height // factor), -(-width // factor))
        overview = _read_valid(dataset, missing, window=area, out_shape=shape)
        if _has_values(overview):
            return overview
    windows = np.concatenate(
        [
            _read_valid(dataset, missing, window=window)
            for window in _sample_windows(area, size // 2)
        ]
    )
    return windows if overview is None or _has_values(windows) else overview


def _has_values(stored: NDArray[np.float32]) -> bool:
    """Return whether not all stored values are nodata or 0, as in overviews never filled."""
    return bool(np.any(np.isfinite(stored) & (stored != 0)))


def is_whole_raster(thumbnail: NDArray[Any], shape: tuple[int, int]) -> bool:
    """Return whether a thumbnail shows all of a raster of (rows, columns), not windows of it."""
    height, width = thumbnail.shape
    return math.isclose(height / width, shape[0] / shape[1], rel_tol=0.1)


def find_window(transform: Affine, shape: tuple[int, int], bounds: Bounds) -> Window:
    """Return the window of all pixels of a raster that a part of its plane touches.

    Args:
        transform: affine from (column, row) to the (x, y) of a pixel's corner.
        shape: (rows, columns) of the raster.
        bounds: (left, bottom, right, top) of the part.
    """
    left, bottom, right, top = bounds
    corners = [~transform * (x, y) for x in (left, right) for y in (bottom, top)]
    columns, rows = (
        (
            min(max(math.floor(min(positions)), 0), count),
            min(max(math.ceil(max(positions)), 0), count),
        )
        for positions, count in zip(zip(*corners, strict=True), shape[::-1], strict=True)
    )
    return Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])


def _read_valid(
    dataset: Any, missing: Sequence[float | None], **options: Any
) -> NDArray[np.float32]:
    """Read stored values; NaN where the dataset has none, or one of the missing values."""
    stored = dataset.read(1, **options)
    result: NDArray[np.float32] = stored.astype(np.float32)
    for value in missing:
        if value is not None:
            result[stored == value] = np.nan
    mask = dataset_mask.read_mask(dataset, **options)
    if mask is not None:
        result[~mask] = np.nan
    return result


def _sample_windows(area: Window, side: int) -> list[Window]:
    """Return nine windows of equal size, evenly spread over a larger one."""
    rows, columns = min(side, area.height), min(side, area.width)
    return [
        Window(
            area.col_off + round(x * (area.width - columns) / 6),
            area.row_off + round(y * (area.height - rows) / 6),
            columns,
            rows,
        )
        for y in (1, 3, 5)
        for x in (1, 3, 5)
    ]


def _nodata_value(dataset: Any, asset: AssetInfo) -> float | None:
    """Return the nodata value of a dataset.

    Raises:
        InvalidInputError: it has several bands, or no coordinate system, or is not the file that
            was planned.
    """
    header = raster_header.parse_header(dataset)
    label = f"{asset.scene_id}: {asset.label}"
    if header.bands != 1 or header.crs_wkt is None:
        raise InvalidInputError(
            f"{label} has {header.bands} band(s) and the coordinate system {dataset.crs}. An asset "
            "must have one band and a coordinate system."
        )
    mismatch = raster_header.find_mismatch(asset.planned, header) if asset.planned else None
    if mismatch is not None:
        raise InvalidInputError(
            f"{label} is not as planned: {mismatch}. The file was replaced, or its catalog states "
            "it wrongly; to take it as it is, make a new plan: terramosaic plan."
        )
    return asset.nodata if asset.nodata is not None else header.nodata


def _read_on_grid(
    dataset: Any,
    *,
    asset: AssetInfo,
    grid: Grid,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
) -> NDArray[Any]:
    nodata = _nodata_value(dataset, asset)
    planned = asset.planned
    try:
        return reprojection.read_on_grid(
            dataset,
            grid,
            nodata=nodata,
            second_nodata=planned.second_nodata if planned else None,
            resampling=resampling,
            dtype=dtype,
            fill_value=fill_value,
            keeps_integers=planned is not None and planned.radiometry.unit == "reflectance",
        )
    except InvalidInputError as error:
        is_mask = planned is not None and planned.radiometry.unit in MASK_UNITS
        advice = (
            f"It is no mask of its sensor: add exclude: [{asset.scene_id}] to the job"
            if is_mask
            else "Make a new plan: it takes the types of files from the files"
        )
        raise InvalidInputError(f"{asset.scene_id}: {asset.label}: {error} {advice}.") from None
