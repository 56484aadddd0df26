"""Executors: the protocol that the engine uses, and the executor on threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline.runtime import cancellation
from pipeline.runtime.worker_count import WorkerCount, worker_range

POLL_INTERVAL = 1.0
"""Seconds after which the engine checks whether the run was cancelled."""

TILES_PER_GPU = 2
"""Parallel tiles of a process with a GPU: one reads while the other one runs the model."""


class Executor(Protocol):
    """Runs tasks on threads or on the workers of a dask scheduler."""

    processes: int
    """Number of processes that the tiles are divided among."""

    tiles_per_process: int
    """Number of tiles that one process computes in parallel."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Submit one task and return its future."""

    def wait_any(self, pending: Collection[Any]) -> Collection[Any]:
        """Wait some seconds for futures and return those that are done, if any."""

    def capacity(self) -> int:
        """Return the number of tasks that can run in parallel at this moment."""

    def save_report(self, plan_dir: Path) -> None:
        """Write diagnostics of failed tiles into a plan's folder."""


@contextmanager
def open_thread_executor(workers: WorkerCount) -> Iterator[Executor]:
    """Open an executor on threads of this process."""
    count = worker_range(workers)[1]
    with cancellation.CancellableThreadPool(count, "tile") as pool:
        yield ThreadExecutor(pool, count)
        # ^ leaving the pool waits for cancelled tiles, which still write to the plan's folder


class ThreadExecutor:
    """Executor on threads of this process."""

    processes = 1

    def __init__(self, pool: cancellation.CancellableThreadPool, workers: int) -> None:
        self._pool = pool
        self.tiles_per_process = workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Submit one task."""
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
        """Write nothing: the log has all diagnostics."""
