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

from catalogs.errors import TerramosaicError, Wrong
from flows.execution import dask_report, executors, malloc, model_cache
from pipeline import tile
from pipeline.inference.batching import Shared
from pipeline.plan.plan import Plan
from pipeline.reading import http_pool
from pipeline.runtime import cancellation, io_statistics
from pipeline.runtime.io_statistics import Traffic
from pipeline.storage import receipt

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor as Loaded
    from pipeline.grid.grid import Tile
    from pipeline.inference.predictor import Predictor

log = logging.getLogger(__name__)

AHEAD = 2
"""Tasks submitted per worker: enough to keep it busy, few enough for any scheduler."""

WORTH = 0.5
"""Seconds of work that are worth a task of their own: tiles that take less travel together."""

TOGETHER = 64
"""Tiles of one task at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one tile."""

    tile: str
    reason: str | None
    """Why it failed; None = it is finished."""

    seconds: dict[str, float]

    traffic: Mapping[str, int] = field(default_factory=dict)
    """What was read for it: bytes, requests, and those among them that were retries."""

    km2: float = 0.0
    """Ground of the tile inside the region."""


Make = Callable[[str, str, int, int], Outcome]
"""Makes one tile: see :func:`finish`."""

_loading = threading.Lock()


@functools.lru_cache(maxsize=2)
def _plan(path: str, _changed: int) -> Plan:
    return Plan.read(Path(path))


@functools.lru_cache(maxsize=1)
def _predictor(path: str, changed: int) -> Predictor | None:
    """Load the plan's model: once per process, and only the one that the plan names."""
    plan = _plan(path, changed)
    return model_cache.fitting(plan) or _load(plan)


@functools.lru_cache(maxsize=1)
def _shared(_path: str, _changed: int) -> Shared:
    return Shared()


def _load(plan: Plan) -> Loaded | None:
    if plan.model is None:
        return None
    from model.predictor import registry  # noqa: PLC0415

    # ^ composites need no torch
    choice, execution = plan.job["model"], plan.job["execution"]
    predictor = registry.load(
        **choice,
        inputs=tuple(plan.model.inputs),
        device=execution["device"],
        precision=plan.model.precision,
        batch=plan.model.batch if plan.model.device == "cuda" else None,
        # ^ on a CPU one window after the other is fastest, and the bits are the same
        holes="fill",
    )
    if predictor.device_kind != plan.model.device:
        raise Wrong(
            f"The plan was made for the device {plan.model.device}, and here is "
            f"{predictor.device_kind}: the same windows would have other bits. Run it where it was "
            "planned for, or plan again here."
        )
    if predictor.digest != plan.model.digest:
        raise Wrong(
            f"The model {plan.model.name} now has the digest {predictor.digest[:12]}, and the "
            f"plan was made for {plan.model.digest[:12]}. Plan again, or put the weights back."
        )
    return predictor


def check(plan: Plan) -> None:
    """Refuse a plan whose model is no longer the one that it was made for, before any tile is.

    Raises:
        Wrong: the weights, or whatever else decides the model's answers, have changed.
    """
    if "://" not in plan.job["execution"]["engine"]:
        # ^ on a cluster elsewhere, what lies there counts: its workers look at each tile
        model_cache.keep(_load(plan))


def gpu(plan: Plan) -> str | None:
    """Return the CUDA device that the tiles of a plan are made on, None where it is no such."""
    if plan.model is None or plan.model.device != "cuda":
        return None
    asked: str = plan.job["execution"]["device"]
    return "cuda" if asked == "auto" else asked


