"""One run of a job or a plan: planned, checked against its limits, and taken through its stages."""

from __future__ import annotations

import time
from collections.abc import Callable

from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.observe import metrics_destination
from flows.observe.run_context import RunContext
from flows.run import finished_products, product_folder, stored_plan
from flows.run.command_results import RunResult
from flows.run.stored_plan import StoredPlan
from pipeline.plan.plan import NUMERICS_VERSION, Plan

RunStages = Callable[[StoredPlan, bool, RunContext], RunResult]
"""Takes a plan through its stages: called with the plan, ``allow_partial`` and the context."""


def run(
    source: Job | Plan,
    *,
    allow_partial: bool,
    max_cost: float | None,
    context: RunContext,
    run_stages: RunStages,
) -> RunResult:
    """Run or resume a job or a plan; a finished product is left as it is.

    Args:
        source: a plan, or a job over one period.
        allow_partial: publish a product although tiles failed; they are declared as missing.
        max_cost: largest cost in the currency of the job's prices; None = no limit.
        context: progress and the like.
        run_stages: takes the plan through its stages, by itself or as a Prefect flow.

    Raises:
        InvalidInputError: the job is wrong, or the run would cost more than the limit.
        NothingFoundError: the catalog has no scenes for the job.
    """
    metrics_destination.read_destination()
    if isinstance(source, Job) and max_cost is not None:
        from flows.run import cost  # noqa: PLC0415

        # ^ slow to import (xarray, dask), and a finished product does not need it
        cost.validate_limit(source, max_cost)
    # ^ both are refused before anything is searched
    started = time.perf_counter()
    context.progress.start_stage("plan")
    unchanged = finished_products.find_unchanged(source) if isinstance(source, Job) else None
    if unchanged is None:
        plan = stored_plan.load_or_create_plan(source, context.progress)
        result = finished_products.find_existing_result(plan)
    else:
        plan, result = unchanged
    planning_seconds = round(time.perf_counter() - started, 3)
    if result is None:
        result = _run_plan(
            plan,
            is_new=isinstance(source, Job),
            allow_partial=allow_partial,
            max_cost=max_cost,
            context=context,
            run_stages=run_stages,
        )
    else:
        context.progress.finish()
        finished_products.export_metrics(plan, result)
    return result.model_copy(update={"seconds": {**result.seconds, "plan": planning_seconds}})


def _run_plan(
    plan: Plan,
    *,
    is_new: bool,
    allow_partial: bool,
    max_cost: float | None,
    context: RunContext,
    run_stages: RunStages,
) -> RunResult:
    """Check the cost and the model of a plan, write it, and take it through its stages."""
    from flows.execution.tile_worker import check_model  # noqa: PLC0415
    from flows.run import cost  # noqa: PLC0415

    # ^ slow to import (xarray, dask), and a finished product does not need them
    if plan.numerics != NUMERICS_VERSION:
        raise InvalidInputError(
            f"The plan {plan.digest[:12]} was made by a version that computes other pixel values "
            f"(numerics {plan.numerics}; this version: {NUMERICS_VERSION}). "
            "Make a new one with: terramosaic plan JOB -o plan.json"
        )
    cost.check_limit(plan, product_folder.plan_dir(plan), max_cost)
    if not is_new:
        check_model(plan)
        # ^ a job has just been planned with its model as it is
    return run_stages(stored_plan.write_plan(plan), allow_partial, context)
