"""The scenes of a job, and how much of its region they cover on which day."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from catalogs.errors import InvalidInputError
from catalogs.scene import format_time
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.run import product_grids, scene_search
from flows.run.command_results import DayCoverage, RefusedScene, SearchResult, UsedScene
from flows.run.scene_search import SceneSearchResult
from pipeline.product import descriptions
from pipeline.product.report import search_page
from pipeline.quality import coverage
from pipeline.storage.store import open_store


def search(job: Job, progress: Progress, report: Path | None = None) -> SearchResult:
    """Return a job's scenes, used and refused, and their coverage by day; no pixel is read.

    Args:
        job: the job over one period.
        progress: progress of the search.
        report: path of an HTML page with tables and a picture of the coverage; None = no page.

    Raises:
        InvalidInputError: the page cannot be written.
        NothingFoundError: no scene meets the region in the period.
    """
    progress.start_stage("search")
    search_result = scene_search.search_scenes(job, context_m=0.0, check_files=False)
    selection, region = search_result.selection, search_result.region
    warnings = (
        *map(descriptions.predict_refusal, scene_search.list_shortfalls(job, search_result)),
        *_list_grid_warnings(job, search_result),
        *descriptions.summarise_caveats(search_result.caveats),
    )
    days = coverage.group_by_day(selection.used, selection.refused, region)
    if report is not None:
        page = search_page.render_search_page(
            f"{job.name}: scenes found", days, selection.used, selection.refused, warnings
        )
        try:
            open_store(report.parent).write(report.name, page.encode())
        except OSError as error:
            raise InvalidInputError(
                f"The report cannot be written to {report} ({error.strerror or error}). "
                "Name another file with --report."
            ) from error
    progress.finish()
    return SearchResult(
        used=tuple(
            UsedScene(
                id=scene.id,
                datetime=format_time(scene.datetime) if scene.datetime else None,
                collection=scene.collection,
                modality=scene.modality,
                platform=scene.platform,
                tile=scene.tile,
                baseline=scene.baseline,
                orbit_state=scene.orbit_state,
                relative_orbit=scene.relative_orbit,
                cloud_cover=scene.cloud_cover,
                coverage=round(coverage.footprint_share(scene, region), 4),
            )
            for scene in selection.used
        ),
        refused=tuple(
            RefusedScene(
                id=scene.id,
                reason=scene.reason,
                collection=scene.collection or None,
                modality=scene.modality or None,
                date=scene.day,
                coverage=scene.share,
            )
            for scene in selection.refused
        ),
        coverage=tuple(
            DayCoverage(
                modality=day.modality,
                date=day.date.isoformat() if day.date else None,
                coverage=round(day.share, 4),
                cloud_cover=None if day.cloud_cover is None else round(day.cloud_cover, 2),
                used=tuple(day.scenes),
                refused=tuple(scene.id for scene in day.refused),
            )
            for day in days
        ),
        report=None if report is None else str(report),
        warnings=warnings,
    )


def _list_grid_warnings(job: Job, search_result: SceneSearchResult) -> Iterator[str]:
    """Yield what is known of the product's grids before the model is loaded."""
    try:
        grids = product_grids.build_grids(job, search_result)
        mosaic_grids = product_grids.build_mosaic_grids(job, search_result, grids)
        caveats = tuple(product_grids.find_unmapped_parts(job, grids, mosaic_grids))
    except InvalidInputError as error:
        yield descriptions.predict_refusal(str(error))
    else:
        yield from descriptions.summarise_caveats(caveats)
