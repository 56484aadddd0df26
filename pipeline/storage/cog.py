"""Write a layer as a cloud-optimised GeoTIFF that opens with colours, names and statistics.

A COG is the layer an analyst sees, so it is made whole or not at all: a tiled GeoTIFF is filled
strip by strip in a hidden folder beside the target, GDAL's COG driver makes the final layout from
it, every pixel is read back, and only then does the file get its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline.reading.raster_reader import GDAL_CACHE_MB
from pipeline.runtime import atomic_files
from pipeline.storage import styles
from pipeline.storage.band_statistics import BandStatistics, RasterStatistics

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.grid.grid import Grid
    from pipeline.plan.layers import Layer

MAX_BLOCK_SIZE = 512
"""Side of a COG's tiles and height of the strips asked for, pixels; less for very many bands."""

_BLOCK_SIZES = (MAX_BLOCK_SIZE, 256, 128)
_MAX_BLOCK_BYTES = 1 << 24
"""What a block may hold unpacked: all bands lie in one, and a reader unpacks it whole."""

StripReader = Callable[[int, int], NDArray[Any]]
"""(first row, row after the last) -> (bands, rows, width) of the layer's stored type."""

_GDAL_OPTIONS: Mapping[str, str | int] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    "GDAL_PAM_ENABLED": "NO",
    # ^ the sidecar is ours to write: GDAL's own would be written beside the temporary name
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_NUM_THREADS": "1",
    # ^ one thread per writer: the order of the blocks, and so the bytes, cannot vary
}


@dataclass(frozen=True, kw_only=True)
class CogInfo:
    """A finished file: enough to list it in an item and to verify it later."""

    sha256: str
    """Hexadecimal digest of the file."""

    size: int
    """Bytes."""

    statistics: tuple[BandStatistics, ...]
    """One entry per band."""

    sidecar_sha256: str | None
    """Hexadecimal SHA-256 of ``<file>.aux.xml``; None where the layer has no legend."""


def block_size(layer: Layer, band_count: int) -> int:
    """Return the side of the blocks of a layer with ``band_count`` bands, pixels."""
    size = band_count * np.dtype(layer.dtype).itemsize
    return next(
        (side for side in _BLOCK_SIZES if side**2 * size <= _MAX_BLOCK_BYTES), _BLOCK_SIZES[-1]
    )


