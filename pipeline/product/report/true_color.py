"""Render Sentinel-2 composites in true colour."""

from __future__ import annotations

import numpy as np

from pipeline.product.report import rendering
from pipeline.product.report.rendering import Pixels, Thumbnail

TRUE_COLOR_BANDS = ("B04", "B03", "B02")
"""Sentinel-2 bands of red, green and blue."""

_BRIGHT_DN = 3500
"""DN of Sentinel-2 above which, in a visible band, a pixel is snow, cloud or glint."""


def render_true_color(composite: Thumbnail) -> Pixels:
    """Stretch red, green and blue from the 2 % to the 98 % quantile of land and water, all alike.

    Snow and clouds are left out of the quantiles unless there is nothing else: they would make the
    rest of the image too dark.
    """
    known = composite.valid_mask
    order = [composite.bands.index(name) for name in TRUE_COLOR_BANDS]
    pixels = np.full((*known.shape, 3), rendering.OUTSIDE_COLOR, np.uint8)
    if not known.any():
        return pixels
    colors = composite.values[order][:, known].astype(np.float64)
    dark = (colors < _BRIGHT_DN).all(axis=0)
    land = colors[:, dark] if dark.any() else colors
    low, high = np.percentile(land, rendering.PERCENTILES)
    stretched = np.clip((colors - low) / max(high - low, 1e-9), 0, 1)
    pixels[known] = np.rint(255 * stretched.T)
    return pixels
