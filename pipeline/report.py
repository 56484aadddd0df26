"""The report: one HTML file without scripts or neighbours, for people who open it by hand."""

from __future__ import annotations

import base64
import datetime as dt
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from catalogs import classes
from pipeline import publish, quicklook, styles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from catalogs.scene import Scene
    from pipeline.product import Product, Raster

_BINS = 20
"""Bars of the confidence histogram, 5 % each."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The PNGs of a report."""

    quicklook: bytes

    confidence: bytes | None = None
    """The confidence layer from 0 to 100 %, ramp ``confidence``."""

    observations: bytes | None = None
    """The observation counts from 0 to :attr:`most`, ramp ``count``."""

    most: int = 0
    """Clear observations at the upper end of the ramp."""


def html(product: Product, pictures: Pictures) -> str:
    """Return the report of a product."""
    sections = [
        _heading(product),
        _figure(product, pictures),
        _areas(product),
        _accuracy(product),
        _confidence(product, pictures),
        _observations(pictures),
        _limits(product),
        _scenes(product),
        _refused(product),
        _holes(product),
        _provenance(product),
    ]
    body = "\n".join(section for section in sections if section)
    return _PAGE.format(title=escape(f"{product.title}, {_period(product)}"), css=_CSS, body=body)


def _period(product: Product) -> str:
    """Return the period for people."""
    return f"{_day(product.start)} to {_day(product.end)}"


def _day(value: object) -> str:
    """Return a date as 1 May 2024."""
    return f"{value:%d %B %Y}".lstrip("0")


def _heading(product: Product) -> str:
    """Return what this is, in one paragraph and a row of facts."""
    west, south, east, north = product.bbox
    used = Counter(scene.modality for scene in product.scenes)
    inputs = ", ".join(f"{count} {modality}" for modality, count in sorted(used.items()))
    grids = ", ".join(f"EPSG:{grid.epsg} at {grid.resolution:g} m" for grid in product.grids)
    facts = {
        "Period": _period(product),
        "Region": f"{_degrees(west, 'EW')} to {_degrees(east, 'EW')}, "
        f"{_degrees(south, 'NS')} to {_degrees(north, 'NS')}",
        "Grid": grids,
        "Scenes": f"{inputs or 'none'}; {len(product.refused)} refused",
        "Model": product.provenance.model or "none: composites only",
    }
    items = "".join(f"<div><dt>{key}</dt><dd>{escape(facts[key])}</dd></div>" for key in facts)
    partial = '<p class="warning">Partial: some tiles are missing.</p>' if product.holes else ""
    return (
        f"<header><h1>{escape(product.title)}</h1><p>{_what(product)}</p>{partial}"
        f'<dl class="facts">{items}</dl></header>'
    )


def _what(product: Product) -> str:
    """Say what the product is."""
    if product.provenance.model is None:
        return "Cloud-free composites of satellite images, pixel by pixel, for the period below."
    return (
        "A land-cover map: for every pixel the most probable class, with how sure the model is, "
        "how often the ground was seen, and when last."
    )


def _degrees(value: float, letters: str) -> str:
    """Return a longitude or latitude for people."""
    letter = letters[0] if value >= 0 else letters[1]
    return f"{abs(value):.3f}° {letter}"


def _figure(product: Product, pictures: Pictures) -> str:
    """Return the quicklook."""
    what = "Land cover" if product.of("land_cover") else "Composite"
    alt = f"{what} of {product.title}, {_period(product)}, with its legend"
    return f"<figure>{_image(pictures.quicklook, alt)}</figure>"


def _image(png: bytes, alt: str) -> str:
    """Return a picture inside the page itself."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _areas(product: Product) -> str:
    """Return area and share of each class."""
    rasters = product.of("land_cover")
    areas = _square_kilometres(rasters)
    shares = styles.percentages(publish.counts(rasters))
    rows = [
        (
            f'<tr><th scope="row">{_swatch(entry)}{escape(entry.title)}</th>'
            f"<td>{areas.get(entry.code, 0.0):,.2f}</td><td>{quicklook.percent(share)}</td>"
            f'<td class="bar">{_bar(share, entry)}</td></tr>'
        )
        for entry in classes.CLASSES
        if (share := shares.get(entry.code, 0.0)) > 0
    ]
    if not rows:
        return ""
    return _section(
        "Area by class",
        _table(("Class", "Area, km²", "Share of the mapped area", ""), rows)
        + '<p class="note">Counted pixels at their nominal size; see the limits below.</p>',
    )


def _square_kilometres(rasters: Iterable[Raster]) -> dict[int, float]:
    """Return the area of each code over all grids."""
    total: dict[int, float] = {}
    for raster in rasters:
        pixel = raster.grid.resolution**2 / 1e6
        for code, count in (raster.info.statistics[0].counts or {}).items():
            total[code] = total.get(code, 0.0) + count * pixel
    return total


def _swatch(entry: classes.LandCover) -> str:
    """Return a small square of a class's colour."""
    return f'<span class="swatch" style="background:#{entry.color_hint}"></span>'


