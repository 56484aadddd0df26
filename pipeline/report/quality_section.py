"""Seams in a report: the figures, and what the map does from window to window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report import page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.quality.gates import Quality, Share
    from pipeline.quality.seam_test import Seam

_SMOOTH = 8
"""Boundaries over which the dark curve is a mean."""

_LEFT, _RIGHT, _TOP, _BASE = 64, 504, 20, 220
"""Pixels: the sides of the plot."""


def section(quality: Quality | None) -> str:
    """Return the section of a report; nothing where nothing was measured."""
    if quality is None:
        return ""
    kinds = {"windows": quality.window, "tiles": quality.tile, "zones": quality.zone}
    rows = [_row(kind, seam) for kind, seam in kinds.items() if seam is not None]
    samples = [
        _share(
            "get another class where the windows lie half a stride further", quality.disagreement
        ),
        _share("keep their class in full precision", quality.precision),
    ]
    drawn = _picture(quality.around, quality.blend)
    if not rows and not any(samples):
        return ""
    heads = ("Lines between", "Lines", "Neighbours that differ", "Usual", "Worst place", "z")
    return page.section(
        "Seams",
        (page.table(heads, rows) if rows else "")
        + '<p class="note">Pairs of neighbouring pixels across the lines, all boundaries of a line '
        "together, beside what the map shows nearby; and at the boundary that stands out most, how "
        "much more than usual. z says how unusual that one is, in standard deviations of what "
        "boundaries on no line show on this same map: without a seam it is above 3 in one map of "
        "700.</p>"
        + "".join(samples)
        + (f'<figure style="max-width:520px">{drawn}</figure>' if drawn else ""),
    )


def _row(kind: str, seam: Seam) -> str:
    cells = (
        f"{seam.lines}",
        _percent(seam.rate),
        _percent(seam.rate - seam.excess),
        f"{100 * seam.worst:+.2g}",
        f"{seam.z:+.1f}",
    )
    return f'<tr><th scope="row">{kind}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _share(what: str, share: Share | None) -> str:
    if share is None:
        return ""
    low, high = 100 * share.low, 100 * share.high
    return (
        f"<p>{100 * share.share:.2f} % of {share.n:,} sampled pixels {what} "
        f"(95 % interval {low:.2f} to {high:.2f} %).</p>"
    )


def _picture(around: tuple[float, ...], blend: int) -> str:
    """Draw the rate at each boundary by its distance from the middle of a blend."""
    if len(around) < 3:
        return ""
    size = len(around)
    middle = (blend - 1) // 2
    rates = np.roll(around, size // 2 - middle)
    top = max(float(rates.max()), 1e-9) * 1.1
    wide = (_RIGHT - _LEFT) / size
    xs = _LEFT + (np.arange(size) + 0.5) * wide
    smooth = np.convolve(np.pad(rates, _SMOOTH // 2, "wrap"), np.ones(_SMOOTH) / _SMOOTH, "same")
    smooth = smooth[_SMOOTH // 2 :][:size]
    # ^ coarser bands make every other boundary a busier one
    left = _LEFT + (size // 2 - middle) * wide
    ticks = "".join(
        f'<text x="{_LEFT + (distance + size // 2 + 0.5) * wide:.0f}" y="{_BASE + 18}" '
        f'text-anchor="middle">{f"{distance:+d}" if distance else 0}</text>'
        for distance in (-(size // 2), -(size // 4), 0, size // 4, size - size // 2 - 1)
    )
    heights = "".join(
        f'<text x="{_LEFT - 6}" y="{_BASE - share * (_BASE - _TOP) + 5:.0f}" text-anchor="end">'
        f"{100 * share * top:.2g} %</text>"
        for share in (0.0, 0.5, 1.0)
    )
    key = "".join(
        f'<line x1="{x}" y1="{_BASE + 56}" x2="{x + 22}" y2="{_BASE + 56}" stroke="{color}" '
        f'stroke-width="{wide}"/><text x="{x + 28}" y="{_BASE + 60}">{name}</text>'
        for x, color, wide, name in (
            (_LEFT, "#a9c6c4", 1, "each boundary"),
            (_LEFT + 140, "#1f5654", 2, f"mean of {_SMOOTH}"),
            (_LEFT + 270, "#e2ebea", 12, "two windows blend"),
        )
    )
    ends = f"{rates.min():.3g} to {rates.max():.3g}"
    return (
        f'<svg viewBox="0 0 520 290" role="img" aria-label="Changes by distance from the line '
        f'between two windows: {ends}">'
        f'<rect x="{left:.1f}" y="{_TOP}" width="{blend * wide:.1f}" height="{_BASE - _TOP}" '
        'fill="#e2ebea"/>'
        f"{_curve(xs, rates / top, '#a9c6c4', 1)}{_curve(xs, smooth / top, '#1f5654', 2)}"
        f'<line x1="{_LEFT}" y1="{_BASE}" x2="{_RIGHT}" y2="{_BASE}"/>{ticks}{heights}{key}'
        f'<text x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_BASE + 36}" text-anchor="middle">distance from '
        "the line between two windows, px</text>"
        f'<text x="{_LEFT + 6}" y="{_TOP - 6}">neighbours that differ; what repeats every few '
        "pixels is the model's patch or the scenes' grid</text></svg>"
    )


def _curve(xs: NDArray[Any], shares: NDArray[Any], color: str, wide: float) -> str:
    ys = _BASE - shares * (_BASE - _TOP)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{wide:g}"/>'
