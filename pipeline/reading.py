"""The one place that opens rasters: pixels of an asset on an output grid, or an error.

A failed read never becomes nodata. What GDAL is asked for depends on the output grid's place in
its coordinate system alone, so that two tiles that both see a pixel read the same value.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from catalogs import sign, trust
from catalogs.errors import Unreadable, Wrong
from pipeline import warping
from pipeline.grid import Grid

log = logging.getLogger(__name__)

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # ^ no probing for side-car files: 15 times fewer requests
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    "GDAL_NUM_THREADS": 1,
    # ^ dask owns the threads
}

ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the reader must know of an asset beside its href."""

    scene: str
    """Id of the scene, for messages."""

    provider: str
    """Who signs."""

    nodata: float | None
    """Value of missing pixels as the catalog says; the file's own tag is the fallback."""


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
    remote = urlsplit(href).scheme in ("http", "https", "s3")
    attempts = ATTEMPTS if remote else 1
    options = dict(GDAL_OPTIONS)
    for attempt in range(1, attempts + 1):
        try:
            signed = sign.sign(href, source.provider)
            with rasterio.Env(**options), rasterio.open(signed, driver=_driver(href)) as dataset:
                return _on_grid(dataset, source, grid, resampling, np.dtype(dtype), fill)
        except (RasterioError, OSError) as error:
            reason = trust.redact(str(error))
            if attempt == attempts:
                raise Unreadable(
                    f"{source.scene}: {trust.redact(href)} cannot be read ({reason}), "
                    f"{attempt} attempt(s). Run the same command again when it can be reached; "
                    "to publish without these pixels: --allow-partial."
                ) from None
                # ^ the chained error would print the signed address
            if "403" in reason:
                sign.forget(href)
                # ^ the token may have expired: the next attempt asks for a fresh one
            log.warning("retry scene=%s attempt=%d reason=%s", source.scene, attempt, reason)
            options["CPL_VSIL_CURL_NON_CACHED"] = _uncached(href)
            # ^ GDAL remembers that an address failed and would answer from that memory
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("unreachable")


def _driver(href: str) -> str:
    return "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(".jp2") else "GTiff"
    # ^ left to itself GDAL opens whatever it is given, a VRT that names other files included


def _uncached(href: str) -> str:
    parts = urlsplit(href)
    return f"/vsicurl/{parts.scheme}://{parts.netloc}"


def _on_grid(
    dataset: Any,
    source: Source,
    grid: Grid,
    resampling: Resampling,
    dtype: np.dtype[Any],
    fill: float,
) -> NDArray[Any]:
    if dataset.count != 1 or dataset.crs is None:
        raise Wrong(
            f"{source.scene}: an asset has {dataset.count} bands and the coordinate system "
            f"{dataset.crs}; one band on the ground is needed."
        )
    nodata = source.nodata if source.nodata is not None else dataset.nodata
    return warping.on_grid(
        dataset, grid, nodata=nodata, resampling=resampling, dtype=dtype, fill=fill
    )


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
        resampling: Resampling,
        dtype: DTypeLike,
        fill_value: float,
        sources: Mapping[str, Source],
        **_unused: Any,
    ) -> None:
        self._href = url
        self._source = sources[url]
        self._spec = spec
        self._resampling = resampling
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
