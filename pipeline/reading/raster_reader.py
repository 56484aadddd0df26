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
from catalogs.errors import Unreadable, Wrong
from catalogs.scene import Scene
from pipeline.grid.grid import Grid
from pipeline.reading import gdal_opener, http_pool, http_ranges, reprojection
from pipeline.reading.http_ranges import RangeFile
from pipeline.runtime import cancellation

log = logging.getLogger(__name__)

GDAL_CACHE = 128
"""Megabytes of blocks that GDAL keeps; its own 5 % of the machine would grow with what is read."""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE,
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

ATTEMPTS = 3
"""Openings of a remote asset whose bytes make no sense; each request is repeated besides."""

READERS = 16
"""Threads that read remote assets: they wait more than they work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the reader must know of an asset beside its href."""

    scene: str
    """Id of the scene, for messages."""

    provider: str
    """Who signs."""

    nodata: float | None
    """Value of missing pixels as the catalog says; the file's own tag is the fallback."""

    modality: str = ""
    """Of the scene, for the count of what is read."""


def read(
    href: str,
    source: Source,
    grid: Grid,
    *,
    resampling: Resampling,
    dtype: DTypeLike,
    fill: float,
) -> NDArray[Any]:
    """Read the pixels of a single-band asset that fall on a grid.

    Args:
        href: unsigned address, as the catalog has it.
        source: what is known of the asset.
        grid: where the pixels go.
        resampling: kernel where the asset lies on another grid; on its own grid no pixel is
            touched.
        dtype: type of the result; it must hold the stored values.
        fill: value of pixels that the asset does not have.

    Returns:
        (height, width)

    Raises:
        Unreadable: the asset could not be read, after several attempts where it is remote.
        Wrong: the asset is not a single-band raster with a coordinate system.
    """
    work = functools.partial(
        _pixels, href, source, grid, resampling=resampling, dtype=np.dtype(dtype), fill=fill
    )
    return _persistently(href, source, work)


