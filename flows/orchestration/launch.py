"""Launch of runs: as a Prefect flow where a server is configured, else in this process alone.

Without a server Prefect would start a temporary one for each run, which takes seconds and shows
nothing to anybody.
"""

from __future__ import annotations

from pathlib import Path

from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.observe import metrics_destination
from flows.observe.progress import Progress
from flows.observe.run_context import RunContext, TruthComparison
from flows.orchestration import server
from flows.run import run, stored_plan
from flows.run.command_results import RunResult
from flows.run.stored_plan import StoredPlan
from flows.series import latest_period
from pipeline.plan.plan import Plan


def run_file(
    path: Path,
    *,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
    truth_comparison: TruthComparison | None = None,
    period: str | None = None,
) -> RunResult:
    """Run or resume a job file or a plan file; a finished product is left as it is.

    Args:
        path: a job file, or a plan (``.json``).
        allow_partial: publish a product although tiles failed; they are declared as missing.
        max_cost: largest cost in the currency of the job's prices; None = no limit.
        progress: progress of the run.
        truth_comparison: compares the map with a known truth.
        period: another period than the job's, or ``latest``.

    Raises:
        InvalidInputError: the file is wrong, or a plan is given with a period.
        NothingFoundError: the catalog has no scenes for the job.
    """
    metrics_destination.read_destination()
    # ^ a wrong destination of the metrics is refused before anything is read
    source = stored_plan.load_job_or_plan(path)
    if isinstance(source, Job):
        source = latest_period.with_period(source, period, progress)
    elif period is not None:
        raise InvalidInputError(
            f"{path} is a plan, whose period is fixed. Give the job, or leave --period out."
        )
    return _run(
        source,
        allow_partial=allow_partial,
        max_cost=max_cost,
        context=RunContext(progress=progress, truth_comparison=truth_comparison),
    )


def run_job(
    job: Job, *, allow_partial: bool, max_cost: float | None, progress: Progress
) -> RunResult:
    """Run or resume a job over one period: see :func:`run_file`."""
    return _run(
        job,
        allow_partial=allow_partial,
        max_cost=max_cost,
        context=RunContext(progress=progress),
    )


def _run(
    source: Job | Plan, *, allow_partial: bool, max_cost: float | None, context: RunContext
) -> RunResult:
    return run.run(
        source,
        allow_partial=allow_partial,
        max_cost=max_cost,
        context=context,
        run_stages=_run_stages,
    )


def _run_stages(stored: StoredPlan, allow_partial: bool, context: RunContext) -> RunResult:
    """Take a plan through its stages, as a Prefect flow if a server is configured."""
    if server.resolve_api_url() is None:
        from flows.run import stages  # noqa: PLC0415

        return stages.run(stored, allow_partial, context)
    from flows.orchestration import land_cover_flow  # noqa: PLC0415

    # ^ Prefect takes seconds to import
    return land_cover_flow.run_as_flow(stored, allow_partial, context)
