"""The flow of a run: its stages as five tasks; the tiles are tasks of dask."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect import runtime
from prefect.cache_policies import NO_CACHE

from catalogs.errors import TerramosaicError, TransientError
from flows.config import job as jobs
from flows.config.job import Job
from flows.observe.progress import NullProgress, Progress
from flows.observe.run_context import RunContext
from flows.orchestration import (
    artifacts,
    concurrency,
    flow_cancellation,
    server,
)
from flows.run import run, stages, stored_plan
from flows.run.command_results import BackfillResult, RunResult
from flows.run.stages import Stages, TilesResult
from flows.run.stored_plan import StoredPlan
from flows.series import due_periods, latest_period, period_runs
from pipeline.plan.plan import Plan
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage import plan_file

Params = ParamSpec("Params")
Returned = TypeVar("Returned")

DUE = "due"
"""The period of a scheduled flow run: all periods that are complete and not finished."""


class IncompleteProduct(TerramosaicError):
    """A run has ended without a complete product; finished tiles are kept."""

    def __init__(self, result: RunResult) -> None:
        """Keep the result of the run."""
        super().__init__(f"{result.status}: {_failure_reason(result)}")
        self.result = result


def _failure_reason(result: RunResult) -> str:
    if result.reason is not None:
        return result.reason
    failed = result.tiles.failed
    return f"{len(failed)} of {result.tiles.total} tiles failed, {failed[0].reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _LocalRun:
    """A run that this process has prepared before it calls the flow."""

    stored: StoredPlan
    context: RunContext


_local_run: ContextVar[_LocalRun | None] = ContextVar("local_run", default=None)
# ^ the parameters of a flow are sent to the server, which neither a plan of megabytes nor a
#   progress bar can be; a context variable because several periods may run side by side


def run_as_flow(stored: StoredPlan, allow_partial: bool, context: RunContext) -> RunResult:
    """Take a plan through its stages as a flow run; a subflow where another flow calls it."""
    token = _local_run.set(_LocalRun(stored=stored, context=context))
    try:
        return RunResult.model_validate(
            land_cover(job=str(stored.path), allow_partial=allow_partial)
        )
    except IncompleteProduct as error:
        return error.result
    finally:
        _local_run.reset(token)


def run_job(
    job: Job, *, allow_partial: bool, max_cost: float | None, progress: Progress
) -> RunResult:
    """Run a job over one period; if something is left to do, as a subflow of the current flow."""
    return run.run(
        job,
        allow_partial=allow_partial,
        max_cost=max_cost,
        context=RunContext(progress=progress),
        run_stages=run_as_flow,
    )


def flow_run_name() -> str:
    """Return the name of a flow run: job and period."""
    parameters = runtime.flow_run.parameters
    path, period = Path(parameters["job"]), parameters.get("period")
    if path.suffix != ".json":
        return f"{path.stem} {period or 'as the job says'}"
    local = _local_run.get()
    plan = (
        local.stored.plan if local and local.stored.path == path else plan_file.read_plan_file(path)
    )
    return f"{plan.name} {plan.period[0]} to {plan.period[1]}"


@prefect.flow(
    name="land_cover",
    persist_result=False,
    result_serializer="json",
    flow_run_name=flow_run_name,
)
def land_cover(job: str, period: str | None = None, allow_partial: bool = False) -> dict[str, Any]:
    """Map one region and period.

    Args:
        job: Path of a job file, or of a plan.
        period: Another period than the job's, as 2024-05 or 2024-05-01/2024-09-30; latest: the last
            one whose scenes are complete; due: all of these that are not finished.
        allow_partial: Publish with failed tiles declared as missing.

    Returns:
        What ``terramosaic run --json`` prints; for periods that are due, what ``backfill`` does.
    """
    server.enable_info_logging()
    return flow_cancellation.run_cancellable(_run, Path(job), period, allow_partial)


def _run(path: Path, period: str | None, allow_partial: bool) -> RunResult | BackfillResult:
    if period == DUE:
        return _run_due_periods(path, allow_partial)
    local = _local_run.get()
    source: Job | StoredPlan
    if local is not None and local.stored.path == path:
        source, context = local.stored, local.context
    else:
        source, context = _load(path, period), RunContext()
    name = source.plan.name if isinstance(source, StoredPlan) else source.name
    if isinstance(context.progress, NullProgress):
        context = replace(context, progress=artifacts.PrefectProgress(name))
        # ^ a terminal has its own bars
    result = stages.run(source, allow_partial, context, TASKS)
    artifacts.show_product(name, result)
    if result.status in {"failed", "refused"}:
        raise IncompleteProduct(result)
    return result


def _load(path: Path, period: str | None) -> Job | StoredPlan:
    source = stored_plan.load_job_or_plan(path)
    if isinstance(source, Plan):
        return stored_plan.write_plan(source)
    return latest_period.with_period(source, period, NullProgress())


def _run_due_periods(path: Path, allow_partial: bool) -> BackfillResult:
    """Run the periods that are due, oldest first, each as a subflow."""
    job = jobs.load(path)
    progress = NullProgress()
    entries = due_periods.inspect_due(job, progress)
    artifacts.show_periods(job.name, "The latest periods before the run", entries)
    entries = period_runs.run_periods(
        job,
        entries,
        at_once=1,
        allow_partial=allow_partial,
        progress=progress,
        run_job=run_job,
    )
    artifacts.show_periods(job.name, "The latest periods after the run", entries)
    return period_runs.raise_on_failure(period_runs.build_result(job, entries, dry_run=False))


# -- stages as tasks -----------------------------------------------------------------------------


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Tell Prefect to retry errors that may be gone at the next attempt, and no others."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def as_task(
    function: Callable[Params, Returned], name: str, **options: Any
) -> Callable[Params, Returned]:
    """Return a function that runs another one as a Prefect task.

    Arguments and result stay in this process: Prefect would search a plan of thousands of scenes
    for futures, and hash it.

    Args:
        function: the function.
        name: name of the task.
        options: further options of the task, such as its retries.
    """

    def run_task(*arguments: Params.args, **keywords: Params.kwargs) -> Returned:
        def call() -> Returned:
            return function(*arguments, **keywords)

        task = prefect.task(name=name, cache_policy=NO_CACHE, **options)(call)
        returned: Returned = task()
        return returned

    return run_task


def _prepare_plan(source: Job | StoredPlan, context: RunContext) -> StoredPlan:
    stored = stages.prepare_plan(source, context)
    artifacts.show_plan(stored)
    return stored


def _map_tiles(stored: StoredPlan, context: RunContext) -> TilesResult:
    with concurrency.hold_slot(concurrency.find_slot(stored.plan)):
        return stages.map_tiles(stored, context)


def _measure_quality(stored: StoredPlan) -> QualityMetrics:
    quality = stages.measure_quality(stored)
    artifacts.show_quality(stored.plan, quality)
    return quality


TASKS = Stages(
    prepare_plan=as_task(
        _prepare_plan,
        "plan",
        retries=2,
        retry_delay_seconds=[10, 60],
        retry_condition_fn=_is_transient,
    ),
    map_tiles=as_task(
        _map_tiles,
        "map tiles",
        retries=3,
        retry_delay_seconds=[5, 30, 120],
        retry_condition_fn=_is_transient,
    ),
    # ^ a scheduler that was lost may be back by then; finished tiles are not made again
    verify_tiles=as_task(stages.verify_tiles, "verify"),
    measure_quality=as_task(_measure_quality, "quality"),
    publish=as_task(stages.publish, "publish"),
)
"""The stages of a run as Prefect's tasks."""
