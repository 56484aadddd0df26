"""Two workers against one on a job that computes: ``python -m tests.benchmarks scaling``.

One worker is one process with one core: a model spreads the windows of a tile over all the cores
that its process may use, so that one worker on two cores is as fast as two. The process of a run
is confined to as many cores as it has workers, and dask's workers share those.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.storage import plan_file
from tests.support import partitions

ROUNDS = 3
SIZE, TILE = 512, 192
WAYS = [("threads", 1), ("distributed", 1), ("threads", 2), ("distributed", 2)]
WANTED = 1.7


def run() -> Iterator[str]:
    """Yield the table."""
    if len(os.sched_getaffinity(0)) < 2:
        yield "two workers want two cores, and this process has one"
        return
    with tempfile.TemporaryDirectory() as folder:
        source = partitions.create_plan(Path(folder), size=SIZE, tile=TILE)
        taken: dict[str, list[dict[str, Any]]] = {}
        for turn in range(ROUNDS):
            for engine, workers in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
                target = Path(folder) / f"{engine}-{workers}-{turn}"
                name = f"{engine}, {workers}"
                taken.setdefault(name, []).append(_apart(source, target, engine, workers))
    if len({one["bytes"] for rows in taken.values() for one in rows}) != 1:
        raise AssertionError("not every way gave the same bytes")
    yield from told(taken)


def told(taken: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield rows: medians, and the ratios to one worker of the same kind."""
    yield f"| workers | tiles | s, all | s a tile, all at work | of one worker (wanted {WANTED}) |"
    yield "|---|---|---|---|---|"
    for engine, workers in sorted(WAYS):
        rows, ones = taken[f"{engine}, {workers}"], taken[f"{engine}, 1"]
        pace = statistics.median(row["pace"] for row in rows)
        ratio = statistics.median(
            one["pace"] / row["pace"] for one, row in zip(ones, rows, strict=True)
        )
        whole = statistics.median(row["whole"] for row in rows)
        yield (
            f"| {engine}, {workers} | {rows[0]['tiles']} | {whole:.1f} | {pace:.2f} | {ratio:.2f} |"
        )


def measured(source: Path, folder: Path, engine: str, workers: int) -> dict[str, Any]:
    """Make the tiles of a plan on as many cores as there are workers."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])

    tiles = plan_file.read_plan_file(source).tiles
    made = partitions.build_product(source, folder, tiles, engine=engine, workers=workers)
    return {
        "tiles": len(tiles),
        "whole": made.ready[-1],
        "pace": (made.ready[-1] - made.ready[workers - 1]) / (len(tiles) - workers),
        # ^ from when every worker has ended its first tile: it has loaded the model by then
        "bytes": str(sorted(made.files.items())),
    }


def _apart(source: Path, folder: Path, engine: str, workers: int) -> dict[str, Any]:
    call = f"scaling.measured(Path({str(source)!r}), Path({str(folder)!r}), {engine!r}, {workers})"
    code = (
        "import json; from pathlib import Path; from tests.benchmarks import scaling\n"
        f"if __name__ == '__main__': print(json.dumps({call}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