def _persistently(href: str, source: Source, work: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
    """Do work with an asset, again and again where it is remote and fails."""
    attempts = ATTEMPTS if href_policy.is_remote(href) else 1
    until = time.monotonic() + http_ranges.PATIENCE.deadline
    for attempt in range(1, attempts + 1):
        cancellation.look()
        try:
            return _opened(href, source, work, until=until, again=attempt > 1)
        except (RasterioError, OSError, http_ranges.Failed) as error:
            reason = href_policy.redact(" ".join(_own(str(error)).split()))
            final = isinstance(error, http_ranges.Failed) and not isinstance(
                error, http_ranges.Changed
            )
            pause = http_ranges.PATIENCE.pause * 2**attempt
            if final or attempt == attempts or time.monotonic() + pause > until:
                raise Unreadable(
                    f"{source.scene}: {href_policy.redact(href)} cannot be read ({reason}), "
                    f"{attempt} opening(s). Run the same command again when it can be reached; "
                    "to publish without these pixels: --allow-partial."
                ) from None
                # ^ the chained error could print the signed address
            if "403" in reason:
                signing.forget(href)
            log.warning("again scene=%s opening=%d reason=%s", source.scene, attempt, reason)
            cancellation.sleep(pause)
    raise AssertionError("unreachable")


def threads(scenes: Sequence[Scene], cores: int) -> int:
    """Return how many threads should read scenes: more than cores where they lie far away."""
    providers = {
        scene.provider
        for scene in scenes
        for asset in scene.assets.values()
        if href_policy.is_remote(asset.href)
    }
    return max(cores, *(min(READERS, http_pool.allowed(name)) for name in providers), 1)


def _opened(
    href: str,
    source: Source,
    work: Callable[[str], NDArray[Any]],
    *,
    until: float,
    again: bool,
) -> NDArray[Any]:
    """Do work with a path that GDAL can open."""
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        file = RangeFile(href, source.provider, until, source.modality)
        file.open()
        with rasterio.Env(**GDAL_OPTIONS):
            return gdal_opener.run(file, PurePosixPath(parts.path).suffix, work)
    if parts.scheme != "s3":
        with rasterio.Env(**GDAL_OPTIONS):
            return work(href)
    access = signing.access(href, source.provider)
    uncached = {"CPL_VSIL_CURL_NON_CACHED": f"/vsis3/{parts.netloc}"} if again else {}
    # ^ GDAL remembers that an address failed and would answer from that memory
    with (
        http_pool.lane(source.provider).turns,
        rasterio.Env(**GDAL_OPTIONS | S3_OPTIONS, **access.options, **uncached),
    ):
        return work(access.href)


def _own(reason: str) -> str:
    """Return GDAL's words without the path that we have made up."""
    return " ".join(word for word in reason.split() if not word.startswith("/vsiriopener"))


def _driver(href: str) -> str:
    return "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(".jp2") else "GTiff"
    # ^ left to itself GDAL opens whatever it is given, a VRT that names other files included


def _pixels(
    href: str,
    source: Source,
    grid: Grid,
    path: str,
    *,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill: float,
) -> NDArray[Any]:
    with rasterio.open(path, driver=_driver(href), sharing=False) as dataset:
        return _on_grid(dataset, source, grid, resampling, dtype, fill)


def thumbnail(href: str, source: Source, *, pixels: int) -> NDArray[np.float32]:
    """Read an asset coarsely, as it is stored.

    Where it has overviews that is one of them; where it has none, or they save nothing (JPEG2000
    keeps them inside each tile), it is the whole of a small raster, and of a large one nine
    windows, evenly spread, one below the other.

    Args:
        href: unsigned address, as the catalog has it.
        source: what is known of the asset.
        pixels: side of the picture, about.

    Returns:
        (height, width) stored numbers; NaN where nothing was seen

    Raises:
        Unreadable, Wrong: as :func:`read`.
    """
    return _persistently(href, source, functools.partial(_small, href, source, pixels))


def _small(href: str, source: Source, pixels: int, path: str) -> NDArray[np.float32]:
    with rasterio.open(path, driver=_driver(href), sharing=False) as dataset:
        nodata = _nodata(dataset, source)
        height, width = dataset.shape
        factors = dataset.overviews(1) if dataset.driver == "GTiff" else []
        near = [factor for factor in factors if max(height, width) / factor <= 2 * pixels]
        if max(height, width) <= (2 if factors else 4) * pixels:
            stored = dataset.read(1)
        elif factors:
            factor = min(near, default=factors[-1])
            stored = dataset.read(1, out_shape=(-(-height // factor), -(-width // factor)))
        else:
            side = pixels // 2
            stored = np.concatenate(
                [dataset.read(1, window=one) for one in _nine(height, width, side)]
            )
    result: NDArray[np.float32] = stored.astype(np.float32)
    if nodata is not None:
        result[stored == nodata] = np.nan
    return result


def _nine(height: int, width: int, side: int) -> list[Window]:
    """Return windows of one size around the middles of nine equal parts."""
    rows, columns = min(side, height), min(side, width)
    return [
        Window(round(x * (width - columns) / 6), round(y * (height - rows) / 6), columns, rows)
        for y in (1, 3, 5)
        for x in (1, 3, 5)
    ]


def _nodata(dataset: Any, source: Source) -> float | None:
    """Return the value of missing pixels of a single-band raster on the ground."""
    if dataset.count != 1 or dataset.crs is None:
        raise Wrong(
            f"{source.scene}: an asset has {dataset.count} bands and the coordinate system "
            f"{dataset.crs}; one band on the ground is needed."
        )
    return source.nodata if source.nodata is not None else dataset.nodata


def _on_grid(
    dataset: Any,
    source: Source,
    grid: Grid,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill: float,
) -> NDArray[Any]:
    nodata = _nodata(dataset, source)
    try:
        return reprojection.on_grid(
            dataset, grid, nodata=nodata, resampling=resampling, dtype=dtype, fill=fill
        )
    except Wrong as error:
        raise Wrong(f"{source.scene}: {error}") from None


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
        sources: Mapping[str, Source],
        kernels: Mapping[str, Resampling],
        **_unused: Any,
        # ^ stackstac's one kernel for all assets among them
    ) -> None:
        self._href = url
        self._source = sources[url]
        self._spec = spec
        self._resampling = kernels[url]
        self._dtype = np.dtype(dtype)
        self._fill = fill_value

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
            self._source,
            grid,
            resampling=self._resampling,
            dtype=self._dtype,
            fill=self._fill,
        )

    def close(self) -> None:
        """Do nothing: datasets live for one read."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
