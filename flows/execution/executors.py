"""Who computes: what the engine asks of them, and threads, which are at hand everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.runtime import cancellation

WorkerCount = int | Mapping[str, int] | Literal["auto"]
"""As a job says it: a number, ``{min: 1, max: 8}``, or auto."""

POLL_INTERVAL = 1.0
"""Seconds after which the engine looks whether the run still goes on."""

CORES_PER_TILE = 4
"""Cores that one tile keeps busy where the job leaves it open: as many windows go into a batch."""

TILES_PER_GPU = 2
"""Tiles at a time of a process with a GPU: one reads while the other one infers."""


class Executor(Protocol):
    """What the engine asks of whoever computes."""

    processes: int
    """Processes that the tiles are divided among."""

    tiles_per_process: int
    """Tiles at a time in one of them."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task; return its future."""

    def wait_any(self, pending: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done; none, where none is for some seconds."""

    def capacity(self) -> int:
        """Return how many tasks can be worked on at this moment."""

    def save_report(self, plan_dir: Path) -> None:
        """Leave in a plan's folder what may tell why tiles of it failed."""


def worker_range(workers: WorkerCount) -> tuple[int, int]:
    """Return the least and the most workers that a job asks for on this machine."""
    if isinstance(workers, Mapping):
        return workers["min"], workers["max"]
    number = (
        max(len(os.sched_getaffinity(0)) // CORES_PER_TILE, 1) if workers == "auto" else workers
    )
    return number, number


@contextmanager
def open_thread_executor(workers: WorkerCount) -> Iterator[Executor]:
    """Lend threads of this process for the length of a block."""
    most = worker_range(workers)[1]
    with cancellation.CancellableThreadPool(most, "tile") as pool:
        yield ThreadExecutor(pool, most)
        # ^ tiles that are given up are waited for: until then the folder is this run's


class ThreadExecutor:
    """Threads of this process."""

    processes = 1

    def __init__(self, pool: cancellation.CancellableThreadPool, workers: int) -> None:
        self._pool = pool
        self.tiles_per_process = workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task."""
        return self._pool.submit(function, *arguments)

    def wait_any(self, pending: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done."""
        return futures.wait(
            pending, timeout=POLL_INTERVAL, return_when=futures.FIRST_COMPLETED
        ).done

    def capacity(self) -> int:
        """Return the number of threads."""
        return self.tiles_per_process

    def save_report(self, plan_dir: Path) -> None:
        """Leave nothing: the log has it all."""