def _bar(share: float, entry: classes.LandCover) -> str:
    """Return a bar as long as a share."""
    return f'<span style="width:{share:.2f}%;background:#{entry.color_hint}"></span>'


def _accuracy(product: Product) -> str:
    """Return the agreement with the truth, where it is known."""
    result = product.accuracy
    if result is None or not result.n:
        return ""
    reference = f" Compared with: {escape(product.reference)}." if product.reference else ""
    rows = [
        f'<tr><th scope="row">{escape(classes.BY_NAME[name].title)}</th><td>{value:.3f}</td></tr>'
        for name, value in result.f1.items()
    ]
    return _section(
        "Accuracy",
        f"<p>Overall accuracy <strong>{100 * result.overall:.1f} %</strong>, macro-F1 "
        f"<strong>{result.macro_f1:.3f}</strong> over {result.n:,} observed pixels.{reference}</p>"
        + _table(("Class", "F1"), rows),
    )


def _confidence(product: Product, pictures: Pictures) -> str:
    """Return histogram and map of the confidence."""
    counts = publish.counts(product.of("confidence"))
    known = {value: count for value, count in counts.items() if value <= 100}
    if not known:
        return ""
    total = sum(known.values())
    mean = sum(value * count for value, count in known.items()) / total
    low = sum(count for value, count in known.items() if value < 50) / total
    text = (
        f"<p>Mean confidence {mean:.0f} %. For {100 * low:.1f} % of the mapped pixels the model "
        "gives its answer less than an even chance.</p>"
    )
    picture = ""
    if pictures.confidence is not None:
        picture = _graded(
            pictures.confidence, "Map of the confidence", "confidence", "0 %", "100 %"
        )
    return _section(
        "Confidence", f'{text}<div class="pair"><figure>{_histogram(known)}</figure>{picture}</div>'
    )


