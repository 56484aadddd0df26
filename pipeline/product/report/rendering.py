"""Render layers as coloured pixels: thumbnails, legend colours and stretches.

Deterministic: the same arrays give the same pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling

from catalogs.legend import Legend
from pipeline.layer_table import Layer
from pipeline.storage import color_ramps

Pixels = NDArray[np.uint8]
"""(rows, columns, 3): red, green, blue."""

Mask = NDArray[np.bool_]
"""(rows, columns)."""

OUTSIDE_COLOR = (240, 241, 243)
"""Outside the region."""

UNOBSERVED_COLOR = (186, 190, 196)
HATCH_COLOR = (128, 133, 140)
"""Inside the region, without a clear observation."""

UNCLASSIFIED_COLOR = (236, 206, 178)
"""Observed, but without a class."""

MAX_HEIGHT = 1100
"""Largest height of a panel, pixels."""

PERCENTILES = (2.0, 98.0)
"""Quantiles in percent that are the ends of a stretch."""

_PCA_SAMPLES = 4096
"""Cells from which the principal components are computed."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A raster resampled to the size of a panel."""

    values: NDArray[Any]
    """(bands, rows, columns), stored values."""

    bands: tuple[str, ...]
    """Names of the bands."""

    metres_per_pixel: float
    """Width of one pixel on the ground."""

    nodata: float | None
    """Stored value of pixels without data."""

    @property
    def valid_mask(self) -> NDArray[np.bool_]:
        """Return where all bands hold data, (rows, columns)."""
        if self.nodata is None:
            return np.ones(self.values.shape[1:], bool)
        if math.isnan(self.nodata):
            not_nan: NDArray[np.bool_] = ~np.isnan(self.values).any(axis=0)
            return not_nan
        valid: NDArray[np.bool_] = (self.values != self.nodata).all(axis=0)
        return valid


def read_thumbnail(
    path: str | Path, layer: Layer, max_size: int, bands: Sequence[str] = ()
) -> Thumbnail:
    """Read a COG at no more than ``max_size`` pixels a side, mostly from its overviews.

    Labels are resampled by mode, everything else by average.

    Args:
        path: the file, as GDAL opens it.
        layer: the layer in it.
        max_size: longest side of the result, pixels.
        bands: names of the bands to read, in that order; all where empty.

    Raises:
        ValueError: the file has no band of that name.
    """
    with rasterio.open(path) as source:
        names = tuple(source.descriptions)
        selected = tuple(bands) or names
        if missing := [name for name in selected if name not in names]:
            raise ValueError(f"{Path(path).name} has no band {missing}; it has {list(names)}.")
        factor = min(1.0, max_size / max(source.shape))
        shape = tuple(max(1, round(length * factor)) for length in source.shape)
        values = source.read(
            [names.index(name) + 1 for name in selected],
            out_shape=(len(selected), *shape),
            resampling=Resampling[layer.overview_resampling],
        )
        metres = abs(source.transform.a) * source.width / shape[1]
        return Thumbnail(
            values=values, bands=selected, metres_per_pixel=metres, nodata=source.nodata
        )


def encode_png(pixels: Image.Image | Pixels) -> bytes:
    """Encode a picture as PNG."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=9)
    return out.getvalue()


def render_classes(class_map: Thumbnail, legend: Legend) -> Pixels:
    """Colour a map of classes by its legend."""
    table = np.zeros((256, 3), np.uint8)
    for entry in legend.classes:
        table[entry.code] = entry.color
    table[legend.nodata] = OUTSIDE_COLOR
    pixels: Pixels = table[class_map.values[0]]
    return pixels


def hatch_pixels(
    pixels: Pixels, mask: NDArray[np.bool_], color: tuple[int, int, int] = UNOBSERVED_COLOR
) -> Pixels:
    """Fill a mask with a colour, and hatch it."""
    covered = pixels.copy()
    covered[mask] = color
    covered[mask & hatch_mask(mask.shape)] = HATCH_COLOR
    return covered


def hatch_mask(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return diagonal lines, two pixels of eight."""
    rows, columns = np.indices(shape)
    lines: NDArray[np.bool_] = (rows + columns) % 8 < 2
    return lines


