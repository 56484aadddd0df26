"""The embedded country, end to end: build it, map it, compare the map with the truth."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import yaml
from rasterio.enums import Resampling

from catalogs import demo
from catalogs.demo import Country
from flows import product
from flows.progress import Progress
from pipeline import accuracy, files, reading, store
from pipeline.accuracy import Agreement
from pipeline.plan import Plan

TILE = 1024
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
    country = build(folder, seed=seed, size=size, progress=progress)
    built = round(time.perf_counter() - started, 3)
    job = write_job(folder, country, tile=tile_size or TILE)
    result = product.run(
        job,
        allow_partial=False,
        max_cost=None,
        progress=progress,
        truth=functools.partial(compare, country.truth),
    )
    result["seconds"] = {"country": built} | result["seconds"]
    return result


def build(folder: Path, *, seed: int | None, size: int | None, progress: Progress) -> Country:
    """Build the country, or find it where it stands."""
    progress.stage("country")
    reached = 0
    staged = False

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal reached, staged
        if not staged:
            progress.stage("country", total)
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


def write_job(folder: Path, country: Country, *, tile: int, **changes: Any) -> Path:
    """Write the job that maps a country; all else has a default.

    Args:
        folder: the country's folder.
        country: the country.
        tile: side of a tile, pixels.
        changes: sections that replace the ones written here.
    """
    region = folder / "region.geojson"
    files.write_json(region, country.region)
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
        "execution": {"tile": tile},
    } | changes
    job = folder / "job.yaml"
    text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)
    files.write_atomic(job, text.encode())
    return job


def compare(truth: Path, folder: Path, plan: Plan) -> Agreement | None:
    """Compare a finished store with the truth, pixel by pixel."""
    if plan.model is None or plan.model.task != "land_cover":
        return None
    source = reading.Source(scene="truth", provider="demo", nodata=0.0)
    known = reading.read(
        str(truth), source, plan.grid, resampling=Resampling.nearest, dtype="uint8", fill=0
    )
    mapped = store.read(
        folder / store.NAME, "land_cover", slice(0, plan.grid.height), slice(0, plan.grid.width)
    )
    return accuracy.agreement(mapped, known)
