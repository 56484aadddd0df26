"""The flow of a backfill: a product for each period of a range; finished periods are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import prefect
from prefect import runtime

from flows.config import job as jobs
from flows.config.cadence import PeriodRange
from flows.observe.progress import NullProgress
from flows.orchestration import (
    artifacts,
    concurrency,
    flow_cancellation,
    land_cover_flow,
    server,
)
from flows.run import cost
from flows.run.command_results import BackfillResult
from flows.series import backfill as backfill_series
from flows.series import period_runs


def _flow_run_name() -> str:
    parameters = runtime.flow_run.parameters
    first, last = parameters.get("first"), parameters.get("last")
    return f"{Path(parameters['job']).stem} {first or 'from the start'} to {last or 'the latest'}"


@prefect.flow(
    name="backfill", persist_result=False, result_serializer="json", flow_run_name=_flow_run_name
)
def backfill(
    job: str,
    first: str | None = None,
    last: str | None = None,
    cadence: str | None = None,
    order: Literal["oldest", "newest"] = "oldest",
    at_once: int = 1,
    dry_run: bool = False,
    allow_partial: bool = False,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """Make one product per period of a range; finished periods are skipped.

    Scheduled runs that need the same GPU go first: a backfill waits for them between two periods.

    Args:
        job: Path of a job file.
        first: First day, as 2023, 2023-01 or 2023-01-15; empty: where the schedule begins.
        last: Last day, inclusive; empty: the latest period whose scenes are there.
        cadence: P1M, P1W, P10D, P1Y, season …; empty: the schedule's.
        order: Which periods come first.
        at_once: Periods side by side, 1 to 64.
        dry_run: Only list the periods.
        allow_partial: Publish with failed tiles declared as missing.
        max_cost: Largest cost of all periods together, in the currency of the job's prices; empty:
            no limit.

    Returns:
        What ``terramosaic backfill --json`` prints.
    """
    server.enable_info_logging()
    period_range = PeriodRange(
        first=first, last=last, length=cadence, newest_first=order == "newest"
    )
    return flow_cancellation.run_cancellable(
        _run, Path(job), period_range, at_once, dry_run, allow_partial, max_cost
    )


def _run(
    job_path: Path,
    period_range: PeriodRange,
    at_once: int,
    dry_run: bool,
    allow_partial: bool,
    max_cost: float | None,
) -> BackfillResult:
    job = jobs.load(job_path)
    cost.validate_limit(job, max_cost, at_once)
    progress = NullProgress()
    with prefect.tags(concurrency.BACKFILL):
        entries = backfill_series.inspect_backfill(job, period_range, progress)
        artifacts.show_periods(job.name, "The periods before the run", entries)
        if dry_run:
            return period_runs.build_result(job, entries, dry_run=True)
        entries = period_runs.run_periods(
            job,
            entries,
            at_once=at_once,
            allow_partial=allow_partial,
            progress=progress,
            run_job=land_cover_flow.run_job,
            max_cost=max_cost,
        )
    artifacts.show_periods(job.name, "The periods after the run", entries)
    result = period_runs.build_result(job, entries, dry_run=False)
    return period_runs.raise_on_failure(result)
