"""Draw the small charts of a report as inline SVG: confidence, and change rates at seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.product.report import html

HISTOGRAM_BINS = 20
"""Bars of the confidence histogram, 5 % each."""

SMOOTHING_LENGTH = 8
"""Boundaries over which the dark curve of the rates is a mean."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 504, 20, 220
"""Left, right, upper and lower edge of the plot of the rates, pixels."""


def draw_histogram(counts: Mapping[int, int]) -> Markup:
    """Draw the histogram of the confidence.

    Args:
        counts: pixels per confidence, 0 to 100 %.
    """
    bins = np.zeros(HISTOGRAM_BINS)
    for value, count in counts.items():
        bins[min(value * HISTOGRAM_BINS // 100, HISTOGRAM_BINS - 1)] += count
    shares = 100 * bins / bins.sum()
    return html.render_drawing(
        "histogram.svg",
        shares=shares.tolist(),
        largest=float(shares.max()),
        bar_width=460 / HISTOGRAM_BINS,
    )


def draw_seam_rates(rate_by_phase: Sequence[float], blend_length: int) -> Markup:
    """Draw how often neighbours differ at each boundary of a stride of the model's windows.

    Args:
        rate_by_phase: rate at each boundary, from the first one at which two windows blend.
        blend_length: boundaries over which they do.

    Returns:
        The drawing; empty for fewer than three boundaries.
    """
    size = len(rate_by_phase)
    if size < 3:
        return Markup()
    blend_middle = (blend_length - 1) // 2
    rates = np.roll(np.asarray(rate_by_phase), size // 2 - blend_middle)
    scale = max(float(rates.max()), 1e-9) * 1.1
    step = (_RIGHT - _LEFT) / size
    x = _LEFT + (np.arange(size) + 0.5) * step
    distances = (-(size // 2), -(size // 4), 0, size // 4, size - size // 2 - 1)
    return html.render_drawing(
        "seam_rates.svg",
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        blend_left=_LEFT + (size // 2 - blend_middle) * step,
        blend_width=blend_length * step,
        rates=_curve_points(x, rates / scale),
        means=_curve_points(x, _smooth(rates) / scale),
        smoothing=SMOOTHING_LENGTH,
        ticks=[(_LEFT + (distance + size // 2 + 0.5) * step, distance) for distance in distances],
        heights=[
            (_BOTTOM - share * (_BOTTOM - _TOP) + 5, 100 * share * scale)
            for share in (0.0, 0.5, 1.0)
        ],
        lowest=float(rates.min()),
        highest=float(rates.max()),
    )


def _smooth(rates: NDArray[Any]) -> NDArray[Any]:
    """Return the running mean of rates that repeat with the stride."""
    # coarser bands make every second boundary change more often: a mean hides that
    half = SMOOTHING_LENGTH // 2
    kernel = np.ones(SMOOTHING_LENGTH) / SMOOTHING_LENGTH
    return np.convolve(np.pad(rates, half, "wrap"), kernel, "same")[half:][: len(rates)]


def _curve_points(x: NDArray[Any], heights: NDArray[Any]) -> str:
    """Return the ``points`` of a polyline, from heights of 0 to 1."""
    y = _BOTTOM - heights * (_BOTTOM - _TOP)
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in zip(x, y, strict=True))
