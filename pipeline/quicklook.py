"""The first picture anybody sees: the map beside what the satellite saw, with its legend.

Pillow only, and no clock, no random number: the same arrays give the same bytes.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.enums import Resampling

from catalogs import classes
from pipeline import styles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.layers import Layer

Pixels = NDArray[np.uint8]
"""(rows, columns, 3): red, green, blue."""

WIDTH = 1600
"""Widest picture, pixels."""

TRUE_COLOR = ("B04", "B03", "B02")
"""Sentinel-2 bands that make a picture as the eye would see it."""

PAPER = (255, 255, 255)
INK = (33, 37, 41)
FAINT = (108, 117, 125)
OUTSIDE = (240, 241, 243)
"""Beyond the region."""

UNSEEN = (186, 190, 196)
UNSEEN_HATCH = (128, 133, 140)
"""Inside the region, but never seen clearly."""

NOT_OBSERVED = "Not observed"

_MARGIN = 28
_GAP = 20
_TALLEST = 1100
_COLUMN = 280
_LINE = 34
_PERCENTILES = (2.0, 98.0)

_BRIGHT = 3500
"""DN of Sentinel-2 above which, in a visible band, a pixel is snow, cloud or glint."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A raster shrunk to the size of a picture."""

    values: NDArray[Any]
    """(bands, rows, columns), stored values."""

    bands: tuple[str, ...]
    """Names of the bands."""

    metres: float
    """Ground length of one pixel along a row."""

    nodata: float | None
    """Stored value that means nothing."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Return where all bands hold data, (rows, columns)."""
        if self.nodata is None:
            return np.ones(self.values.shape[1:], bool)
        if math.isnan(self.nodata):
            seen: NDArray[np.bool_] = ~np.isnan(self.values).any(axis=0)
            return seen
        held: NDArray[np.bool_] = (self.values != self.nodata).all(axis=0)
        return held


@dataclass(frozen=True, kw_only=True)
class View:
    """All that goes into the quicklook."""

    title: str
    subtitle: str

    land_cover: Thumbnail

    observations: Thumbnail | None = None
    """Tells what lies outside the region from what was not observed; same shape as the map."""

    composite: Thumbnail | None = None
    """Sentinel-2 composite with the bands of :data:`TRUE_COLOR`; same shape as the map."""

    counts: Mapping[int, int] | None = None
    """Pixels per code in the whole map; taken from the thumbnail where absent."""


def thumbnail(path: Path, layer: Layer, side: int, bands: Sequence[str] = ()) -> Thumbnail:
    """Read a COG at no more than ``side`` pixels a side, mostly from its overviews.

    Labels stay labels: they are shrunk by mode, everything else by average.

    Args:
        path: the file.
        layer: what is in it.
        side: longest side of the result, pixels.
        bands: names of the bands to read, in that order; all where empty.

    Raises:
        ValueError: the file has no band of that name.
    """
    with rasterio.open(path) as source:
        names = tuple(source.descriptions)
        wanted = tuple(bands) or names
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(f"{path.name} has no band {missing}; it has {list(names)}.")
        factor = min(1.0, side / max(source.shape))
        shape = tuple(max(1, round(length * factor)) for length in source.shape)
        values = source.read(
            [names.index(name) + 1 for name in wanted],
            out_shape=(len(wanted), *shape),
            resampling=Resampling[layer.overview],
        )
        metres = abs(source.transform.a) * source.width / shape[1]
        return Thumbnail(values=values, bands=wanted, metres=metres, nodata=source.nodata)


def compose(view: View) -> bytes:
    """Return the quicklook as PNG: map, picture, legend, scale bar.

    Raises:
        ValueError: the layers differ in shape.
    """
    panels = [("Land cover", map_pixels(view.land_cover, view.observations))]
    if view.composite is not None:
        picture = true_color(view.composite)
        panels.append(("Sentinel-2, true colour", picture))
        if picture.shape != panels[0][1].shape:
            raise ValueError(
                f"Map {panels[0][1].shape[:2]} and composite {picture.shape[:2]} of one quicklook "
                "must share a shape: make both thumbnails of one size."
            )
        _cover(picture, not_observed(view.land_cover, view.observations))
    return png(_page(view, panels))


