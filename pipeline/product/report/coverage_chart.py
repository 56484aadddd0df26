"""Draw the coverage by date as inline SVG: a row per input, a bar per day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from markupsafe import Markup

from pipeline.product import descriptions
from pipeline.quality.coverage import DayCoverage

_LEFT, _RIGHT, _TOP, _ROW_HEIGHT, _ROW_GAP = 84, 916, 34, 84, 34
"""Left and right edge of the plot, its top, the height of a row, and the gap under it, pixels."""

_CLEAR_COLOR, _CLOUDY_COLOR = (24, 88, 140), (205, 210, 216)
"""Colours of a cloud cover of 0 and 100 %; they differ mostly in lightness."""

_UNKNOWN_CLOUD_COLOR, _UNDATED_COLOR = "#3b7a78", "#e2ebea"

_MIN_BAR_WIDTH, _MAX_BAR_WIDTH = 1.2, 16.0
"""Width of a bar, pixels."""

_REJECTED_COLOR, _MIN_HATCHED_WIDTH = "#d8b5a4", 4.0
"""Colour of rejected scenes where a bar is too narrow to be hatched, and the width from which on it
is hatched, pixels."""

_HATCH_PATTERN = (
    '<pattern id="left-out" width="5" height="5" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="5" height="5" fill="#fff"/>'
    '<rect width="1.6" height="5" fill="#8a5a44"/></pattern>'
)

_LABEL_STEPS = (1, 2, 5, 10)
"""Days between two labels of a short axis."""


def draw_coverage(days: Sequence[DayCoverage]) -> Markup:
    """Draw the coverage of the region by date: a row per input, a bar per day; empty without days.

    The height of a bar is the share of the region under that day's footprints, its colour the
    cloud cover. Hatched bars are rejected scenes, with the reasons in their tooltips.
    """
    if not days:
        return Markup()
    rows: dict[str, list[DayCoverage]] = {}
    for day in days:
        rows.setdefault(day.modality, []).append(day)
    dates = sorted(day.date for day in days if day.date)
    scale = _TimeAxis(dates[0], dates[-1]) if dates else _TimeAxis(dt.date.min, dt.date.min)
    bottom = _TOP + len(rows) * (_ROW_HEIGHT + _ROW_GAP) - _ROW_GAP
    parts = [f"<defs>{_HATCH_PATTERN}</defs>", *_draw_legend()]
    for number, (modality, row) in enumerate(rows.items()):
        parts += _draw_row(modality, row, _TOP + number * (_ROW_HEIGHT + _ROW_GAP), scale)
    if dates:
        parts += _draw_axis(scale, bottom)
    label = escape(describe_coverage(rows))
    drawing = (
        f'<svg class="timeline" viewBox="0 0 {_RIGHT + 24} {bottom + 34}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )
    return Markup(drawing)  # noqa: S704 -- texts are escaped where they are formatted


def describe_coverage(rows: Mapping[str, Sequence[DayCoverage]]) -> str:
    """Describe the chart in words, for its ``aria-label``."""
    sentences = []
    for modality, row in rows.items():
        used = [day for day in row if day.scenes]
        complete = sum(day.share > 0.995 for day in used)
        text = f"{modality}: used on {len(used)} days, {complete} of which cover the whole region"
        if any(day.date is None for day in row):
            text = (
                f"{modality}: covers {_format_percent(max(day.share for day in row))} of the region"
            )
        left_out = sum(len(day.refused) for day in row)
        sentences.append(f"{text}, {left_out} scenes left out")
    return f"Coverage by date. {'; '.join(sentences)}."


class _TimeAxis:
    """Horizontal axis: from dates to pixels."""

    def __init__(self, first: dt.date, last: dt.date) -> None:
        self.first, self.last = first, last
        self.days = (last - first).days + 1
        self.pixels = (_RIGHT - _LEFT) / self.days
        self.bar_width = min(_MAX_BAR_WIDTH, max(_MIN_BAR_WIDTH, 0.8 * self.pixels))

    def center_of(self, date: dt.date) -> float:
        return _LEFT + ((date - self.first).days + 0.5) * self.pixels


def _draw_row(
    modality: str, row: Sequence[DayCoverage], top: float, scale: _TimeAxis
) -> Iterator[str]:
    """Draw the row of one input: its name, grid lines and bars."""
    base = top + _ROW_HEIGHT
    yield (
        f'<text x="{_LEFT - 12}" y="{top + _ROW_HEIGHT / 2 + 4:g}" text-anchor="end">'
        f"{modality}</text>"
    )
    for height, label in ((0, "0"), (_ROW_HEIGHT, "100 %")):
        y = base - height
        yield f'<line x1="{_LEFT}" y1="{y:g}" x2="{_RIGHT}" y2="{y:g}" opacity="{0.25:g}"/>'
        if label != "0":
            yield f'<text x="{_RIGHT}" y="{y - 4:g}" text-anchor="end" class="unit">{label}</text>'
    for day in row:
        if day.date is None:
            yield from _draw_day(day, _LEFT, _RIGHT - _LEFT, base)
            yield (
                f'<text x="{(_LEFT + _RIGHT) / 2:g}" y="{top + _ROW_HEIGHT / 2 + 4:g}" '
                'text-anchor="middle">no date</text>'
            )
        else:
            yield from _draw_day(
                day, scale.center_of(day.date) - scale.bar_width / 2, scale.bar_width, base
            )


def _draw_day(day: DayCoverage, left: float, width: float, base: float) -> Iterator[str]:
    """Draw the bars of one day: the rejected scenes behind the used ones."""
    if day.refused:
        share = max(scene.share or 0.0 for scene in day.refused)
        reasons = "\n".join(
            f"{scene.id}: {descriptions.redact_message(scene.reason)}" for scene in day.refused
        )
        fill = "url(#left-out)" if width >= _MIN_HATCHED_WIDTH else _REJECTED_COLOR
        yield _draw_bar(left, width, base, share, fill, f"{_format_day(day)}, left out\n{reasons}")
    if day.scenes:
        cloud = "" if day.cloud_cover is None else f", cloud {day.cloud_cover:.0f} %"
        ids = "\n".join(day.scenes)
        text = f"{_format_day(day)}: {_format_percent(day.share)} of the region{cloud}\n{ids}"
        fill = _UNDATED_COLOR if day.date is None else _cloud_color(day.cloud_cover)
        yield _draw_bar(left, width, base, day.share, fill, text)


def _draw_bar(left: float, width: float, base: float, share: float, fill: str, text: str) -> str:
    height = max(2.0, share * _ROW_HEIGHT)
    # ^ so that a very small share can still be seen
    line = ' stroke="#868e96" stroke-width="0.6"' if width > 3 * _MIN_BAR_WIDTH else ""
    return (
        f'<rect x="{left:.2f}" y="{base - height:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{fill}"{line}><title>{escape(text)}</title></rect>'
    )


def _format_day(day: DayCoverage) -> str:
    return day.modality if day.date is None else f"{day.modality} {day.date.isoformat()}"


def _format_percent(share: float) -> str:
    """Format a share of 0 to 1: only exactly 0 and 1 are written as 0 % and 100 %."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return "more than 99.9 %" if 0.999 < share < 1 else f"{100 * share:.3g} %"


