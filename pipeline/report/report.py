"""The report: one HTML file without scripts or neighbours, for people who open it by hand."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from shapely.geometry import shape

from catalogs import legend
from pipeline.plan import layers
from pipeline.product import descriptions
from pipeline.quality import coverage
from pipeline.report import page, quality_section, quicklook, rendering, scenes_section
from pipeline.storage import styles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.product.product import Product, Raster
    from pipeline.storage.band_statistics import BandStatistics

_MAX_LISTED_BANDS = 20
"""Bands up to which each has a line of its own."""

_HISTOGRAM_BINS = 20
"""Bars of the confidence histogram, 5 % each."""


@dataclass(frozen=True, kw_only=True)
class ReportImages:
    """The PNGs of a report."""

    quicklook: bytes

    confidence: bytes | None = None
    """The confidence layer from 0 to 100 %, ramp ``confidence``."""

    observations: bytes | None = None
    """The observation counts from 0 to :attr:`most`, ramp ``count``."""

    max_observations: int = 0
    """Clear observations at the upper end of the ramp."""


def render_report(product: Product, images: ReportImages) -> str:
    """Return the report of a product."""
    sections = [
        _heading(product),
        _quicklook_figure(product, images),
        _area_section(product),
        _value_statistics(product),
        _accuracy(product),
        _confidence(product, images),
        quality_section.render_quality(product.quality),
        _observations(images),
        _limitations(product),
        _scenes_section(product),
        _missing_tiles_section(product),
        _provenance(product),
    ]
    body = "\n".join(section for section in sections if section)
    return page.render_page(f"{product.title}, {_format_period(product)}", body)


def _format_period(product: Product) -> str:
    """Return the period for people."""
    return f"{_format_date(product.start)} to {_format_date(product.end)}"


def _format_date(value: object) -> str:
    """Return a date as 1 May 2024."""
    return f"{value:%d %B %Y}".lstrip("0")


def _heading(product: Product) -> str:
    """Return what this is, in one paragraph and a row of facts."""
    west, south, east, north = product.bbox
    used = Counter(scene.modality for scene in product.scenes)
    inputs = ", ".join(f"{count} {modality}" for modality, count in sorted(used.items()))
    grids = ", ".join(f"EPSG:{grid.epsg} at {grid.resolution:g} m" for grid in product.grids)
    facts = {
        "Period": _format_period(product),
        "Region": f"{_format_degrees(west, 'EW')} to {_format_degrees(east, 'EW')}, "
        f"{_format_degrees(south, 'NS')} to {_format_degrees(north, 'NS')}",
        "Grid": grids,
        "Scenes": f"{inputs or 'none'}; {len(product.refused)} refused",
        "Region seen": descriptions.describe_coverage(product),
        "Model": product.provenance.model or "none: composites only",
    }
    items = "".join(f"<div><dt>{key}</dt><dd>{escape(facts[key])}</dd></div>" for key in facts)
    warned = "".join(
        f'<p class="warning">{text}</p>' for text in descriptions.list_warnings(product)
    )
    return (
        f"<header><h1>{escape(product.title)}</h1>{warned}<p>{descriptions.describe_product(product)}</p>"
        f'<dl class="facts">{items}</dl></header>'
    )


def _format_degrees(value: float, letters: str) -> str:
    """Return a longitude or latitude for people."""
    letter = letters[0] if value >= 0 else letters[1]
    return f"{abs(value):.3f}° {letter}"


def _quicklook_figure(product: Product, pictures: ReportImages) -> str:
    """Return the quicklook."""
    what = (
        layers.get(product.provenance.main_layer).title if product.provenance.model else "Composite"
    )
    alt = f"{what} of {product.title}, {_format_period(product)}, with its legend"
    return f"<figure>{page.embed_image(pictures.quicklook, alt)}</figure>"


def _area_section(product: Product) -> str:
    """Return area and share of each class."""
    rasters = product.rasters_for_layer("land_cover")
    areas = _square_kilometres(rasters)
    shares = styles.class_percentages(product.count_values("land_cover"))
    rows = [
        (
            f'<tr><th scope="row">{_swatch(entry)}{escape(entry.title)}</th>'
            f"<td>{areas.get(entry.code, 0.0):,.2f}</td><td>{quicklook.format_percent(share)}</td>"
            f'<td class="bar">{_bar(share, entry)}</td></tr>'
        )
        for entry in legend.CLASSES
        if (share := shares.get(entry.code, 0.0)) > 0
    ]
    if not rows:
        return ""
    return page.render_section(
        "Area by class",
        page.render_table(("Class", "Area, km²", "Share of the mapped area", ""), rows)
        + '<p class="note">Counted pixels at their nominal size; see the limits below.</p>',
    )


def _value_statistics(product: Product) -> str:
    """Return what values the answer has, where it is no map; of many bands only how many."""
    rasters = product.rasters_for_layer(product.provenance.main_layer)
    if product.output_kind == "land_cover" or not rasters:
        return ""
    text = "".join(
        f"<p>{_pluralise(len(raster.bands), 'band')}, cells of {raster.grid.resolution:g} m; "
        f"{raster.info.statistics[0].valid_percent:.1f} % of the grid holds values.</p>"
        for raster in rasters
    )
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{_statistics_cells(band, raster.layer.scale)}</tr>'
        for raster in rasters
        if len(raster.bands) <= _MAX_LISTED_BANDS
        for name, band in zip(raster.bands, raster.info.statistics, strict=True)
    ]
    unit = rasters[0].layer.unit or "1"
    heads = (f"Band (unit: {unit})", "Least", "Mean", "Largest", "Standard deviation")
    return page.render_section(
        rasters[0].layer.title, text + (page.render_table(heads, rows) if rows else "")
    )


def _pluralise(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _statistics_cells(band: BandStatistics, scale: float) -> str:
    """Return the cells of a table for a band, in its physical unit."""
    values = (band.minimum, band.mean, band.maximum, band.stddev)
    cells = ("none" if value is None else f"{value * scale:.4g}" for value in values)
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _square_kilometres(rasters: Iterable[Raster]) -> dict[int, float]:
    """Return the area of each code over all grids."""
    total: dict[int, float] = {}
    for raster in rasters:
        pixel = raster.grid.resolution**2 / 1e6
        for code, count in (raster.info.statistics[0].counts or {}).items():
            total[code] = total.get(code, 0.0) + count * pixel
    return total


def _swatch(entry: legend.LandCoverClass) -> str:
    """Return a small square of a class's colour."""
    return f'<span class="swatch" style="background:#{entry.color_hint}"></span>'


