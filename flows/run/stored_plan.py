"""Plan files: loaded, made from a job, written into their folder, and summarised."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.run import finished_products, planning, product_folder, run_result
from flows.run.command_results import PlannedTiles, PlanResult
from pipeline.plan.plan import Plan
from pipeline.product import published_item
from pipeline.storage import plan_file

_PLAN_START = re.compile(rb'\s*\{\s*"format"\s*:\s*\d+\s*,\s*"plan"\s*:')
"""How every plan file begins: see :meth:`pipeline.plan.plan.Plan.to_dict`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan and its file, whose folder holds the plan's receipts, store and layers."""

    plan: Plan
    path: Path

    @property
    def folder(self) -> Path:
        """Return the plan's folder."""
        return self.path.parent


def load_job_or_plan(path: Path) -> Job | Plan:
    """Read a plan or a job; which of both a file is depends on its content, not on its name.

    Raises:
        InvalidInputError: the file does not exist, or something in it is wrong.
    """
    return plan_file.read_plan_file(path) if _is_plan(path) else jobs.load(path)


def _is_plan(path: Path) -> bool:
    """Return whether a file is a plan; a .json file that is no job, either, is read as a plan."""
    try:
        with path.open("rb") as file:
            is_plan = _PLAN_START.match(file.read(200)) is not None
        if is_plan or path.suffix != ".json":
            return is_plan
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return path.suffix == ".json"
    return not isinstance(values, dict) or "region" not in values
    # ^ a job may be written as JSON, which is YAML


def load_or_create_plan(source: Job | Plan, progress: Progress) -> Plan:
    """Return a plan as it is, or the plan of a job over its period.

    Args:
        source: a plan, or a job over one period.
        progress: progress of the radiometric check.

    Raises:
        InvalidInputError: parts of the job contradict each other or the model.
        NothingFoundError: the catalog has no scenes for the job.
    """
    return source if isinstance(source, Plan) else planning.create_plan(source, progress)


def write_plan(plan: Plan) -> StoredPlan:
    """Write a plan into its own folder.

    The file of a finished product stays as it is: the product's item holds its checksum, and its
    run settings may be other ones than those of the job today.

    Raises:
        InvalidInputError: the folder cannot be written.
    """
    folder = product_folder.plan_dir(plan)
    if finished_products.find_existing_result(plan) is not None:
        return StoredPlan(plan=plan, path=folder / plan_file.PLAN_NAME)
    try:
        plan_file.write_plan(folder, plan)
    except OSError as error:
        raise InvalidInputError(
            f"The plan cannot be written to {folder} ({error.strerror or error}). "
            "Name another folder in output.path."
        ) from error
    return StoredPlan(plan=plan, path=folder / plan_file.PLAN_NAME)


def make_plan(job: Job, progress: Progress, output: Path | None = None) -> PlanResult:
    """Plan a job, write the plan, and estimate what running it takes and costs.

    Args:
        job: the job over one period.
        progress: progress of the radiometric check.
        output: path of the plan file; None = the plan's own folder.
    """
    from flows.run import cost  # noqa: PLC0415

    # ^ slow to import (xarray, dask), and runs of finished products do not need it
    progress.start_stage("plan")
    plan = planning.create_plan(job, progress)
    folder = product_folder.plan_dir(plan)
    if output is None:
        path = write_plan(plan).path
    else:
        path = output
        plan_file.write_plan_file(path, plan)
    missing, _ = cost.find_missing_tiles(plan, folder)
    estimate = cost.estimate_resources(plan, folder, missing)
    earlier = published_item.read_finished_tiles(folder.parent)
    recompute = sum(tile.id in earlier for tile in missing)
    progress.finish()
    return PlanResult(
        plan=str(path),
        tiles=PlannedTiles(
            total=len(plan.tiles),
            new=len(missing) - recompute,
            skip=len(plan.tiles) - len(missing),
            recompute=recompute,
        ),
        scenes=len(plan.snapshot.scenes),
        bytes=estimate.bytes,
        requests=estimate.requests,
        peak_memory_bytes=estimate.peak_memory_bytes,
        seconds=estimate.seconds,
        cpu_hours=estimate.cpu_hours,
        gpu_hours=estimate.gpu_hours,
        stored_bytes=estimate.stored_bytes,
        uncertainty=estimate.uncertainty,
        basis=estimate.basis,
        cost=cost.estimate_cost(plan, estimate),
        warnings=tuple(run_result.list_plan_warnings(plan)),
    )
