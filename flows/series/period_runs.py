"""Runs of a job over several periods; one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from catalogs.errors import NothingFoundError, TerramosaicError
from flows.config.job import Job
from flows.observe.progress import NullProgress, Progress
from flows.run import cost
from flows.run.command_results import BackfillResult, PeriodTiles, RunResult
from flows.series.period_status import PeriodSummary
from pipeline.runtime import cancellation
from pipeline.runtime.cancellation import Cancelled
from pipeline.runtime.lock import FolderLockedError

log = logging.getLogger(__name__)

RUNNABLE = ("ready", "thin")
"""Statuses of the periods that a backfill makes."""


class RunJob(Protocol):
    """Runs a job over one period: by itself, or as a Prefect flow."""

    def __call__(
        self, job: Job, *, allow_partial: bool, max_cost: float | None, progress: Progress
    ) -> RunResult:
        """Run or resume the job."""


class PeriodsFailed(TerramosaicError):
    """Some periods of a series have failed; the others are done."""


def run_periods(
    job: Job,
    entries: Sequence[PeriodSummary],
    *,
    at_once: int,
    allow_partial: bool,
    progress: Progress,
    run_job: RunJob,
    max_cost: float | None = None,
) -> list[PeriodSummary]:
    """Run the periods that are ready or thin; one that fails does not stop the others.

    Args:
        job: the job.
        entries: all periods, in the order in which they are begun.
        at_once: number of periods side by side.
        allow_partial: publish products although tiles failed; they are declared as missing.
        progress: progress of the runs.
        run_job: runs the job over one period.
        max_cost: largest cost of all periods together; None = no limit.
    """
    limit = cost.CostLimit(max_cost)

    def attempt(entry: PeriodSummary) -> PeriodSummary:
        cancellation.check_cancelled()
        if entry.status not in RUNNABLE:
            return entry
        return _run_entry(
            entry,
            job.with_period(entry.period),
            limit=limit,
            allow_partial=allow_partial,
            progress=NullProgress() if at_once > 1 else progress,
            # ^ the bars of several periods would overwrite each other
            run_job=run_job,
        )

    if at_once == 1:
        return [attempt(entry) for entry in entries]
    with cancellation.CancellableThreadPool(at_once, "period") as pool:
        return list(pool.map(attempt, entries))


def _run_entry(
    entry: PeriodSummary,
    job: Job,
    *,
    limit: cost.CostLimit,
    allow_partial: bool,
    progress: Progress,
    run_job: RunJob,
) -> PeriodSummary:
    """Run one period and return its entry with the outcome."""
    try:
        result = run_job(
            job, allow_partial=allow_partial, max_cost=limit.remaining, progress=progress
        )
    except NothingFoundError as error:
        return replace(entry, status="gap", reason=str(error))
    except FolderLockedError as error:
        return replace(entry, status="busy", reason=str(error))
        # ^ as where a schedule fires while its last run is still at work
    except Cancelled:
        raise
    except Exception as error:
        # ^ any error of one period must leave the next ones their turn
        cancellation.check_cancelled()
        # ^ but an error that follows from the cancellation is no failure of the period
        log.warning("period=%s failed reason=%s", entry.period, error, exc_info=True)
        return replace(entry, status="failed", reason=str(error) or type(error).__name__)
    limit.deduct(result)
    tiles, failed = result.tiles, result.tiles.failed
    reason = result.reason or (None if result.status == "unchanged" else entry.reason)
    return replace(
        entry,
        status=result.status,
        item=result.item,
        scenes=result.scenes,
        tiles=PeriodTiles(
            total=tiles.total, done=tiles.done, skipped=tiles.skipped, failed=len(failed)
        ),
        reason=f"{len(failed)} tiles failed, {failed[0].reason}" if failed else reason,
    )


def build_result(job: Job, entries: Sequence[PeriodSummary], *, dry_run: bool) -> BackfillResult:
    """Return the result of a backfill or a refresh."""
    return BackfillResult(
        name=job.name, dry_run=dry_run, periods=tuple(entry.to_result() for entry in entries)
    )


def raise_on_failure(result: BackfillResult) -> BackfillResult:
    """Return the result of a series whose periods have all succeeded.

    Raises:
        PeriodsFailed: a period has failed, or its quality gate was not passed.
    """
    failed = [period for period in result.periods if period.status in {"failed", "refused"}]
    if failed:
        first = failed[0]
        raise PeriodsFailed(
            f"{len(failed)} of {len(result.periods)} periods failed, the first one "
            f"{first.start}: {first.reason or first.status} Once the reasons are gone, run it "
            "again: finished tiles are not computed again."
        )
    return result
