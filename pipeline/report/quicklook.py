"""The first picture anybody sees: the answer beside what the satellite saw, with its legend.

Pillow only, and no clock, no random number: the same arrays give the same bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catalogs import legend
from pipeline.plan.layers import Layer
from pipeline.report import rendering
from pipeline.report.rendering import Mask, Pixels, Ramp, Thumbnail
from pipeline.storage import styles

if TYPE_CHECKING:
    from pipeline.product.product import Extent

WIDTH = 1600
"""Widest picture, pixels."""

PAPER = (255, 255, 255)
INK = (33, 37, 41)
FAINT = (108, 117, 125)

NOT_OBSERVED = "Not observed"
NOT_CLASSIFIED = "Not classified"
OF_PICTURE = "Colours hold for this picture alone: they are no classes, and compare with no other."

_MARGIN = 28
_GAP = 20
_COLUMN = 310
_LINE = 34
_RAMP = 300
"""Pixels: length of a ramp in the legend."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the legend."""

    title: str
    color: tuple[int, int, int]
    share: float
    """Per cent of the map, or of the region where it is hatched."""

    hatched: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A ramp in the legend, with what its ends stand for."""

    ramp: Ramp
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What stands above the pictures."""

    title: str
    subtitle: str


@dataclass(frozen=True, kw_only=True)
class View:
    """All that goes into the quicklook."""

    heading: Heading

    panels: tuple[tuple[str, Pixels], ...]
    """Caption and pixels of each picture, all of one shape."""

    metres: float
    """Ground length of one pixel along a row."""

    entries: tuple[Entry, ...] = ()
    scale: Scale | None = None
    note: str = ""
    """What a reader must know of the colours, in one line."""

    def __post_init__(self) -> None:
        shapes = [pixels.shape[:2] for _, pixels in self.panels]
        if len(set(shapes)) != 1:
            raise ValueError(
                f"The panels {shapes} of one quicklook must share a shape: make all thumbnails of "
                "one size."
            )


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What was seen, beside which an answer is shown."""

    observations: Thumbnail | None = None
    """Tells what lies outside the region from what was not observed; same shape as the answer."""

    composite: Thumbnail | None = None
    """Sentinel-2 composite with the bands of :data:`picture.TRUE_COLOR`; same shape."""

    extent: Extent | None = None
    """Counts of the whole product; taken from the thumbnails where absent."""


def of_map(
    land_cover: Thumbnail,
    ground: Ground,
    heading: Heading,
    *,
    counts: Mapping[int, int] | None = None,
) -> View:
    """Show a map by its legend.

    Args:
        land_cover: the map.
        ground: what was seen.
        heading: of the picture.
        counts: pixels per code in the whole map; taken from the thumbnail where absent.
    """
    some = ground.extent is None or ground.extent.unclassed > 0
    unclassed = rendering.seen_gaps(land_cover, ground.observations if some else None)
    pixels = rendering.cover(rendering.map_pixels(land_cover), unclassed, rendering.UNCLASSED)
    view = _beside(("Land cover", pixels), land_cover, ground, heading, seen=unclassed)
    shares = styles.percentages(counts or rendering.counted(land_cover))
    entries = tuple(
        Entry(title=legend.BY_CODE[code].title, color=legend.BY_CODE[code].color, share=share)
        for code, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
        if share > 0
    )
    blank = _gap(NOT_CLASSIFIED, rendering.UNCLASSED, unclassed, land_cover, ground)
    return replace(view, entries=entries + blank + view.entries)


def _gap(
    title: str,
    color: tuple[int, int, int],
    where: Mask,
    answer: Thumbnail,
    ground: Ground,
) -> tuple[Entry, ...]:
    """Return the legend's line about a kind of gap, if there is any of it."""
    if ground.extent is not None:
        unseen = title == NOT_OBSERVED
        share = ground.extent.not_observed if unseen else ground.extent.not_classified
    else:
        inside = rendering.gaps(answer, ground.observations) | answer.known
        share = 100.0 * int(where.sum()) / max(int(inside.sum()), 1)
    return (Entry(title=title, color=color, share=share, hatched=True),) if share > 0 else ()


