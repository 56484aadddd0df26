"""Products of one plan that are built in different orders and by different engines."""

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
class BuiltProduct:
    """The files of a built product, and when each tile was ready."""

    files: dict[str, str]
    """Path in the store → sha256 of the bytes."""

    ready: list[float]
    """Seconds from the start to each tile's end."""


def create_plan(folder: Path, *, size: int, tile: int, part: float = 1.0, **sections: Any) -> Path:
    """Plan a product of an embedded country, or of its centre.

    Args:
        folder: where country, job and plan go.
        size: of the country, pixels.
        tile: side of a tile, pixels.
        part: share of the country's width and height.
        sections: keys of the job.
    """
    built = country.build(folder / "country", seed=11, size=size)
    points = np.array(built.region["coordinates"][0])
    middle, half_size = (points.max(0) + points.min(0)) / 2, part * np.ptp(points, axis=0) / 2
    values = {
        "name": "partition",
        "region": {"bbox": [*map(float, middle - half_size), *map(float, middle + half_size)]},
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


def build_product(
    source: Path, folder: Path, tiles: Sequence[Tile], **options: Any
) -> BuiltProduct:
    """Build the tiles of a plan in a new folder, in the given order, with an engine.

    Raises:
        AssertionError: a tile failed, or was returned twice, or has no receipt.
    """
    folder.mkdir()
    path = Path(shutil.copy(source, folder / "plan.json"))
    plan = plan_file.read_plan_file(path)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    start, ready, tile_ids = time.perf_counter(), [], []
    for result in tile_scheduler.process_tiles(path, tiles, **options):
        assert result.reason is None, result
        ready.append(time.perf_counter() - start)
        tile_ids.append(result.tile)
    assert sorted(tile_ids) == sorted(tile.id for tile in tiles)
    assert set(receipt.read_finished(folder, plan)) == set(tile_ids)
    store = folder / zarr_store.STORE_NAME
    files = {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }
    return BuiltProduct(files=files, ready=ready)
