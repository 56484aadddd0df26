"""The same plan, made in different ways: what came of it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from catalogs import demo as country
from flows.config import job as jobs
from flows.execution import tile_scheduler
from flows.observe.progress import NullProgress
from flows.run import stored_plan
from pipeline import tile_layers
from pipeline.grid.grid import Tile
from pipeline.storage import plan_file, receipt, zarr_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made of a plan, and when each tile was ready."""

    files: dict[str, str]
    """Path in the store → sha256 of the bytes."""

    ready: list[float]
    """Seconds from the start to each tile's end."""


def plan(folder: Path, *, size: int, tile: int, part: float = 1.0, **sections: Any) -> Path:
    """Freeze a plan of an embedded country, or of the middle of it.

    Args:
        folder: where country, job and plan go.
        size: of the country, pixels.
        tile: side of a tile, pixels.
        part: share of the country's sides.
        sections: keys of the job.
    """
    built = country.build(folder / "country", seed=11, size=size)
    points = np.array(built.region["coordinates"][0])
    middle, half = (points.max(0) + points.min(0)) / 2, part * np.ptp(points, axis=0) / 2
    values = {
        "name": "partition",
        "region": {"bbox": [*map(float, middle - half), *map(float, middle + half)]},
        "period": "2021-05-10/2021-07-10",
        "catalog": {"path": str(built.catalog), "provider": "demo"},
        "grid": {"crs": f"EPSG:{built.epsg}"},
        "model": {"name": "demo"},
        "output": {"path": "out"},
        "execution": {"tile": tile, "device": "cpu"},
    } | sections
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    path = folder / "plan.json"
    stored_plan.make_plan(jobs.parse(values, folder=folder), NullProgress(), path)
    return path


def made(source: Path, folder: Path, tiles: Sequence[Tile], **options: Any) -> Made:
    """Make a plan's tiles in a folder of their own, in an order, by an engine.

    Raises:
        AssertionError: a tile failed, or was told of twice, or has no receipt.
    """
    folder.mkdir()
    path = Path(shutil.copy(source, folder / "plan.json"))
    plan = plan_file.read_plan_file(path)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    began, ready, told = time.perf_counter(), [], []
    for outcome in tile_scheduler.process_tiles(path, tiles, **options):
        assert outcome.reason is None, outcome
        ready.append(time.perf_counter() - began)
        told.append(outcome.tile)
    assert sorted(told) == sorted(one.id for one in tiles)
    assert set(receipt.read_finished(folder, plan)) == set(told)
    home = folder / zarr_store.STORE_NAME
    files = {
        str(one.relative_to(home)): hashlib.sha256(one.read_bytes()).hexdigest()
        for one in sorted(home.rglob("*"))
        if one.is_file()
    }
    return Made(files=files, ready=ready)
