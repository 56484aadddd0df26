"""Draw the quicklook: the model's output beside the composite, with a legend.

Drawn with Pillow alone, and deterministic: the same arrays give the same bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catalogs.default_class_colors import BACKGROUND_COLOR as OTHERS_COLOR
from catalogs.legend import fold_to_ascii
from pipeline.layer_table import Layer
from pipeline.product.report import rendering, true_color
from pipeline.product.report.rendering import (
    Mask,
    Pixels,
    Thumbnail,
)
from pipeline.storage import color_ramps, styles
from pipeline.storage.color_ramps import ColorRamp

if TYPE_CHECKING:
    from pipeline.product.product import CoverageCounts

MAX_WIDTH = 1600
"""Largest width of the quicklook, pixels."""

BACKGROUND_COLOR = (255, 255, 255)
TEXT_COLOR = (33, 37, 41)
MUTED_TEXT_COLOR = (108, 117, 125)

MAX_LEGEND_CLASSES = 40
"""Most classes in the legend, the largest ones; the report has them all."""

NOT_OBSERVED = "Not observed"
NOT_CLASSIFIED = "Not classified"
RELATIVE_COLORS_NOTE = (
    "The colours are no classes, and cannot be compared with those of another picture."
)

_MARGIN = 28
_PANEL_GAP = 20
_LEGEND_COLUMN_WIDTH = 310
_LEGEND_LINE_HEIGHT = 34
_COLOR_BAR_LENGTH = 300
"""Length of a colour bar, pixels."""


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """One entry of the legend."""

    title: str
    color: tuple[int, int, int]
    share: float
    """Percentage of the map; of the region if the entry is hatched."""

    hatched: bool = False


@dataclass(frozen=True, kw_only=True)
class ColorBar:
    """A colour ramp in the legend, with the labels of its ends."""

    ramp: ColorRamp
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Title and subtitle of the quicklook."""

    title: str
    subtitle: str


@dataclass(frozen=True, kw_only=True)
class QuicklookLayout:
    """Contents of a quicklook."""

    heading: Heading

    panels: tuple[tuple[str, Pixels], ...]
    """Caption and pixels of each panel, all of one shape."""

    metres_per_pixel: float
    """Width of one pixel on the ground."""

    legend_entries: tuple[LegendEntry, ...] = ()
    color_bar: ColorBar | None = None
    note: str = ""
    """A note on the colours, one line."""

    def __post_init__(self) -> None:
        shapes = [pixels.shape[:2] for _, pixels in self.panels]
        if len(set(shapes)) != 1:
            raise ValueError(
                f"The panels of a quicklook must have one shape, not {shapes}: read all thumbnails "
                "at one size."
            )


@dataclass(frozen=True, kw_only=True)
class ObservedLayers:
    """Observations and composite that are shown beside an output."""

    observations: Thumbnail | None = None
    """Observation counts, of the same shape; nodata lies outside the region."""

    composite: Thumbnail | None = None
    """Sentinel-2 composite with the bands of :data:`true_color.TRUE_COLOR_BANDS`; same shape."""

    coverage_counts: CoverageCounts | None = None
    """Counts of the whole product; by default those of the thumbnails."""


