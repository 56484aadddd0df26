"""Write a layer as a cloud-optimised GeoTIFF with colours, band names and statistics.

A COG appears whole or not at all: a tiled GeoTIFF is filled strip by strip in a temporary
directory, GDAL's COG driver writes the final layout, every pixel is read back, and only then does
the file get its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.windows import Window

from catalogs.errors import InvalidInputError, TerramosaicError
from pipeline.grid import ground_scale
from pipeline.grid.grid import Grid
from pipeline.layer_table import Layer
from pipeline.reading.asset_opener import GDAL_CACHE_MB
from pipeline.runtime import atomic_files
from pipeline.storage import styles
from pipeline.storage.band_statistics import BandStatistics, RasterStatistics
from pipeline.storage.store import Store, StoreLike, open_store

MAX_BLOCK_SIZE = 512
"""Side of a COG's blocks and height of the strips, pixels; smaller for many bands."""

_BLOCK_SIZES = (MAX_BLOCK_SIZE, 256, 128)
_MAX_BLOCK_BYTES = 1 << 24
"""Largest block, decompressed: it holds all bands, and readers decompress it whole."""

StripReader = Callable[[int, int], NDArray[Any]]
"""(first row, row after the last) -> (bands, rows, width) of the layer's stored type."""

_GDAL_OPTIONS: Mapping[str, str | int] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    "GDAL_PAM_ENABLED": "NO",
    # ^ GDAL would write its sidecar beside the temporary name; write_cog writes one itself
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_NUM_THREADS": "1",
    # ^ with one thread the order of the blocks, and so the bytes of the file, are always the same
}


@dataclass(frozen=True, kw_only=True)
class CogInfo:
    """Checksums, size and statistics of a finished COG."""

    sha256: str
    """Hexadecimal digest of the file."""

    size: int
    """Bytes."""

    statistics: tuple[BandStatistics, ...]
    """One entry per band."""

    areas: Mapping[int, float]
    """Value → its area on the ground, km²; empty where the layer has no legend."""

    sidecar_sha256: str | None
    """Hexadecimal SHA-256 of ``<file>.aux.xml``; None where the layer has no legend."""


def block_size(layer: Layer, band_count: int) -> int:
    """Return the side of the blocks of a layer with ``band_count`` bands, pixels."""
    size = band_count * np.dtype(layer.dtype).itemsize
    return next(
        (side for side in _BLOCK_SIZES if side**2 * size <= _MAX_BLOCK_BYTES), _BLOCK_SIZES[-1]
    )


def check_crs(epsg: int) -> None:
    """Check that the code of a coordinate system is found again in a GeoTIFF.

    Raises:
        InvalidInputError: GDAL cannot write the system, or reads another code.
    """
    profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    with MemoryFile() as file:
        with file.open(
            **profile,
            crs=f"EPSG:{epsg}",
            transform=rasterio.Affine(10.0, 0.0, 0.0, 0.0, -10.0, 0.0),
        ):
            pass
        with file.open() as source:
            code = source.crs.to_epsg() if source.crs else None
    if code != epsg:
        reading = f"as EPSG:{code}" if code else "without a code"
        raise InvalidInputError(
            f"A GeoTIFF in EPSG:{epsg} is read {reading}. Set another grid.crs, such as utm."
        )


def write_cog(
    location: StoreLike,
    name: str,
    grid: Grid,
    layer: Layer,
    read_strip: StripReader,
    bands: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
) -> CogInfo:
    """Write a layer as a COG and return its checksum and statistics.

    The same pixels, names and tags give the same bytes. A layer with a legend also gets
    ``<file>.aux.xml`` with its class names and attribute table, which is written before the COG.

    Args:
        location: the store of the folder.
        name: name of the file in it; an existing file is replaced.
        grid: grid of the pixels.
        layer: the layer.
        read_strip: called once per strip of :func:`block_size` rows, from the top.
        bands: names of the bands, if the layer does not define them.
        tags: further metadata of the file.

    Raises:
        ValueError: ``read_strip`` returned another shape or dtype.
        TerramosaicError: the pixels read back differ from those written; no file is left.
    """
    store = open_store(location)
    band_names = layer.band_names(bands)
    with store.temporary_directory() as directory, rasterio.Env(**_GDAL_OPTIONS):
        draft, finished = directory / "draft.tif", directory / Path(name).name
        statistics, areas = _write_draft(draft, grid, layer, read_strip, band_names, tags or {})
        _convert_to_cog(draft, finished, layer, block_size(layer, len(band_names)))
        _verify_cog(finished, grid, layer, statistics)
        sidecar_sha256 = _write_sidecar(store, name, layer, statistics, areas)
        info = CogInfo(
            sha256=atomic_files.sha256(finished),
            size=finished.stat().st_size,
            statistics=statistics.statistics(),
            areas=areas,
            sidecar_sha256=sidecar_sha256,
        )
        store.adopt(finished, name)
    return info


