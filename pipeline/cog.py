"""Write a layer as a cloud-optimised GeoTIFF that opens with colours, names and statistics.

A COG is the layer an analyst sees, so it is made whole or not at all: a tiled GeoTIFF is filled
strip by strip in a hidden folder beside the target, GDAL's COG driver makes the final layout from
it, every pixel is read back, and only then does the file get its name.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline import files, styles

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.grid import Grid
    from pipeline.layers import Layer

BLOCK = 512
"""Side of a COG's tiles and height of the strips asked for, pixels."""

Read = Callable[[int, int], NDArray[Any]]
"""(first row, row after the last) -> (bands, rows, width) of the layer's stored type."""

_GDAL: Mapping[str, str] = {
    "GDAL_PAM_ENABLED": "NO",
    # ^ the sidecar is ours to write: GDAL's own would be written beside the temporary name
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_NUM_THREADS": "1",
    # ^ one thread per writer: the order of the blocks, and so the bytes, cannot vary
}


@dataclass(frozen=True, kw_only=True)
class BandStatistics:
    """What is in one band; values are stored values, before the layer's scale."""

    valid: int
    """Pixels that are not nodata."""

    total: int
    """All pixels."""

    minimum: float | None
    """Smallest valid value; None where there is none."""

    maximum: float | None
    """Largest valid value."""

    mean: float | None
    """Mean of the valid values; None for labels and where nothing is valid."""

    stddev: float | None
    """Population standard deviation of the valid values; None as the mean."""

    counts: Mapping[int, int] | None
    """Pixels per value, nodata included, for 8-bit and 16-bit unsigned layers; else None."""

    @property
    def valid_percent(self) -> float:
        """Return the share of pixels that are not nodata, 0 to 100."""
        return 100.0 * self.valid / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        counts = self.counts
        return {
            "valid": self.valid,
            "total": self.total,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "mean": self.mean,
            "stddev": self.stddev,
            "counts": None if counts is None else {str(key): counts[key] for key in counts},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BandStatistics:
        """Build the statistics from :meth:`to_dict`'s values."""
        counts = values["counts"]
        whole = None if counts is None else {int(key): int(counts[key]) for key in counts}
        return cls(**{**values, "counts": whole})


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
        read: called once per strip of :data:`BLOCK` rows, from the top, then never again.
        bands: names of the bands, where the layer leaves them open.
        tags: further metadata of the file.

    Raises:
        ValueError: ``read`` answered with another shape or type than asked for.
        OSError: what was read back differs from what was written; nothing is left.
    """
    names = layer.named(bands)
    with files.workspace(path.parent) as work, rasterio.Env(**_GDAL):
        draft, finished = work / "draft.tif", work / path.name
        tally = _draft(draft, grid, layer, read, names, tags or {})
        _finish(draft, finished, layer)
        _check(finished, grid, layer, tally)
        sidecar = _write_sidecar(path, grid, layer, tally)
        info = CogInfo(
            sha256=files.sha256(finished),
            size=finished.stat().st_size,
            statistics=tally.statistics(),
            sidecar=sidecar,
        )
        files.promote(finished, path)
    return info


def _draft(
    path: Path,
    grid: Grid,
    layer: Layer,
    read: Read,
    names: Sequence[str],
    tags: Mapping[str, str],
) -> _Tally:
    """Fill a tiled GeoTIFF strip by strip, with all that the COG shall say about itself."""
    tally = _Tally(layer, len(names))
    with rasterio.open(path, "w", **_draft_profile(grid, layer, len(names))) as draft:
        _describe(draft, layer, names, tags)
        for first in range(0, grid.height, BLOCK):
            last = min(first + BLOCK, grid.height)
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
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
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


def _finish(draft: Path, finished: Path, layer: Layer) -> None:
    """Let GDAL lay the file out as a COG, with overviews that suit the layer."""
    rasterio.shutil.copy(
        draft,
        finished,
        driver="COG",
        blocksize=BLOCK,
        compress="DEFLATE",
        level=6,
        predictor="NO" if layer.categorical else "YES",
        overviews="IGNORE_EXISTING",
        overview_resampling=layer.overview.upper(),
        bigtiff="IF_SAFER",
        num_threads=1,
    )


def _check(path: Path, grid: Grid, layer: Layer, tally: _Tally) -> None:
    """Read the finished file as a stranger would and compare it with what was handed in.

    A truncated GeoTIFF opens and reads as nodata: only the pixels prove it whole.
    """
    again = _Tally(layer, tally.count)
    with rasterio.open(path) as source:
        layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        found = (layout, source.shape, source.count, source.transform, source.crs.to_epsg())
        due = ("COG", grid.shape, tally.count, grid.transform, grid.epsg)
        if found != due:
            raise OSError(f"{path.name} was written as {found}, not as {due}. Write it again.")
        for first in range(0, grid.height, BLOCK):
            rows = min(BLOCK, grid.height - first)
            again.add(source.read(window=Window(0, first, grid.width, rows)))
    if again.checksum != tally.checksum:
        raise OSError(
            f"The pixels of {path.name} read back differ from those written: the disk is full "
            "or failing. Free space or choose another folder, and run again."
        )


class _Tally:
    """Statistics and a checksum, gathered while strips pass by."""

    def __init__(self, layer: Layer, count: int) -> None:
        self.layer = layer
        self.count = count
        self.checksum = 0
        self.bands = [_BandTally(layer) for _ in range(count)]

    def add(self, strip: NDArray[Any]) -> None:
        """Take in a strip, (bands, rows, columns)."""
        self.checksum = zlib.crc32(np.ascontiguousarray(strip).data, self.checksum)
        for band, values in zip(self.bands, strip, strict=True):
            band.add(values)

    def statistics(self) -> tuple[BandStatistics, ...]:
        """Return what was gathered, one entry per band."""
        return tuple(band.statistics() for band in self.bands)


class _BandTally:
    """Running statistics of one band.

    source: Chan, Golub, LeVeque (1979), updating formulae for means and variances of groups.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.total = self.valid = 0
        self.minimum, self.maximum = np.inf, -np.inf
        self.mean = self.squares = 0.0
        dtype = np.dtype(layer.dtype)
        self.counts = (
            np.zeros(1 << (8 * dtype.itemsize), np.int64)
            if dtype.kind == "u" and dtype.itemsize <= 2
            else None
        )

    def add(self, values: NDArray[Any]) -> None:
        """Take in the values of one strip."""
        self.total += values.size
        if self.counts is not None:
            self.counts += np.bincount(values.ravel(), minlength=self.counts.size)
        known = values[self.layer.valid(values)]
        if known.size == 0:
            return
        self.minimum = min(self.minimum, float(known.min()))
        self.maximum = max(self.maximum, float(known.max()))
        if not self.layer.categorical:
            self._merge(known.astype(np.float64))
        self.valid += known.size

    def _merge(self, known: NDArray[np.float64]) -> None:
        """Merge the mean and the sum of squared deviations of a group into the running ones."""
        mean = float(known.mean())
        squares = float(np.square(known - mean).sum())
        total = self.valid + known.size
        step = mean - self.mean
        self.mean += step * known.size / total
        self.squares += squares + step * step * self.valid * known.size / total

    def statistics(self) -> BandStatistics:
        """Return what was gathered."""
        known, moments = self.valid > 0, self.valid > 0 and not self.layer.categorical
        return BandStatistics(
            valid=self.valid,
            total=self.total,
            minimum=self.minimum if known else None,
            maximum=self.maximum if known else None,
            mean=self.mean if moments else None,
            stddev=float(np.sqrt(self.squares / self.valid)) if moments else None,
            counts=None
            if self.counts is None
            else {int(value): int(self.counts[value]) for value in np.flatnonzero(self.counts)},
        )


def _write_sidecar(path: Path, grid: Grid, layer: Layer, tally: _Tally) -> str | None:
    """Write class names and attribute table where GDAL looks for them; return the SHA-256."""
    if not layer.legend:
        return None
    counts = tally.statistics()[0].counts or {}
    sidecar = path.with_name(f"{path.name}.aux.xml")
    files.write_atomic(sidecar, styles.attribute_table(counts, grid.resolution).encode())
    return files.sha256(sidecar)
