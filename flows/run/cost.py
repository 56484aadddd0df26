"""What a run will take and cost, and, when it is over, what it took and cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from flows.cli import summary
from flows.config.job import Job
from flows.config.prices import Prices
from flows.execution import executors
from pipeline import cost_model, reuse
from pipeline.cost_model import CostEstimate
from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.storage import receipt

NO_PRICES_MESSAGE = (
    "--max-cost: the job states no prices, so no cost can be compared. Add, say, "
    "prices: {currency: EUR, cpu_hour: 0.04, gb_read: 0.01}."
)


def find_missing_tiles(plan: Plan, plan_dir: Path) -> tuple[list[Tile], int]:
    """Return the tiles of a plan that a run would make, and how many of them are there elsewhere.

    Args:
        plan: the plan.
        plan_dir: its folder; those beside it may hold tiles that are taken over.
    """
    done = receipt.read_finished(plan_dir, plan)
    missing = [one for one in plan.tiles if one.id not in done]
    elsewhere = reuse.find_reusable_tiles(plan_dir, plan, missing)
    return [one for one in missing if one.id not in elsewhere], len(elsewhere)


def estimate_resources(plan: Plan, plan_dir: Path, tiles: Sequence[Tile]) -> CostEstimate:
    """Estimate what making tiles takes, by the receipts of the product's earlier runs."""
    workers, cores = _count_workers_and_cores(plan)
    return cost_model.estimate_cost(
        plan,
        workers=workers,
        cores=cores,
        workers_per_gpu=_tiles_per_gpu(plan),
        tiles=tiles,
        factors=cost_model.calibrate_factors(plan_dir.parents[1], plan.model),
    )


def _tiles_per_gpu(plan: Plan) -> int:
    """Return how many tiles share a GPU."""
    execution = plan.settings.execution
    threads = execution.engine == "threads"
    return executors.worker_range(execution.workers)[1] if threads else executors.TILES_PER_GPU


def _count_workers_and_cores(plan: Plan) -> tuple[int, int]:
    """Return how many workers there are at most, and the cores of each."""
    execution = plan.settings.execution
    most = executors.worker_range(execution.workers)[1]
    here = len(os.sched_getaffinity(0))
    if "://" in execution.engine:
        return most, executors.CORES_PER_TILE
    return most, max(here // most, 1)


def load_prices(plan: Plan) -> Prices | None:
    """Return the prices of a plan's job, if it has any."""
    prices = plan.settings.prices
    return Prices.model_validate(asdict(prices)) if prices else None


def validate_limit(job: Job, limit: float | None, at_once: int = 1) -> None:
    """Refuse a limit of what runs cost where none can be kept.

    Args:
        job: the job.
        limit: what is asked for; None = none.
        at_once: runs side by side.

    Raises:
        InvalidInputError: the job states no prices, or what runs have cost is not known when others begin.
    """
    if limit is not None and job.prices is None:
        raise InvalidInputError(NO_PRICES_MESSAGE)
    if limit is not None and at_once > 1:
        raise InvalidInputError(
            f"--max-cost: {at_once} periods at once begin before it is known what the others cost. "
            "Leave --at-once out, or the limit."
        )


def estimate_cost(plan: Plan, resources: CostEstimate) -> dict[str, Any] | None:
    """Return what an estimate costs; None where the job states no prices."""
    asked = load_prices(plan)
    return asked.compute_cost(resources) if asked else None


def check_limit(plan: Plan, plan_dir: Path, limit: float | None) -> None:
    """Refuse a run that is dearer than a limit, before anything is made.

    Raises:
        InvalidInputError: it is, or the job states no prices.
    """
    if limit is None:
        return
    tiles, _ = find_missing_tiles(plan, plan_dir)
    priced = estimate_cost(plan, estimate_resources(plan, plan_dir, tiles))
    if priced is None:
        raise InvalidInputError(NO_PRICES_MESSAGE)
    if priced["amount"] > limit:
        raise InvalidInputError(
            f"The run would cost {summary.format_cost(priced)}, and --max-cost leaves {limit:g} for it: "
            "nothing was made. Raise the limit, or make region, period or inputs smaller."
        )


class CostLimit:
    """What a series of runs may cost together, and what is left of it."""

    def __init__(self, limit: float | None) -> None:
        """Begin with all of it; None = no limit."""
        self.remaining = limit

    def deduct(self, result: Mapping[str, Any]) -> None:
        """Take out what a run has cost."""
        if self.remaining is not None:
            cost = result["actual"]["cost"] if result["actual"] else 0.0
            self.remaining = max(self.remaining - cost, 0.0)


def get_planned_usage(plan: Plan, plan_dir: Path) -> dict[str, Any]:
    """Return what a run is planned to take, as ``run --json`` prints it."""
    tiles, _ = find_missing_tiles(plan, plan_dir)
    needed = estimate_resources(plan, plan_dir, tiles)
    priced = estimate_cost(plan, needed)
    return {
        "bytes": needed.bytes,
        "requests": needed.requests,
        "seconds": needed.seconds,
        "cost": priced["amount"] if priced else None,
        "basis": needed.basis,
    }


def get_actual_usage(
    plan: Plan, traffic: Mapping[str, int], seconds: Mapping[str, float], tiles_done: int
) -> dict[str, Any] | None:
    """Return what the tiles of a run took, likewise; None where none was made.

    Args:
        plan: the plan.
        traffic: bytes and requests of all tiles.
        seconds: of the stages, and of all tiles added up.
        tiles_done: the number of tiles that were made.
    """
    busy = seconds.get("tile", 0.0)
    if not busy:
        return None
    remote = bool(traffic.get("requests"))
    stated, amount = load_prices(plan), None
    if stated:
        on_gpu = plan.model is not None and plan.model.device == "cuda"
        amount = sum(
            stated.compute_parts(
                cpu_hours=busy * _count_workers_and_cores(plan)[1] / 3600,
                gpu_hours=busy / _tiles_per_gpu(plan) / 3600 if on_gpu else 0.0,
                bytes_read=traffic.get("bytes", 0),
                requests=traffic.get("requests", 0),
                bytes_stored=cost_model.estimate_stored_bytes(plan, plan.tiles)
                * tiles_done
                / len(plan.tiles),
            ).values()
        )
    return {
        "bytes": traffic["bytes"] if remote else None,
        "requests": traffic["requests"] if remote else None,
        "seconds": seconds["tiles"],
        "cost": None if amount is None else round(amount, 4),
    }