def _write_draft(
    path: Path,
    grid: Grid,
    layer: Layer,
    read_strip: StripReader,
    band_names: Sequence[str],
    tags: Mapping[str, str],
) -> tuple[RasterStatistics, Mapping[int, float]]:
    """Write a tiled GeoTIFF strip by strip, with all metadata of the COG.

    Returns:
        The statistics of the bands, and the areas of the classes; see :class:`CogInfo`.
    """
    statistics = RasterStatistics(layer, len(band_names))
    has_true_areas = not layer.has_legend or ground_scale.has_true_areas(grid)
    ground_areas = np.zeros(256)
    with rasterio.open(path, "w", **_draft_profile(grid, layer, len(band_names))) as draft:
        _write_metadata(draft, layer, band_names, tags)
        for first, last in _iter_strips(grid, layer, len(band_names)):
            strip = _read_strip(
                read_strip, first, last, (len(band_names), last - first, grid.width), layer
            )
            statistics.add(strip)
            if not has_true_areas:
                ground_areas += ground_scale.sum_areas(grid, first, strip[0])
            draft.write(strip, window=Window(0, first, grid.width, last - first))
        if not layer.is_categorical:
            _tag_statistics(draft, statistics.statistics())
    counts = (statistics.statistics()[0].counts or {}) if layer.has_legend else {}
    nominal = grid.resolution**2 / 1e6
    areas = {
        value: count * nominal if has_true_areas else float(ground_areas[value])
        for value, count in counts.items()
    }
    return statistics, areas


def _draft_profile(grid: Grid, layer: Layer, count: int) -> dict[str, Any]:
    """Return the profile of the intermediate GeoTIFF: tiled, and compressed quickly."""
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
    """Set band names, units, scales, colours and tags."""
    draft.descriptions = tuple(band_names)
    draft.scales = (layer.scale,) * len(band_names)
    draft.offsets = (0.0,) * len(band_names)
    if layer.unit is not None:
        draft.units = (layer.unit,) * len(band_names)
    if layer.legend is not None:
        draft.write_colormap(1, styles.colormap(layer.legend))
    layer_tags = {"LAYER": layer.name, "TITLE": layer.title, "DESCRIPTION": layer.description}
    draft.update_tags(**dict(sorted({**layer_tags, **tags}.items())))


def _read_strip(
    read_strip: StripReader, first: int, last: int, shape: tuple[int, int, int], layer: Layer
) -> NDArray[Any]:
    """Read one strip, and check its shape and dtype."""
    strip = np.ascontiguousarray(read_strip(first, last))
    if strip.shape != shape or strip.dtype != np.dtype(layer.dtype):
        raise ValueError(
            f"Rows {first} to {last} of layer {layer.name!r} are {strip.dtype} {strip.shape}; "
            f"needed are {layer.dtype} {shape} (bands, rows, columns)."
        )
    return strip


def _tag_statistics(draft: Any, statistics: Sequence[BandStatistics]) -> None:
    """Set the statistics by which GDAL and QGIS stretch a band."""
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
    """Convert a GeoTIFF to a COG, with overviews resampled as the layer requires."""
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


def _verify_cog(path: Path, grid: Grid, layer: Layer, written: RasterStatistics) -> None:
    """Read the finished file back and compare it with what was written.

    A truncated GeoTIFF opens, and reads as nodata: only its pixels show whether it is whole.
    """
    read = RasterStatistics(layer, written.count)
    with rasterio.open(path) as source:
        layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        actual = (layout, source.shape, source.count, source.transform, source.crs.to_epsg())
        expected = ("COG", grid.shape, written.count, grid.transform, grid.epsg)
        if actual != expected:
            raise TerramosaicError(
                f"GDAL {rasterio.__gdal_version__} has written {path.name} as {actual}, not as "
                f"{expected}. Report this as a bug."
            )
        for first, last in _iter_strips(grid, layer, written.count):
            read.add(source.read(window=Window(0, first, grid.width, last - first)))
    if read.checksum != written.checksum:
        raise TerramosaicError(
            f"The pixels of {path.name} read back differ from those written: the disk is full "
            "or failing. Free space or set another output.path, and run the same command again."
        )


def _write_sidecar(
    store: Store,
    name: str,
    layer: Layer,
    statistics: RasterStatistics,
    areas: Mapping[int, float],
) -> str | None:
    """Write class names and attribute table beside a COG, for GDAL; return the SHA-256."""
    if layer.legend is None:
        return None
    counts = statistics.statistics()[0].counts or {}
    sidecar_name = f"{name}.aux.xml"
    store.write(sidecar_name, styles.attribute_table(layer.legend, counts, areas).encode())
    return store.sha256(sidecar_name)
