"""The stages of a run: plan → tiles → verify → quality → publish.

Each stage is a function. They are called as they are, or as the tasks of a Prefect flow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from catalogs.errors import TerramosaicError
from flows.config.job import Job
from flows.execution import tile_scheduler
from flows.execution.tile_worker import cuda_device
from flows.observe import metrics_destination, run_log
from flows.observe.run_context import RunContext
from flows.run import (
    cost,
    finished_products,
    product_folder,
    run_result,
    stored_plan,
    verify,
)
from flows.run.command_results import (
    DamagedFile,
    PlannedUsage,
    RunResult,
    RunStatus,
    TileCounts,
    TileFailure,
)
from flows.run.stored_plan import StoredPlan
from pipeline import reuse, tile_layers
from pipeline.product import product_writer
from pipeline.product.product import MissingTile
from pipeline.quality import completeness, quality_gate, quality_metrics
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.runtime import cancellation
from pipeline.runtime.cancellation import Cancelled
from pipeline.storage import receipt, zarr_store
from pipeline.storage.store import open_store
from pipeline.tile import TileResult

log = logging.getLogger(__name__)

Params = ParamSpec("Params")
Returned = TypeVar("Returned")


class TimeLimitExceeded(TerramosaicError):
    """The tiles of a run have taken longer than ``execution.max_hours``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesResult:
    """Result of the stage that makes tiles."""

    counts: TileCounts
    seconds: dict[str, float]
    """Seconds by step of a tile (read, predict, write, …, tile), added up over all tiles."""

    planned: PlannedUsage
    """Estimate for the tiles that were missing."""

    traffic: dict[str, int]
    """Bytes, requests and retries over the network, added up over all tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The five stages of a run, as plain functions or as Prefect's tasks."""

    prepare_plan: Callable[[Job | StoredPlan, RunContext], StoredPlan]
    map_tiles: Callable[[StoredPlan, RunContext], TilesResult]
    verify_tiles: Callable[[StoredPlan], list[DamagedFile]]
    measure_quality: Callable[[StoredPlan], QualityMetrics]
    publish: Callable[[StoredPlan, Sequence[TileFailure], QualityMetrics, RunContext], Path]


def prepare_plan(source: Job | StoredPlan, context: RunContext) -> StoredPlan:
    """Plan a job and write the plan; a stored plan is returned as it is."""
    if isinstance(source, StoredPlan):
        return source
    unchanged = finished_products.find_unchanged(source)
    plan = (
        stored_plan.load_or_create_plan(source, context.progress)
        if unchanged is None
        else unchanged[0]
    )
    return stored_plan.write_plan(plan)


def map_tiles(stored: StoredPlan, context: RunContext) -> TilesResult:
    """Make the missing tiles of a plan; tiles of earlier plans with the same key are copied.

    Raises:
        TimeLimitExceeded: the tiles take longer than the job allows.
        TransientError: the dask scheduler is gone.
    """
    plan, folder = stored.plan, stored.folder
    planned = cost.get_planned_usage(plan, folder)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    finished = set(receipt.read_finished(folder, plan))
    missing = [unit for unit in plan.tiles if unit.id not in finished]
    finished |= reuse.copy_tiles(folder, plan, reuse.find_reusable_tiles(folder, plan, missing))
    pending = [unit for unit in missing if unit.id not in finished]
    execution = plan.settings.execution
    context.progress.start_stage("tiles", len(pending))
    seconds: dict[str, float] = {}
    traffic = dict.fromkeys(("bytes", "requests", "retries"), 0)
    failed: list[TileFailure] = []
    metrics = context.metrics
    metrics.begin_tiles(len(plan.tiles), len(finished))
    tile_results = tile_scheduler.process_tiles(
        stored.path,
        pending,
        engine=execution.engine,
        workers=execution.workers,
        device=cuda_device(plan),
        on_poll=lambda executor: metrics.set_capacity(
            processes=executor.processes,
            parallel_tiles=min(
                executor.capacity(), executor.processes * executor.tiles_per_process
            ),
            # ^ the capacity of an adaptive cluster includes workers that have not started yet
        ),
    )
    with _time_limit(execution.max_hours), closing(tile_results):
        # ^ without closing, tiles in progress would go on until the generator is collected
        for tile_result in tile_results:
            metrics.count_tile(tile_result)
            _log_tile_result(tile_result)
            context.progress.advance(1, tile_result.tile)
            if tile_result.reason is not None:
                failed.append(
                    TileFailure(
                        tile=tile_result.tile,
                        reason=tile_result.reason,
                        retryable=tile_result.retryable,
                    )
                )
            for name, count in tile_result.traffic.items():
                traffic[name] = traffic.get(name, 0) + count
            for name, value in tile_result.seconds.items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 3)
    return TilesResult(
        counts=TileCounts(
            total=len(plan.tiles),
            done=len(pending) - len(failed),
            skipped=len(finished),
            failed=tuple(sorted(failed, key=lambda failure: failure.tile)),
        ),
        seconds=seconds,
        planned=planned,
        traffic=traffic,
    )