def of_features(embedding: Thumbnail, ground: Ground, heading: Heading) -> View:
    """Show features by the three directions in which they vary most."""
    panel = ("Embedding, first three principal components", rendering.components(embedding))
    view = _beside(panel, embedding, ground, heading)
    return replace(view, note=OF_PICTURE)


def of_values(values: Thumbnail, layer: Layer, ground: Ground, heading: Heading) -> View:
    """Show generated values: in true colour where the bands allow, else one band by a ramp."""
    if set(rendering.TRUE_COLOR) <= set(values.bands):
        panel = (f"{layer.title}, true colour", rendering.true_color(values))
        return _beside(panel, values, ground, heading)
    low, high = rendering.limits(values)
    ramp = rendering.ramp_of(layer)
    caption = layer.title if layer.planar else f"{layer.title}, {values.bands[0]}"
    panel = (caption, rendering.graded(values, ramp, low, high))
    unit = f" {layer.unit}" if layer.unit not in (None, "1") else ""
    scale = Scale(ramp=ramp, low=f"{low:.4g}{unit} or less", high=f"{high:.4g}{unit} or more")
    view = _beside(panel, values, ground, heading)
    return replace(view, scale=scale)


def of_composite(composite: Thumbnail, observations: Thumbnail | None, heading: Heading) -> View:
    """Show what the satellite saw, by itself."""
    return _beside(_colored(composite), composite, Ground(observations=observations), heading)


def _colored(composite: Thumbnail) -> tuple[str, Pixels]:
    return "Sentinel-2, true colour", rendering.true_color(composite)


def _beside(
    panel: tuple[str, Pixels],
    answer: Thumbnail,
    ground: Ground,
    heading: Heading,
    *,
    seen: Mask | None = None,
) -> View:
    """Put an answer beside the composite, and hatch in both what was not observed.

    What has no answer was not observed, unless ``seen`` says so.
    """
    unseen = rendering.gaps(answer, ground.observations)
    if seen is not None:
        unseen &= ~seen
    panels = [panel]
    if ground.composite is not None:
        panels.append(_colored(ground.composite))
    return View(
        heading=heading,
        panels=tuple(
            (
                caption,
                rendering.cover(pixels, unseen) if pixels.shape[:2] == unseen.shape else pixels,
            )
            # ^ another shape is refused by the view
            for caption, pixels in panels
        ),
        metres=answer.metres,
        entries=_gap(NOT_OBSERVED, rendering.UNSEEN, unseen, answer, ground),
    )


