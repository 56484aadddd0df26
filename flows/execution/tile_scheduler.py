"""Scheduling the tiles of a plan on threads, on a local dask cluster or on a running one.

A task is a few tiles: the path of a plan and tile ids in, a :class:`TileResult` for each out.
If a worker dies repeatedly, the tiles of its task are computed again one at a time, and the tile
that kills its worker fails.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.execution import (
    dask_report,
    executors,
    model_cache,
)
from flows.execution.tile_worker import ProcessTile, process_tile
from pipeline.runtime import cancellation
from pipeline.runtime.worker_count import WorkerCount
from pipeline.tile import TileResult

if TYPE_CHECKING:
    from pipeline.grid.grid import Tile

log = logging.getLogger(__name__)

TASKS_PER_WORKER = 2
"""Tasks submitted per worker: enough to keep it busy without loading the scheduler."""

TASK_SECONDS = 0.5
"""Duration of a task that is aimed at: faster tiles are grouped into one task."""

MAX_TILES_PER_TASK = 64
"""Largest number of tiles in one task."""


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
