"""Where tiles are computed: threads of this process, a local dask cluster, or a cluster at hand.

A tile is one task; what travels is the path of a plan, the tile's id and, back, a few numbers.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.errors import InvalidInputError, TerramosaicError
from flows.execution import dask_report, executors, malloc, model_cache
from pipeline import tile
from pipeline.inference.batching import WindowCache
from pipeline.plan.plan import Plan
from pipeline.reading import http_pool
from pipeline.runtime import cancellation, io_statistics
from pipeline.runtime.io_statistics import IoStatistics
from pipeline.storage import receipt

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor as Loaded
    from pipeline.grid.grid import Tile
    from pipeline.inference.predictor import Predictor

log = logging.getLogger(__name__)

TASKS_PER_WORKER = 2
"""Tasks submitted per worker: enough to keep it busy, few enough for any scheduler."""

TASK_SECONDS = 0.5
"""Seconds of work that are worth a task of their own: tiles that take less travel together."""

MAX_TILES_PER_TASK = 64
"""Tiles of one task at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileResult:
    """What became of one tile."""

    tile: str
    reason: str | None
    """Why it failed; None = it is finished."""

    seconds: dict[str, float]

    traffic: Mapping[str, int] = field(default_factory=dict)
    """What was read for it: bytes, requests, and those among them that were retries."""

    km2: float = 0.0
    """Ground of the tile inside the region."""


ProcessTile = Callable[[str, str, int, int], TileResult]
"""Makes one tile: see :func:`process_tile`."""

_load_lock = threading.Lock()


@functools.lru_cache(maxsize=2)
def _cached_plan(path: str, _mtime_ns: int) -> Plan:
    return Plan.read(Path(path))


@functools.lru_cache(maxsize=1)
def _cached_predictor(path: str, mtime_ns: int) -> Predictor | None:
    """Load the plan's model: once per process, and only the one that the plan names."""
    plan = _cached_plan(path, mtime_ns)
    return model_cache.find_predictor(plan) or _load_predictor(plan)


@functools.lru_cache(maxsize=1)
def _cached_windows(_path: str, _mtime_ns: int) -> WindowCache:
    return WindowCache()


def _load_predictor(plan: Plan) -> Loaded | None:
    if plan.model is None:
        return None
    from model.predictor import registry  # noqa: PLC0415

    # ^ composites need no torch
    predictor = registry.load(
        **plan.settings.model.to_dict(),
        inputs=tuple(plan.model.inputs),
        device=plan.settings.execution.device,
        precision=plan.model.precision,
        batch=plan.model.batch if plan.model.device == "cuda" else None,
        # ^ on a CPU one window after the other is fastest, and the bits are the same
        nan_policy="fill",
    )
    if predictor.device_type != plan.model.device:
        raise InvalidInputError(
            f"The plan was made for the device {plan.model.device}, and here is "
            f"{predictor.device_type}: the same windows would have other bits. Run it where it was "
            "planned for, or plan again here."
        )
    if predictor.digest != plan.model.digest:
        raise InvalidInputError(
            f"The model {plan.model.name} now has the digest {predictor.digest[:12]}, and the "
            f"plan was made for {plan.model.digest[:12]}. Plan again, or put the weights back."
        )
    return predictor


def check_model(plan: Plan) -> None:
    """Refuse a plan whose model is no longer the one that it was made for, before any tile is.

    Raises:
        InvalidInputError: the weights, or whatever else decides the model's answers, have changed.
    """
    if "://" not in plan.settings.execution.engine:
        # ^ on a cluster elsewhere, what lies there counts: its workers look at each tile
        model_cache.store_predictor(_load_predictor(plan))


def cuda_device(plan: Plan) -> str | None:
    """Return the CUDA device that the tiles of a plan are made on, None where it is no such."""
    if plan.model is None or plan.model.device != "cuda":
        return None
    device = plan.settings.execution.device
    return "cuda" if device == "auto" else device