@contextmanager
def _time_limit(hours: float | None) -> Iterator[None]:
    """Cancel the work of a block after some hours; None = no limit.

    Raises:
        TimeLimitExceeded: the block was cancelled.
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
            "stopped. Finished tiles are kept; run the same command again to go on."
        ) from None


def _log_tile_result(tile_result: TileResult) -> None:
    """Log the result of a tile in this process: the log of the worker that made it may be lost."""
    if tile_result.reason is None:
        log.info("tile=%s done seconds=%s", tile_result.tile, dict(tile_result.seconds))
    else:
        log.error("tile=%s failed reason=%s", tile_result.tile, tile_result.reason)


def verify_tiles(stored: StoredPlan) -> list[DamagedFile]:
    """Compare the stored values of every finished tile with its receipt; return what differs."""
    return verify.find_damaged_tiles(stored.plan, stored.folder)


def measure_quality(stored: StoredPlan) -> QualityMetrics:
    """Test the stored layers for seams, and pool the samples in the tiles' receipts."""
    return quality_metrics.measure_quality(stored.plan, stored.folder)


def publish(
    stored: StoredPlan,
    failed: Sequence[TileFailure],
    quality: QualityMetrics,
    context: RunContext,
) -> Path:
    """Write COGs, pictures, report and, last, the item; return the item's path."""
    plan, folder = stored.plan, stored.folder
    grid_count = len(plan.grids) + len(plan.mosaic_grids)
    context.progress.start_stage("publish", len(tile_layers.list_layer_bands(plan)) * grid_count)
    compare = context.truth_comparison
    item_name = product_writer.publish_product(
        plan,
        folder.parent,
        missing_tiles=[MissingTile(tile=failure.tile, reason=failure.reason) for failure in failed],
        accuracy=compare(folder, plan) if compare else None,
        quality=quality,
        formats=plan.settings.formats,
        on_layer=lambda name: context.progress.advance(1, name),
    )
    return folder.parent / item_name


FUNCTIONS = Stages(
    prepare_plan=prepare_plan,
    map_tiles=map_tiles,
    verify_tiles=verify_tiles,
    measure_quality=measure_quality,
    publish=publish,
)
"""The stages as plain functions."""