def gap_mask(output: Thumbnail, observations: Thumbnail | None) -> NDArray[np.bool_]:
    """Return where an output is empty inside the region; nowhere without observations."""
    empty = ~output.valid_mask
    if observations is None:
        return np.zeros_like(empty)
    if observations.values.shape[1:] != empty.shape:
        raise ValueError(
            f"The map is {empty.shape} and its observations {observations.values.shape[1:]}: "
            "read both thumbnails at one size."
        )
    inside: NDArray[np.bool_] = empty & observations.valid_mask
    return inside


def unclassified_mask(output: Thumbnail, observations: Thumbnail | None) -> NDArray[np.bool_]:
    """Return where an output is empty although there are observations.

    Resampled counts are averages, and above 0 also at the edges of observed areas: call this only
    for products whose full counts show that there are such pixels.
    """
    gaps = gap_mask(output, observations)
    return gaps if observations is None else gaps & (observations.values[0] > 0)


def apply_ramp(layer: Thumbnail, ramp: color_ramps.ColorRamp, low: float, high: float) -> Pixels:
    """Colour a continuous layer from ``low`` to ``high``; nodata gets the colour of the outside."""
    is_valid = layer.valid_mask
    values = layer.values[0].astype(np.float64)
    position = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    pixels = color_ramps.ramp_colors(np.where(is_valid, position, 0.0), ramp)
    pixels[~is_valid] = OUTSIDE_COLOR
    return pixels


def percentile_limits(layer: Thumbnail) -> tuple[float, float]:
    """Return the 2 % and 98 % quantile of the first band; 0 and 1 without valid values."""
    valid_values = layer.values[0][layer.valid_mask]
    if not valid_values.size:
        return 0.0, 1.0
    low, high = np.percentile(valid_values.astype(np.float64), PERCENTILES)
    return float(low), float(high)


def render_principal_components(features: Thumbnail) -> Pixels:
    """Render the first three principal components of many bands as red, green and blue.

    They are computed from a sample of this thumbnail, and are valid for it alone.

    source: Hotelling (1933), Analysis of a complex of statistical variables.
    """
    is_valid = features.valid_mask
    pixels = np.full((*is_valid.shape, 3), OUTSIDE_COLOR, np.uint8)
    if not is_valid.any():
        return pixels
    points = features.values[:, is_valid].T
    # ^ (cells, bands)
    sample = points[:: max(1, len(points) // _PCA_SAMPLES)].astype(np.float64)
    centre = sample.mean(axis=0)
    spread = (sample - centre).T @ (sample - centre)
    axes = np.linalg.eigh(spread).eigenvectors[:, ::-1][:, :3]
    strongest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    axes = axes * np.where(strongest < 0, -1.0, 1.0)
    # ^ the sign of an axis is arbitrary: its largest component is made positive, to be repeatable
    components = (points - centre.astype(np.float32)) @ axes.astype(np.float32)
    low, high = np.percentile(components, PERCENTILES, axis=0)
    shown = np.clip((components - low) / np.maximum(high - low, 1e-9), 0, 1)
    colors = np.full((len(points), 3), 0.5)
    colors[:, : shown.shape[1]] = shown
    pixels[is_valid] = np.rint(255 * colors)
    return pixels


def upscale(pixels: Pixels, width: int) -> Pixels:
    """Enlarge a small image by a whole number, up to ``width`` pixels."""
    factor = max(1, min(width // pixels.shape[1], MAX_HEIGHT // pixels.shape[0]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def count_codes(class_map: Thumbnail) -> dict[int, int]:
    """Count the codes of a thumbnail."""
    codes, counts = np.unique(class_map.values[0], return_counts=True)
    return {int(code): int(count) for code, count in zip(codes, counts, strict=True)}


def fit_panel(pixels: Pixels, max_width: int) -> Image.Image:
    """Resize a panel: enlarge it by a whole number, or reduce it."""
    image = Image.fromarray(upscale(pixels, max_width))
    factor = min(max_width / image.width, MAX_HEIGHT / image.height, 1.0)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST) if size != image.size else image
