"""Read one window of an asset onto a grid.

A failed read raises an error and never becomes nodata. What is requested of GDAL depends only on
the position of the grid in its coordinate system, so that two tiles that contain the same pixel
read the same value.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import Resampling
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from catalogs import href_policy, signing
from catalogs.errors import AssetReadError, InvalidInputError
from catalogs.scene import Scene
from pipeline.grid.grid import Grid
from pipeline.reading import (
    gdal_opener,
    http_ranges,
    provider_connections,
    reprojection,
)
from pipeline.reading.http_ranges import RangeFile
from pipeline.runtime import cancellation

log = logging.getLogger(__name__)

GDAL_CACHE_MB = 128
"""Size of GDAL's block cache in megabytes; GDAL's default is 5 % of the machine's memory."""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # ^ no probing for side-car files: 15 times fewer requests
    "GDAL_NUM_THREADS": 1,
    # ^ dask manages the threads
}

S3_OPTIONS: dict[str, Any] = {
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_HTTP_MULTIRANGE": "SERIAL",
    # ^ one connection at a time: a provider's limit counts connections
}

DRIVERS = ["GTiff", "JP2OpenJPEG"]
"""Formats that are opened; GDAL chooses between them by the first bytes of a file.

With all of its drivers, GDAL would also open a VRT, which refers to other files.
"""

MAX_OPEN_ATTEMPTS = 3
"""Attempts to open and read a remote asset; each HTTP request is retried as well."""

MAX_READ_THREADS = 16
"""Maximum number of threads that read remote assets; they mostly wait for the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetInfo:
    """Facts about an asset that the reader needs besides its href."""

    scene_id: str
    """Id of the scene, for messages."""

    provider: str
    """Provider whose signing and connection limits apply."""

    nodata: float | None
    """Nodata value from the catalog; None to use the nodata value of the file."""

    modality: str = ""
    """Modality of the scene, for the statistics of bytes and requests."""


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
    open_and_read = functools.partial(
        _open_and_reproject,
        asset,
        grid,
        resampling=resampling,
        dtype=np.dtype(dtype),
        fill_value=fill_value,
    )
    return _read_with_retries(href, asset, open_and_read)


def _read_with_retries(
    href: str, asset: AssetInfo, function: Callable[[str], NDArray[Any]]
) -> NDArray[Any]:
    """Call a function with the GDAL path of an asset; retry if the asset is remote."""
    attempts = MAX_OPEN_ATTEMPTS if href_policy.is_remote(href) else 1
    deadline = time.monotonic() + http_ranges.RETRY_POLICY.deadline
    for attempt in range(1, attempts + 1):
        cancellation.check_cancelled()
        try:
            return _call_with_gdal_path(
                href, asset, function, deadline=deadline, is_retry=attempt > 1
            )
        except (RasterioError, OSError, http_ranges.RangeReadError) as error:
            reason = href_policy.redact(" ".join(_strip_opener_path(str(error)).split()))
            is_final = isinstance(error, http_ranges.RangeReadError) and not isinstance(
                error, http_ranges.FileChangedError
            )
            pause = http_ranges.RETRY_POLICY.backoff * 2**attempt
            if is_final or attempt == attempts or time.monotonic() + pause > deadline:
                raise AssetReadError(
                    f"{asset.scene_id}: {href_policy.redact(href)} cannot be read "
                    f"(opened {attempt} time(s): {reason}). Run the same command again when the "
                    "file can be reached, or publish without these pixels: --allow-partial."
                ) from None
                # ^ the chained error could print the signed href
            if "403" in reason:
                signing.forget_token(href)
            log.warning("retry scene=%s attempt=%d reason=%s", asset.scene_id, attempt, reason)
            cancellation.sleep(pause)
    raise AssertionError("unreachable")


def count_read_threads(scenes: Sequence[Scene], cores: int) -> int:
    """Return how many threads should read scenes: more than the cores if assets are remote."""
    providers = {
        scene.provider
        for scene in scenes
        for asset in scene.assets.values()
        if href_policy.is_remote(asset.href)
    }
    return max(
        cores,
        *(min(MAX_READ_THREADS, provider_connections.max_connections(name)) for name in providers),
        1,
    )


def _call_with_gdal_path(
    href: str,
    asset: AssetInfo,
    function: Callable[[str], NDArray[Any]],
    *,
    deadline: float,
    is_retry: bool,
) -> NDArray[Any]:
    """Call a function with a path that GDAL can open."""
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        file = RangeFile(href, asset.provider, deadline, asset.modality)
        file.open()
        with rasterio.Env(**GDAL_OPTIONS):
            return gdal_opener.call_with_path(file, PurePosixPath(parts.path).suffix, function)
    if parts.scheme != "s3":
        with rasterio.Env(**GDAL_OPTIONS):
            return function(href)
    access = signing.sign_with_options(href, asset.provider)
    uncached = {"CPL_VSIL_CURL_NON_CACHED": f"/vsis3/{parts.netloc}"} if is_retry else {}
    # ^ GDAL caches that a path could not be opened
    with (
        provider_connections.get_connections(asset.provider).semaphore,
        rasterio.Env(**GDAL_OPTIONS | S3_OPTIONS, **access.gdal_options, **uncached),
    ):
        return function(access.href)


def _strip_opener_path(reason: str) -> str:
    """Return a GDAL message without the path of the rasterio opener."""
    return " ".join(word for word in reason.split() if not word.startswith("/vsiriopener"))


_open_with_credentials = ensure_env_with_credentials(DatasetReader)
# ^ what rasterio.open does, which accepts one driver only


def _open_raster(path: str) -> Any:
    return _open_with_credentials(path, driver=DRIVERS, sharing=False)


def _open_and_reproject(
    asset: AssetInfo,
    grid: Grid,
    path: str,
    *,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
) -> NDArray[Any]:
    with _open_raster(path) as dataset:
        return _read_on_grid(dataset, asset, grid, resampling, dtype, fill_value)


def read_thumbnail(href: str, asset: AssetInfo, *, size: int) -> NDArray[np.float32]:
    """Read an asset at reduced resolution, as stored values.

    If the asset has overviews, one of them is read. If it has none, or they save nothing (JPEG 2000
    keeps them inside each tile), a small raster is read whole, and of a large one nine evenly
    spread windows, one below the other.

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
    return _read_with_retries(href, asset, functools.partial(_read_reduced, asset, size))


