"""The embedded country, end to end: build it, map it, compare the map with the truth."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rasterio.enums import Resampling

from catalogs import demo
from catalogs.demo import Country
from flows.observe.progress import Progress
from flows.run import product
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan
from pipeline.quality import accuracy
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.reading import raster_reader
from pipeline.runtime import atomic_files
from pipeline.storage import zarr_store

TILE_SIZE = 1024
"""Side of a tile, pixels: the country makes several, so that resuming can be seen."""


def run(
    folder: Path,
    *,
    seed: int | None,
    size: int | None,
    tile_size: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Build a country in a folder, map it there and measure the map.

    The folder keeps the catalog, the truth and the job, to be changed and run again.
    """
    started = time.perf_counter()
    country = build_country(folder, seed=seed, size=size, progress=progress)
    built = round(time.perf_counter() - started, 3)
    job = write_job(folder, country, tile_size=tile_size or TILE_SIZE)
    result = product.run(
        job,
        allow_partial=False,
        max_cost=None,
        progress=progress,
        truth=functools.partial(compare_with_truth, country.truth),
    )
    result["seconds"] = {"country": built} | result["seconds"]
    return result


def build_country(
    folder: Path, *, seed: int | None, size: int | None, progress: Progress
) -> Country:
    """Build the country, or find it where it stands."""
    progress.start_stage("country")
    reached = 0
    staged = False

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal reached, staged
        if not staged:
            progress.start_stage("country", total)
            staged = True
        progress.advance(done - reached, stage)
        reached = done

    country = demo.build(
        folder,
        seed=demo.SEED if seed is None else seed,
        size=demo.SIZE if size is None else size,
        progress=tell,
    )
    progress.finish()
    return country


def write_job(folder: Path, country: Country, *, tile_size: int, **changes: Any) -> Path:
    """Write the job that maps a country; all else has a default.

    Args:
        folder: the country's folder.
        country: the country.
        tile_size: side of a tile, pixels.
        changes: sections that replace the ones written here.
    """
    region = folder / "region.geojson"
    atomic_files.write_json(region, country.region)
    first, last = country.period
    values = {
        "name": "demo",
        "region": {"file": region.name},
        "period": f"{first}/{last}",
        "catalog": {"path": country.catalog.relative_to(folder).as_posix(), "provider": "demo"},
        "inputs": ["S2L2A", "S1RTC", "DEM"],
        "grid": {"crs": f"EPSG:{country.epsg}", "resolution": 10},
        "model": {"name": "demo", "task": "land_cover"},
        "output": {"path": "out", "composites": True},
        "execution": {"tile": tile_size},
    } | changes
    job = folder / "job.yaml"
    text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)
    atomic_files.write_atomic(job, text.encode())
    return job


def compare_with_truth(truth: Path, folder: Path, plan: Plan) -> AccuracyMetrics | None:
    """Compare a finished store with the truth, pixel by pixel."""
    if plan.model is None or plan.model.primary_output.task != "land_cover":
        return None
    matrix = np.zeros((256, 256), dtype=np.int64)
    for one in plan.tiles:
        part = slice(one.row, one.row + one.height), slice(one.column, one.column + one.width)
        mapped = zarr_store.read_layer(
            zarr_store.grid_store(folder, plan, one.epsg), "land_cover", *part
        )
        matrix += accuracy.confusion_matrix(mapped, read_truth(truth, plan.tile_grid(one)))
    return accuracy.compute_accuracy(matrix)


def read_truth(truth: Path, grid: Grid) -> NDArray[np.uint8]:
    """Return the true classes on a grid: (height, width), 0 where nothing is known."""
    source = raster_reader.AssetInfo(scene_id="truth", provider="demo", nodata=0.0)
    values: NDArray[np.uint8] = raster_reader.read(
        str(truth), source, grid, resampling=Resampling.nearest, dtype="uint8", fill_value=0
    )
    return values
