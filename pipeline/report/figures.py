"""What a product looks like: its quicklook, and the pictures of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.plan import layers
from pipeline.plan.layers import Layer
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, product, provenance
from pipeline.product.product import Extent, Raster
from pipeline.report import quicklook, rendering, report
from pipeline.report.quicklook import Ground, Heading, View
from pipeline.report.rendering import Pixels, Thumbnail

SIDE = 760
"""Pixels: longest side of each picture in the quicklook."""

SMALL = 480
"""Pixels: width up to which the maps of a small product are enlarged in the report."""

NUMBERS = 1 << 25
"""Numbers that a picture is made from at most: many bands make it smaller."""


def of(plan: Plan, home: Path, rasters: Sequence[Raster]) -> report.Pictures | None:
    """Draw what the report shows; None where there is nothing to draw.

    Args:
        plan: the plan.
        home: the product's folder.
        rasters: its COGs.
    """
    held = {raster.key: home / raster.href for raster in rasters}
    answer = plan.model.main.layer if plan.model else None
    shown = _bands(plan)
    side = min(SIDE, math.isqrt(NUMBERS // max(len(shown), 1)))

    def shrunk(name: str, bands: Sequence[str] = ()) -> Thumbnail:
        return rendering.thumbnail(held[name], layers.get(name), side, bands)

    colours = [
        f"composite_{name}"
        for name in ("S2L2A", "S2L1C")
        if f"composite_{name}" in held and set(rendering.TRUE_COLOR) <= set(plan.bands(name))
    ]
    composite = shrunk(colours[0], rendering.TRUE_COLOR) if colours else None
    if "observations" not in held:
        return None
    observations = shrunk("observations")
    most = max(int(observations.values[0][observations.known].max(initial=0)), 1)
    if answer in held:
        extent = Extent.of(rasters, answer)
        ground = Ground(observations=observations, composite=composite, extent=extent)
        counts = product.counts(rasters, answer)
        view = _view(layers.get(answer), shrunk(answer, shown), ground, heading(plan), counts)
    elif composite is not None:
        view = quicklook.of_composite(composite, observations, heading(plan))
    else:
        return None
    confidence = shrunk("confidence") if "confidence" in held else None
    return report.Pictures(
        quicklook=quicklook.compose(view),
        confidence=None
        if confidence is None
        else _map(rendering.graded(confidence, "confidence", 0, 100)),
        observations=_map(rendering.graded(observations, "count", 0, most)),
        most=most,
    )


def heading(plan: Plan) -> Heading:
    """Return what stands above the pictures: that an answer means nothing before all else."""
    shown = (*plan.mosaics, *plan.grids)[0] if len(plan.grids) > 1 else plan.grid
    warning = f"{descriptions.RANDOM} · " if provenance.is_random(plan) else ""
    return Heading(
        title=plan.name,
        subtitle=f"{warning}{plan.period[0]} to {plan.period[1]} · EPSG:{shown.epsg} · "
        f"{shown.resolution:g} m",
    )


def _map(pixels: Pixels) -> bytes:
    """Return a map of the report as PNG, large enough to be looked at."""
    return rendering.png(rendering.enlarge(pixels, SMALL))


def _bands(plan: Plan) -> tuple[str, ...]:
    """Return the bands of the answer that its picture needs."""
    if plan.model is None or plan.model.main.task == "land_cover":
        return ()
    shown = plan.model.main.bands
    if plan.model.main.task == "embedding":
        return shown
    return rendering.TRUE_COLOR if set(rendering.TRUE_COLOR) <= set(shown) else shown[:1]


def _view(
    layer: Layer,
    answer: Thumbnail,
    ground: Ground,
    heading: Heading,
    counts: Mapping[int, int],
) -> View:
    if layer.legend:
        return quicklook.of_map(answer, ground, heading, counts=counts)
    if layer.name == "embedding":
        return quicklook.of_features(answer, ground, heading)
    return quicklook.of_values(answer, layer, ground, heading)
