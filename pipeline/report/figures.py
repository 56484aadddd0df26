"""What a product looks like: its quicklook, and the pictures of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.plan import layers
from pipeline.plan.layers import Layer
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, product, provenance
from pipeline.product.product import CoverageCounts, Raster
from pipeline.report import quicklook, rendering, report
from pipeline.report.quicklook import Heading, ObservedLayers, QuicklookLayout
from pipeline.report.rendering import Pixels, Thumbnail

PANEL_SIZE = 760
"""Pixels: longest side of each picture in the quicklook."""

MAP_WIDTH = 480
"""Pixels: width up to which the maps of a small product are enlarged in the report."""

MAX_VALUES = 1 << 25
"""Numbers that a picture is made from at most: many bands make it smaller."""


def draw_report_images(
    plan: Plan, product_dir: Path, rasters: Sequence[Raster]
) -> report.ReportImages | None:
    """Draw what the report shows; None where there is nothing to draw.

    Args:
        plan: the plan.
        product_dir: the product's folder.
        rasters: its COGs.
    """
    held = {raster.key: product_dir / raster.href for raster in rasters}
    answer = plan.model.primary_output.layer_name if plan.model else None
    shown = _shown_bands(plan)
    side = min(PANEL_SIZE, math.isqrt(MAX_VALUES // max(len(shown), 1)))

    def shrunk(name: str, bands: Sequence[str] = ()) -> Thumbnail:
        return rendering.read_thumbnail(held[name], layers.get(name), side, bands)

    colours = [
        f"composite_{name}"
        for name in ("S2L2A", "S2L1C")
        if f"composite_{name}" in held and set(rendering.TRUE_COLOR_BANDS) <= set(plan.bands(name))
    ]
    composite = shrunk(colours[0], rendering.TRUE_COLOR_BANDS) if colours else None
    if "observations" not in held:
        return None
    observations = shrunk("observations")
    most = max(int(observations.values[0][observations.valid_mask].max(initial=0)), 1)
    if answer in held:
        extent = CoverageCounts.from_rasters(rasters, answer)
        ground = ObservedLayers(
            observations=observations, composite=composite, coverage_counts=extent
        )
        counts = product.count_values(rasters, answer)
        view = _build_layout(
            layers.get(answer), shrunk(answer, shown), ground, build_heading(plan), counts
        )
    elif composite is not None:
        view = quicklook.layout_composite(composite, observations, build_heading(plan))
    else:
        return None
    confidence = shrunk("confidence") if "confidence" in held else None
    return report.ReportImages(
        quicklook=quicklook.render_png(view),
        confidence=None
        if confidence is None
        else _encode_map(rendering.apply_ramp(confidence, "confidence", 0, 100)),
        observations=_encode_map(rendering.apply_ramp(observations, "count", 0, most)),
        max_observations=most,
    )


def build_heading(plan: Plan) -> Heading:
    """Return what stands above the pictures: that an answer means nothing before all else."""
    shown = (*plan.mosaic_grids, *plan.grids)[0] if len(plan.grids) > 1 else plan.grid
    warning = f"{descriptions.RANDOM_WEIGHTS_WARNING} · " if provenance.is_random(plan) else ""
    return Heading(
        title=plan.name,
        subtitle=f"{warning}{plan.period[0]} to {plan.period[1]} · EPSG:{shown.epsg} · "
        f"{shown.resolution:g} m",
    )


def _encode_map(pixels: Pixels) -> bytes:
    """Return a map of the report as PNG, large enough to be looked at."""
    return rendering.encode_png(rendering.upscale(pixels, MAP_WIDTH))


def _shown_bands(plan: Plan) -> tuple[str, ...]:
    """Return the bands of the answer that its picture needs."""
    if plan.model is None or plan.model.primary_output.kind == "classes":
        return ()
    shown = plan.model.primary_output.bands
    if plan.model.primary_output.kind == "features":
        return shown
    return (
        rendering.TRUE_COLOR_BANDS if set(rendering.TRUE_COLOR_BANDS) <= set(shown) else shown[:1]
    )


def _build_layout(
    layer: Layer,
    output: Thumbnail,
    observed: ObservedLayers,
    heading: Heading,
    counts: Mapping[int, int],
) -> QuicklookLayout:
    if layer.has_legend:
        return quicklook.layout_land_cover(output, observed, heading, counts=counts)
    if layer.kind == "features":
        return quicklook.layout_embedding(output, observed, heading)
    return quicklook.layout_generated(output, layer, observed, heading)
