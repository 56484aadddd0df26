"""Render the report of a product: one HTML file without scripts or links to other files."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from shapely.geometry import shape

from pipeline.product import descriptions
from pipeline.product.product import Product, Raster
from pipeline.product.report import (
    charts,
    coverage_chart,
    html,
    quicklook,
)
from pipeline.quality import coverage
from pipeline.quality.quality_metrics import ProportionEstimate, QualityMetrics
from pipeline.quality.seam_test import Seam
from pipeline.storage import styles

_MAX_LISTED_BANDS = 20
"""Bands up to which each has a row of its own."""


@dataclass(frozen=True, kw_only=True)
class ReportImages:
    """The PNG images of a report."""

    quicklook: bytes

    confidence: bytes | None = None
    """The confidence layer from 0 to 100 %, ramp ``confidence``."""

    observations: bytes | None = None
    """The observation counts from 0 to :attr:`max_observations`, ramp ``count``."""

    max_observations: int = 0
    """Clear observations at the upper end of the ramp."""


@dataclass(frozen=True, slots=True)
class ClassArea:
    """Area of one class of a map."""

    title: str
    color: str
    """Hexadecimal, without the hash sign."""

    square_km: float
    share: float
    """Per cent of the mapped area."""

    percentage: str
    """The share, formatted."""


@dataclass(frozen=True, slots=True)
class BandValues:
    """Statistics of one band in its physical unit."""

    name: str
    figures: tuple[float | None, ...]
    """Least, mean, largest, standard deviation; None where unknown."""


@dataclass(frozen=True, slots=True)
class OutputValues:
    """Statistics of a model output that is no map of classes."""

    title: str
    unit: str
    summaries: tuple[str, ...]
    """One sentence per grid."""

    bands: tuple[BandValues, ...]


@dataclass(frozen=True, slots=True)
class ConfidenceSummary:
    """What the confidence layer holds, over all grids."""

    mean: float
    """Per cent."""

    low_percentage: float
    """Per cent of the mapped pixels with a confidence below 50 %."""

    histogram: Markup


@dataclass(frozen=True, slots=True)
class SeamRow:
    """The figures of the lines of one kind."""

    kind: str
    lines: int
    rate: float
    usual: float
    """Rate at the boundaries nearby."""

    worst: float
    z: float


@dataclass(frozen=True, slots=True)
class SampleStatement:
    """A share of sampled pixels, with what it says of them."""

    statement: str
    n: int
    share: float
    low: float
    high: float


def render_report(product: Product, images: ReportImages) -> str:
    """Render the report of a product as an HTML page."""
    period = _format_period(product)
    quality = product.quality or QualityMetrics()
    days = coverage.group_by_day(product.scenes, product.refused, shape(product.region))
    return html.render_template(
        "report.html",
        title=f"{product.title}, {period}",
        product=product,
        images=images,
        warnings=descriptions.list_warnings(product),
        description=descriptions.describe_product(product),
        facts=_list_facts(product),
        quicklook_alt=f"{_main_title(product)} of {product.title}, {period}, with its legend",
        areas=_list_class_areas(product),
        values=_summarise_output(product),
        class_scores=_list_class_scores(product),
        confidence=_summarise_confidence(product),
        limitations=descriptions.list_limitations(product),
        coverage=coverage_chart.draw_coverage(days),
        caveats=[(caveat.id, caveat.text) for caveat in product.caveats],
        rejected=[(scene.id, scene.reason) for scene in product.refused],
        missing_tiles=[(missing.tile, missing.reason) for missing in product.missing_tiles],
        provenance=_list_provenance(product),
        **seam_figures(quality),
    )


def seam_figures(quality: QualityMetrics) -> dict[str, object]:
    """Return the variables of the template's section on seams."""
    kinds = {"windows": quality.window, "tiles": quality.tile, "zones": quality.zone}
    samples = (
        ("get another class where the windows lie half a stride further", quality.disagreement),
        ("keep their class in full precision", quality.precision),
    )
    return {
        "seam_rows": [_seam_row(kind, seam) for kind, seam in kinds.items() if seam is not None],
        "seam_samples": [
            _sample_statement(statement, share) for statement, share in samples if share is not None
        ],
        "seam_chart": charts.draw_seam_rates(quality.rate_by_phase, quality.blend_length),
    }


def _seam_row(kind: str, seam: Seam) -> SeamRow:
    usual = seam.rate - seam.excess
    return SeamRow(kind, seam.lines, seam.rate, usual, seam.worst, seam.z)


def _sample_statement(statement: str, share: ProportionEstimate) -> SampleStatement:
    return SampleStatement(statement, share.n, share.share, share.low, share.high)


def _format_period(product: Product) -> str:
    return f"{_format_date(product.start)} to {_format_date(product.end)}"


