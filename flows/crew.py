"""Who computes: what the engine asks of them, and threads, which are at hand everywhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline import halt

Workers = int | Mapping[str, int] | Literal["auto"]
"""As a job says it: a number, ``{min: 1, max: 8}``, or auto."""

LOOK = 1.0
"""Seconds after which the engine looks whether the run still goes on."""

CORES_A_TILE = 4
"""Cores that one tile keeps busy where the job leaves it open: as many windows go into a batch."""


class Crew(Protocol):
    """What the engine asks of whoever computes."""

    processes: int
    """Processes that the tiles are divided among."""

    beside: int
    """Tiles at a time in one of them."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task; return its future."""

    def first(self, waiting: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done; none, where none is for some seconds."""

    def places(self) -> int:
        """Return how many tasks can be worked on at this moment."""

    def explain(self, folder: Path) -> None:
        """Leave in a plan's folder what may tell why tiles of it failed."""


def span(workers: Workers) -> tuple[int, int]:
    """Return the least and the most workers that a job asks for on this machine."""
    if isinstance(workers, Mapping):
        return workers["min"], workers["max"]
    number = max(len(os.sched_getaffinity(0)) // CORES_A_TILE, 1) if workers == "auto" else workers
    return number, number


@contextmanager
def gathered(workers: Workers) -> Iterator[Crew]:
    """Lend threads of this process for the length of a block."""
    most, over = span(workers)[1], threading.Event()
    pool = futures.ThreadPoolExecutor(most, thread_name_prefix="tile")
    try:
        yield Threads(pool, most, over)
    finally:
        over.set()
        # ^ tiles in hand are given up, where the block was left before they were done
        pool.shutdown(wait=True, cancel_futures=True)


class Threads:
    """Threads of this process."""

    processes = 1

    def __init__(
        self, pool: futures.ThreadPoolExecutor, workers: int, over: threading.Event
    ) -> None:
        self._pool, self._over = pool, over
        self.beside = workers

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task."""
        return self._pool.submit(self._attempt, work, *arguments)

    def _attempt(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with halt.when(self._over.is_set):
            return work(*arguments)

    def first(self, waiting: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done."""
        return futures.wait(waiting, timeout=LOOK, return_when=futures.FIRST_COMPLETED).done

    def places(self) -> int:
        """Return the number of threads."""
        return self.beside

    def explain(self, folder: Path) -> None:
        """Leave nothing: the log has it all."""
