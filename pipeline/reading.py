"""The one place that opens rasters: pixels of an asset on an output grid, or an error.

A failed read never becomes nodata. What GDAL is asked for depends on the output grid's place in
its coordinate system alone, so that two tiles that both see a pixel read the same value.
"""

from __future__ import annotations

import logging
import math
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
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from catalogs import sign, trust
from catalogs.errors import Unreadable, Wrong
from pipeline.grid import PHASE_TOLERANCE, Grid

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
BLOCK = 512
"""Pixels: side of the lattice blocks in which assets of another grid are warped."""


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
    result = np.full(grid.shape, fill, dtype=dtype)
    same_crs = dataset.crs.to_epsg() == grid.epsg and dataset.transform.is_rectilinear
    if same_crs and (resampling == Resampling.nearest or _same_lattice(dataset.transform, grid)):
        return _pick(dataset, grid, nodata, result, fill)
    return _warp(dataset, grid, nodata, result, fill, resampling)


def _same_lattice(transform: Any, grid: Grid) -> bool:
    size = grid.resolution
    if not math.isclose(transform.a, size) or not math.isclose(-transform.e, size):
        return False
    columns = (grid.left - transform.c) / size
    rows = (transform.f - grid.top) / size
    return bool(
        abs(columns - round(columns)) < PHASE_TOLERANCE * 100
        and abs(rows - round(rows)) < PHASE_TOLERANCE * 100
    )


def _indices(start: float, step: float, count: int, limit: int) -> NDArray[np.intp]:
    """Return which source pixel holds each output pixel's centre; −1 outside."""
    centres = start + (np.arange(count) + 0.5) * step
    found = np.floor(centres + PHASE_TOLERANCE * step).astype(np.intp)
    # ^ a centre on the edge of two source pixels falls into the later one, whatever the last bit
    return np.where((found >= 0) & (found < limit), found, -1)


def _pick(
    dataset: Any, grid: Grid, nodata: float | None, result: NDArray[Any], fill: float
) -> NDArray[Any]:
    """Copy the source pixel at each output pixel's centre: exact, and no warp on equal grids."""
    transform = dataset.transform
    columns = _indices(
        (grid.left - transform.c) / transform.a,
        grid.resolution / transform.a,
        grid.width,
        dataset.width,
    )
    rows = _indices(
        (grid.top - transform.f) / transform.e,
        grid.resolution / -transform.e,
        grid.height,
        dataset.height,
    )
    some_rows, some_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    if not some_rows.size or not some_columns.size:
        return result
    r0, r1 = int(rows[some_rows].min()), int(rows[some_rows].max()) + 1
    c0, c1 = int(columns[some_columns].min()), int(columns[some_columns].max()) + 1
    stored = dataset.read(1, window=Window(c0, r0, c1 - c0, r1 - r0))
    picked = stored[np.ix_(rows[some_rows] - r0, columns[some_columns] - c0)]
    result[np.ix_(some_rows, some_columns)] = _cast(picked, nodata, result.dtype, fill)
    return result


def _warp(
    dataset: Any,
    grid: Grid,
    nodata: float | None,
    result: NDArray[Any],
    fill: float,
    resampling: Resampling,
) -> NDArray[Any]:
    """Warp block by block on the lattice of the coordinate system.

    GDAL approximates the transformation within each request: equal requests give equal pixels,
    and requests anchored to the lattice are equal whichever tile makes them.
    """
    first_row, first_column = grid.origin_index()
    for block_row in range(first_row // BLOCK, (first_row + grid.height - 1) // BLOCK + 1):
        for block_column in range(
            first_column // BLOCK, (first_column + grid.width - 1) // BLOCK + 1
        ):
            row, column = block_row * BLOCK - first_row, block_column * BLOCK - first_column
            block = grid.window(row=row, column=column, height=BLOCK, width=BLOCK)
            if not _meets(dataset, block):
                continue
            with WarpedVRT(
                dataset,
                crs=f"EPSG:{grid.epsg}",
                transform=block.transform,
                height=BLOCK,
                width=BLOCK,
                resampling=resampling,
                src_nodata=nodata,
                nodata=nodata,
                add_alpha=nodata is None,
                # ^ without nodata GDAL would write zeros where the source has no pixel
                warp_mem_limit=256,
            ) as warped:
                stored = warped.read(1)
                missing = warped.read(2) == 0 if nodata is None else None
            values = _cast(stored, nodata, result.dtype, fill)
            if missing is not None:
                values[missing] = fill
            into = (
                slice(max(row, 0), min(row + BLOCK, grid.height)),
                slice(max(column, 0), min(column + BLOCK, grid.width)),
            )
            result[into] = values[
                into[0].start - row : into[0].stop - row,
                into[1].start - column : into[1].stop - column,
            ]
    return result


def _meets(dataset: Any, block: Grid) -> bool:
    left, bottom, right, top = rasterio.warp.transform_bounds(
        f"EPSG:{block.epsg}", dataset.crs, *block.bounds, densify_pts=5
    )
    bounds = dataset.bounds
    return bool(
        left < bounds.right and right > bounds.left and bottom < bounds.top and top > bounds.bottom
    )


def _cast(
    stored: NDArray[Any], nodata: float | None, dtype: np.dtype[Any], fill: float
) -> NDArray[Any]:
    values = stored.astype(dtype)
    if nodata is not None:
        missing = np.isnan(stored) if math.isnan(nodata) else stored == nodata
        values[missing] = fill
    if np.issubdtype(stored.dtype, np.floating):
        values[~np.isfinite(stored)] = fill
    elif np.issubdtype(dtype, np.unsignedinteger) and np.issubdtype(stored.dtype, np.signedinteger):
        values[stored < 0] = fill
        # ^ int16 products mark missing pixels by negative numbers; they must not wrap
    return values


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
