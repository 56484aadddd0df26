"""The one place that opens rasters: pixels of an asset on an output grid, or an error.

A failed read never becomes nodata. What GDAL is asked for depends on the output grid's place in
its coordinate system alone, so that two tiles that both see a pixel read the same value.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from catalogs import href_policy, signing
from catalogs.errors import AssetReadError, InvalidInputError
from catalogs.scene import Scene
from pipeline.grid.grid import Grid
from pipeline.reading import gdal_opener, http_pool, http_ranges, reprojection
from pipeline.reading.http_ranges import RangeFile
from pipeline.runtime import cancellation

log = logging.getLogger(__name__)

GDAL_CACHE_MB = 128
"""Megabytes of blocks that GDAL keeps; its own 5 % of the machine would grow with what is read."""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # ^ no probing for side-car files: 15 times fewer requests
    "GDAL_NUM_THREADS": 1,
    # ^ dask owns the threads
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

MAX_OPEN_ATTEMPTS = 3
"""Openings of a remote asset whose bytes make no sense; each request is repeated besides."""

MAX_READ_THREADS = 16
"""Threads that read remote assets: they wait more than they work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetInfo:
    """What the reader must know of an asset beside its href."""

    scene_id: str
    """Id of the scene, for messages."""

    provider: str
    """Who signs."""

    nodata: float | None
    """Value of missing pixels as the catalog says; the file's own tag is the fallback."""

    modality: str = ""
    """Of the scene, for the count of what is read."""


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
        href: unsigned address, as the catalog has it.
        asset: what is known of the asset.
        grid: where the pixels go.
        resampling: kernel where the asset lies on another grid; on its own grid no pixel is
            touched.
        dtype: type of the result; it must hold the stored values.
        fill_value: value of pixels that the asset does not have.

    Returns:
        (height, width)

    Raises:
        AssetReadError: the asset could not be read, after several attempts where it is remote.
        InvalidInputError: the asset is not a single-band raster with a coordinate system.
    """
    work = functools.partial(
        _open_and_reproject,
        href,
        asset,
        grid,
        resampling=resampling,
        dtype=np.dtype(dtype),
        fill_value=fill_value,
    )
    return _read_with_retries(href, asset, work)


def _read_with_retries(
    href: str, asset: AssetInfo, function: Callable[[str], NDArray[Any]]
) -> NDArray[Any]:
    """Do work with an asset, again and again where it is remote and fails."""
    attempts = MAX_OPEN_ATTEMPTS if href_policy.is_remote(href) else 1
    until = time.monotonic() + http_ranges.RETRY_POLICY.deadline
    for attempt in range(1, attempts + 1):
        cancellation.check_cancelled()
        try:
            return _call_with_gdal_path(href, asset, function, deadline=until, is_retry=attempt > 1)
        except (RasterioError, OSError, http_ranges.RangeReadError) as error:
            reason = href_policy.redact(" ".join(_strip_opener_path(str(error)).split()))
            final = isinstance(error, http_ranges.RangeReadError) and not isinstance(
                error, http_ranges.FileChangedError
            )
            pause = http_ranges.RETRY_POLICY.backoff * 2**attempt
            if final or attempt == attempts or time.monotonic() + pause > until:
                raise AssetReadError(
                    f"{asset.scene_id}: {href_policy.redact(href)} cannot be read ({reason}), "
                    f"{attempt} opening(s). Run the same command again when it can be reached; "
                    "to publish without these pixels: --allow-partial."
                ) from None
                # ^ the chained error could print the signed address
            if "403" in reason:
                signing.forget_token(href)
            log.warning("again scene=%s opening=%d reason=%s", asset.scene_id, attempt, reason)
            cancellation.sleep(pause)
    raise AssertionError("unreachable")


def count_read_threads(scenes: Sequence[Scene], cores: int) -> int:
    """Return how many threads should read scenes: more than cores where they lie far away."""
    providers = {
        scene.provider
        for scene in scenes
        for asset in scene.assets.values()
        if href_policy.is_remote(asset.href)
    }
    return max(
        cores, *(min(MAX_READ_THREADS, http_pool.max_connections(name)) for name in providers), 1
    )


def _call_with_gdal_path(
    href: str,
    asset: AssetInfo,
    function: Callable[[str], NDArray[Any]],
    *,
    deadline: float,
    is_retry: bool,
) -> NDArray[Any]:
    """Do work with a path that GDAL can open."""
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
    # ^ GDAL remembers that an address failed and would answer from that memory
    with (
        http_pool.get_connections(asset.provider).semaphore,
        rasterio.Env(**GDAL_OPTIONS | S3_OPTIONS, **access.gdal_options, **uncached),
    ):
        return function(access.href)


def _strip_opener_path(reason: str) -> str:
    """Return GDAL's words without the path that we have made up."""
    return " ".join(word for word in reason.split() if not word.startswith("/vsiriopener"))


