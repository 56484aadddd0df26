"""The stages of a run: plan → tiles → verify → quality → publish.

From one to the next go the path of a plan and a few numbers; arrays stay where they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from catalogs.errors import TerramosaicError
from flows.execution import engine
from flows.execution.engine import Outcome
from flows.observe import exporter, run_context, run_log, run_metrics
from flows.run import cost, product, quality_gate
from pipeline import reuse, tile
from pipeline.plan.plan import Plan
from pipeline.product import publishing
from pipeline.product.product import Hole
from pipeline.quality import gates
from pipeline.quality.gates import Quality
from pipeline.runtime import atomic_files, cancellation, lock
from pipeline.runtime.cancellation import Halted
from pipeline.storage import receipt, zarr_store

log = logging.getLogger(__name__)

Take = Callable[..., Any]
"""Takes one stage: called with the stage and its arguments, it returns what the stage does."""


class Late(TerramosaicError):
    """Making the tiles has taken longer than the job allows."""


def freeze(job: str, period: str | None = None) -> str:
    """Search, choose and freeze; return the path of the plan."""
    return str(product.settle(product.frozen(Path(job), period)))


def map_tiles(plan_path: str) -> dict[str, Any]:
    """Make the tiles that are missing; return what became of them."""
    path = Path(plan_path)
    plan = Plan.read(path)
    folder = path.parent
    planned = cost.planned(plan, folder)
    zarr_store.create(folder, plan, tile.variables(plan))
    done = set(receipt.finished(folder, plan))
    missing = [one for one in plan.tiles if one.id not in done]
    done |= reuse.take(folder, plan, reuse.sources(folder, plan, missing))
    todo = [one for one in missing if one.id not in done]
    execution = plan.job["execution"]
    run_context.progress().stage("tiles", len(todo))
    seconds: dict[str, float] = {}
    traffic = dict.fromkeys(("bytes", "requests", "retries"), 0)
    failed = []
    counted = exporter.of(path)
    counted.begin(len(plan.tiles), len(done))
    made = engine.run(
        path,
        todo,
        engine=execution["engine"],
        workers=execution["workers"],
        gpu=engine.gpu(plan),
        seen=counted.crew,
    )
    with _in_time(execution.get("max_hours")), closing(made):
        # ^ else the tiles in hand went on until whatever ended this was forgotten
        for outcome in made:
            counted.tile(outcome)
            _say(outcome)
            run_context.progress().advance(1, outcome.tile)
            if outcome.reason is not None:
                failed.append({"tile": outcome.tile, "reason": outcome.reason})
            for name, count in outcome.traffic.items():
                traffic[name] = traffic.get(name, 0) + count
            for name, value in outcome.seconds.items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 3)
    return {
        "total": len(plan.tiles),
        "done": len(todo) - len(failed),
        "skipped": len(done),
        "failed": sorted(failed, key=lambda one: one["tile"]),
        "seconds": seconds,
        "planned": planned,
        "traffic": traffic,
    }


@contextmanager
def _in_time(hours: float | None) -> Iterator[None]:
    """Give up the work of a block that takes too long.

    Raises:
        Late: it has.
    """
    if hours is None:
        yield
        return
    end = time.monotonic() + 3600 * hours
    try:
        with cancellation.when(lambda: time.monotonic() > end):
            yield
    except Halted:
        if time.monotonic() <= end:
            raise
        raise Late(
            f"The tiles have taken the {hours:g} hours of execution.max_hours: the run was "
            "stopped. What is finished is kept; run it again to go on."
        ) from None


def _say(outcome: Outcome) -> None:
    """Leave a line in the log of whoever runs, not of the worker that made the tile."""
    if outcome.reason is None:
        log.info("tile=%s done seconds=%s", outcome.tile, dict(outcome.seconds))
    else:
        log.error("tile=%s failed reason=%s", outcome.tile, outcome.reason)


def check(plan_path: str) -> list[dict[str, str]]:
    """Compare every stored byte with its receipt; return what does not match."""
    path = Path(plan_path)
    return product.damages(Plan.read(path), path.parent)


def measure(plan_path: str) -> Quality:
    """Look for seams in what is stored, and pool what the receipts' samples tell."""
    path = Path(plan_path)
    return gates.measure(Plan.read(path), path.parent)


