"""Refresh: outdated products are made again."""

from __future__ import annotations

from pathlib import Path

from flows.config import job as jobs
from flows.observe.progress import Progress
from flows.run.command_results import BackfillResult
from flows.series import outdated_products, period_runs
from flows.series.period_runs import RunJob


def run_refresh(
    job_path: Path,
    *,
    dry_run: bool,
    at_once: int,
    allow_partial: bool,
    progress: Progress,
    run_job: RunJob,
) -> BackfillResult:
    """Make those finished periods of a job again whose scenes, model or request have changed.

    Args:
        job_path: the job file.
        dry_run: only list the periods.
        at_once: number of periods side by side.
        allow_partial: publish products although tiles failed; they are declared as missing.
        progress: progress of inspection and runs.
        run_job: runs the job over one period.
    """
    job = jobs.load(job_path)
    entries = outdated_products.find_outdated(job, progress)
    if not dry_run:
        entries = period_runs.run_periods(
            job,
            entries,
            at_once=at_once,
            allow_partial=allow_partial,
            progress=progress,
            run_job=run_job,
        )
    return period_runs.build_result(job, entries, dry_run=dry_run)
