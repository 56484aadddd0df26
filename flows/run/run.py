"""One run of a job or a plan: planned, checked against its limits, and taken through its stages."""

from __future__ import annotations

import time
from collections.abc import Callable

from flows.config.job import Job
from flows.execution import engine
from flows.observe import exporter
from flows.observe.run_context import RunContext
from flows.run import cost, existing, plans, product_folder
from flows.run.plans import StoredPlan
from flows.run.results import RunResult
from pipeline.plan.plan import Plan

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
    exporter.read_destination()
    if max_cost is not None and isinstance(source, Job):
        cost.validate_limit(source, max_cost)
    # ^ both are refused before anything is searched
    started = time.perf_counter()
    context.progress.start_stage("plan")
    plan = plans.load_or_create_plan(source, context.progress)
    planning_seconds = round(time.perf_counter() - started, 3)
    result = existing.find_existing_result(plan, context.progress)
    if result is None:
        cost.check_limit(plan, product_folder.plan_dir(plan), max_cost)
        if isinstance(source, Plan):
            engine.check_model(plan)
            # ^ a job has just been planned with its model as it is
        result = run_stages(plans.write_plan(plan), allow_partial, context)
    else:
        plan_path = product_folder.plan_dir(plan) / "plan.json"
        exporter.export_existing_result(plan_path, result.to_dict())
    return result.model_copy(update={"seconds": {**result.seconds, "plan": planning_seconds}})