def publish(plan_path: str, failed: list[dict[str, str]], figures: Quality) -> str:
    """Write COGs, pictures, report and, last, the item; return its path."""
    path = Path(plan_path)
    plan = Plan.read(path)
    home = path.parent.parent
    sheets = len(plan.grids) + len(plan.mosaics)
    run_context.progress().stage("publish", len(tile.variables(plan)) * sheets)
    truth = run_context.truth()
    accuracy = truth(path.parent, plan) if truth else None
    return str(
        publishing.publish_product(
            plan,
            home,
            holes=[Hole(tile=one["tile"], reason=one["reason"]) for one in failed],
            accuracy=accuracy,
            quality=figures,
            formats=plan.job["output"]["formats"],
            on_layer=lambda name: run_context.progress().advance(1, name),
        )
    )


def run(job: str, period: str | None, allow_partial: bool, take: Take) -> dict[str, Any]:
    """Take every stage of a job file or of a plan, and finish what is unfinished.

    Args:
        job: path of a job file, or of a plan.
        period: another one than the job's, or the latest; None = the job's.
        allow_partial: publish with failed tiles declared as holes.
        take: how a stage is taken.

    Returns:
        What ``terramosaic run --json`` prints.
    """
    exporter.place()
    # ^ refused before anything runs, where it is none
    seconds: dict[str, float] = {}
    clock = _Clock(take, seconds)
    run_context.progress().stage("plan")
    path = clock.time("plan", freeze, job, period)
    stands = product.standing(Plan.read(Path(path))) if job != path else None
    # ^ whoever brings a plan has looked already
    if stands is not None:
        return stands | {"seconds": seconds}
    with (
        lock.held(Path(path).parent),
        run_log.kept(Path(path).parent),
        exporter.kept(Path(path)) as counted,
    ):
        atomic_files.sweep(Path(path).parent)
        tiles = clock.time("tiles", map_tiles, path)
        seconds |= tiles.pop("seconds")
        planned, traffic = tiles.pop("planned"), tiles.pop("traffic")
        run_context.progress().stage("verify")
        bad = clock.time("verify", check, path)
        failed = _merge(tiles["failed"], bad)
        item, figures = None, None
        some = tiles["done"] + tiles["skipped"] > len(bad)
        if not failed or (allow_partial and some):
            # ^ a product of nothing but holes says nothing
            figures = clock.time("quality", measure, path)
            if not quality_gate.refused(Plan.read(Path(path)), figures.to_dict()):
                item = clock.time("publish", publish, path, failed, figures)
        status = _status(failed, item, figures)
        counted.end(status, len(failed))
    run_context.progress().finish()
    tiles["failed"] = failed
    return product.result_of(
        Plan.read(Path(path)),
        status,
        item,
        tiles,
        seconds,
        figures.to_dict() if figures else None,
        planned,
        traffic,
    )


def _status(failed: list[dict[str, str]], item: str | None, figures: Quality | None) -> str:
    if figures and not item:
        return "refused"
    return "complete" if not failed else "partial" if item else "failed"


class _Clock:
    def __init__(self, take: Take, seconds: dict[str, float]) -> None:
        self._take, self._seconds = take, seconds

    def time(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        cancellation.look()
        started = time.perf_counter()
        result = self._take(work, *arguments)
        self._seconds[name] = round(time.perf_counter() - started, 3)
        path = Path(result if work is freeze else arguments[0])
        product, period = run_metrics.labels(path)
        log.info(
            "stage=%s product=%s period=%s done seconds=%s",
            name,
            product,
            period,
            self._seconds[name],
        )
        return result


def _merge(failed: list[dict[str, str]], bad: list[dict[str, str]]) -> list[dict[str, str]]:
    known = {one["tile"] for one in failed}
    return failed + [
        {"tile": one["tile"], "reason": f"{one['file']}: {one['reason']}"}
        for one in bad
        if one["tile"] not in known
    ]
