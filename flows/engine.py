"""Where tiles are computed: threads of this process, a local dask cluster, or a cluster at hand.

A tile is one task; what travels is the path of a plan, the tile's id and, back, a few numbers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.errors import TerramosaicError, Wrong
from pipeline import connections, tile
from pipeline.plan import Plan

if TYPE_CHECKING:
    from pipeline.grid import Tile
    from pipeline.predict import Predictor

log = logging.getLogger(__name__)

AHEAD = 2
"""Tiles submitted per worker: enough to keep it busy, few enough for any scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one tile."""

    tile: str
    reason: str | None
    """Why it failed; None = it is finished."""

    seconds: dict[str, float]


@functools.lru_cache(maxsize=2)
def _plan(path: str, _changed: int) -> Plan:
    return Plan.read(Path(path))


@functools.lru_cache(maxsize=1)
def _predictor(path: str, changed: int) -> Predictor | None:
    """Load the plan's model: once per process, and only the one that the plan names."""
    return _load(_plan(path, changed))


def _load(plan: Plan) -> Predictor | None:
    if plan.model is None:
        return None
    from model.prediction import known  # noqa: PLC0415

    # ^ composites need no torch
    choice, execution = plan.job["model"], plan.job["execution"]
    predictor = known.load(
        **choice,
        inputs=tuple(plan.model.inputs),
        device=execution["device"],
        precision=plan.model.precision,
        holes="fill",
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
        _load(plan)


def finish(plan_path: str, tile_id: str, threads: int, processes: int) -> Outcome:
    """Make one tile of a plan file, in whatever process this is, beside so many others."""
    connections.divide(processes)
    path = Path(plan_path)
    changed = path.stat().st_mtime_ns
    plan = _plan(plan_path, changed)
    unit = next(one for one in plan.tiles if one.id == tile_id)
    try:
        done = tile.finish(plan, unit, _predictor(plan_path, changed), path.parent, threads=threads)
    except (TerramosaicError, OSError) as error:
        # ^ a full disk fails its tiles, and the others go on
        log.error("tile=%s failed reason=%s", tile_id, error)  # noqa: TRY400
        # ^ the message is meant for people; the traceback says nothing more
        return Outcome(tile=tile_id, reason=str(error), seconds={})
    log.info("tile=%s done seconds=%s", tile_id, dict(done.seconds))
    return Outcome(tile=tile_id, reason=None, seconds=dict(done.seconds))


def run(plan_path: Path, tiles: Sequence[Tile], *, engine: str, workers: int) -> Iterator[Outcome]:
    """Make tiles, and tell of each as it ends; one that fails does not stop the others.

    Args:
        plan_path: the plan file, in the plan's folder.
        tiles: the tiles to make.
        engine: ``threads``, ``distributed`` (a cluster of processes on this machine) or the
            address of a dask scheduler.
        workers: tiles at a time.
    """
    names = [one.id for one in tiles]
    with _pool(engine, workers) as (submit, first, processes):
        waiting: dict[Any, str] = {}
        while names or waiting:
            while names and len(waiting) < AHEAD * workers:
                name = names.pop(0)
                waiting[submit(finish, str(plan_path), name, workers, processes)] = name
            for future in first(waiting):
                yield _outcome(future, waiting.pop(future))


def _outcome(future: Any, name: str) -> Outcome:
    """Return what a future says; a worker that died is the failure of its tile, not of the run."""
    try:
        told: Outcome = future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        # ^ by name: distributed is not imported where threads do the work
        reason = "the worker died, again and again: give it more memory, or make tiles smaller"
        return Outcome(tile=name, reason=reason, seconds={})
    return told


First = Callable[[Iterable[Any]], Iterable[Any]]


@contextmanager
def _pool(engine: str, workers: int) -> Iterator[tuple[Callable[..., Any], First, int]]:
    """Lend what submits a tile, what waits for the first of many, and the count of processes."""
    if engine == "threads":
        pool = futures.ThreadPoolExecutor(max_workers=workers, thread_name_prefix="tile")
        try:
            yield pool.submit, _first_of_threads, 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return
    import distributed  # noqa: PLC0415

    # ^ slow to import, and not needed by threads
    cluster = (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            # ^ a dashboard runs what it is sent: nothing is opened unasked
        )
        if engine == "distributed"
        else engine
    )
    with (
        distributed.Client(cluster, timeout="30s", set_as_default=False) as client,
        client.as_current(),
    ):
        try:
            processes = workers if engine == "distributed" else len(client.ncores())
            submit = functools.partial(client.submit, pure=False, retries=1)
            yield submit, _first_of_dask, max(processes, 1)
        finally:
            if not isinstance(cluster, str):
                cluster.close()


def _first_of_threads(waiting: Iterable[Any]) -> Iterable[Any]:
    return futures.wait(list(waiting), return_when=futures.FIRST_COMPLETED).done


def _first_of_dask(waiting: Iterable[Any]) -> Iterable[Any]:
    import distributed  # noqa: PLC0415

    done: Iterable[Any] = distributed.wait(list(waiting), return_when="FIRST_COMPLETED").done
    return done
