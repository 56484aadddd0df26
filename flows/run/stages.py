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
from flows.execution.engine import TileResult
from flows.observe import exporter, run_context, run_log, run_metrics
from flows.run import cost, product, quality_gate
from pipeline import reuse, tile
from pipeline.product.product import MissingTile
from pipeline.publishing import writer
from pipeline.quality import gates
from pipeline.quality.gates import QualityMetrics
from pipeline.runtime import cancellation
from pipeline.runtime.cancellation import Cancelled
from pipeline.storage import plan_file, receipt, zarr_store
from pipeline.storage.store import open_store

log = logging.getLogger(__name__)

StageRunner = Callable[..., Any]
"""Takes one stage: called with the stage and its arguments, it returns what the stage does."""


class TimeLimitExceeded(TerramosaicError):
    """Making the tiles has taken longer than the job allows."""


def prepare_plan(job: str, period: str | None = None) -> str:
    """Search, choose and freeze; return the path of the plan."""
    return str(product.write_plan(product.load_or_create_plan(Path(job), period)))


def map_tiles(plan_path: str) -> dict[str, Any]:
    """Make the tiles that are missing; return what became of them."""
    path = Path(plan_path)
    plan = plan_file.read_plan_file(path)
    folder = path.parent
    planned = cost.get_planned_usage(plan, folder)
    zarr_store.create(folder, plan, tile.list_layer_bands(plan))
    done = set(receipt.read_finished(folder, plan))
    missing = [one for one in plan.tiles if one.id not in done]
    done |= reuse.copy_tiles(folder, plan, reuse.find_reusable_tiles(folder, plan, missing))
    todo = [one for one in missing if one.id not in done]
    execution = plan.job["execution"]
    run_context.get_progress().start_stage("tiles", len(todo))
    seconds: dict[str, float] = {}
    traffic = dict.fromkeys(("bytes", "requests", "retries"), 0)
    failed = []
    counted = exporter.get_run_metrics(path)
    counted.begin_tiles(len(plan.tiles), len(done))
    made = engine.process_tiles(
        path,
        todo,
        engine=execution["engine"],
        workers=execution["workers"],
        device=engine.cuda_device(plan),
        on_poll=counted.set_executor,
    )
    with _time_limit(execution.get("max_hours")), closing(made):
        # ^ else the tiles in hand went on until whatever ended this was forgotten
        for outcome in made:
            counted.count_tile(outcome)
            _log_tile_result(outcome)
            run_context.get_progress().advance(1, outcome.tile)
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
def _time_limit(hours: float | None) -> Iterator[None]:
    """Give up the work of a block that takes too long.

    Raises:
        Late: it has.
    """
    if hours is None:
        yield
        return
    end = time.monotonic() + 3600 * hours
    try:
        with cancellation.cancel_when(lambda: time.monotonic() > end):
            yield
    except Cancelled:
        if time.monotonic() <= end:
            raise
        raise TimeLimitExceeded(
            f"The tiles have taken the {hours:g} hours of execution.max_hours: the run was "
            "stopped. What is finished is kept; run it again to go on."
        ) from None


def _log_tile_result(tile_result: TileResult) -> None:
    """Leave a line in the log of whoever runs, not of the worker that made the tile."""
    if tile_result.reason is None:
        log.info("tile=%s done seconds=%s", tile_result.tile, dict(tile_result.seconds))
    else:
        log.error("tile=%s failed reason=%s", tile_result.tile, tile_result.reason)


def verify_tiles(plan_path: str) -> list[dict[str, str]]:
    """Compare every stored byte with its receipt; return what does not match."""
    path = Path(plan_path)
    return product.find_damaged_tiles(plan_file.read_plan_file(path), path.parent)


def measure_quality(plan_path: str) -> QualityMetrics:
    """Look for seams in what is stored, and pool what the receipts' samples tell."""
    path = Path(plan_path)
    return gates.measure_quality(plan_file.read_plan_file(path), path.parent)