def png(pixels: Image.Image | Pixels) -> bytes:
    """Encode a picture as PNG."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=9)
    return out.getvalue()


def map_pixels(land_cover: Thumbnail, observations: Thumbnail | None = None) -> Pixels:
    """Colour a map by its legend; hatch what lies inside the region and was not observed."""
    codes = land_cover.values[0]
    table = np.zeros((256, 3), np.uint8)
    for entry in classes.CLASSES:
        table[entry.code] = entry.color
    table[classes.NODATA] = OUTSIDE
    pixels: Pixels = table[codes]
    _cover(pixels, not_observed(land_cover, observations))
    return pixels


def _cover(pixels: Pixels, unseen: NDArray[np.bool_]) -> None:
    """Hatch, in place, what was not observed."""
    pixels[unseen] = UNSEEN
    pixels[unseen & _hatch(unseen.shape)] = UNSEEN_HATCH


def not_observed(land_cover: Thumbnail, observations: Thumbnail | None) -> NDArray[np.bool_]:
    """Return where the map is empty inside the region; nowhere if nobody counted."""
    empty: NDArray[np.bool_] = land_cover.values[0] == classes.NODATA
    if observations is None:
        return np.zeros_like(empty)
    if observations.values.shape[1:] != empty.shape:
        raise ValueError(
            f"The map is {empty.shape} and its observations {observations.values.shape[1:]}: "
            "make both thumbnails of one size."
        )
    inside: NDArray[np.bool_] = empty & observations.known
    return inside


def true_color(composite: Thumbnail) -> Pixels:
    """Stretch three bands to what the eye likes: 2 to 98 % of land and water, all three alike.

    Snow and clouds do not set the stretch unless there is nothing else: a few bright mountains
    would leave the country in the dark.
    """
    known = composite.known
    order = [composite.bands.index(name) for name in TRUE_COLOR]
    pixels = np.full((*known.shape, 3), OUTSIDE, np.uint8)
    if not known.any():
        return pixels
    colors = composite.values[order][:, known].astype(np.float64)
    dark = (colors < _BRIGHT).all(axis=0)
    land = colors[:, dark] if dark.any() else colors
    low, high = np.percentile(land, _PERCENTILES)
    stretched = np.clip((colors - low) / max(high - low, 1e-9), 0, 1)
    pixels[known] = np.rint(255 * stretched.T)
    return pixels


Ramp = Literal["confidence", "count"]

_RAMPS: Mapping[Ramp, tuple[tuple[int, int, int], ...]] = {
    "confidence": ((127, 39, 4), (217, 110, 41), (247, 205, 120), (142, 190, 170), (20, 90, 110)),
    "count": ((247, 244, 230), (190, 215, 190), (110, 172, 170), (48, 112, 150), (20, 44, 96)),
}
"""Colours from low to high, told apart by lightness as well as by hue."""


def graded(layer: Thumbnail, ramp: Ramp, low: float, high: float) -> Pixels:
    """Colour a continuous layer from ``low`` to ``high``; nodata is left pale."""
    known = layer.known
    values = layer.values[0].astype(np.float64)
    position = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    pixels = ramp_colors(np.where(known, position, 0.0), ramp)
    pixels[~known] = OUTSIDE
    return pixels


def ramp_colors(position: NDArray[np.float64], ramp: Ramp) -> Pixels:
    """Return the colours at positions 0 to 1 of a ramp, shape (..., 3)."""
    anchors = np.asarray(_RAMPS[ramp], np.float64)
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(position, stops, anchors[:, index]) for index in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def enlarge(pixels: Pixels, width: int) -> Pixels:
    """Repeat the pixels of a small picture a whole number of times, up to ``width``."""
    times = max(1, min(width // pixels.shape[1], _TALLEST // pixels.shape[0]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _hatch(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return diagonal lines, two pixels of eight."""
    rows, columns = np.indices(shape)
    lines: NDArray[np.bool_] = (rows + columns) % 8 < 2
    return lines


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One line of the legend."""

    title: str
    color: tuple[int, int, int]
    share: float
    hatched: bool = False


def _legend(view: View) -> list[_Entry]:
    """Return the classes that occur, the largest first, then what was not observed."""
    counts = view.counts or _counted(view.land_cover)
    shares = styles.percentages(counts)
    entries = [
        _Entry(title=classes.BY_CODE[code].title, color=classes.BY_CODE[code].color, share=share)
        for code, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
        if share > 0
    ]
    unseen = not_observed(view.land_cover, view.observations)
    if unseen.any():
        inside = int(unseen.sum()) + int((view.land_cover.values[0] != classes.NODATA).sum())
        share = 100.0 * int(unseen.sum()) / inside
        entries.append(_Entry(title=NOT_OBSERVED, color=UNSEEN, share=share, hatched=True))
    return entries


def _counted(land_cover: Thumbnail) -> dict[int, int]:
    """Count the codes of a thumbnail."""
    codes, counts = np.unique(land_cover.values[0], return_counts=True)
    return {int(code): int(count) for code, count in zip(codes, counts, strict=True)}


def _page(view: View, panels: Sequence[tuple[str, Pixels]]) -> Image.Image:
    """Lay out heading, panels side by side, and legend."""
    slot = (WIDTH - 2 * _MARGIN - _GAP * (len(panels) - 1)) // len(panels)
    pictures = [(caption, _fit(pixels, slot)) for caption, pixels in panels]
    wide, tall = pictures[0][1].size
    inner = max(wide * len(pictures) + _GAP * (len(pictures) - 1), 560)
    entries = _legend(view)
    columns = max(1, inner // _COLUMN)
    lines = math.ceil(len(entries) / columns)
    top = _MARGIN + 78
    height = top + 30 + tall + 24 + lines * _LINE + _MARGIN
    page = Image.new("RGB", (inner + 2 * _MARGIN, height), PAPER)
    draw = ImageDraw.Draw(page)
    _heading(draw, view, inner)
    for index, (caption, picture) in enumerate(pictures):
        left = _MARGIN + index * (wide + _GAP)
        draw.text((left, top), caption, fill=FAINT, font=_font(17))
        page.paste(picture, (left, top + 30))
        draw.rectangle((left - 1, top + 29, left + wide, top + 30 + tall), outline=(206, 212, 218))
    zoom = wide / view.land_cover.values.shape[2]
    _scale_bar(draw, (_MARGIN, top + 30 + tall), wide, view.land_cover.metres / zoom)
    _north_arrow(draw, (_MARGIN + wide, top + 30))
    _draw_legend(page, entries, columns, top + 30 + tall + 24)
    return page


def _heading(draw: ImageDraw.ImageDraw, view: View, inner: int) -> None:
    """Write title and subtitle, each cut to the width of the page."""
    for text, top, size, ink in (
        (view.title, _MARGIN - 6, 34, INK),
        (view.subtitle, _MARGIN + 40, 19, FAINT),
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


def _fit(pixels: Pixels, slot: int) -> Image.Image:
    """Bring a panel to its slot: whole-number enlargement, or plain reduction."""
    image = Image.fromarray(enlarge(pixels, slot))
    factor = min(slot / image.width, _TALLEST / image.height, 1.0)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST) if size != image.size else image


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


def _draw_legend(page: Image.Image, entries: Sequence[_Entry], columns: int, top: int) -> None:
    """Draw swatch, name and share of each entry, row by row."""
    draw = ImageDraw.Draw(page)
    for index, entry in enumerate(entries):
        left = _MARGIN + (index % columns) * _COLUMN
        y = top + (index // columns) * _LINE
        page.paste(_swatch(entry), (left, y))
        label = f"{entry.title}  {percent(entry.share)}{' of region' if entry.hatched else ''}"
        draw.text((left + 40, y + 10), label, fill=INK, font=_font(18), anchor="lm")


def _swatch(entry: _Entry) -> Image.Image:
    """Return a framed sample of an entry's colour."""
    pixels = np.full((21, 31, 3), entry.color, np.uint8)
    if entry.hatched:
        pixels[_hatch(pixels.shape[:2])] = UNSEEN_HATCH
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
