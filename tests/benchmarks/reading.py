"""A tile's composite against plain rasterio windows over the same bytes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio

from catalogs import demo
from flows import demo as flow
from flows import job as jobs
from flows import planning
from pipeline import tile
from pipeline.plan import Plan

REPEATS = 3


def _plan(folder: Path) -> Plan:
    country = demo.build(folder, size=512)
    job = flow.write_job(folder, country, tile=1024, model={"name": "none"})
    return planning.freeze(jobs.load(job))


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _plain(plan: Plan) -> None:
    def whole(href: str) -> np.ndarray:
        with rasterio.open(href) as file:
            return file.read(1)

    hrefs = [asset.href for scene in plan.snapshot.scenes for asset in scene.assets.values()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(whole, hrefs))


def run() -> Iterator[str]:
    """Yield the lines of a table."""
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(Path(folder) / "country")
        (one,) = plan.tiles[:1]
        reference = _seconds(lambda: _plain(plan))
        ours = _seconds(lambda: tile.see(plan, one, plan.context(one), threads=2))
        yield "| what | seconds | ratio |"
        yield "|---|---|---|"
        yield f"| plain rasterio, every asset whole, no warp | {reference:.2f} | 1.00 |"
        yield (
            f"| cube and composite of the tile (a third of it warped from the neighbouring zone) "
            f"| {ours:.2f} | {ours / reference:.2f} |"
        )
