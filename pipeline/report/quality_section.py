"""Seams in a report: the figures, and what the map does from window to window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report import page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.quality.gates import ProportionEstimate, QualityMetrics
    from pipeline.quality.seam_test import Seam

_SMOOTHING_LENGTH = 8
"""Boundaries over which the dark curve is a mean."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 504, 20, 220
"""Pixels: the sides of the plot."""


def render_quality(quality: QualityMetrics | None) -> str:
    """Return the section of a report; nothing where nothing was measured."""
    if quality is None:
        return ""
    kinds = {"windows": quality.window, "tiles": quality.tile, "zones": quality.zone}
    rows = [_render_seam_row(kind, seam) for kind, seam in kinds.items() if seam is not None]
    samples = [
        _render_proportion(
            "get another class where the windows lie half a stride further", quality.disagreement
        ),
        _render_proportion("keep their class in full precision", quality.precision),
    ]
    drawn = _draw_rate_chart(quality.rate_by_phase, quality.blend_length)
    if not rows and not any(samples):
        return ""
    heads = ("Lines between", "Lines", "Neighbours that differ", "Usual", "Worst place", "z")
    return page.render_section(
        "Seams",
        (page.render_table(heads, rows) if rows else "")
        + '<p class="note">Pairs of neighbouring pixels across the lines, all boundaries of a line '
        "together, beside what the map shows nearby; and at the boundary that stands out most, how "
        "much more than usual. z says how unusual that one is, in standard deviations of what "
        "boundaries on no line show on this same map: without a seam it is above 3 in one map of "
        "700.</p>"
        + "".join(samples)
        + (f'<figure style="max-width:520px">{drawn}</figure>' if drawn else ""),
    )


def _render_seam_row(kind: str, seam: Seam) -> str:
    cells = (
        f"{seam.lines}",
        _format_percent(seam.rate),
        _format_percent(seam.rate - seam.excess),
        f"{100 * seam.worst:+.2g}",
        f"{seam.z:+.1f}",
    )
    return f'<tr><th scope="row">{kind}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _format_percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _render_proportion(statement: str, share: ProportionEstimate | None) -> str:
    if share is None:
        return ""
    low, high = 100 * share.low, 100 * share.high
    return (
        f"<p>{100 * share.share:.2f} % of {share.n:,} sampled pixels {statement} "
        f"(95 % interval {low:.2f} to {high:.2f} %).</p>"
    )


def _draw_rate_chart(rate_by_phase: tuple[float, ...], blend_length: int) -> str:
    """Draw the rate at each boundary by its distance from the middle of a blend."""
    if len(rate_by_phase) < 3:
        return ""
    size = len(rate_by_phase)
    middle = (blend_length - 1) // 2
    rates = np.roll(rate_by_phase, size // 2 - middle)
    top = max(float(rates.max()), 1e-9) * 1.1
    wide = (_RIGHT - _LEFT) / size
    xs = _LEFT + (np.arange(size) + 0.5) * wide
    smooth = np.convolve(
        np.pad(rates, _SMOOTHING_LENGTH // 2, "wrap"),
        np.ones(_SMOOTHING_LENGTH) / _SMOOTHING_LENGTH,
        "same",
    )
    smooth = smooth[_SMOOTHING_LENGTH // 2 :][:size]
    # ^ coarser bands make every other boundary a busier one
    left = _LEFT + (size // 2 - middle) * wide
    ticks = "".join(
        f'<text x="{_LEFT + (distance + size // 2 + 0.5) * wide:.0f}" y="{_BOTTOM + 18}" '
        f'text-anchor="middle">{f"{distance:+d}" if distance else 0}</text>'
        for distance in (-(size // 2), -(size // 4), 0, size // 4, size - size // 2 - 1)
    )
    heights = "".join(
        f'<text x="{_LEFT - 6}" y="{_BOTTOM - share * (_BOTTOM - _TOP) + 5:.0f}" text-anchor="end">'
        f"{100 * share * top:.2g} %</text>"
        for share in (0.0, 0.5, 1.0)
    )
    key = "".join(
        f'<line x1="{x}" y1="{_BOTTOM + 56}" x2="{x + 22}" y2="{_BOTTOM + 56}" stroke="{color}" '
        f'stroke-width="{wide}"/><text x="{x + 28}" y="{_BOTTOM + 60}">{name}</text>'
        for x, color, wide, name in (
            (_LEFT, "#a9c6c4", 1, "each boundary"),
            (_LEFT + 140, "#1f5654", 2, f"mean of {_SMOOTHING_LENGTH}"),
            (_LEFT + 270, "#e2ebea", 12, "two windows blend"),
        )
    )
    ends = f"{rates.min():.3g} to {rates.max():.3g}"
    return (
        f'<svg viewBox="0 0 520 290" role="img" aria-label="Changes by distance from the line '
        f'between two windows: {ends}">'
        f'<rect x="{left:.1f}" y="{_TOP}" width="{blend_length * wide:.1f}" height="{_BOTTOM - _TOP}" '
        'fill="#e2ebea"/>'
        f"{_draw_curve(xs, rates / top, '#a9c6c4', 1)}{_draw_curve(xs, smooth / top, '#1f5654', 2)}"
        f'<line x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}"/>{ticks}{heights}{key}'
        f'<text x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_BOTTOM + 36}" text-anchor="middle">distance from '
        "the line between two windows, px</text>"
        f'<text x="{_LEFT + 6}" y="{_TOP - 6}">neighbours that differ; what repeats every few '
        "pixels is the model's patch or the scenes' grid</text></svg>"
    )


def _draw_curve(xs: NDArray[Any], shares: NDArray[Any], color: str, wide: float) -> str:
    ys = _BOTTOM - shares * (_BOTTOM - _TOP)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{wide:g}"/>'
