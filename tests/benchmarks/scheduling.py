"""Planning and scheduling a hundred thousand simulated tiles, each part in a process of its own.

``python -m tests.benchmarks scheduling``; a tile that does nothing shows what the engine costs.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.execution import tile_scheduler
from flows.execution.tile_worker import ProcessTile
from pipeline import resource_estimate
from pipeline.storage import plan_file, receipt
from tests.support import large_plan, simulated_tiles

TILES = 100_000


def run() -> Iterator[str]:
    """Yield the table."""
    yield from told([_apart(part) for part in PARTS])


def told(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield rows as a table."""
    yield "| what | tiles | s | ms a tile | core s | peak GiB | /health, slowest s | remarks |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        health = f"{row['health']:.3f}" if row.get("health") else ""
        yield (
            f"| {row['what']} | {row['tiles']} | {row['wall']:.1f} | "
            f"{1e3 * row['wall'] / row['tiles']:.3f} | {row['cpu']:.1f} | {row['peak']:.2f} | "
            f"{health} | {row.get('remarks', '')} |"
        )


def planning() -> dict[str, Any]:
    """Write, read and estimate a plan, look for receipts, as `terramosaic plan` does; then keys."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        made = large_plan.plan(Path(folder), TILES)
        clock = _Clock()
        plan_file.write_plan_file(path, made)
        plan = plan_file.read_plan_file(path)
        resource_estimate.estimate_resources(plan, workers=2)
        receipt.read_finished(path.parent, plan)
        for tile in plan.tiles:
            plan.tile_key(plan.tiles_by_id[tile.id])
        return clock.row(
            "plan: write, read, estimate, receipts, keys",
            len(plan.tiles),
            remarks=f"{len(plan.grids)} grids, {len(plan.snapshot.scenes)} scenes",
        )


def threads() -> dict[str, Any]:
    """Run all tiles in threads."""
    return _scheduled("threads", TILES)


def together() -> dict[str, Any]:
    """Run all tiles on two processes, as a job does."""
    return _scheduled("distributed", TILES)


def singly() -> dict[str, Any]:
    """Run some tiles on two processes, each a task: what a tile of a second and more costs."""
    tile_scheduler.MAX_TILES_PER_TASK = 1
    return _scheduled("distributed", TILES // 20, remarks="one tile a task")


def killed() -> dict[str, Any]:
    """Run all tiles on two processes, and kill one of them every eight seconds."""
    return _scheduled(
        "distributed", TILES, tile_function=simulated_tiles.record_process, killing=True
    )


PARTS = {one.__name__: one for one in (planning, threads, together, singly, killed)}


class _Clock:
    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def row(self, what: str, tiles: int, **more: Any) -> dict[str, Any]:
        return {
            "what": what,
            "tiles": tiles,
            "wall": time.perf_counter() - self._started,
            "cpu": time.process_time() - self._cpu,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        } | more


def _scheduled(
    kind: str,
    tiles: int,
    *,
    tile_function: ProcessTile = simulated_tiles.return_at_once,
    killing: bool = False,
    remarks: str = "",
) -> dict[str, Any]:
    heard = _Heard()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / simulated_tiles.RECORDS).mkdir()
        options = {"engine": kind, "workers": 2, "tile_function": tile_function}
        coming = tile_scheduler.process_tiles(
            Path(folder) / "plan.json", simulated_tiles.create_tiles(tiles), **options
        )
        outcomes = [next(coming)]
        clock = _Clock()
        # ^ the cluster has started, and is not a cost of tiles
        more: dict[str, Any] = {"remarks": remarks}
        if heard.port is not None:
            with simulated_tiles.poll_health(heard.port) as told, _killing(on=killing) as dead:
                outcomes += itertools.islice(coming, tiles - 1)
                # ^ after the last one the scheduler is gone
            more["health"] = max(told.seconds)
            if told.failures:
                raise AssertionError(f"/health failed: {told.failures[:3]}")
            if killing:
                made = len(list((Path(folder) / simulated_tiles.RECORDS).iterdir()))
                more["remarks"] = f"{len(dead)} workers killed, {made} tiles made"
                if made != tiles:
                    raise AssertionError(f"{made} of {tiles} tiles made")
        outcomes += coming
        failed = [one for one in outcomes if one.reason]
        if failed or len({one.tile for one in outcomes}) != tiles or len(outcomes) != tiles:
            raise AssertionError(f"{len(outcomes)} outcomes of {tiles} tiles, failed: {failed[:3]}")
        return clock.row(f"run: {kind}, 2 workers", tiles, **more)


class _killing:
    """Kills one of the workers below this process every eight seconds."""

    def __init__(self, *, on: bool) -> None:
        self._over, self._dead, self._on = threading.Event(), list[int](), on

    def __enter__(self) -> list[int]:
        self._thread = threading.Thread(target=self._kill)
        if self._on:
            self._thread.start()
        return self._dead

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._on:
            self._thread.join()

    def _kill(self) -> None:
        seed = random.Random(1)
        while not self._over.wait(8.0):
            workers = _workers(os.getpid())
            if workers:
                self._dead.append(seed.choice(workers))
                os.kill(self._dead[-1], signal.SIGKILL)


def _workers(parent: int) -> list[int]:
    """Return the processes below a process that dask's nannies have spawned."""
    import psutil  # dask brings it

    below = psutil.Process(parent).children()
    return [one.pid for one in below if "spawn_main" in " ".join(one.cmdline())]


class _Heard(logging.Handler):
    """Hears from the engine's log where the scheduler's health is told."""

    def __init__(self) -> None:
        super().__init__()
        self.port: int | None = None
        log = logging.getLogger("flows.execution.dask_executor")
        log.addHandler(self)
        log.setLevel("INFO")

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r":(\d+)/health", record.getMessage())
        self.port = int(found[1]) if found else self.port


def _apart(part: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.scheduling", part],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
