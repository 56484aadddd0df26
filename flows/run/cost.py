"""What a run will take and cost, and, when it is over, what it took and cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogs.errors import Wrong
from flows.cli import summary
from flows.config.job import Job
from flows.config.prices import Prices
from flows.execution import executors
from pipeline import cost_model, reuse
from pipeline.cost_model import Estimate
from pipeline.grid.grid import Tile
from pipeline.plan.plan import Plan
from pipeline.storage import receipt

UNPRICED = (
    "--max-cost: the job states no prices, so no cost can be compared. Add, say, "
    "prices: {currency: EUR, cpu_hour: 0.04, gb_read: 0.01}."
)


def to_make(plan: Plan, folder: Path) -> tuple[list[Tile], int]:
    """Return the tiles of a plan that a run would make, and how many of them are there elsewhere.

    Args:
        plan: the plan.
        folder: its folder; those beside it may hold tiles that are taken over.
    """
    done = receipt.finished(folder, plan)
    missing = [one for one in plan.tiles if one.id not in done]
    elsewhere = reuse.sources(folder, plan, missing)
    return [one for one in missing if one.id not in elsewhere], len(elsewhere)


def need(plan: Plan, folder: Path, tiles: Sequence[Tile]) -> Estimate:
    """Estimate what making tiles takes, by the receipts of the product's earlier runs."""
    workers, cores = _hands(plan)
    return cost_model.of(
        plan,
        workers=workers,
        cores=cores,
        on_one=_on_one(plan),
        tiles=tiles,
        rates=cost_model.seen(folder.parents[1], plan.model),
    )


def _on_one(plan: Plan) -> int:
    """Return how many tiles share a GPU."""
    execution = plan.job["execution"]
    threads = execution["engine"] == "threads"
    return executors.span(execution["workers"])[1] if threads else executors.ON_A_GPU


def _hands(plan: Plan) -> tuple[int, int]:
    """Return how many workers there are at most, and the cores of each."""
    execution = plan.job["execution"]
    most = executors.span(execution["workers"])[1]
    here = len(os.sched_getaffinity(0))
    if "://" in execution["engine"]:
        return most, executors.CORES_A_TILE
    return most, max(here // most, 1)


def prices(plan: Plan) -> Prices | None:
    """Return the prices of a plan's job, if it has any."""
    stated = plan.job.get("prices")
    return Prices.model_validate(stated) if stated else None


def priced(job: Job, limit: float | None, at_once: int = 1) -> None:
    """Refuse a limit of what runs cost where none can be kept.

    Args:
        job: the job.
        limit: what is asked for; None = none.
        at_once: runs side by side.

    Raises:
        Wrong: the job states no prices, or what runs have cost is not known when others begin.
    """
    if limit is not None and job.prices is None:
        raise Wrong(UNPRICED)
    if limit is not None and at_once > 1:
        raise Wrong(
            f"--max-cost: {at_once} periods at once begin before it is known what the others cost. "
            "Leave --at-once out, or the limit."
        )


def cost(plan: Plan, needed: Estimate) -> dict[str, Any] | None:
    """Return what an estimate costs; None where the job states no prices."""
    asked = prices(plan)
    return asked.cost(needed) if asked else None


def check(plan: Plan, folder: Path, limit: float | None) -> None:
    """Refuse a run that is dearer than a limit, before anything is made.

    Raises:
        Wrong: it is, or the job states no prices.
    """
    if limit is None:
        return
    tiles, _ = to_make(plan, folder)
    priced = cost(plan, need(plan, folder, tiles))
    if priced is None:
        raise Wrong(UNPRICED)
    if priced["amount"] > limit:
        raise Wrong(
            f"The run would cost {summary.money(priced)}, and --max-cost leaves {limit:g} for it: "
            "nothing was made. Raise the limit, or make region, period or inputs smaller."
        )


class Purse:
    """What a series of runs may cost together, and what is left of it."""

    def __init__(self, limit: float | None) -> None:
        """Begin with all of it; None = no limit."""
        self.left = limit

    def pay(self, result: Mapping[str, Any]) -> None:
        """Take out what a run has cost."""
        if self.left is not None:
            cost = result["actual"]["cost"] if result["actual"] else 0.0
            self.left = max(self.left - cost, 0.0)


def planned(plan: Plan, folder: Path) -> dict[str, Any]:
    """Return what a run is planned to take, as ``run --json`` prints it."""
    tiles, _ = to_make(plan, folder)
    needed = need(plan, folder, tiles)
    priced = cost(plan, needed)
    return {
        "bytes": needed.bytes,
        "requests": needed.requests,
        "seconds": needed.seconds,
        "cost": priced["amount"] if priced else None,
        "basis": needed.basis,
    }


def taken(
    plan: Plan, traffic: Mapping[str, int], seconds: Mapping[str, float], done: int
) -> dict[str, Any] | None:
    """Return what the tiles of a run took, likewise; None where none was made.

    Args:
        plan: the plan.
        traffic: bytes and requests of all tiles.
        seconds: of the stages, and of all tiles added up.
        done: the number of tiles that were made.
    """
    busy = seconds.get("tile", 0.0)
    if not busy:
        return None
    remote = bool(traffic.get("requests"))
    stated, amount = prices(plan), None
    if stated:
        on_gpu = plan.model is not None and plan.model.device == "cuda"
        amount = sum(
            stated.parts(
                cpu_hours=busy * _hands(plan)[1] / 3600,
                gpu_hours=busy / _on_one(plan) / 3600 if on_gpu else 0.0,
                read=traffic.get("bytes", 0),
                requests=traffic.get("requests", 0),
                stored=cost_model.stored(plan, plan.tiles) * done / len(plan.tiles),
            ).values()
        )
    return {
        "bytes": traffic["bytes"] if remote else None,
        "requests": traffic["requests"] if remote else None,
        "seconds": seconds["tiles"],
        "cost": None if amount is None else round(amount, 4),
    }
