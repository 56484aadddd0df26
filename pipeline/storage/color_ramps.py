"""Colour ramps of continuous layers, for pictures and styles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.layer_table import Layer
from pipeline.storage.band_statistics import BandStatistics

ColorRamp = Literal["confidence", "count", "value", "vegetation"]

_COLOR_RAMPS: Mapping[ColorRamp, tuple[tuple[int, int, int], ...]] = {
    "confidence": ((127, 39, 4), (217, 110, 41), (247, 205, 120), (142, 190, 170), (20, 90, 110)),
    "count": ((247, 244, 230), (190, 215, 190), (110, 172, 170), (48, 112, 150), (20, 44, 96)),
    "value": ((42, 24, 88), (60, 78, 138), (44, 134, 142), (116, 190, 110), (250, 232, 120)),
    "vegetation": ((122, 78, 40), (206, 168, 110), (240, 234, 190), (126, 178, 86), (24, 92, 44)),
}
"""Colours from low to high, which differ in lightness as well as in hue."""


def ramp_for_layer(layer: Layer) -> ColorRamp:
    """Return the colour ramp of a layer."""
    return "vegetation" if layer.name == "generated_NDVI" else "value"


def ramp_colors(position: NDArray[np.float64], ramp: ColorRamp) -> NDArray[np.uint8]:
    """Return the colours at positions 0 to 1 of a ramp, shape (..., 3)."""
    anchors = np.asarray(_COLOR_RAMPS[ramp], np.float64)
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(position, stops, anchors[:, index]) for index in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def ramp_stops(
    layer: Layer, band: BandStatistics
) -> tuple[tuple[float, tuple[int, int, int]], ...]:
    """Return values and colours of a layer's ramp, to two standard deviations from the mean.

    Values are physical ones: QGIS and GeoServer apply the scale of a raster before they colour it.
    """
    if band.mean is None or band.stddev is None or band.minimum is None or band.maximum is None:
        raise ValueError(
            f"Layer {layer.name!r} has no valid values, and so no statistics for a colour ramp."
        )
    low = max(band.minimum, band.mean - 2 * band.stddev)
    high = max(min(band.maximum, band.mean + 2 * band.stddev), low + 1e-6)
    positions = np.linspace(0, 1, 9)
    colors = ramp_colors(positions, ramp_for_layer(layer)).tolist()
    return tuple(
        (float(layer.scale * (low + position * (high - low))), (red, green, blue))
        for position, (red, green, blue) in zip(positions, colors, strict=True)
    )
