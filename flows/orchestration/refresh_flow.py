"""The flow of a refresh: outdated products are made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prefect
from prefect import runtime

from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.orchestration import (
    artifacts,
    concurrency,
    flow_cancellation,
    land_cover_flow,
    server,
)
from flows.run.command_results import BackfillResult
from flows.series import outdated_products, period_runs


@prefect.flow(
    name="refresh",
    persist_result=False,
    result_serializer="json",
    flow_run_name=lambda: Path(runtime.flow_run.parameters["job"]).stem,
)
def refresh(
    job: str, at_once: int = 1, dry_run: bool = False, allow_partial: bool = False
) -> dict[str, Any]:
    """Make those finished periods again that have newer scenes or a newer model.

    Tiles for which nothing has changed are copied.

    Args:
        job: Path of a job file.
        at_once: Periods side by side, 1 to 64.
        dry_run: Only list the periods.
        allow_partial: Publish with failed tiles declared as missing.

    Returns:
        What ``terramosaic refresh --json`` prints.
    """
    server.enable_info_logging()
    return flow_cancellation.run_cancellable(_run, Path(job), at_once, dry_run, allow_partial)


def _run(job_path: Path, at_once: int, dry_run: bool, allow_partial: bool) -> BackfillResult:
    job = jobs.load(job_path)
    progress = NullProgress()
    with prefect.tags(concurrency.BACKFILL):
        # ^ products that are there can wait for scheduled runs
        entries = outdated_products.find_outdated(job, progress)
        if not dry_run:
            entries = period_runs.run_periods(
                job,
                entries,
                at_once=at_once,
                allow_partial=allow_partial,
                progress=progress,
                run_job=land_cover_flow.run_job,
            )
    artifacts.show_periods(job.name, "Finished periods, and what is newer", entries)
    result = period_runs.build_result(job, entries, dry_run=dry_run)
    return period_runs.raise_on_failure(result)