def finish(plan_path: str, tile_id: str, beside: int, processes: int) -> Outcome:
    """Make one tile of a plan file, in whatever process this is.

    A tile whose receipt stands is left as it is: whoever began it has died after finishing it.

    Args:
        plan_path: the plan file, in the plan's folder.
        tile_id: one of its tiles.
        beside: tiles at a time in this process.
        processes: processes that share the providers' connections.
    """
    malloc.give_back()
    http_pool.divide(processes)
    path = Path(plan_path)
    changed = path.stat().st_mtime_ns
    with _loading:
        # ^ threads of one process that begin together would each load the model
        plan = _plan(plan_path, changed)
        predictor = _predictor(plan_path, changed)
    unit = plan.named[tile_id]
    done = receipt.read(path.parent, unit)
    if done is not None and done.key == plan.key(unit):
        return Outcome(tile=tile_id, reason=None, seconds=dict(done.seconds))
    threads = max(len(os.sched_getaffinity(0)) // beside, 2)
    # ^ two at least: one waits for the disk while the other one computes
    shared = _shared(plan_path, changed)
    moved = Traffic()
    try:
        with io_statistics.counted() as moved:
            done = tile.finish(plan, unit, predictor, path.parent, threads=threads, shared=shared)
    except (TerramosaicError, OSError) as error:
        # ^ a full disk fails its tiles, and the others go on
        cancellation.look()
        # ^ but what a stop has cut off is no failure
        return Outcome(tile=tile_id, reason=str(error), seconds={}, traffic=moved.to_dict())
    return Outcome(
        tile=tile_id,
        reason=None,
        seconds=dict(done.seconds),
        traffic=dict(done.traffic),
        km2=done.coverage["inside"] * unit.height * unit.width * _km2(plan, unit),
    )


def _km2(plan: Plan, unit: Tile) -> float:
    """Return the ground of one cell of a tile."""
    return (plan.area(unit).resolution / 1000) ** 2


def run(
    plan_path: Path,
    tiles: Sequence[Tile],
    *,
    engine: str,
    workers: executors.Workers,
    gpu: str | None = None,
    make: Make = finish,
    seen: Callable[[executors.Crew], None] = lambda _: None,
) -> Generator[Outcome, None, None]:
    """Make tiles, and tell of each as it ends; one that fails does not stop the others.

    Args:
        plan_path: the plan file, in the plan's folder.
        tiles: the tiles to make.
        engine: ``threads``, ``distributed`` (a cluster of processes on this machine) or the
            address of a dask scheduler.
        workers: tiles at a time: a number, a least and a most, or auto.
        gpu: the CUDA device that the plan's tiles are made on, if any.
        make: makes one tile.
        seen: called with who computes, again and again: they may come and go.

    Raises:
        TerramosaicError: the scheduler is not there, or no longer.
        Halted: the run is no longer wanted.
    """
    if engine != "threads":
        model_cache.keep(None)
        # ^ workers load their own
    left, suspected = deque(one.id for one in tiles), deque[str]()
    waiting: dict[Any, list[str]] = {}
    handful, by_itself, failed = 1, False, False
    dask_report.forget(plan_path.parent)
    with _gathered(engine, workers, gpu) as hands:
        while left or suspected or waiting:
            if not left and not waiting:
                left, suspected, by_itself = suspected, left, True
            room = 1 if by_itself else AHEAD * hands.places()
            while left and len(waiting) < room:
                count = 1 if by_itself else min(handful, -(-len(left) // room))
                some = [left.popleft() for _ in range(count)]
                task = (make, str(plan_path), some, hands.beside, hands.processes)
                waiting[hands.submit(_several, *task)] = some
            cancellation.look()
            seen(hands)
            for future in hands.first(waiting):
                some = waiting.pop(future)
                told, seconds = _result(future)
                failed |= any(one.reason is not None for one in told)
                yield from told
                if told:
                    left.extendleft(reversed(some[len(told) :]))
                    enough = int(WORTH * len(told) / max(seconds, 1e-6))
                    handful = max(1, min(enough, 2 * handful, TOGETHER))
                elif by_itself:
                    failed = True
                    yield _killed(some[0])
                else:
                    suspected.extend(some)
                    # ^ a scheduler gives up all that a dying worker held: which of them kills it
                    #   is known only with nothing beside it, when there is most memory for it too
        if failed:
            hands.explain(plan_path.parent)


def _gathered(
    engine: str, workers: executors.Workers, gpu: str | None
) -> AbstractContextManager[executors.Crew]:
    if engine == "threads":
        return executors.gathered(workers)
    from flows.execution import dask_cluster  # noqa: PLC0415

    # ^ distributed is slow to import, and threads do not need it
    return dask_cluster.gathered(engine, workers, gpu)


def _several(
    make: Make, plan_path: str, names: Sequence[str], beside: int, processes: int
) -> tuple[list[Outcome], float]:
    """Make tiles until the time of one task is over; return those made, and the seconds.

    A task of the scheduler costs milliseconds, and a tile may take less.
    """
    began = time.monotonic()
    done: list[Outcome] = []
    for name in names:
        cancellation.look()
        done.append(make(plan_path, name, beside, processes))
        if time.monotonic() - began > WORTH:
            break
    return done, time.monotonic() - began


def _result(future: Any) -> tuple[list[Outcome], float]:
    """Return what a task says; nothing, where its workers died one after the other."""
    try:
        told: tuple[list[Outcome], float] = future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        # ^ by name: distributed is not imported where threads do the work
        return [], 0.0
    return told


def _killed(name: str) -> Outcome:
    reason = "the worker died, again and again: give it more memory, or make tiles smaller"
    return Outcome(tile=name, reason=reason, seconds={})
