"""Status of a job's periods: finished, ready to be made, or without scenes so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shapely.geometry import shape

from catalogs import lonlat_geometry, number_format
from catalogs.errors import NothingFoundError
from catalogs.sensors import get_sensor
from flows.config.job import Job
from flows.config.period import Period
from flows.observe.progress import Progress
from flows.run import finished_products, scene_search
from flows.run.command_results import PeriodResult, PeriodStatus, PeriodTiles


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodSummary:
    """One period of a job: what there is for it, and later the outcome of its run."""

    period: Period
    status: PeriodStatus
    reason: str | None = None
    """Why it has this status, where that needs words."""

    scenes: int | None = None
    """Scenes used; None where the catalog was not searched."""

    coverage: float | None = None
    """Share of the region under the scenes of the first input with a date, 0 to 1."""

    cloud_cover: float | None = None
    """Mean cloud cover of these scenes, percent, as the catalog states it."""

    item: str | None = None
    """Path of the product's item."""

    tiles: PeriodTiles | None = None
    """Tiles of the run by their outcome."""

    def to_result(self) -> PeriodResult:
        """Return the entry as ``backfill --json`` prints it."""
        return PeriodResult(
            start=self.period.start.isoformat(),
            end=self.period.end.isoformat(),
            status=self.status,
            item=self.item,
            scenes=self.scenes,
            coverage=None if self.coverage is None else round(self.coverage, 4),
            cloud_cover=None if self.cloud_cover is None else round(self.cloud_cover, 1),
            tiles=self.tiles,
            reason=self.reason,
        )


def inspect_period(job: Job, period: Period) -> PeriodSummary:
    """Look for the product of a period and, without one, search the catalog for its scenes."""
    job = job.with_period(period)
    item = finished_products.find_finished_item(job)
    if item is not None:
        return PeriodSummary(period=period, status="finished", item=str(item))
    try:
        search_result = scene_search.search_scenes(job, context_m=0.0, check_files=False)
    except NothingFoundError as error:
        return PeriodSummary(period=period, status="gap", scenes=0, coverage=0.0, reason=str(error))
    dated_input = next((name for name in job.inputs if get_sensor(name).is_temporal), job.inputs[0])
    selected = search_result.selection.used
    dated = [scene for scene in selected if scene.modality == dated_input]
    coverage = lonlat_geometry.covered_fraction(
        lonlat_geometry.union(shape(scene.footprint) for scene in dated), search_result.region
    )
    reasons = scene_search.list_shortfalls(job, search_result)
    if coverage < job.schedule.min_coverage:
        share, limit = number_format.format_apart(
            100 * coverage, 100 * job.schedule.min_coverage, digits=3
        )
        reasons.insert(
            0,
            f"{dated_input} covers {share} % of the region, and schedule.min_coverage is {limit} %",
        )
    cloud_covers = [scene.cloud_cover for scene in dated if scene.cloud_cover is not None]
    return PeriodSummary(
        period=period,
        status="thin" if reasons else "ready",
        scenes=len(selected),
        coverage=coverage,
        cloud_cover=sum(cloud_covers) / len(cloud_covers) if cloud_covers else None,
        reason="; ".join(reasons) or None,
    )


def inspect_periods(
    job: Job, job_periods: Sequence[Period], progress: Progress
) -> list[PeriodSummary]:
    """Inspect periods one after the other."""
    progress.start_stage("inspect", len(job_periods))
    entries = []
    for period in job_periods:
        entries.append(inspect_period(job, period))
        progress.advance(1, f"{period} {entries[-1].status}")
    progress.finish()
    return entries