def layout_classes(
    class_map: Thumbnail,
    layer: Layer,
    observed: ObservedLayers,
    heading: Heading,
    *,
    counts: Mapping[int, int] | None = None,
) -> QuicklookLayout:
    """Lay out a map of classes with its legend.

    Args:
        class_map: the map.
        layer: its layer, with the legend.
        observed: observations and composite.
        heading: title and subtitle.
        counts: pixels per code in the whole map; by default those of the thumbnail.
    """
    legend = layer.legend
    if legend is None:
        raise ValueError(f"the layer {layer.name!r} has no classes")
    has_unclassified = observed.coverage_counts is None or observed.coverage_counts.unclassified > 0
    unclassified = rendering.unclassified_mask(
        class_map, observed.observations if has_unclassified else None
    )
    pixels = rendering.hatch_pixels(
        rendering.render_classes(class_map, legend), unclassified, rendering.UNCLASSIFIED_COLOR
    )
    panel = (_to_drawable_text(layer.title), pixels)
    layout = _layout_panels(panel, class_map, observed, heading, observed_mask=unclassified)
    shares = styles.class_percentages(legend, counts or rendering.count_codes(class_map))
    largest_first = [
        (legend.by_code[code], share)
        for code, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
        if share > 0
    ]
    entries = tuple(
        LegendEntry(
            title=_to_drawable_text(entry.title) or f"Class {entry.code}",
            color=entry.color,
            share=share,
        )
        for entry, share in largest_first[:MAX_LEGEND_CLASSES]
    )
    small_classes = largest_first[MAX_LEGEND_CLASSES:]
    if small_classes:
        title = f"{len(small_classes)} more classes"
        share = sum(share for _, share in small_classes)
        entries += (LegendEntry(title=title, color=OTHERS_COLOR, share=share),)
    gap_entries = _gap_entry(
        NOT_CLASSIFIED, rendering.UNCLASSIFIED_COLOR, unclassified, class_map, observed
    )
    return replace(layout, legend_entries=entries + gap_entries + layout.legend_entries)


def _to_drawable_text(text: str) -> str:
    """Return a text in the characters of the font: without accents; empty for other scripts."""
    return text if text.isascii() else fold_to_ascii(text)


def _gap_entry(
    title: str,
    color: tuple[int, int, int],
    mask: Mask,
    output: Thumbnail,
    observed: ObservedLayers,
) -> tuple[LegendEntry, ...]:
    """Return the legend entry of a kind of gap; empty if there is no such gap."""
    if observed.coverage_counts is not None:
        share = (
            observed.coverage_counts.not_observed_percent
            if title == NOT_OBSERVED
            else observed.coverage_counts.not_classified_percent
        )
    else:
        inside = rendering.gap_mask(output, observed.observations) | output.valid_mask
        share = 100.0 * int(mask.sum()) / max(int(inside.sum()), 1)
    return (LegendEntry(title=title, color=color, share=share, hatched=True),) if share > 0 else ()


def layout_embedding(
    embedding: Thumbnail, observed: ObservedLayers, heading: Heading
) -> QuicklookLayout:
    """Lay out an embedding by its first three principal components."""
    panel = (
        "Embedding, first three principal components",
        rendering.render_principal_components(embedding),
    )
    layout = _layout_panels(panel, embedding, observed, heading)
    return replace(layout, note=RELATIVE_COLORS_NOTE)


def layout_generated(
    values: Thumbnail, layer: Layer, observed: ObservedLayers, heading: Heading
) -> QuicklookLayout:
    """Lay out generated values: in true colour if the bands allow, else one band in a ramp."""
    if set(true_color.TRUE_COLOR_BANDS) <= set(values.bands):
        panel = (f"{layer.title}, true colour", true_color.render_true_color(values))
        return _layout_panels(panel, values, observed, heading)
    low, high = rendering.percentile_limits(values)
    ramp = color_ramps.ramp_for_layer(layer)
    caption = layer.title if layer.is_single_band else f"{layer.title}, {values.bands[0]}"
    panel = (caption, rendering.apply_ramp(values, ramp, low, high))
    unit = f" {layer.unit}" if layer.unit not in (None, "1") else ""
    color_bar = ColorBar(
        ramp=ramp, low=f"{low:.4g}{unit} or less", high=f"{high:.4g}{unit} or more"
    )
    layout = _layout_panels(panel, values, observed, heading)
    return replace(layout, color_bar=color_bar)


def layout_composite(
    composite: Thumbnail, observations: Thumbnail | None, heading: Heading
) -> QuicklookLayout:
    """Lay out a composite alone."""
    return _layout_panels(
        _composite_panel(composite), composite, ObservedLayers(observations=observations), heading
    )


def _composite_panel(composite: Thumbnail) -> tuple[str, Pixels]:
    return "Sentinel-2, true colour", true_color.render_true_color(composite)