def write_cog(
    path: Path,
    grid: Grid,
    layer: Layer,
    read_strip: StripReader,
    bands: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> CogInfo:
    """Write a layer as a COG and return its checksum and statistics.

    The same pixels, names and tags give the same bytes. A layer with a legend also gets
    ``<file>.aux.xml`` with its class names and attribute table; it is written before the COG,
    so whoever finds the COG finds its names too.

    Args:
        path: final name; replaced where it exists.
        grid: where the pixels lie.
        layer: what they mean.
        read_strip: called once per strip of :func:`block_size` rows, from the top, then never again.
        bands: names of the bands, where the layer leaves them open.
        tags: further metadata of the file.

    Raises:
        ValueError: ``read_strip`` answered with another shape or type than asked for.
        OSError: what was read back differs from what was written; nothing is left.
    """
    names = layer.band_names(bands)
    with atomic_files.temporary_directory(path.parent) as work, rasterio.Env(**_GDAL_OPTIONS):
        draft, finished = work / "draft.tif", work / path.name
        tally = _write_draft(draft, grid, layer, read_strip, names, tags or {})
        _convert_to_cog(draft, finished, layer, block_size(layer, len(names)))
        _verify_cog(finished, grid, layer, tally)
        sidecar = _write_sidecar(path, grid, layer, tally)
        info = CogInfo(
            sha256=atomic_files.sha256(finished),
            size=finished.stat().st_size,
            statistics=tally.statistics(),
            sidecar_sha256=sidecar,
        )
        atomic_files.move_into_place(finished, path)
    return info


def _write_draft(
    path: Path,
    grid: Grid,
    layer: Layer,
    read_strip: StripReader,
    band_names: Sequence[str],
    tags: Mapping[str, str],
) -> RasterStatistics:
    """Fill a tiled GeoTIFF strip by strip, with all that the COG shall say about itself."""
    tally = RasterStatistics(layer, len(band_names))
    with rasterio.open(path, "w", **_draft_profile(grid, layer, len(band_names))) as draft:
        _write_metadata(draft, layer, band_names, tags)
        for first, last in _iter_strips(grid, layer, len(band_names)):
            strip = _read_strip(
                read_strip, first, last, (len(band_names), last - first, grid.width), layer
            )
            tally.add(strip)
            draft.write(strip, window=Window(0, first, grid.width, last - first))
        if not layer.is_categorical:
            _tag_statistics(draft, tally.statistics())
    return tally


def _draft_profile(grid: Grid, layer: Layer, count: int) -> dict[str, Any]:
    """Return how the intermediate GeoTIFF is made: quick to write, whole tiles."""
    return {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": count,
        "dtype": layer.dtype,
        "crs": f"EPSG:{grid.epsg}",
        "transform": grid.transform,
        "nodata": layer.nodata,
        "tiled": True,
        "blockxsize": block_size(layer, count),
        "blockysize": block_size(layer, count),
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
        **({"photometric": "palette"} if layer.has_legend else {"photometric": "minisblack"}),
    }


def _write_metadata(
    draft: Any, layer: Layer, band_names: Sequence[str], tags: Mapping[str, str]
) -> None:
    """Set names, units, scale, colours and tags."""
    draft.descriptions = tuple(band_names)
    draft.scales = (layer.scale,) * len(band_names)
    draft.offsets = (0.0,) * len(band_names)
    if layer.unit is not None:
        draft.units = (layer.unit,) * len(band_names)
    if layer.has_legend:
        draft.write_colormap(1, styles.colormap())
    about = {"LAYER": layer.name, "TITLE": layer.title, "DESCRIPTION": layer.description}
    draft.update_tags(**dict(sorted({**about, **tags}.items())))


def _read_strip(
    read_strip: StripReader, first: int, last: int, shape: tuple[int, int, int], layer: Layer
) -> NDArray[Any]:
    """Ask for one strip and refuse what does not fit."""
    strip = np.ascontiguousarray(read_strip(first, last))
    if strip.shape != shape or strip.dtype != np.dtype(layer.dtype):
        raise ValueError(
            f"Rows {first} to {last} of layer {layer.name!r} came as {strip.dtype} "
            f"{strip.shape}; needed are {layer.dtype} {shape} (bands, rows, columns)."
        )
    return strip


def _tag_statistics(draft: Any, statistics: Sequence[BandStatistics]) -> None:
    """Set the statistics that GDAL and QGIS look for before they stretch a band."""
    for number, band in enumerate(statistics, start=1):
        if band.mean is None:
            continue
        draft.update_tags(
            number,
            STATISTICS_MAXIMUM=repr(band.maximum),
            STATISTICS_MEAN=repr(band.mean),
            STATISTICS_MINIMUM=repr(band.minimum),
            STATISTICS_STDDEV=repr(band.stddev),
            STATISTICS_VALID_PERCENT=f"{band.valid_percent:.4g}",
        )


def _iter_strips(grid: Grid, layer: Layer, count: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each strip, and the row after its last."""
    step = block_size(layer, count)
    for first in range(0, grid.height, step):
        yield first, min(first + step, grid.height)


def _convert_to_cog(draft: Path, finished: Path, layer: Layer, side: int) -> None:
    """Let GDAL lay the file out as a COG, with overviews that suit the layer."""
    rasterio.shutil.copy(
        draft,
        finished,
        driver="COG",
        blocksize=side,
        compress="DEFLATE",
        level=6,
        predictor="NO" if layer.is_categorical else "YES",
        overviews="IGNORE_EXISTING",
        overview_resampling=layer.overview_resampling.upper(),
        bigtiff="IF_SAFER",
        num_threads=1,
    )


def _verify_cog(path: Path, grid: Grid, layer: Layer, tally: RasterStatistics) -> None:
    """Read the finished file as a stranger would and compare it with what was handed in.

    A truncated GeoTIFF opens and reads as nodata: only the pixels prove it whole.
    """
    again = RasterStatistics(layer, tally.count)
    with rasterio.open(path) as source:
        layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        found = (layout, source.shape, source.count, source.transform, source.crs.to_epsg())
        due = ("COG", grid.shape, tally.count, grid.transform, grid.epsg)
        if found != due:
            raise OSError(f"{path.name} was written as {found}, not as {due}. Write it again.")
        for first, last in _iter_strips(grid, layer, tally.count):
            again.add(source.read(window=Window(0, first, grid.width, last - first)))
    if again.checksum != tally.checksum:
        raise OSError(
            f"The pixels of {path.name} read back differ from those written: the disk is full "
            "or failing. Free space or choose another folder, and run again."
        )


def _write_sidecar(path: Path, grid: Grid, layer: Layer, tally: RasterStatistics) -> str | None:
    """Write class names and attribute table where GDAL looks for them; return the SHA-256."""
    if not layer.has_legend:
        return None
    counts = tally.statistics()[0].counts or {}
    sidecar = path.with_name(f"{path.name}.aux.xml")
    atomic_files.write_atomic(sidecar, styles.attribute_table(counts, grid.resolution).encode())
    return atomic_files.sha256(sidecar)