def _bar(share: float, entry: legend.LandCoverClass) -> str:
    """Return a bar as long as a share."""
    return f'<span style="width:{share:.2f}%;background:#{entry.color_hint}"></span>'


def _accuracy(product: Product) -> str:
    """Return the agreement with the truth, where it is known."""
    result = product.accuracy
    if result is None or not result.n:
        return ""
    reference = (
        f" Compared with: {escape(product.accuracy_reference)}."
        if product.accuracy_reference
        else ""
    )
    rows = [
        f'<tr><th scope="row">{escape(legend.CLASS_BY_NAME[name].title)}</th><td>{value:.3f}</td></tr>'
        for name, value in result.f1.items()
    ]
    return page.render_section(
        "Accuracy",
        f"<p>Overall accuracy <strong>{100 * result.overall:.1f} %</strong>, macro-F1 "
        f"<strong>{result.macro_f1:.3f}</strong> over {result.n:,} mapped pixels.{reference}</p>"
        + page.render_table(("Class", "F1"), rows),
    )


def _confidence(product: Product, pictures: ReportImages) -> str:
    """Return histogram and map of the confidence."""
    counts = product.count_values("confidence")
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
        picture = _ramp_figure(
            pictures.confidence, "Map of the confidence", "confidence", "0 %", "100 %"
        )
    return page.render_section(
        "Confidence", f'{text}<div class="pair"><figure>{_histogram(known)}</figure>{picture}</div>'
    )


def _histogram(known: Mapping[int, int]) -> str:
    """Return the histogram of 0 to 100 as an inline drawing."""
    bars = np.zeros(_HISTOGRAM_BINS)
    for value, count in known.items():
        bars[min(value * _HISTOGRAM_BINS // 100, _HISTOGRAM_BINS - 1)] += count
    shares = 100 * bars / bars.sum()
    wide, tall, left, base = 460 / _HISTOGRAM_BINS, 200, 44, 220
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


def _observations(pictures: ReportImages) -> str:
    """Return the map of how often the ground was seen."""
    if pictures.observations is None:
        return ""
    top = f"{pictures.max_observations} or more"
    return page.render_section(
        "Clear observations",
        "<p>On how many days the ground was seen clearly. 0 stands for never.</p>"
        + _ramp_figure(pictures.observations, "Map of the clear observations", "count", "0", top),
    )


def _ramp_figure(png: bytes, alt: str, ramp: rendering.ColorRamp, low: str, high: str) -> str:
    """Return a map in graded colours with its scale."""
    colors = rendering.ramp_colors(np.linspace(0, 1, 9), ramp)
    stops = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colors)
    return (
        f"<figure>{page.embed_image(png, alt)}<figcaption>{low}<span class='ramp' "
        f'style="background:linear-gradient(90deg, {stops})"></span>{high}</figcaption></figure>'
    )


def _limitations(product: Product) -> str:
    """Return what to know before trusting the product."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in descriptions.list_limitations(product))
    return page.render_section("Known limits", f"<ul>{listed}</ul>") if listed else ""


def _scenes_section(product: Product) -> str:
    """Return what was in view when, and the scenes behind it."""
    days = coverage.group_by_day(product.scenes, product.refused, shape(product.region))
    parts = (
        scenes_section.render_coverage(days),
        scenes_section.render_radiometry_check(product.verdict_counts),
        scenes_section.render_scenes(product.scenes, product.scenes_without_scl),
        scenes_section.render_caveats(product.caveats),
        scenes_section.render_rejected(product.refused),
    )
    return "\n".join(part for part in parts if part)


def _missing_tiles_section(product: Product) -> str:
    """Return the tiles that are missing, and why."""
    holes = [(hole.tile, hole.reason) for hole in product.missing_tiles]
    return scenes_section.render_reasons("Missing tiles", "Tile", holes)


def _provenance(product: Product) -> str:
    """Return what made the product."""
    source = product.provenance
    values = {
        "Published": f"{product.created.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "Plan": source.plan_digest,
        "Model": source.model or "none",
        "Model digest": source.model_digest or "none",
        **{f"Model: {key}": str(value) for key, value in source.model_options.items()},
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
    return page.render_section("How it was made", page.render_table(("", ""), rows) + notices)