def _histogram(known: Mapping[int, int]) -> str:
    """Return the histogram of 0 to 100 as an inline drawing."""
    bars = np.zeros(_BINS)
    for value, count in known.items():
        bars[min(value * _BINS // 100, _BINS - 1)] += count
    shares = 100 * bars / bars.sum()
    wide, tall, left, base = 460 / _BINS, 200, 44, 220
    scale = tall / max(shares.max(), 1e-9)
    drawn = "".join(
        f'<rect x="{left + index * wide:.1f}" y="{base - share * scale:.1f}" '
        f'width="{wide - 2:.1f}" height="{share * scale:.1f}">'
        f"<title>{index * 5} to {index * 5 + 5} %: {share:.1f} % of the pixels</title></rect>"
        for index, share in enumerate(shares)
    )
    ticks = "".join(
        f'<text x="{left + 4.6 * value:.0f}" y="{base + 18}" text-anchor="middle">{value}</text>'
        for value in range(0, 101, 20)
    )
    return (
        '<svg viewBox="0 0 520 262" role="img" aria-label="Histogram of the confidence">'
        f'<g class="bars">{drawn}</g><line x1="{left}" y1="{base}" x2="504" y2="{base}"/>{ticks}'
        f'<text x="274" y="{base + 38}" text-anchor="middle">confidence, %</text>'
        f'<text x="{left - 6}" y="{base - tall + 5}" text-anchor="end">{shares.max():.0f} %</text>'
        f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text></svg>'
    )


def _observations(pictures: Pictures) -> str:
    """Return the map of how often the ground was seen."""
    if pictures.observations is None:
        return ""
    top = f"{pictures.most} or more"
    return _section(
        "Clear observations",
        "<p>On how many days the ground was seen clearly. Where this is 0, nothing is mapped.</p>"
        + _graded(pictures.observations, "Map of the clear observations", "count", "0", top),
    )


def _graded(png: bytes, alt: str, ramp: quicklook.Ramp, low: str, high: str) -> str:
    """Return a map in graded colours with its scale."""
    colors = quicklook.ramp_colors(np.linspace(0, 1, 9), ramp)
    stops = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)
    return (
        f"<figure>{_image(png, alt)}<figcaption>{low}<span class='ramp' "
        f'style="background:linear-gradient(90deg, {stops})"></span>{high}</figcaption></figure>'
    )


def _limits(product: Product) -> str:
    """Return what to know before trusting the product."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in publish.limits(product))
    return _section("Known limits", f"<ul>{notes}</ul>") if notes else ""


def _scenes(product: Product) -> str:
    """Return the scenes that were used."""
    rows = [_scene(scene, product) for scene in product.scenes]
    heads = ("Scene", "Input", "Time, UTC", "Platform", "Cloud", "Remarks")
    return _section(f"Scenes used ({len(rows)})", _folded(_table(heads, rows), len(rows)))


def _scene(scene: Scene, product: Product) -> str:
    """Return one line about a scene."""
    time = "" if scene.datetime is None else f"{scene.datetime:%Y-%m-%d %H:%M}"
    cloud = "" if scene.cloud_cover is None else f"{scene.cloud_cover:.0f} %"
    remark = "no SCL: treated as clear" if scene.id in product.without_scl else ""
    cells = (scene.modality, time, scene.platform or "", cloud, remark)
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row" class="id">{escape(scene.id)}</th>{rest}</tr>'


def _refused(product: Product) -> str:
    """Return the scenes that were left out, and why."""
    return _reasons(
        "Scenes refused", "Scene", [(entry.id, entry.reason) for entry in product.refused]
    )


def _holes(product: Product) -> str:
    """Return the tiles that are missing, and why."""
    return _reasons("Missing tiles", "Tile", [(hole.tile, hole.reason) for hole in product.holes])


def _reasons(title: str, head: str, entries: Sequence[tuple[str, str]]) -> str:
    """Return a table of things and reasons; nothing where there is none."""
    if not entries:
        return ""
    rows = [
        f'<tr><th scope="row" class="id">{escape(name)}</th>'
        f"<td>{escape(publish.scrub(reason))}</td></tr>"
        for name, reason in entries
    ]
    return _section(f"{title} ({len(rows)})", _folded(_table((head, "Reason"), rows), len(rows)))


def _provenance(product: Product) -> str:
    """Return what made the product."""
    source = product.provenance
    values = {
        "Published": f"{product.created.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "Plan": source.plan,
        "Model": source.model or "none",
        "Model digest": source.model_digest or "none",
        "Sentinel-2 convention": source.s2_convention,
        "terramosaic": source.version,
        **source.software,
        **{f"Recipe: {key}": str(value) for key, value in source.recipe.items()},
    }
    rows = [
        f'<tr><th scope="row">{escape(key)}</th><td class="id">{escape(value)}</td></tr>'
        for key, value in values.items()
    ]
    links = "".join(
        f'<li><a href="{escape(href)}">{escape(title)}</a></li>' for title, href in product.notices
    )
    notices = f"<h3>Licences and notices</h3><ul>{links}</ul>" if links else ""
    return _section("How it was made", _table(("", ""), rows) + notices)


def _section(title: str, content: str) -> str:
    """Return a section under a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _folded(content: str, rows: int) -> str:
    """Fold a table away when it is long."""
    if rows <= 12:
        return content
    return f"<details><summary>Show all {rows}</summary>{content}</details>"


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CSS = """
:root { color-scheme: light; --ink: #212529; --faint: #5c636a; --line: #dee2e6; --tint: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--tint); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 32px 64px; background: #fff; }
h1 { margin: 0 0 4px; font-size: 2.1rem; line-height: 1.2; }
h2 { margin: 44px 0 12px; padding-top: 20px; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 24px 0 6px; font-size: 1rem; }
header p { max-width: 46rem; color: var(--faint); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 16px;
  margin: 20px 0 24px; }
.facts dt, .note, figcaption { color: var(--faint); font-size: .86rem; }
.facts dd { margin: 0; }
.warning { padding: 10px 14px; border-left: 4px solid #b35900; background: #fff4e5;
  color: #663300 !important; font-weight: 600; }
figure { margin: 0; }
figcaption { display: flex; align-items: center; gap: 8px; margin-top: 6px; }
img, svg { display: block; max-width: 100%; height: auto; }
img { border: 1px solid var(--line); }
svg text { fill: var(--faint); font-size: 13px; }
svg line { stroke: var(--faint); }
svg .bars { fill: #3b7a78; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 28px;
  align-items: start; }
.ramp { width: 180px; height: 12px; border: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .93rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { color: var(--faint); font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; }
.id { font: .82rem/1.7 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
  overflow-wrap: anywhere; white-space: normal; }
.swatch { display: inline-block; width: 14px; height: 14px; margin-right: 8px;
  border: 1px solid #868e96; vertical-align: -2px; }
.bar { width: 38%; }
.bar span { display: block; height: 14px; min-width: 1px; margin-top: 5px;
  outline: 1px solid rgb(0 0 0 / 18%); }
summary { cursor: pointer; color: #0b5394; }
a { color: #0b5394; }
@media (max-width: 600px) { main { padding: 24px 16px; } }
@media print { body, main { background: #fff; padding: 0; } details { display: block; } }
"""