def _layout_panels(
    panel: tuple[str, Pixels],
    output: Thumbnail,
    observed: ObservedLayers,
    heading: Heading,
    *,
    observed_mask: Mask | None = None,
) -> QuicklookLayout:
    """Put an output beside the composite, and hatch unobserved pixels in both.

    Pixels without an output count as unobserved, except those of ``observed_mask``.
    """
    unobserved = rendering.gap_mask(output, observed.observations)
    if observed_mask is not None:
        unobserved &= ~observed_mask
    panels = [panel]
    if observed.composite is not None:
        panels.append(_composite_panel(observed.composite))
    return QuicklookLayout(
        heading=heading,
        panels=tuple(
            (
                caption,
                rendering.hatch_pixels(pixels, unobserved)
                if pixels.shape[:2] == unobserved.shape
                else pixels,
            )
            # ^ another shape is refused by QuicklookLayout
            for caption, pixels in panels
        ),
        metres_per_pixel=output.metres_per_pixel,
        legend_entries=_gap_entry(
            NOT_OBSERVED, rendering.UNOBSERVED_COLOR, unobserved, output, observed
        ),
    )


def render_png(layout: QuicklookLayout) -> bytes:
    """Draw the quicklook as PNG: panels side by side, scale bar, north arrow and legend."""
    panel_width = (MAX_WIDTH - 2 * _MARGIN - _PANEL_GAP * (len(layout.panels) - 1)) // len(
        layout.panels
    )
    panels = [
        (caption, rendering.fit_panel(pixels, panel_width)) for caption, pixels in layout.panels
    ]
    width, panel_height = panels[0][1].size
    inner = max(width * len(panels) + _PANEL_GAP * (len(panels) - 1), 560)
    columns = max(1, inner // _LEGEND_COLUMN_WIDTH)
    lines = (
        math.ceil(len(layout.legend_entries) / columns)
        + (layout.color_bar is not None)
        + bool(layout.note)
    )
    top = _MARGIN + 78
    height = top + 30 + panel_height + 24 + lines * _LEGEND_LINE_HEIGHT + _MARGIN
    page = Image.new("RGB", (inner + 2 * _MARGIN, height), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(page)
    _draw_heading(draw, layout, inner)
    for index, (caption, image) in enumerate(panels):
        left = _MARGIN + index * (width + _PANEL_GAP)
        draw.text((left, top), caption, fill=MUTED_TEXT_COLOR, font=_load_font(17))
        page.paste(image, (left, top + 30))
        draw.rectangle(
            (left - 1, top + 29, left + width, top + 30 + panel_height), outline=(206, 212, 218)
        )
    zoom = width / layout.panels[0][1].shape[1]
    _draw_scale_bar(draw, (_MARGIN, top + 30 + panel_height), width, layout.metres_per_pixel / zoom)
    _draw_north_arrow(draw, (_MARGIN + width, top + 30))
    line = top + 30 + panel_height + 24
    if layout.color_bar is not None:
        _draw_color_bar(page, layout.color_bar, line)
        line += _LEGEND_LINE_HEIGHT
    _draw_legend(page, layout.legend_entries, columns, line)
    if layout.note:
        font = _load_font(17)
        text = _truncate_text(draw, layout.note, font, inner)
        draw.text(
            (_MARGIN, height - _MARGIN - _LEGEND_LINE_HEIGHT + 10),
            text,
            fill=MUTED_TEXT_COLOR,
            font=font,
            anchor="lm",
        )
    return rendering.encode_png(page)


def _draw_color_bar(page: Image.Image, color_bar: ColorBar, top: int) -> None:
    """Draw a colour ramp between the labels of its ends."""
    draw = ImageDraw.Draw(page)
    font = _load_font(18)
    draw.text((_MARGIN, top + 10), color_bar.low, fill=TEXT_COLOR, font=font, anchor="lm")
    left = _MARGIN + round(draw.textlength(color_bar.low, font=font)) + 12
    colors = color_ramps.ramp_colors(
        np.linspace(0, 1, _COLOR_BAR_LENGTH)[None].repeat(21, axis=0), color_bar.ramp
    )
    page.paste(Image.fromarray(colors), (left, top))
    draw.rectangle((left, top, left + _COLOR_BAR_LENGTH - 1, top + 20), outline=(134, 142, 150))
    draw.text(
        (left + _COLOR_BAR_LENGTH + 12, top + 10),
        color_bar.high,
        fill=TEXT_COLOR,
        font=font,
        anchor="lm",
    )


def _draw_heading(draw: ImageDraw.ImageDraw, layout: QuicklookLayout, inner: int) -> None:
    """Write title and subtitle, each cut to the width of the page."""
    for text, top, size, ink in (
        (layout.heading.title, _MARGIN - 6, 34, TEXT_COLOR),
        (layout.heading.subtitle, _MARGIN + 40, 19, MUTED_TEXT_COLOR),
    ):
        font = _load_font(size)
        draw.text((_MARGIN, top), _truncate_text(draw, text, font, inner), fill=ink, font=font)


def _truncate_text(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """Cut a text that is too long, and append dots."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, metres_per_pixel: float
) -> None:
    """Draw a scale bar of a round length, at most a third of the panel, on a white plate."""
    length = _round_length(metres_per_pixel * width / 3)
    pixels = max(1, round(length / metres_per_pixel))
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    font = _load_font(16)
    plate_width = max(pixels, round(draw.textlength(text, font=font)))
    left, bottom = corner[0] + 12, corner[1] - 12
    draw.rounded_rectangle(
        (left, bottom - 38, left + plate_width + 20, bottom), 5, fill=BACKGROUND_COLOR
    )
    draw.text((left + 10, bottom - 35), text, fill=TEXT_COLOR, font=font)
    draw.rectangle((left + 10, bottom - 11, left + 10 + pixels, bottom - 7), fill=TEXT_COLOR)


def _round_length(metres: float) -> float:
    """Return the largest length of 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(metres))
    return max(step * power for step in (1, 2, 5) if step * power <= metres * (1 + 1e-9))


def _draw_north_arrow(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Draw an arrow to grid north on a white plate."""
    right, top = corner[0] - 12, corner[1] + 12
    draw.rounded_rectangle((right - 32, top, right, top + 50), 5, fill=BACKGROUND_COLOR)
    steps = ((-16, 5), (-8, 27), (-16, 21), (-24, 27))
    draw.polygon([(right + x, top + y) for x, y in steps], fill=TEXT_COLOR)
    draw.text((right - 16, top + 38), "N", fill=TEXT_COLOR, font=_load_font(16), anchor="mm")


def _draw_legend(page: Image.Image, entries: Sequence[LegendEntry], columns: int, top: int) -> None:
    """Draw swatch, name and share of each entry, row by row."""
    draw = ImageDraw.Draw(page)
    for index, entry in enumerate(entries):
        left = _MARGIN + (index % columns) * _LEGEND_COLUMN_WIDTH
        y = top + (index // columns) * _LEGEND_LINE_HEIGHT
        page.paste(_swatch(entry), (left, y))
        share = f"  {format_percent(entry.share)}{' of region' if entry.hatched else ''}"
        width = _LEGEND_COLUMN_WIDTH - 56 - round(draw.textlength(share, font=_load_font(18)))
        label = _truncate_text(draw, entry.title, _load_font(18), width) + share
        font = _load_font(18)
        draw.text((left + 40, y + 10), label, fill=TEXT_COLOR, font=font, anchor="lm")


def _swatch(entry: LegendEntry) -> Image.Image:
    """Return a framed swatch of an entry's colour."""
    pixels = np.full((21, 31, 3), entry.color, np.uint8)
    if entry.hatched:
        pixels[rendering.hatch_mask(pixels.shape[:2])] = rendering.HATCH_COLOR
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).rectangle((0, 0, 30, 20), outline=(134, 142, 150))
    return image


def format_percent(share: float) -> str:
    """Format a percentage; a small one is not rounded to zero."""
    return "< 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"


@functools.cache
def _load_font(size: int) -> Any:
    """Return the font that Pillow ships, which is the same on every machine."""
    return ImageFont.load_default(size)
