"""Tiles that cost nothing, for what the engine itself costs; workers import this file."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flows.execution.engine import TileResult
from pipeline.grid.grid import Tile
from pipeline.runtime import cancellation

MADE = "made"


def tiles(count: int) -> list[Tile]:
    """Return so many tiles of a row."""
    return [
        Tile(id=f"r000c{number:06d}", row=0, column=number, height=1, width=1, epsg=32633)
        for number in range(count)
    ]


def nothing(plan_path: str, name: str, beside: int, processes: int) -> TileResult:
    """Make nothing of a tile."""
    return TileResult(tile=name, reason=None, seconds={"tile": 0.0})


def record(plan_path: str, name: str, beside: int, processes: int) -> TileResult:
    """Leave a file with the process's number for every time that a tile is made."""
    path = Path(plan_path).parent / MADE / name
    if path.exists():
        return TileResult(tile=name, reason=None, seconds={"skipped": 1.0})
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return TileResult(tile=name, reason=None, seconds={"tile": 0.0})


def slow(plan_path: str, name: str, beside: int, processes: int) -> TileResult:
    """Take a twentieth of a second for what :func:`record` does."""
    time.sleep(0.05)
    return record(plan_path, name, beside, processes)


def deadly(plan_path: str, name: str, beside: int, processes: int) -> TileResult:
    """Kill the process at one tile, as the kernel does when memory is gone."""
    if name.endswith("7"):
        os.kill(os.getpid(), signal.SIGKILL)
    return record(plan_path, name, beside, processes)


def endless(plan_path: str, name: str, beside: int, processes: int) -> TileResult:
    """Work for a minute at a tile, and leave a file that grows meanwhile."""
    end = time.monotonic() + 60
    with (Path(plan_path).parent / MADE / name).open("a") as file:
        while time.monotonic() < end:
            cancellation.check_cancelled()
            file.write(".")
            file.flush()
            time.sleep(0.05)
    return TileResult(tile=name, reason=None, seconds={"tile": 60.0})


@dataclass
class Pulse:
    """How fast a scheduler's /health answered while a block ran."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextlib.contextmanager
def pulse(port: int, every: float = 0.05) -> Iterator[Pulse]:
    """Ask a scheduler on loopback for its health, again and again."""
    told, over = Pulse(), threading.Event()

    def ask() -> None:
        while not over.wait(every):
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as it:
                    assert it.read() == b"ok"
            except OSError as error:
                told.failures.append(str(error))
            told.seconds.append(time.perf_counter() - began)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield told
    finally:
        over.set()
        asker.join()
