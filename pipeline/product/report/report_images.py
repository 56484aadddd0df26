"""Draw the images of a product: its quicklook and the maps of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from catalogs.sensors import SENSORS
from pipeline.layer_table import Layer
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, model_provenance, product
from pipeline.product.product import CoverageCounts, Raster
from pipeline.product.report import (
    quicklook,
    rendering,
    report,
    true_color,
)
from pipeline.product.report.quicklook import Heading, ObservedLayers, QuicklookLayout
from pipeline.product.report.rendering import Pixels, Thumbnail
from pipeline.storage.store import StoreLike, open_store

PANEL_SIZE = 760
"""Longest side of each panel of the quicklook, pixels."""

MAP_WIDTH = 480
"""Width to which the maps of a small product are enlarged in the report, pixels."""

MAX_VALUES = 1 << 25
"""Most values that are read for a panel: one of many bands is smaller."""


def draw_report_images(
    plan: Plan, product_dir: StoreLike, rasters: Sequence[Raster]
) -> report.ReportImages | None:
    """Draw the images of a product's report; None without COGs to draw them from.

    Args:
        plan: the plan.
        product_dir: the product's folder.
        rasters: its COGs.
    """
    store = open_store(product_dir)
    hrefs = {raster.key: raster.href for raster in rasters}
    output_layer = plan.model.primary_output.main_layer if plan.model else None
    shown_bands = _shown_bands(plan)
    side = min(PANEL_SIZE, math.isqrt(MAX_VALUES // max(len(shown_bands), 1)))

    def read(name: str, bands: Sequence[str] = ()) -> Thumbnail:
        path = store.gdal_path(hrefs[name])
        return rendering.read_thumbnail(path, plan.layer(name), side, bands)

    optical = [
        f"composite_{name}"
        for name, sensor in SENSORS.items()
        if sensor.group == "optical"
        and f"composite_{name}" in hrefs
        and set(true_color.TRUE_COLOR_BANDS) <= set(plan.bands(name))
    ]
    composite = read(optical[0], true_color.TRUE_COLOR_BANDS) if optical else None
    if "observations" not in hrefs:
        return None
    observations = read("observations")
    max_observations = max(int(observations.values[0][observations.valid_mask].max(initial=0)), 1)
    if output_layer is not None and output_layer.name in hrefs:
        observed = ObservedLayers(
            observations=observations,
            composite=composite,
            coverage_counts=CoverageCounts.from_rasters(rasters, output_layer),
        )
        layout = _build_layout(
            output_layer,
            read(output_layer.name, shown_bands),
            observed,
            build_heading(plan),
            product.count_values(rasters, output_layer.name),
        )
    elif composite is not None:
        layout = quicklook.layout_composite(composite, observations, build_heading(plan))
    else:
        return None
    confidence = read("confidence") if "confidence" in hrefs else None
    return report.ReportImages(
        quicklook=quicklook.render_png(layout),
        confidence=None
        if confidence is None
        else _encode_map(rendering.apply_ramp(confidence, "confidence", 0, 100)),
        observations=_encode_map(rendering.apply_ramp(observations, "count", 0, max_observations)),
        max_observations=max_observations,
    )


def build_heading(plan: Plan) -> Heading:
    """Return the heading of the quicklook, with a warning if the weights are random."""
    grid = (*plan.mosaic_grids, *plan.grids)[0] if len(plan.grids) > 1 else plan.grid
    warning = (
        f"{descriptions.RANDOM_WEIGHTS_WARNING} · " if model_provenance.is_random(plan) else ""
    )
    return Heading(
        title=plan.name,
        subtitle=f"{warning}{plan.period[0]} to {plan.period[1]} · EPSG:{grid.epsg} · "
        f"{grid.resolution:g} m",
    )


def _encode_map(pixels: Pixels) -> bytes:
    """Encode a map of the report as PNG, enlarged if it is small."""
    return rendering.encode_png(rendering.upscale(pixels, MAP_WIDTH))


def _shown_bands(plan: Plan) -> tuple[str, ...]:
    """Return the bands of the main output that its panel needs; empty for all."""
    if plan.model is None or plan.model.primary_output.kind == "classes":
        return ()
    bands = plan.model.primary_output.bands
    if plan.model.primary_output.kind == "features":
        return bands
    if set(true_color.TRUE_COLOR_BANDS) <= set(bands):
        return true_color.TRUE_COLOR_BANDS
    return bands[:1]


def _build_layout(
    layer: Layer,
    output: Thumbnail,
    observed: ObservedLayers,
    heading: Heading,
    counts: Mapping[int, int],
) -> QuicklookLayout:
    if layer.has_legend:
        return quicklook.layout_classes(output, layer, observed, heading, counts=counts)
    if layer.kind == "features":
        return quicklook.layout_embedding(output, observed, heading)
    return quicklook.layout_generated(output, layer, observed, heading)
