"""Render the page of a search: coverage by date, scenes used, scenes rejected."""

from __future__ import annotations

from collections.abc import Sequence

from catalogs.scene import RejectedScene, Scene
from pipeline.product.report import coverage_chart, html
from pipeline.quality.coverage import DayCoverage


def render_search_page(
    title: str,
    days: Sequence[DayCoverage],
    used_scenes: Sequence[Scene],
    rejected_scenes: Sequence[RejectedScene],
    warnings: Sequence[str] = (),
) -> str:
    """Render the HTML page of a search.

    Args:
        title: heading of the page.
        days: coverage of the region, day by day.
        used_scenes: scenes that the job would read.
        rejected_scenes: scenes that it would leave out, with their reasons.
        warnings: what must be known before the job is run.
    """
    return html.render_template(
        "search.html",
        title=title,
        warnings=warnings,
        coverage=coverage_chart.draw_coverage(days),
        used=used_scenes,
        rejected=[(scene.id, scene.reason) for scene in rejected_scenes],
    )