def process_tile(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Make one tile of a plan file, in whatever process this is.

    A tile whose receipt stands is left as it is: whoever began it has died after finishing it.

    Args:
        plan_path: the plan file, in the plan's folder.
        tile_id: one of its tiles.
        tiles_per_process: tiles at a time in this process.
        processes: processes that share the providers' connections.
    """
    malloc.trim_heap()
    http_pool.divide_connections(processes)
    path = Path(plan_path)
    changed = path.stat().st_mtime_ns
    with _load_lock:
        # ^ threads of one process that begin together would each load the model
        plan = _cached_plan(plan_path, changed)
        predictor = _cached_predictor(plan_path, changed)
    unit = plan.tiles_by_id[tile_id]
    done = receipt.read(path.parent, unit)
    if done is not None and done.key == plan.tile_key(unit):
        return TileResult(tile=tile_id, reason=None, seconds=dict(done.seconds))
    threads = max(len(os.sched_getaffinity(0)) // tiles_per_process, 2)
    # ^ two at least: one waits for the disk while the other one computes
    shared = _cached_windows(plan_path, changed)
    moved = IoStatistics()
    try:
        with io_statistics.collect() as moved:
            done = tile.build_tile(
                plan, unit, predictor, path.parent, threads=threads, window_cache=shared
            )
    except (TerramosaicError, OSError) as error:
        # ^ a full disk fails its tiles, and the others go on
        cancellation.check_cancelled()
        # ^ but what a stop has cut off is no failure
        return TileResult(tile=tile_id, reason=str(error), seconds={}, traffic=moved.to_dict())
    return TileResult(
        tile=tile_id,
        reason=None,
        seconds=dict(done.seconds),
        traffic=dict(done.traffic),
        km2=done.coverage["inside"] * unit.height * unit.width * _cell_area_km2(plan, unit),
    )


def _cell_area_km2(plan: Plan, unit: Tile) -> float:
    """Return the ground of one cell of a tile."""
    return (plan.tile_grid(unit).resolution / 1000) ** 2


def process_tiles(
    plan_path: Path,
    tiles: Sequence[Tile],
    *,
    engine: str,
    workers: executors.WorkerCount,
    device: str | None = None,
    tile_function: ProcessTile = process_tile,
    on_poll: Callable[[executors.Executor], None] = lambda _: None,
) -> Generator[TileResult, None, None]:
    """Make tiles, and tell of each as it ends; one that fails does not stop the others.

    Args:
        plan_path: the plan file, in the plan's folder.
        tiles: the tiles to make.
        engine: ``threads``, ``distributed`` (a cluster of processes on this machine) or the
            address of a dask scheduler.
        workers: tiles at a time: a number, a least and a most, or auto.
        device: the CUDA device that the plan's tiles are made on, if any.
        tile_function: makes one tile.
        on_poll: called with who computes, again and again: they may come and go.

    Raises:
        TerramosaicError: the scheduler is not there, or no longer.
        Cancelled: the run is no longer wanted.
    """
    if engine != "threads":
        model_cache.store_predictor(None)
        # ^ workers load their own
    left, suspected = deque(one.id for one in tiles), deque[str]()
    waiting: dict[Any, list[str]] = {}
    handful, by_itself, failed = 1, False, False
    dask_report.remove(plan_path.parent)
    with _open_executor(engine, workers, device) as hands:
        while left or suspected or waiting:
            if not left and not waiting:
                left, suspected, by_itself = suspected, left, True
            room = 1 if by_itself else TASKS_PER_WORKER * hands.capacity()
            while left and len(waiting) < room:
                count = 1 if by_itself else min(handful, -(-len(left) // room))
                some = [left.popleft() for _ in range(count)]
                task = (
                    tile_function,
                    str(plan_path),
                    some,
                    hands.tiles_per_process,
                    hands.processes,
                )
                waiting[hands.submit(_process_group, *task)] = some
            cancellation.check_cancelled()
            on_poll(hands)
            for future in hands.wait_any(waiting):
                some = waiting.pop(future)
                told, seconds = _task_result(future)
                failed |= any(one.reason is not None for one in told)
                yield from told
                if told:
                    left.extendleft(reversed(some[len(told) :]))
                    enough = int(TASK_SECONDS * len(told) / max(seconds, 1e-6))
                    handful = max(1, min(enough, 2 * handful, MAX_TILES_PER_TASK))
                elif by_itself:
                    failed = True
                    yield _killed_worker_result(some[0])
                else:
                    suspected.extend(some)
                    # ^ a scheduler gives up all that a dying worker held: which of them kills it
                    #   is known only with nothing beside it, when there is most memory for it too
        if failed:
            hands.save_report(plan_path.parent)


def _open_executor(
    engine: str, workers: executors.WorkerCount, device: str | None
) -> AbstractContextManager[executors.Executor]:
    if engine == "threads":
        return executors.open_thread_executor(workers)
    from flows.execution import dask_cluster  # noqa: PLC0415

    # ^ distributed is slow to import, and threads do not need it
    return dask_cluster.open_dask_executor(engine, workers, device)


def _process_group(
    tile_function: ProcessTile,
    plan_path: str,
    tile_ids: Sequence[str],
    tiles_per_process: int,
    processes: int,
) -> tuple[list[TileResult], float]:
    """Make tiles until the time of one task is over; return those made, and the seconds.

    A task of the scheduler costs milliseconds, and a tile may take less.
    """
    began = time.monotonic()
    done: list[TileResult] = []
    for name in tile_ids:
        cancellation.check_cancelled()
        done.append(tile_function(plan_path, name, tiles_per_process, processes))
        if time.monotonic() - began > TASK_SECONDS:
            break
    return done, time.monotonic() - began


def _task_result(future: Any) -> tuple[list[TileResult], float]:
    """Return what a task says; nothing, where its workers died one after the other."""
    try:
        told: tuple[list[TileResult], float] = future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        # ^ by name: distributed is not imported where threads do the work
        return [], 0.0
    return told


def _killed_worker_result(tile_id: str) -> TileResult:
    reason = "the worker died, again and again: give it more memory, or make tiles smaller"
    return TileResult(tile=tile_id, reason=reason, seconds={})