def _cloud_color(cloud_cover: float | None) -> str:
    if cloud_cover is None:
        return _UNKNOWN_CLOUD_COLOR
    fraction = cloud_cover / 100
    mixed = [
        round(a + (b - a) * fraction) for a, b in zip(_CLEAR_COLOR, _CLOUDY_COLOR, strict=True)
    ]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _draw_legend() -> Iterator[str]:
    entries = [
        (_cloud_color(0), "clear"),
        (_cloud_color(50), "half cloudy"),
        (_cloud_color(100), "cloudy"),
        (_UNKNOWN_CLOUD_COLOR, "no cloud figure"),
        ("url(#left-out)", "left out"),
    ]
    x = float(_LEFT)
    for fill, text in entries:
        yield f'<rect x="{x:g}" y="2" width="12" height="12" fill="{fill}" stroke="#868e96"/>'
        yield f'<text x="{x + 18:g}" y="13">{text}</text>'
        x += 44 + 7.2 * len(text)


def _draw_axis(scale: _TimeAxis, base: float) -> Iterator[str]:
    """Draw ticks and labels: days, months or years, by the length of the axis."""
    next_free = 0.0
    for date, text in _axis_labels(scale):
        x = scale.center_of(date)
        yield f'<line x1="{x:.1f}" y1="{base}" x2="{x:.1f}" y2="{base + 5}"/>'
        half = 3.8 * len(text)
        if x - half >= next_free and x + half <= _RIGHT + 22:
            yield f'<text x="{x:.1f}" y="{base + 20}" text-anchor="middle">{text}</text>'
            next_free = x + half + 8


def _axis_labels(scale: _TimeAxis) -> Iterator[tuple[dt.date, str]]:
    if scale.days <= 75:
        step = next(step for step in _LABEL_STEPS if scale.days <= 8 * step)
        for offset in range(0, scale.days, step):
            date = scale.first + dt.timedelta(days=offset)
            yield date, f"{date.day} {date:%b %Y}" if offset == 0 else f"{date.day} {date:%b}"
        return
    months = (scale.last.year - scale.first.year) * 12 + scale.last.month - scale.first.month
    step = next((step for step in (1, 2, 3, 6) if months <= 9 * step), 12)
    for offset in range(months + 1):
        years, month = divmod(scale.first.month - 1 + offset, 12)
        date = dt.date(scale.first.year + years, month + 1, 1)
        if month % step == 0 and date >= scale.first:
            yield date, f"{date:%b %Y}" if step < 12 else f"{date:%Y}"
