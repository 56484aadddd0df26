"""Who computes: what the engine asks of them, and threads, which are at hand everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.runtime import cancellation

Workers = int | Mapping[str, int] | Literal["auto"]
"""As a job says it: a number, ``{min: 1, max: 8}``, or auto."""

LOOK = 1.0
"""Seconds after which the engine looks whether the run still goes on."""

CORES_A_TILE = 4
"""Cores that one tile keeps busy where the job leaves it open: as many windows go into a batch."""

ON_A_GPU = 2
"""Tiles at a time of a process with a GPU: one reads while the other one infers."""


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
    most = span(workers)[1]
    with cancellation.Pool(most, "tile") as pool:
        yield Threads(pool, most)
        # ^ tiles that are given up are waited for: until then the folder is this run's


class Threads:
    """Threads of this process."""

    processes = 1

    def __init__(self, pool: cancellation.Pool, workers: int) -> None:
        self._pool = pool
        self.beside = workers

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task."""
        return self._pool.submit(work, *arguments)

    def first(self, waiting: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done."""
        return futures.wait(waiting, timeout=LOOK, return_when=futures.FIRST_COMPLETED).done

    def places(self) -> int:
        """Return the number of threads."""
        return self.beside

    def explain(self, folder: Path) -> None:
        """Leave nothing: the log has it all."""
