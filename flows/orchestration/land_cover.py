"""The flow that Prefect knows: the stages of a run as five coarse tasks; tiles are dask's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalogs.errors import TerramosaicError, TransientError
from flows.config import job as jobs
from flows.observe import run_context
from flows.observe.progress import NullProgress
from flows.orchestration import server
from flows.run import stages
from flows.series import backfill, inspection
from pipeline.storage import plan_file

server.prepare_environment()

import prefect  # noqa: E402
from prefect import runtime  # noqa: E402

from flows.orchestration import artifacts, cancellation, concurrency  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

DUE = "due"
"""Every period of the schedule whose scenes are complete, and that is not finished."""


class IncompleteProduct(TerramosaicError):
    """A run has ended without a whole product; what it could do is kept."""

    def __init__(self, result: dict[str, Any]) -> None:
        """Keep what ``terramosaic run --json`` prints."""
        super().__init__(f"{result['status']}: {_failure_reason(result)}")
        self.result = result


def _failure_reason(result: dict[str, Any]) -> str:
    failed = result["tiles"]["failed"]
    if not failed:
        return "the quality gate of the job is not passed; " + "; ".join(result["warnings"])
    return f"{len(failed)} of {result['tiles']['total']} tiles, {failed[0]['reason']}"


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may be gone at the next attempt, and nothing else."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def _prepare_plan(job: str, period: str | None) -> str:
    path = stages.prepare_plan(job, period)
    artifacts.show_plan(plan_file.read_plan_file(path), Path(path).parent)
    return path


def _map_tiles(plan_path: str) -> dict[str, Any]:
    with concurrency.hold_slot(concurrency.find_slot(plan_file.read_plan_file(plan_path))):
        return stages.map_tiles(plan_path)


def _measure_quality(plan_path: str) -> Any:
    figures = stages.measure_quality(plan_path)
    artifacts.show_quality(plan_file.read_plan_file(plan_path), figures.to_dict())
    return figures


_TASKS: dict[Callable[..., Any], Callable[..., Any]] = {
    stages.prepare_plan: prefect.task(
        name="plan", retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=_is_transient
    )(_prepare_plan),
    stages.map_tiles: prefect.task(
        name="map tiles",
        retries=3,
        retry_delay_seconds=[5, 30, 120],
        retry_condition_fn=_is_transient,
    )(_map_tiles),
    # ^ a scheduler that was lost may be back by then; finished tiles are not made again
    stages.verify_tiles: prefect.task(name="verify")(stages.verify_tiles),
    stages.measure_quality: prefect.task(name="quality")(_measure_quality),
    stages.publish: prefect.task(name="publish")(stages.publish),
}


def run_name() -> str:
    """Return the name of a flow run: which job, over which period."""
    given = runtime.flow_run.parameters
    job, period = Path(given["job"]), given.get("period")
    if job.suffix != ".json":
        return f"{job.stem} {period or 'as the job says'}"
    plan = plan_file.read_plan_file(job)
    return f"{plan.name} {plan.period[0]} to {plan.period[1]}"


@prefect.flow(
    name="land_cover", persist_result=False, result_serializer="json", flow_run_name=run_name
)
def land_cover(job: str, period: str | None = None, allow_partial: bool = False) -> dict[str, Any]:
    """Map one region and period.

    Args:
        job: Path of a job file, or of a plan.
        period: Another period than the job's, as 2024-05 or 2024-05-01/2024-09-30; latest: the last
            one whose scenes are complete; due: all of these that are not finished.
        allow_partial: Publish with failed tiles declared as holes.

    Returns:
        What ``terramosaic run --json`` prints; for periods that are due, what ``backfill`` does.
    """
    server.enable_info_logging()
    found: dict[str, Any] = cancellation.run_cancellable(_run_product, job, period, allow_partial)
    return found


def _run_product(job: str, period: str | None, allow_partial: bool) -> dict[str, Any]:
    if period == DUE:
        return _run_due_periods(job, allow_partial)
    name = _product_name(job)
    progress = run_context.get_progress()
    board = artifacts.PrefectProgress(name) if isinstance(progress, NullProgress) else progress
    # ^ somebody at a terminal has bars
    with run_context.activate(board, run_context.get_truth_comparison()):
        result = stages.run(job, period, allow_partial, _run_stage)
    artifacts.show_product(name, result)
    if result["status"] in {"failed", "refused"}:
        raise IncompleteProduct(result)
    return result


def _product_name(job: str) -> str:
    """Return the name of the product of a job file, or of a plan."""
    path = Path(job)
    return plan_file.read_plan_file(path).name if path.suffix == ".json" else jobs.load(path).name


def _run_stage(stage: Callable[..., Any], *arguments: Any) -> Any:
    return _TASKS[stage](*arguments)


def _run_due_periods(path: str, allow_partial: bool) -> dict[str, Any]:
    """Make the periods that are due, the oldest first, each as a flow run of its own."""
    job = jobs.load(Path(path))
    found = inspection.inspect_due(job, run_context.get_progress())
    artifacts.show_periods(job.name, "The latest periods, and what there is for them", _rows(found))
    entries = backfill.run_periods(Path(path), found, 1, allow_partial, run_context.get_progress())
    artifacts.show_periods(job.name, "The latest periods, and what became of them", _rows(entries))
    return raise_on_failure(inspection.build_result(job, entries, dry_run=False))


def _rows(entries: list[inspection.PeriodSummary]) -> list[dict[str, Any]]:
    return [one.to_dict() for one in entries]


class PeriodsFailed(TerramosaicError):
    """Some periods of a series have failed; the others are done."""


def raise_on_failure(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a series.

    Raises:
        Unfinished: a period has failed, or its map was refused.
    """
    lost = [one for one in result["periods"] if one["status"] in {"failed", "refused"}]
    if lost:
        raise PeriodsFailed(
            f"{len(lost)} of {len(result['periods'])} periods failed, the first one "
            f"{lost[0]['start']}: {lost[0]['reason'] or lost[0]['status']}. Run it again: what is "
            "finished is not computed again."
        )
    return result
