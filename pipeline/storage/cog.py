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

from pipeline.reading.raster_reader import GDAL_CACHE
from pipeline.runtime import atomic_files
from pipeline.storage import styles
from pipeline.storage.band_statistics import BandStatistics, Tally

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.grid.grid import Grid
    from pipeline.plan.layers import Layer

BLOCK = 512
"""Side of a COG's tiles and height of the strips asked for, pixels; less for very many bands."""

_SIDES = (BLOCK, 256, 128)
_BLOCK_BYTES = 1 << 24
"""What a block may hold unpacked: all bands lie in one, and a reader unpacks it whole."""

Read = Callable[[int, int], NDArray[Any]]
"""(first row, row after the last) -> (bands, rows, width) of the layer's stored type."""

_GDAL: Mapping[str, str | int] = {
    "GDAL_CACHEMAX": GDAL_CACHE,
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

    sidecar: str | None
    """Hexadecimal SHA-256 of ``<file>.aux.xml``; None where the layer has no legend."""


def block(layer: Layer, count: int) -> int:
    """Return the side of the blocks of a layer with ``count`` bands, pixels."""
    size = count * np.dtype(layer.dtype).itemsize
    return next((side for side in _SIDES if side**2 * size <= _BLOCK_BYTES), _SIDES[-1])


def write(
    path: Path,
    grid: Grid,
    layer: Layer,
    read: Read,
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
        read: called once per strip of :func:`block` rows, from the top, then never again.
        bands: names of the bands, where the layer leaves them open.
        tags: further metadata of the file.

    Raises:
        ValueError: ``read`` answered with another shape or type than asked for.
        OSError: what was read back differs from what was written; nothing is left.
    """
    names = layer.named(bands)
    with atomic_files.workspace(path.parent) as work, rasterio.Env(**_GDAL):
        draft, finished = work / "draft.tif", work / path.name
        tally = _draft(draft, grid, layer, read, names, tags or {})
        _finish(draft, finished, layer, block(layer, len(names)))
        _check(finished, grid, layer, tally)
        sidecar = _write_sidecar(path, grid, layer, tally)
        info = CogInfo(
            sha256=atomic_files.sha256(finished),
            size=finished.stat().st_size,
            statistics=tally.statistics(),
            sidecar=sidecar,
        )
        atomic_files.promote(finished, path)
    return info


def _draft(
    path: Path,
    grid: Grid,
    layer: Layer,
    read: Read,
    names: Sequence[str],
    tags: Mapping[str, str],
) -> Tally:
    """Fill a tiled GeoTIFF strip by strip, with all that the COG shall say about itself."""
    tally = Tally(layer, len(names))
    with rasterio.open(path, "w", **_draft_profile(grid, layer, len(names))) as draft:
        _describe(draft, layer, names, tags)
        for first, last in _strips(grid, layer, len(names)):
            strip = _strip(read, first, last, (len(names), last - first, grid.width), layer)
            tally.add(strip)
            draft.write(strip, window=Window(0, first, grid.width, last - first))
        if not layer.categorical:
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
        "blockxsize": block(layer, count),
        "blockysize": block(layer, count),
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
        **({"photometric": "palette"} if layer.legend else {"photometric": "minisblack"}),
    }


def _describe(draft: Any, layer: Layer, names: Sequence[str], tags: Mapping[str, str]) -> None:
    """Set names, units, scale, colours and tags."""
    draft.descriptions = tuple(names)
    draft.scales = (layer.scale,) * len(names)
    draft.offsets = (0.0,) * len(names)
    if layer.unit is not None:
        draft.units = (layer.unit,) * len(names)
    if layer.legend:
        draft.write_colormap(1, styles.colormap())
    about = {"LAYER": layer.name, "TITLE": layer.title, "DESCRIPTION": layer.description}
    draft.update_tags(**dict(sorted({**about, **tags}.items())))


def _strip(
    read: Read, first: int, last: int, shape: tuple[int, int, int], layer: Layer
) -> NDArray[Any]:
    """Ask for one strip and refuse what does not fit."""
    strip = np.ascontiguousarray(read(first, last))
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


def _strips(grid: Grid, layer: Layer, count: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each strip, and the row after its last."""
    step = block(layer, count)
    for first in range(0, grid.height, step):
        yield first, min(first + step, grid.height)


def _finish(draft: Path, finished: Path, layer: Layer, side: int) -> None:
    """Let GDAL lay the file out as a COG, with overviews that suit the layer."""
    rasterio.shutil.copy(
        draft,
        finished,
        driver="COG",
        blocksize=side,
        compress="DEFLATE",
        level=6,
        predictor="NO" if layer.categorical else "YES",
        overviews="IGNORE_EXISTING",
        overview_resampling=layer.overview.upper(),
        bigtiff="IF_SAFER",
        num_threads=1,
    )


def _check(path: Path, grid: Grid, layer: Layer, tally: Tally) -> None:
    """Read the finished file as a stranger would and compare it with what was handed in.

    A truncated GeoTIFF opens and reads as nodata: only the pixels prove it whole.
    """
    again = Tally(layer, tally.count)
    with rasterio.open(path) as source:
        layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        found = (layout, source.shape, source.count, source.transform, source.crs.to_epsg())
        due = ("COG", grid.shape, tally.count, grid.transform, grid.epsg)
        if found != due:
            raise OSError(f"{path.name} was written as {found}, not as {due}. Write it again.")
        for first, last in _strips(grid, layer, tally.count):
            again.add(source.read(window=Window(0, first, grid.width, last - first)))
    if again.checksum != tally.checksum:
        raise OSError(
            f"The pixels of {path.name} read back differ from those written: the disk is full "
            "or failing. Free space or choose another folder, and run again."
        )


def _write_sidecar(path: Path, grid: Grid, layer: Layer, tally: Tally) -> str | None:
    """Write class names and attribute table where GDAL looks for them; return the SHA-256."""
    if not layer.legend:
        return None
    counts = tally.statistics()[0].counts or {}
    sidecar = path.with_name(f"{path.name}.aux.xml")
    atomic_files.write_atomic(sidecar, styles.attribute_table(counts, grid.resolution).encode())
    return atomic_files.sha256(sidecar)
