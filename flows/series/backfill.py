"""What the verbs over many periods do: backfill a range, refresh what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.config import job as jobs
from flows.config.cadence import PeriodRange
from flows.config.period import Period
from flows.observe.progress import NullProgress, Progress
from flows.run import cost, product
from flows.series import inspection, outdated
from flows.series.inspection import PeriodSummary


def run_backfill(
    job_path: Path,
    period_range: PeriodRange,
    *,
    dry_run: bool,
    at_once: int,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
) -> dict[str, Any]:
    """Make a job's product for every period of a range; finished ones are skipped.

    Args:
        job_path: the job file.
        period_range: which periods.
        dry_run: only look.
        at_once: periods at a time.
        allow_partial: publish with failed tiles declared as holes.
        max_cost: refuse what all of them would cost above it.
        progress: who is told how far it has come.

    Raises:
        InvalidInputError: the range cannot be read, or a limit cannot be kept.
    """
    job = jobs.load(job_path)
    cost.validate_limit(job, max_cost, at_once)
    entries = inspection.inspect_range(job, period_range, progress)
    if not dry_run:
        entries = run_periods(job_path, entries, at_once, allow_partial, progress, max_cost)
    return inspection.build_result(job, entries, dry_run=dry_run)


def run_refresh(
    job_path: Path, *, dry_run: bool, at_once: int, allow_partial: bool, progress: Progress
) -> dict[str, Any]:
    """Make those finished periods of a job anew that have other scenes, or another model, now.

    Args:
        job_path: the job file.
        dry_run: only look.
        at_once: periods at a time.
        allow_partial: publish with failed tiles declared as holes.
        progress: who is told how far it has come.
    """
    job = jobs.load(job_path)
    entries = outdated.find_outdated(job, progress)
    if not dry_run:
        entries = run_periods(job_path, entries, at_once, allow_partial, progress)
    return inspection.build_result(job, entries, dry_run=dry_run)


def run_periods(
    job_path: Path,
    entries: Sequence[PeriodSummary],
    at_once: int,
    allow_partial: bool,
    progress: Progress,
    max_cost: float | None = None,
) -> list[PeriodSummary]:
    """Make the periods of a job that can be made; one that fails does not stop the others."""
    purse = cost.CostLimit(max_cost)

    def one(period: Period) -> dict[str, Any]:
        shown = NullProgress() if at_once > 1 else progress
        # ^ bars of several periods would write over each other
        result = product.run(
            job_path,
            allow_partial=allow_partial,
            max_cost=purse.remaining,
            progress=shown,
            period=str(period),
        )
        purse.deduct(result)
        return result

    return inspection.run_entries(entries, one, at_once=at_once)
