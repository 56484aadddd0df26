"""Computing the tiles of a plan on threads, on a local dask cluster or on a running one.

A task is a few tiles: the path of a plan and tile ids in, a :class:`TileResult` for each out.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.errors import InvalidInputError, TerramosaicError
from flows.execution import (
    dask_report,
    executors,
    memory_release,
    model_cache,
)
from pipeline import tile
from pipeline.inference.batching import WindowCache
from pipeline.plan.plan import Plan
from pipeline.plan.settings import WorkerCount
from pipeline.reading import provider_connections
from pipeline.runtime import cancellation, io_statistics
from pipeline.runtime.io_statistics import IoStatistics
from pipeline.storage import plan_file, receipt
from pipeline.tile import TileResult

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor as Loaded
    from pipeline.grid.grid import Tile
    from pipeline.inference.predictor_protocol import Predictor

log = logging.getLogger(__name__)

TASKS_PER_WORKER = 2
"""Tasks submitted per worker: enough to keep it busy without loading the scheduler."""

TASK_SECONDS = 0.5
"""Duration of a task that is aimed at: faster tiles are grouped into one task."""

MAX_TILES_PER_TASK = 64
"""Largest number of tiles in one task."""


ProcessTile = Callable[[str, str, int, int], TileResult]
"""Computes one tile: see :func:`process_tile`."""

_load_lock = threading.Lock()


@functools.lru_cache(maxsize=2)
def _cached_plan(path: str, _mtime_ns: int) -> Plan:
    return plan_file.read_plan_file(path)


@functools.lru_cache(maxsize=1)
def _cached_predictor(path: str, mtime_ns: int) -> Predictor | None:
    """Load the plan's model, once per process."""
    plan = _cached_plan(path, mtime_ns)
    return model_cache.find_predictor(plan) or _load_predictor(plan)


@functools.lru_cache(maxsize=1)
def _cached_windows(_path: str, _mtime_ns: int) -> WindowCache:
    return WindowCache()


def _load_predictor(plan: Plan) -> Loaded | None:
    if plan.model is None:
        return None
    from model.predictor import registry  # noqa: PLC0415

    # ^ plans without a model need no torch
    predictor = registry.load(
        **plan.settings.model.to_dict(),
        inputs=tuple(plan.model.inputs),
        device=plan.settings.execution.device,
        precision=plan.model.precision,
        batch=plan.model.batch if plan.model.device == "cuda" else None,
        # ^ on a CPU one window at a time is fastest, and gives the same bits
        nan_policy="fill",
    )
    if predictor.device_type != plan.model.device:
        raise InvalidInputError(
            f"The plan is for the device {plan.model.device}, but this machine has "
            f"{predictor.device_type}, whose results differ in their last bits. Run the plan on a "
            f"machine with {plan.model.device}, or plan again here."
        )
    if predictor.digest != plan.model.digest:
        raise InvalidInputError(
            f"The model {plan.model.name} now has the digest {predictor.digest[:12]}, but the "
            f"plan is for {plan.model.digest[:12]}. Plan again, or restore the weights."
        )
    return predictor


def check_model(plan: Plan) -> None:
    """Check that the model is still the one of the plan, before any tile is computed.

    Raises:
        InvalidInputError: The weights or other settings of the model have changed.
    """
    if "://" not in plan.settings.execution.engine:
        # ^ the workers of a remote cluster check their own model files
        model_cache.store_predictor(_load_predictor(plan))


def cuda_device(plan: Plan) -> str | None:
    """Return the CUDA device of a plan's model; None = the model runs on the CPU."""
    if plan.model is None or plan.model.device != "cuda":
        return None
    device = plan.settings.execution.device
    return "cuda" if device == "auto" else device