def publish(plan_path: str, failed: list[dict[str, str]], quality: QualityMetrics) -> str:
    """Write COGs, pictures, report and, last, the item; return its path."""
    path = Path(plan_path)
    plan = plan_file.read_plan_file(path)
    home = path.parent.parent
    sheets = len(plan.grids) + len(plan.mosaic_grids)
    run_context.get_progress().start_stage("publish", len(tile.list_layer_bands(plan)) * sheets)
    truth = run_context.get_truth_comparison()
    accuracy = truth(path.parent, plan) if truth else None
    return str(
        home
        / writer.publish_product(
            plan,
            home,
            missing_tiles=[MissingTile(tile=one["tile"], reason=one["reason"]) for one in failed],
            accuracy=accuracy,
            quality=quality,
            formats=plan.job["output"]["formats"],
            on_layer=lambda name: run_context.get_progress().advance(1, name),
        )
    )


def run(
    job: str, period: str | None, allow_partial: bool, run_stage: StageRunner
) -> dict[str, Any]:
    """Take every stage of a job file or of a plan, and finish what is unfinished.

    Args:
        job: path of a job file, or of a plan.
        period: another one than the job's, or the latest; None = the job's.
        allow_partial: publish with failed tiles declared as holes.
        run_stage: how a stage is taken.

    Returns:
        What ``terramosaic run --json`` prints.
    """
    exporter.read_destination()
    # ^ refused before anything runs, where it is none
    seconds: dict[str, float] = {}
    clock = _StageTimer(run_stage, seconds)
    run_context.get_progress().start_stage("plan")
    path = clock.run("plan", prepare_plan, job, period)
    stands = product.find_existing_result(plan_file.read_plan_file(path)) if job != path else None
    # ^ whoever brings a plan has looked already
    if stands is not None:
        return stands | {"seconds": seconds}
    with (
        open_store(Path(path).parent).lock(),
        run_log.capture_records(Path(path).parent),
        exporter.export_run(Path(path)) as counted,
    ):
        open_store(Path(path).parent).remove_leftovers()
        tiles = clock.run("tiles", map_tiles, path)
        seconds |= tiles.pop("seconds")
        planned, traffic = tiles.pop("planned"), tiles.pop("traffic")
        run_context.get_progress().start_stage("verify")
        bad = clock.run("verify", verify_tiles, path)
        failed = _merge_failures(tiles["failed"], bad)
        item, figures = None, None
        some = tiles["done"] + tiles["skipped"] > len(bad)
        if not failed or (allow_partial and some):
            # ^ a product of nothing but holes says nothing
            figures = clock.run("quality", measure_quality, path)
            if not quality_gate.is_refused(plan_file.read_plan_file(path), figures.to_dict()):
                item = clock.run("publish", publish, path, failed, figures)
        status = _status(failed, item, figures)
        counted.set_final_status(status, len(failed))
    run_context.get_progress().finish()
    tiles["failed"] = failed
    return product.build_result(
        plan_file.read_plan_file(path),
        status,
        item,
        tiles,
        seconds,
        figures.to_dict() if figures else None,
        planned,
        traffic,
    )


def _status(failed: list[dict[str, str]], item: str | None, quality: QualityMetrics | None) -> str:
    if quality and not item:
        return "refused"
    return "complete" if not failed else "partial" if item else "failed"


class _StageTimer:
    def __init__(self, run_stage: StageRunner, seconds: dict[str, float]) -> None:
        self._run_stage, self._seconds = run_stage, seconds

    def run(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        cancellation.check_cancelled()
        started = time.perf_counter()
        result = self._run_stage(stage, *arguments)
        self._seconds[name] = round(time.perf_counter() - started, 3)
        path = Path(result if stage is prepare_plan else arguments[0])
        product, period = run_metrics.labels_from_path(path)
        log.info(
            "stage=%s product=%s period=%s done seconds=%s",
            name,
            product,
            period,
            self._seconds[name],
        )
        return result


def _merge_failures(
    failed: list[dict[str, str]], damaged: list[dict[str, str]]
) -> list[dict[str, str]]:
    known = {one["tile"] for one in failed}
    return failed + [
        {"tile": one["tile"], "reason": f"{one['file']}: {one['reason']}"}
        for one in damaged
        if one["tile"] not in known
    ]
