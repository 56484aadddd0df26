"""Simulated tiles, for tests and measurements of the engine alone; dask workers import this."""

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

from pipeline.grid.grid import Tile
from pipeline.runtime import cancellation
from pipeline.tile import TileResult

RECORDS = "made"


def create_tiles(count: int) -> list[Tile]:
    """Return ``count`` tiles in one row."""
    return [
        Tile(id=f"r000c{number:06d}", row=0, column=number, height=1, width=1, epsg=32633)
        for number in range(count)
    ]


def return_at_once(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Return the result of a tile without computing anything."""
    return TileResult(tile=tile_id, reason=None, seconds={"tile": 0.0})


def record_process(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Append the process id to a file of the tile."""
    path = Path(plan_path).parent / RECORDS / tile_id
    if path.exists():
        return TileResult(tile=tile_id, reason=None, seconds={"skipped": 1.0})
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return TileResult(tile=tile_id, reason=None, seconds={"tile": 0.0})


def record_slowly(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Do the same as :func:`record_process`, in 0.05 s."""
    time.sleep(0.05)
    return record_process(plan_path, tile_id, tiles_per_process, processes)


def kill_worker(plan_path: str, tile_id: str, tiles_per_process: int, processes: int) -> TileResult:
    """Kill the process at one tile, as the kernel does when it is out of memory."""
    if tile_id.endswith("7"):
        os.kill(os.getpid(), signal.SIGKILL)
    return record_process(plan_path, tile_id, tiles_per_process, processes)


def write_for_a_minute(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Work for a minute on a tile, appending to a file of the tile."""
    end = time.monotonic() + 60
    with (Path(plan_path).parent / RECORDS / tile_id).open("a") as file:
        while time.monotonic() < end:
            cancellation.check_cancelled()
            file.write(".")
            file.flush()
            time.sleep(0.05)
    return TileResult(tile=tile_id, reason=None, seconds={"tile": 60.0})


@dataclass
class HealthTimes:
    """Response times of a scheduler's /health during a block."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextlib.contextmanager
def poll_health(port: int, interval: float = 0.05) -> Iterator[HealthTimes]:
    """Request the health of a scheduler on loopback at an interval."""
    measured, stop = HealthTimes(), threading.Event()

    def poll() -> None:
        while not stop.wait(interval):
            start = time.perf_counter()
            try:
                url = f"http://127.0.0.1:{port}/health"
                with urllib.request.urlopen(url, timeout=10) as response:
                    assert response.read() == b"ok"
            except OSError as error:
                measured.failures.append(str(error))
            measured.seconds.append(time.perf_counter() - start)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield measured
    finally:
        stop.set()
        thread.join()