def compose(view: View) -> bytes:
    """Return the quicklook as PNG: pictures side by side, legend, scale bar."""
    slot = (WIDTH - 2 * _MARGIN - _GAP * (len(view.panels) - 1)) // len(view.panels)
    pictures = [(caption, rendering.fit(pixels, slot)) for caption, pixels in view.panels]
    wide, tall = pictures[0][1].size
    inner = max(wide * len(pictures) + _GAP * (len(pictures) - 1), 560)
    columns = max(1, inner // _COLUMN)
    lines = math.ceil(len(view.entries) / columns) + (view.scale is not None) + bool(view.note)
    top = _MARGIN + 78
    height = top + 30 + tall + 24 + lines * _LINE + _MARGIN
    page = Image.new("RGB", (inner + 2 * _MARGIN, height), PAPER)
    draw = ImageDraw.Draw(page)
    _heading(draw, view, inner)
    for index, (caption, image) in enumerate(pictures):
        left = _MARGIN + index * (wide + _GAP)
        draw.text((left, top), caption, fill=FAINT, font=_font(17))
        page.paste(image, (left, top + 30))
        draw.rectangle((left - 1, top + 29, left + wide, top + 30 + tall), outline=(206, 212, 218))
    zoom = wide / view.panels[0][1].shape[1]
    _scale_bar(draw, (_MARGIN, top + 30 + tall), wide, view.metres / zoom)
    _north_arrow(draw, (_MARGIN + wide, top + 30))
    line = top + 30 + tall + 24
    if view.scale is not None:
        _draw_ramp(page, view.scale, line)
        line += _LINE
    _draw_legend(page, view.entries, columns, line)
    if view.note:
        font = _font(17)
        text = _shortened(draw, view.note, font, inner)
        draw.text(
            (_MARGIN, height - _MARGIN - _LINE + 10), text, fill=FAINT, font=font, anchor="lm"
        )
    return rendering.png(page)


def _draw_ramp(page: Image.Image, scale: Scale, top: int) -> None:
    """Draw a ramp between the values of its ends."""
    draw = ImageDraw.Draw(page)
    font = _font(18)
    draw.text((_MARGIN, top + 10), scale.low, fill=INK, font=font, anchor="lm")
    left = _MARGIN + round(draw.textlength(scale.low, font=font)) + 12
    colors = rendering.ramp_colors(np.linspace(0, 1, _RAMP)[None].repeat(21, axis=0), scale.ramp)
    page.paste(Image.fromarray(colors), (left, top))
    draw.rectangle((left, top, left + _RAMP - 1, top + 20), outline=(134, 142, 150))
    draw.text((left + _RAMP + 12, top + 10), scale.high, fill=INK, font=font, anchor="lm")


def _heading(draw: ImageDraw.ImageDraw, view: View, inner: int) -> None:
    """Write title and subtitle, each cut to the width of the page."""
    for text, top, size, ink in (
        (view.heading.title, _MARGIN - 6, 34, INK),
        (view.heading.subtitle, _MARGIN + 40, 19, FAINT),
    ):
        font = _font(size)
        draw.text((_MARGIN, top), _shortened(draw, text, font, inner), fill=ink, font=font)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """Cut a text that is too long, and say so with dots."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."


def _scale_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], wide: int, metres: float
) -> None:
    """Draw a bar of a round length, at most a third of the panel, on a plate to be legible."""
    length = _round_length(metres * wide / 3)
    pixels = max(1, round(length / metres))
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    font = _font(16)
    box = max(pixels, round(draw.textlength(text, font=font)))
    left, bottom = corner[0] + 12, corner[1] - 12
    draw.rounded_rectangle((left, bottom - 38, left + box + 20, bottom), 5, fill=PAPER)
    draw.text((left + 10, bottom - 35), text, fill=INK, font=font)
    draw.rectangle((left + 10, bottom - 11, left + 10 + pixels, bottom - 7), fill=INK)


def _round_length(metres: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(metres))
    return max(step * power for step in (1, 2, 5) if step * power <= metres * (1 + 1e-9))


def _north_arrow(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Draw an arrow to grid north on a plate."""
    right, top = corner[0] - 12, corner[1] + 12
    draw.rounded_rectangle((right - 32, top, right, top + 50), 5, fill=PAPER)
    steps = ((-16, 5), (-8, 27), (-16, 21), (-24, 27))
    draw.polygon([(right + x, top + y) for x, y in steps], fill=INK)
    draw.text((right - 16, top + 38), "N", fill=INK, font=_font(16), anchor="mm")


def _draw_legend(page: Image.Image, entries: Sequence[Entry], columns: int, top: int) -> None:
    """Draw swatch, name and share of each entry, row by row."""
    draw = ImageDraw.Draw(page)
    for index, entry in enumerate(entries):
        left = _MARGIN + (index % columns) * _COLUMN
        y = top + (index // columns) * _LINE
        page.paste(_swatch(entry), (left, y))
        label = f"{entry.title}  {percent(entry.share)}{' of region' if entry.hatched else ''}"
        draw.text((left + 40, y + 10), label, fill=INK, font=_font(18), anchor="lm")


def _swatch(entry: Entry) -> Image.Image:
    """Return a framed sample of an entry's colour."""
    pixels = np.full((21, 31, 3), entry.color, np.uint8)
    if entry.hatched:
        pixels[rendering.hatch(pixels.shape[:2])] = rendering.UNSEEN_HATCH
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).rectangle((0, 0, 30, 20), outline=(134, 142, 150))
    return image


def percent(share: float) -> str:
    """Write a share so that little is not nothing."""
    return "< 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"


@functools.cache
def _font(size: int) -> Any:
    """Return Pillow's own font, which is the same on every machine."""
    return ImageFont.load_default(size)
