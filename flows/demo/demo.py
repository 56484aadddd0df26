"""The demo: build a synthetic country, map it, and compare the map with the truth."""

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
from flows.orchestration import launch
from flows.run.command_results import RunResult
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan
from pipeline.quality import accuracy
from pipeline.quality.accuracy import AccuracyMetrics
from pipeline.reading import raster_reader
from pipeline.reading.asset_opener import AssetInfo
from pipeline.runtime import atomic_files
from pipeline.storage import zarr_store

TILE_SIZE = 1024
"""Side of a tile, pixels: small enough for several tiles, which show resuming."""


def run(
    folder: Path,
    *,
    seed: int | None,
    size: int | None,
    tile_size: int | None,
    progress: Progress,
) -> RunResult:
    """Build a country in a folder, map it, and measure the accuracy of the map.

    The folder keeps the catalog, the truth and the job, which can be edited and run again.

    Args:
        folder: Folder of the country and its products.
        seed: Seed of the country; None = that of the shipped demo.
        size: Side of a scene, pixels; None = the default.
        tile_size: Side of a tile, pixels; None = :data:`TILE_SIZE`.
        progress: Progress display.
    """
    start = time.perf_counter()
    country = build_country(folder, seed=seed, size=size, progress=progress)
    country_seconds = round(time.perf_counter() - start, 3)
    job = write_job(folder, country, tile_size=tile_size or TILE_SIZE)
    result = launch.run_file(
        job,
        allow_partial=False,
        max_cost=None,
        progress=progress,
        truth_comparison=functools.partial(compare_with_truth, country.truth),
    )
    return result.model_copy(update={"seconds": {"country": country_seconds, **result.seconds}})


def build_country(
    folder: Path, *, seed: int | None, size: int | None, progress: Progress
) -> Country:
    """Build the country, or open it if the folder has it already."""
    progress.start_stage("country")
    previous = 0
    has_total = False

    def report(stage: str, done: int, total: int) -> None:
        nonlocal previous, has_total
        if not has_total:
            progress.start_stage("country", total)
            has_total = True
        progress.advance(done - previous, stage)
        previous = done

    country = demo.build(
        folder,
        seed=demo.SEED if seed is None else seed,
        size=demo.SIZE if size is None else size,
        progress=report,
    )
    progress.finish()
    return country


def write_job(folder: Path, country: Country, *, tile_size: int, **changes: Any) -> Path:
    """Write the job file that maps a country.

    Args:
        folder: Folder of the country.
        country: The country.
        tile_size: Side of a tile, pixels.
        changes: Sections that replace the ones written here.
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
    """Compare the land cover of a finished store with the truth, pixel by pixel."""
    if plan.model is None or plan.model.primary_output.task != "land_cover":
        return None
    matrix = np.zeros((256, 256), dtype=np.int64)
    for tile in plan.tiles:
        mapped = zarr_store.read_layer(
            zarr_store.grid_store(folder, plan, tile.epsg),
            "land_cover",
            slice(tile.row, tile.row + tile.height),
            slice(tile.column, tile.column + tile.width),
        )
        matrix += accuracy.confusion_matrix(mapped, read_truth(truth, plan.tile_grid(tile)))
    return accuracy.compute_accuracy(matrix)


def read_truth(truth: Path, grid: Grid) -> NDArray[np.uint8]:
    """Read the true classes on a grid: (height, width), 0 where unknown."""
    source = AssetInfo(scene_id="truth", provider="demo", nodata=0.0)
    values: NDArray[np.uint8] = raster_reader.read(
        str(truth), source, grid, resampling=Resampling.nearest, dtype="uint8", fill_value=0
    )
    return values