def run(
    source: Job | StoredPlan,
    allow_partial: bool,
    context: RunContext,
    stages: Stages = FUNCTIONS,
) -> RunResult:
    """Take a job or a plan through all stages; tiles that are finished are not made again.

    Args:
        source: a stored plan, or a job over one period.
        allow_partial: publish a product although tiles failed; they are declared as missing.
        context: progress and the like.
        stages: the functions that are called.
    """
    metrics_destination.read_destination()
    # ^ a wrong destination of the metrics is refused before anything runs
    timer = _StageTimer(source)
    context.progress.start_stage("plan")
    stored = timer.run("plan", stages.prepare_plan, source, context)
    if isinstance(source, Job):
        result = finished_products.find_existing_result(stored.plan)
        if result is not None:
            context.progress.finish()
            finished_products.export_metrics(stored.plan, result)
            return result.model_copy(update={"seconds": timer.seconds})
    unreachable = completeness.check_plan(stored.plan)
    if unreachable:
        context.progress.finish()
        result = _refuse_plan(stored, unreachable, timer.seconds)
        finished_products.export_metrics(stored.plan, result)
        return result
    with (
        open_store(stored.folder).lock(),
        run_log.capture_records(stored.folder),
        metrics_destination.export_run(stored.path) as metrics,
    ):
        context = replace(context, metrics=metrics)
        open_store(stored.folder).remove_leftovers()
        tiles = timer.run("tiles", stages.map_tiles, stored, context)
        timer.seconds |= tiles.seconds
        context.progress.start_stage("verify")
        damaged = timer.run("verify", stages.verify_tiles, stored)
        counts = tiles.counts
        failed = _merge_failures(counts.failed, damaged)
        item, quality, pixel_counts = None, None, None
        reasons: list[str] = []
        if not failed or (allow_partial and counts.done + counts.skipped > len(damaged)):
            # ^ a product without a single sound tile is not published
            receipts = receipt.read_finished(stored.folder, stored.plan)
            pixel_counts = completeness.add_counts(stored.plan, receipts)
            reasons = completeness.check_counts(stored.plan, pixel_counts)
            if not reasons:
                quality = timer.run("quality", stages.measure_quality, stored)
                reasons = quality_gate.list_refusals(stored.plan, quality)
                if not reasons:
                    item = timer.run("publish", stages.publish, stored, failed, quality, context)
        status = _choose_status(failed, item, is_refused=bool(reasons))
        metrics.set_final_status(status, len(failed) - len(counts.failed))
    context.progress.finish()
    result = run_result.build_run_result(
        stored.plan,
        status=status,
        item=item,
        tiles=counts.model_copy(update={"failed": failed}),
        seconds=timer.seconds,
        reasons=reasons,
        quality=quality,
        counts=pixel_counts,
    )
    actual = cost.get_actual_usage(stored.plan, tiles.traffic, timer.seconds, counts.done)
    return result.model_copy(update={"planned": tiles.planned, "actual": actual})


def _refuse_plan(
    stored: StoredPlan, reasons: Sequence[str], seconds: Mapping[str, float]
) -> RunResult:
    """Return the result of a plan that cannot give a complete product: no tile is made for it."""
    finished = receipt.read_finished(stored.folder, stored.plan)
    total = len(stored.plan.tiles)
    return run_result.build_run_result(
        stored.plan,
        status="refused",
        item=None,
        tiles=TileCounts(total=total, done=0, skipped=len(finished), failed=()),
        seconds=seconds,
        reasons=reasons,
    )


def _choose_status(
    failed: Sequence[TileFailure], item: Path | None, *, is_refused: bool
) -> RunStatus:
    if is_refused:
        return "refused"
    if not failed:
        return "complete"
    return "partial" if item else "failed"


class _StageTimer:
    """Runs stages one after the other, and logs the seconds of each."""

    def __init__(self, source: Job | StoredPlan) -> None:
        product = source.plan if isinstance(source, StoredPlan) else source
        folder = product_folder.product_dir(product)
        self._labels = folder.parent.name, folder.name
        self.seconds: dict[str, float] = {}

    def run(
        self,
        name: str,
        stage: Callable[Params, Returned],
        *arguments: Params.args,
        **options: Params.kwargs,
    ) -> Returned:
        """Run a stage unless the run was cancelled, and return what it returns."""
        cancellation.check_cancelled()
        started = time.perf_counter()
        returned = stage(*arguments, **options)
        self.seconds[name] = round(time.perf_counter() - started, 3)
        log.info(
            "stage=%s product=%s period=%s done seconds=%s",
            name,
            *self._labels,
            self.seconds[name],
        )
        return returned


def _merge_failures(
    failed: Sequence[TileFailure], damaged: Sequence[DamagedFile]
) -> tuple[TileFailure, ...]:
    """Return the tiles that failed, and after them those whose stored values are damaged."""
    known = {failure.tile for failure in failed}
    return (
        *failed,
        *(
            TileFailure(
                tile=finding.tile or "", reason=f"{finding.file}: {finding.reason}", retryable=True
            )
            for finding in damaged
            if finding.tile not in known
        ),
    )
