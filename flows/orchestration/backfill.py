"""The flow of a backfill: a product for each period of a range, finished ones skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from flows.config import job as jobs
from flows.config.cadence import PeriodRange
from flows.observe import run_context
from flows.orchestration import server
from flows.orchestration.land_cover import raise_on_failure
from flows.run import cost
from flows.series import backfill as backfill_series
from flows.series import inspection

server.prepare_environment()

import prefect  # noqa: E402
from prefect import runtime  # noqa: E402

from flows.orchestration import artifacts, cancellation, concurrency  # noqa: E402

# ^ Prefect's settings are read when it is imported


def _flow_run_name() -> str:
    given = runtime.flow_run.parameters
    job, first, last = Path(given["job"]).stem, given.get("first"), given.get("last")
    return f"{job} {first or 'from the start'} to {last or 'the latest'}"


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

    Runs of a schedule that want the same GPU go first: a backfill gives way between two periods.

    Args:
        job: Path of a job file.
        first: First day, as 2023, 2023-01 or 2023-01-15; empty: where the schedule begins.
        last: Last day, inclusive; empty: the latest period whose scenes are there.
        cadence: P1M, P1W, P10D, P1Y, season …; empty: the schedule's.
        order: Which periods come first.
        at_once: Periods side by side, 1 to 64.
        dry_run: Only look.
        allow_partial: Publish with failed tiles declared as holes.
        max_cost: What all periods may cost together, in the currency of the job's prices; empty:
            no limit.

    Returns:
        What ``terramosaic backfill --json`` prints.
    """
    server.enable_info_logging()
    wanted = PeriodRange(first=first, last=last, length=cadence, newest_first=order == "newest")
    found: dict[str, Any] = cancellation.run_cancellable(
        _run_backfill, Path(job), wanted, at_once, dry_run, allow_partial, max_cost
    )
    return found


def _run_backfill(
    job_path: Path,
    period_range: PeriodRange,
    at_once: int,
    dry_run: bool,
    allow_partial: bool,
    max_cost: float | None,
) -> dict[str, Any]:
    asked = jobs.load(job_path)
    cost.validate_limit(asked, max_cost, at_once)
    with prefect.tags(concurrency.BACKFILL):
        found = inspection.inspect_range(asked, period_range, run_context.get_progress())
        artifacts.show_periods(asked.name, "What there is for each period", _rows(found))
        if dry_run:
            return inspection.build_result(asked, found, dry_run=True)
        made = backfill_series.run_periods(
            job_path, found, at_once, allow_partial, run_context.get_progress(), max_cost
        )
    artifacts.show_periods(asked.name, "What became of each period", _rows(made))
    return raise_on_failure(inspection.build_result(asked, made, dry_run=False))


def _rows(entries: list[inspection.PeriodSummary]) -> list[dict[str, Any]]:
    return [one.to_dict() for one in entries]
