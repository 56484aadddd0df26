"""Estimated and actual bytes, requests, time and cost of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.execution import executors
from flows.observe.formatting import format_cost
from flows.run.command_results import ActualUsage, Cost, CostParts, PlannedUsage, RunResult
from pipeline import resource_estimate, reuse
from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.plan.settings import PriceList
from pipeline.resource_estimate import ResourceEstimate
from pipeline.runtime.worker_count import CORES_PER_TILE, worker_range
from pipeline.storage import receipt

BYTES_PER_GB = 1e9

NO_PRICES_MESSAGE = (
    "--max-cost: the job states no prices, so no cost can be compared. Add, say, "
    "prices: {currency: EUR, cpu_hour: 0.04, gb_read: 0.01}."
)


def find_missing_tiles(plan: Plan, plan_dir: Path) -> tuple[list[Tile], int]:
    """Return the tiles that a run would make, and how many more it would copy from other plans.

    Args:
        plan: the plan.
        plan_dir: its folder; tiles with the same key are copied from the folders beside it.
    """
    finished = receipt.read_finished(plan_dir, plan)
    missing = [tile for tile in plan.tiles if tile.id not in finished]
    reusable = reuse.find_reusable_tiles(plan_dir, plan, missing)
    return [tile for tile in missing if tile.id not in reusable], len(reusable)


def estimate_resources(plan: Plan, plan_dir: Path, tiles: Sequence[Tile]) -> ResourceEstimate:
    """Estimate what making tiles takes, calibrated by the receipts of earlier runs."""
    workers, cores = _count_workers_and_cores(plan)
    return resource_estimate.estimate_resources(
        plan,
        workers=workers,
        cores=cores,
        workers_per_gpu=_tiles_per_gpu(plan),
        tiles=tiles,
        factors=resource_estimate.calibrate_factors(plan_dir.parents[1], plan.model),
    )


def _tiles_per_gpu(plan: Plan) -> int:
    """Return how many tiles share a GPU."""
    execution = plan.settings.execution
    threads = execution.engine == "threads"
    return worker_range(execution.workers)[1] if threads else executors.TILES_PER_GPU


def _count_workers_and_cores(plan: Plan) -> tuple[int, int]:
    """Return the largest number of workers, and the cores of each."""
    execution = plan.settings.execution
    workers = worker_range(execution.workers)[1]
    if "://" in execution.engine:
        return workers, CORES_PER_TILE
    return workers, max(len(os.sched_getaffinity(0)) // workers, 1)


def validate_limit(job: Job, limit: float | None, at_once: int = 1) -> None:
    """Check that a cost limit can be kept.

    Args:
        job: the job.
        limit: largest cost of all runs together; None = no limit.
        at_once: number of runs side by side.

    Raises:
        InvalidInputError: the job states no prices, or several runs side by side share the limit.
    """
    if limit is not None and job.prices is None:
        raise InvalidInputError(NO_PRICES_MESSAGE)
    if limit is not None and at_once > 1:
        raise InvalidInputError(
            f"--max-cost: {at_once} periods at once begin before it is known what the others cost. "
            "Leave --at-once out, or the limit."
        )


def estimate_cost(plan: Plan, resources: ResourceEstimate) -> Cost | None:
    """Return the cost of an estimate; None where the job states no prices."""
    prices = plan.settings.prices
    if prices is None:
        return None
    parts = compute_cost_parts(
        prices,
        cpu_hours=resources.cpu_hours,
        gpu_hours=resources.gpu_hours,
        bytes_read=resources.remote_bytes,
        requests=resources.requests,
        bytes_stored=resources.stored_bytes,
    )
    amount = sum(parts.values())
    return Cost(
        currency=prices.currency,
        amount=round(amount, 4),
        low=round(amount / resources.uncertainty, 4),
        high=round(amount * resources.uncertainty, 4),
        parts=CostParts(**parts),
    )


def compute_cost_parts(
    prices: PriceList,
    *,
    cpu_hours: float,
    gpu_hours: float,
    bytes_read: float,
    requests: float,
    bytes_stored: float,
) -> dict[str, float]:
    """Return the cost of each resource: cpu, gpu, read, requests and storage."""
    parts = {
        "cpu": cpu_hours * prices.cpu_hour,
        "gpu": gpu_hours * prices.gpu_hour,
        "read": bytes_read / BYTES_PER_GB * prices.gb_read,
        "requests": requests / 1000 * prices.thousand_requests,
        "storage": bytes_stored / BYTES_PER_GB * prices.gb_month * prices.months,
    }
    return {name: round(amount, 6) for name, amount in parts.items()}


def check_limit(plan: Plan, plan_dir: Path, limit: float | None) -> None:
    """Check the estimated cost of a run against a limit, before anything is made.

    Raises:
        InvalidInputError: the estimate is above the limit, or the job states no prices.
    """
    if limit is None:
        return
    missing, _ = find_missing_tiles(plan, plan_dir)
    cost = estimate_cost(plan, estimate_resources(plan, plan_dir, missing))
    if cost is None:
        raise InvalidInputError(NO_PRICES_MESSAGE)
    if cost.amount > limit:
        price = format_cost(cost.amount, cost.low, cost.high, cost.currency)
        raise InvalidInputError(
            f"The run would cost {price}, and --max-cost leaves {limit:g} "
            "for it: nothing was made. Raise the limit, or make region, period or inputs smaller."
        )


class CostLimit:
    """The cost that a series of runs may reach together, and what is left of it."""

    def __init__(self, limit: float | None) -> None:
        """Start with the whole limit; None = no limit."""
        self.remaining = limit

    def deduct(self, result: RunResult) -> None:
        """Subtract the cost of a run."""
        if self.remaining is not None:
            cost = (result.actual.cost if result.actual else None) or 0.0
            self.remaining = max(self.remaining - cost, 0.0)


def get_planned_usage(plan: Plan, plan_dir: Path) -> PlannedUsage:
    """Return the estimate for the missing tiles of a plan."""
    missing, _ = find_missing_tiles(plan, plan_dir)
    estimate = estimate_resources(plan, plan_dir, missing)
    cost = estimate_cost(plan, estimate)
    return PlannedUsage(
        bytes=estimate.bytes,
        requests=estimate.requests,
        seconds=estimate.seconds,
        cost=cost.amount if cost else None,
        basis=estimate.basis,
    )


def get_actual_usage(
    plan: Plan, traffic: Mapping[str, int], seconds: Mapping[str, float], tiles_done: int
) -> ActualUsage | None:
    """Return what the tiles of a run took; None where none was made.

    Args:
        plan: the plan.
        traffic: bytes and requests of all tiles.
        seconds: seconds by stage, and of all tiles added up.
        tiles_done: number of tiles that were made.
    """
    tile_seconds = seconds.get("tile", 0.0)
    if not tile_seconds:
        return None
    is_remote = bool(traffic.get("requests"))
    prices, cost = plan.settings.prices, None
    if prices:
        on_gpu = plan.model is not None and plan.model.device == "cuda"
        cost = sum(
            compute_cost_parts(
                prices,
                cpu_hours=tile_seconds * _count_workers_and_cores(plan)[1] / 3600,
                gpu_hours=tile_seconds / _tiles_per_gpu(plan) / 3600 if on_gpu else 0.0,
                bytes_read=traffic.get("bytes", 0),
                requests=traffic.get("requests", 0),
                bytes_stored=resource_estimate.estimate_stored_bytes(plan, plan.tiles)
                * tiles_done
                / len(plan.tiles),
            ).values()
        )
    return ActualUsage(
        bytes=traffic["bytes"] if is_remote else None,
        requests=traffic["requests"] if is_remote else None,
        seconds=seconds["tiles"],
        cost=None if cost is None else round(cost, 4),
    )