def _gdal_driver(href: str) -> str:
    return "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(".jp2") else "GTiff"
    # ^ left to itself GDAL opens whatever it is given, a VRT that names other files included


def _open_and_reproject(
    href: str,
    asset: AssetInfo,
    grid: Grid,
    path: str,
    *,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill_value: float,
) -> NDArray[Any]:
    with rasterio.open(path, driver=_gdal_driver(href), sharing=False) as dataset:
        return _read_on_grid(dataset, asset, grid, resampling, dtype, fill_value)


def read_thumbnail(href: str, asset: AssetInfo, *, size: int) -> NDArray[np.float32]:
    """Read an asset coarsely, as it is stored.

    Where it has overviews that is one of them; where it has none, or they save nothing (JPEG2000
    keeps them inside each tile), it is the whole of a small raster, and of a large one nine
    windows, evenly spread, one below the other.

    Args:
        href: unsigned address, as the catalog has it.
        asset: what is known of the asset.
        size: side of the picture, about.

    Returns:
        (height, width) stored numbers; NaN where nothing was seen

    Raises:
        Unreadable, Wrong: as :func:`read`.
    """
    return _read_with_retries(href, asset, functools.partial(_read_reduced, href, asset, size))


def _read_reduced(href: str, asset: AssetInfo, size: int, path: str) -> NDArray[np.float32]:
    with rasterio.open(path, driver=_gdal_driver(href), sharing=False) as dataset:
        nodata = _nodata_value(dataset, asset)
        height, width = dataset.shape
        factors = dataset.overviews(1) if dataset.driver == "GTiff" else []
        near = [factor for factor in factors if max(height, width) / factor <= 2 * size]
        if max(height, width) <= (2 if factors else 4) * size:
            stored = dataset.read(1)
        elif factors:
            factor = min(near, default=factors[-1])
            stored = dataset.read(1, out_shape=(-(-height // factor), -(-width // factor)))
        else:
            side = size // 2
            stored = np.concatenate(
                [dataset.read(1, window=one) for one in _sample_windows(height, width, side)]
            )
    result: NDArray[np.float32] = stored.astype(np.float32)
    if nodata is not None:
        result[stored == nodata] = np.nan
    return result


def _sample_windows(height: int, width: int, side: int) -> list[Window]:
    """Return windows of one size around the middles of nine equal parts."""
    rows, columns = min(side, height), min(side, width)
    return [
        Window(round(x * (width - columns) / 6), round(y * (height - rows) / 6), columns, rows)
        for y in (1, 3, 5)
        for x in (1, 3, 5)
    ]


def _nodata_value(dataset: Any, asset: AssetInfo) -> float | None:
    """Return the value of missing pixels of a single-band raster on the ground."""
    if dataset.count != 1 or dataset.crs is None:
        raise InvalidInputError(
            f"{asset.scene_id}: an asset has {dataset.count} bands and the coordinate system "
            f"{dataset.crs}; one band on the ground is needed."
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


class AssetReader:
    """stackstac's reader protocol on top of :func:`read`.

    stackstac's own reader turns a missing file into nodata and costs several times a plain
    window read; its address may carry a token into graphs and messages.
    """

    def __init__(
        self,
        *,
        url: str,
        spec: Any,
        dtype: DTypeLike,
        fill_value: float,
        sources: Mapping[str, AssetInfo],
        kernels: Mapping[str, Resampling],
        **_unused: Any,
        # ^ stackstac's one kernel for all assets among them
    ) -> None:
        self._href = url
        self._asset = sources[url]
        self._spec = spec
        self._resampling = kernels[url]
        self._dtype = np.dtype(dtype)
        self._fill_value = fill_value

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window of the output grid: (height, width)."""
        left, _, _, top = self._spec.bounds
        resolution = self._spec.resolutions_xy[0]
        grid = Grid(
            epsg=self._spec.epsg,
            resolution=resolution,
            left=left + window.col_off * resolution,
            top=top - window.row_off * resolution,
            height=int(window.height),
            width=int(window.width),
        )
        return read(
            self._href,
            self._asset,
            grid,
            resampling=self._resampling,
            dtype=self._dtype,
            fill_value=self._fill_value,
        )

    def close(self) -> None:
        """Do nothing: datasets live for one read."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