def process_tile(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Compute one tile of a plan in this process.

    A tile that has its receipt is not computed again: its worker died after finishing it.

    Args:
        plan_path: The plan file, in the plan's folder.
        tile_id: Id of one of its tiles.
        tiles_per_process: Number of tiles that this process computes in parallel.
        processes: Number of processes that share the providers' connections.
    """
    memory_release.trim_heap()
    provider_connections.divide_connections(processes)
    path = Path(plan_path)
    mtime_ns = path.stat().st_mtime_ns
    with _load_lock:
        # ^ otherwise threads that start together would each load the model
        plan = _cached_plan(plan_path, mtime_ns)
        predictor = _cached_predictor(plan_path, mtime_ns)
    plan_tile = plan.tiles_by_id[tile_id]
    tile_receipt = receipt.read(path.parent, plan_tile)
    if tile_receipt is not None and tile_receipt.key == plan.tile_key(plan_tile):
        return TileResult(tile=tile_id, reason=None, seconds=dict(tile_receipt.seconds))
    threads = max(len(os.sched_getaffinity(0)) // tiles_per_process, 2)
    # ^ at least two: one waits for the disk while the other one computes
    window_cache = _cached_windows(plan_path, mtime_ns)
    traffic = IoStatistics()
    try:
        with io_statistics.collect() as traffic:
            tile_receipt = tile.build_tile(
                plan,
                plan_tile,
                predictor,
                path.parent,
                threads=threads,
                window_cache=window_cache,
            )
    except (TerramosaicError, OSError) as error:
        # ^ an error of one tile, such as a full disk, does not stop the others
        cancellation.check_cancelled()
        # ^ an error caused by cancellation is no failure of the tile
        return TileResult(tile=tile_id, reason=str(error), seconds={}, traffic=traffic.to_dict())
    return TileResult(
        tile=tile_id,
        reason=None,
        seconds=dict(tile_receipt.seconds),
        traffic=dict(tile_receipt.traffic),
        km2=tile_receipt.coverage["inside"] * _tile_area_km2(plan, plan_tile),
    )


def _tile_area_km2(plan: Plan, plan_tile: Tile) -> float:
    pixel_km2 = (plan.tile_grid(plan_tile).resolution / 1000) ** 2
    return plan_tile.height * plan_tile.width * pixel_km2


def process_tiles(
    plan_path: Path,
    tiles: Sequence[Tile],
    *,
    engine: str,
    workers: WorkerCount,
    device: str | None = None,
    tile_function: ProcessTile = process_tile,
    on_poll: Callable[[executors.Executor], None] = lambda _: None,
) -> Generator[TileResult, None, None]:
    """Compute tiles and yield the result of each as it ends, failed ones included.

    Args:
        plan_path: The plan file, in the plan's folder.
        tiles: The tiles to compute.
        engine: ``threads``, ``distributed`` (a cluster of processes on this machine) or the
            address of a dask scheduler.
        workers: ``execution.workers`` of the job.
        device: CUDA device of the model; None = CPU.
        tile_function: Computes one tile.
        on_poll: Called regularly with the executor, whose number of workers may change.

    Raises:
        TerramosaicError: The scheduler cannot be reached, or the connection was lost.
        Cancelled: The run was cancelled.
    """
    if engine != "threads":
        model_cache.store_predictor(None)
        # ^ workers load their own model
    queue, suspects = deque(plan_tile.id for plan_tile in tiles), deque[str]()
    # ^ suspects: tiles of tasks whose workers died
    pending: dict[Any, list[str]] = {}
    group_size, one_at_a_time, failed = 1, False, False
    dask_report.remove(plan_path.parent)
    with _open_executor(engine, workers, device) as executor:
        while queue or suspects or pending:
            if not queue and not pending:
                queue, suspects, one_at_a_time = suspects, queue, True
            max_pending = 1 if one_at_a_time else TASKS_PER_WORKER * executor.capacity()
            while queue and len(pending) < max_pending:
                count = 1 if one_at_a_time else min(group_size, -(-len(queue) // max_pending))
                group = [queue.popleft() for _ in range(count)]
                task = (
                    tile_function,
                    str(plan_path),
                    group,
                    executor.tiles_per_process,
                    executor.processes,
                )
                pending[executor.submit(_process_group, *task)] = group
            cancellation.check_cancelled()
            on_poll(executor)
            for future in executor.wait_any(pending):
                group = pending.pop(future)
                results, seconds = _task_result(future)
                failed |= any(result.reason is not None for result in results)
                yield from results
                if results:
                    queue.extendleft(reversed(group[len(results) :]))
                    tiles_per_task = int(TASK_SECONDS * len(results) / max(seconds, 1e-6))
                    group_size = max(1, min(tiles_per_task, 2 * group_size, MAX_TILES_PER_TASK))
                elif one_at_a_time:
                    failed = True
                    yield _killed_worker_result(group[0])
                else:
                    suspects.extend(group)
                    # ^ a scheduler gives up all tasks of a worker that dies repeatedly. The tile at
                    #   fault is found by computing them one at a time, with all memory for it
        if failed:
            executor.save_report(plan_path.parent)


def _open_executor(
    engine: str, workers: WorkerCount, device: str | None
) -> AbstractContextManager[executors.Executor]:
    if engine == "threads":
        return executors.open_thread_executor(workers)
    from flows.execution import dask_executor  # noqa: PLC0415

    # ^ distributed is slow to import, and threads do not need it
    return dask_executor.open_dask_executor(engine, workers, device)


def _process_group(
    tile_function: ProcessTile,
    plan_path: str,
    tile_ids: Sequence[str],
    tiles_per_process: int,
    processes: int,
) -> tuple[list[TileResult], float]:
    """Compute tiles for about :data:`TASK_SECONDS`; return their results and the seconds taken.

    Scheduling a task takes milliseconds, and a tile may take less.
    """
    start = time.monotonic()
    results: list[TileResult] = []
    for tile_id in tile_ids:
        cancellation.check_cancelled()
        results.append(tile_function(plan_path, tile_id, tiles_per_process, processes))
        if time.monotonic() - start > TASK_SECONDS:
            break
    return results, time.monotonic() - start


def _task_result(future: Any) -> tuple[list[TileResult], float]:
    """Return a task's results; none if its workers died repeatedly."""
    try:
        task_result: tuple[list[TileResult], float] = future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        # ^ compared by name, since threads do not import distributed
        return [], 0.0
    return task_result


def _killed_worker_result(tile_id: str) -> TileResult:
    reason = "its worker died repeatedly: give workers more memory, or lower execution.tile"
    return TileResult(tile=tile_id, reason=reason, seconds={})