def _format_date(date: dt.date) -> str:
    """Format a date as 1 May 2024."""
    return f"{date:%d %B %Y}".lstrip("0")


def _main_title(product: Product) -> str:
    """Return what the quicklook shows."""
    layer = product.provenance.main_layer
    return layer.title if layer else "Composite"


def _list_facts(product: Product) -> dict[str, str]:
    """Return the facts at the head of the page: label → value."""
    west, south, east, north = product.bbox
    used = Counter(scene.modality for scene in product.scenes)
    inputs = ", ".join(f"{count} {modality}" for modality, count in sorted(used.items()))
    return {
        "Period": _format_period(product),
        "Region": f"{_format_degrees(west, 'EW')} to {_format_degrees(east, 'EW')}, "
        f"{_format_degrees(south, 'NS')} to {_format_degrees(north, 'NS')}",
        "Grid": ", ".join(f"EPSG:{grid.epsg} at {grid.resolution:g} m" for grid in product.grids),
        "Scenes": f"{inputs or 'none'}; {len(product.refused)} refused",
        "Region seen": descriptions.describe_coverage(product),
        "Model": product.provenance.model or "none: composites only",
    }


def _format_degrees(value: float, letters: str) -> str:
    """Format a longitude or latitude; ``letters`` stand for positive and negative values."""
    letter = letters[0] if value >= 0 else letters[1]
    return f"{abs(value):.3f}° {letter}"


def _list_class_areas(product: Product) -> list[ClassArea]:
    """Return area and share of each class that the map holds."""
    layer = product.provenance.main_layer
    if layer is None or layer.legend is None:
        return []
    areas = _square_kilometres(product.rasters_for_layer(layer.name))
    shares = styles.class_percentages(layer.legend, areas)
    return [
        ClassArea(
            title=entry.title,
            color=entry.color_hint,
            square_km=areas.get(entry.code, 0.0),
            share=share,
            percentage=quicklook.format_percent(share),
        )
        for entry in layer.legend.classes
        if (share := shares.get(entry.code, 0.0)) > 0
    ]


def _square_kilometres(rasters: Iterable[Raster]) -> dict[int, float]:
    """Return the area of each code on the ground, over all grids."""
    areas: dict[int, float] = {}
    for raster in rasters:
        for code, area in raster.info.areas.items():
            areas[code] = areas.get(code, 0.0) + area
    return areas


def _summarise_output(product: Product) -> OutputValues | None:
    """Return the statistics of an output that is no map; of many bands only their number."""
    layer = product.provenance.main_layer
    rasters = product.rasters_for_layer(layer.name) if layer else ()
    if product.output_kind == "classes" or not rasters:
        return None
    return OutputValues(
        title=rasters[0].layer.title,
        unit=rasters[0].layer.unit or "1",
        summaries=tuple(_summarise_raster(raster) for raster in rasters),
        bands=tuple(_list_band_values(rasters)),
    )


def _summarise_raster(raster: Raster) -> str:
    count = len(raster.bands)
    return (
        f"{count} {'band' if count == 1 else 'bands'}, cells of {raster.grid.resolution:g} m; "
        f"{raster.info.statistics[0].valid_percent:.1f} % of the grid holds values."
    )


def _list_band_values(rasters: Sequence[Raster]) -> Iterable[BandValues]:
    for raster in rasters:
        if len(raster.bands) > _MAX_LISTED_BANDS:
            continue
        scale = raster.layer.scale
        for name, band in zip(raster.bands, raster.info.statistics, strict=True):
            stored = (band.minimum, band.mean, band.maximum, band.stddev)
            figures = tuple(None if value is None else value * scale for value in stored)
            yield BandValues(name, figures)


def _list_class_scores(product: Product) -> list[tuple[str, float]]:
    """Return title and F1 of each class that was compared with a reference."""
    layer = product.provenance.main_layer
    if product.accuracy is None or layer is None or layer.legend is None:
        return []
    return [
        (layer.legend.by_name[name].title, score) for name, score in product.accuracy.f1.items()
    ]


def _summarise_confidence(product: Product) -> ConfidenceSummary | None:
    counts = {
        value: count
        for value, count in product.count_values("confidence").items()
        if value <= 100
        # ^ nodata lies above
    }
    if not counts:
        return None
    total = sum(counts.values())
    return ConfidenceSummary(
        mean=sum(value * count for value, count in counts.items()) / total,
        low_percentage=100 * sum(count for value, count in counts.items() if value < 50) / total,
        histogram=charts.draw_histogram(counts),
    )


def _list_provenance(product: Product) -> Mapping[str, str]:
    """Return what made the product: label → value."""
    source = product.provenance
    return {
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
