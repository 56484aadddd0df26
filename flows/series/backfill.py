"""Backfill: a job's product for every period of a range; finished periods are skipped."""

from __future__ import annotations

from pathlib import Path

from flows.config import job as jobs
from flows.config.cadence import PeriodRange
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.run import cost
from flows.run.command_results import BackfillResult
from flows.series import due_periods, period_runs
from flows.series.period_runs import RunJob
from flows.series.period_status import PeriodSummary


def inspect_backfill(
    job: Job, period_range: PeriodRange, progress: Progress
) -> list[PeriodSummary]:
    """Inspect the periods of a backfill, in the order in which they are made.

    Raises:
        InvalidInputError: an end of the range cannot be read, or no period lies in the range.
    """
    entries = due_periods.inspect_range(job, period_range, progress)
    return entries[::-1] if period_range.newest_first else entries


def run_backfill(
    job_path: Path,
    period_range: PeriodRange,
    *,
    dry_run: bool,
    at_once: int,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
    run_job: RunJob,
) -> BackfillResult:
    """Make a job's product for every period of a range; finished periods are skipped.

    Args:
        job_path: the job file.
        period_range: the periods.
        dry_run: only list the periods.
        at_once: number of periods side by side.
        allow_partial: publish products although tiles failed; they are declared as missing.
        max_cost: largest cost of all periods together; None = no limit.
        progress: progress of inspection and runs.
        run_job: runs the job over one period.

    Raises:
        InvalidInputError: the range cannot be read, or the limit cannot be kept.
    """
    job = jobs.load(job_path)
    cost.validate_limit(job, max_cost, at_once)
    entries = inspect_backfill(job, period_range, progress)
    if not dry_run:
        entries = period_runs.run_periods(
            job,
            entries,
            at_once=at_once,
            allow_partial=allow_partial,
            max_cost=max_cost,
            progress=progress,
            run_job=run_job,
        )
    return period_runs.build_result(job, entries, dry_run=dry_run)