def _read_reduced(asset: AssetInfo, size: int, path: str) -> NDArray[np.float32]:
    with _open_raster(path) as dataset:
        nodata = _nodata_value(dataset, asset)
        height, width = dataset.shape
        factors = dataset.overviews(1) if dataset.driver == "GTiff" else []
        sufficient = [factor for factor in factors if max(height, width) / factor <= 2 * size]
        if max(height, width) <= (2 if factors else 4) * size:
            stored = dataset.read(1)
        elif factors:
            factor = min(sufficient, default=factors[-1])
            stored = dataset.read(1, out_shape=(-(-height // factor), -(-width // factor)))
        else:
            side = size // 2
            stored = np.concatenate(
                [dataset.read(1, window=window) for window in _sample_windows(height, width, side)]
            )
    result: NDArray[np.float32] = stored.astype(np.float32)
    if nodata is not None:
        result[stored == nodata] = np.nan
    return result


def _sample_windows(height: int, width: int, side: int) -> list[Window]:
    """Return nine windows of equal size, evenly spread over a raster."""
    rows, columns = min(side, height), min(side, width)
    return [
        Window(round(x * (width - columns) / 6), round(y * (height - rows) / 6), columns, rows)
        for y in (1, 3, 5)
        for x in (1, 3, 5)
    ]


def _nodata_value(dataset: Any, asset: AssetInfo) -> float | None:
    """Return the nodata value of a dataset.

    Raises:
        InvalidInputError: it has several bands, or no coordinate system.
    """
    if dataset.count != 1 or dataset.crs is None:
        raise InvalidInputError(
            f"{asset.scene_id}: an asset has {dataset.count} band(s) and the coordinate system "
            f"{dataset.crs}. An asset must have one band and a coordinate system."
        )
    return asset.nodata if asset.nodata is not None else dataset.nodata


def _read_on_grid(
    dataset: Any,
    asset: AssetInfo,
    grid: Grid,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
) -> NDArray[Any]:
    nodata = _nodata_value(dataset, asset)
    try:
        return reprojection.read_on_grid(
            dataset, grid, nodata=nodata, resampling=resampling, dtype=dtype, fill_value=fill_value
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"{asset.scene_id}: {error}") from None
