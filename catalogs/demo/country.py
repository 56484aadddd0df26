"""Build the country: land, scenes, catalog and truth in one folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import mapping

from catalogs import legend
from catalogs.demo import catalog, cog, elevation, frame, passes, scenes
from catalogs.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Progress = Callable[[str, int, int], None]

SEED = 7
SIZE = 1024
VERSION = 1
# ^ counts up whenever the same seed gives other pixels
_SMALLEST, _LARGEST, _MULTIPLE = 512, 1536, 32
_THREADS = 2
_MARK = "country.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """Where a built country lies, and what a job needs to know of it.

    ``truth`` holds codes of the legend at 10 m in zone ``epsg``, 0 outside the granules; ``region``
    is the GeoJSON polygon (longitude, latitude) that the granules cover; ``period`` holds the first
    and the last day.
    """

    catalog: Path
    truth: Path
    region: Mapping[str, Any]
    epsg: int
    period: tuple[date, date]
    seed: int
    size: int


def build(
    folder: Path, *, seed: int = SEED, size: int = SIZE, progress: Progress | None = None
) -> Country:
    """Build the country of a seed in a folder, or find it there.

    Args:
        folder: absent or empty, or one that holds this very country.
        seed: not negative; every seed is another country.
        size: side of a granule in pixels of 10 m, 512 to 1536 by 32.
        progress: called with a stage, the steps done and the steps in all.

    Raises:
        InvalidInputError: the seed or the size is out of range, or the folder holds something else.

    """
    _check(seed, size)
    folder = Path(folder)
    if _holds(folder, seed, size):
        return _country(folder, frame.lay_out(size), seed, size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    yard = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        country = _raise(yard, seed, size, progress or _silent)
        if folder.is_dir():
            folder.rmdir()
        yard.chmod(0o755)
        yard.replace(folder)
    except BaseException:
        shutil.rmtree(yard, ignore_errors=True)
        raise
    return _country(folder, country, seed, size)


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass


def _check(seed: int, size: int) -> None:
    if seed < 0:
        raise InvalidInputError(
            f"seed {seed}: a country's seed is a whole number from 0; choose one, like {SEED}"
        )
    if not _SMALLEST <= size <= _LARGEST or size % _MULTIPLE:
        raise InvalidInputError(
            f"size {size}: a granule has {_SMALLEST} to {_LARGEST} pixels a side in steps of "
            f"{_MULTIPLE}, so that its 20 m bands fit; try {SIZE}"
        )


def _holds(folder: Path, seed: int, size: int) -> bool:
    """Tell whether a folder holds the country, and refuse one that holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    mark = folder / _MARK
    requested = {"seed": seed, "size": size, "version": VERSION}
    if not mark.is_file():
        raise InvalidInputError(
            f"{folder} holds something else than a country; name a new or an empty folder"
        )
    present = json.loads(mark.read_text(encoding="utf-8"))
    if present != requested:
        raise InvalidInputError(
            f"{folder} holds the country {present}, not {requested}; remove it or name another "
            "folder"
        )
    return True


def _raise(folder: Path, seed: int, size: int, progress: Progress) -> frame.Frame:
    steps = 1 + len(passes.OPTICAL) * 13 + len(passes.RADAR) + 2
    done = 0

    def tick(count: int, stage: str) -> None:
        nonlocal done
        done += count
        progress(stage, done, steps)

    progress("land", 0, steps)
    plan = frame.lay_out(size)
    scenery = scenes.Scenery(plan, seed)
    tick(1, "land")
    root = folder / "catalog"
    records: dict[str, list[scenes.Record]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        records["sentinel-2-l2a"] = scenes.photograph(
            scenery, root / "sentinel-2-l2a", pool, lambda count: tick(count, "optical")
        )
        flights = [
            pool.submit(scenes.illuminate, scenery, number, root / "sentinel-1-rtc")
            for number in range(len(passes.RADAR))
        ]
        records["sentinel-1-rtc"] = []
        for flight in flights:
            records["sentinel-1-rtc"].append(flight.result())
            tick(1, "radar")
    records["cop-dem-glo-30"] = elevation.survey(plan, scenery.height(), root / "cop-dem-glo-30")
    tick(1, "elevation")
    catalog.publish(root, records)
    _write_truth(folder / "truth.tif", plan, scenery)
    mark = {"seed": seed, "size": size, "version": VERSION}
    (folder / _MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    tick(1, "catalog")
    return plan


def _write_truth(path: Path, plan: frame.Frame, scenery: scenes.Scenery) -> None:
    truth = np.where(plan.covered, scenery.land.code, legend.LAND_COVER.nodata).astype(np.uint8)
    palette = {entry.code: entry.color for entry in legend.LAND_COVER.classes}
    cog.write(
        path,
        truth,
        epsg=frame.MAIN,
        transform=plan.transform,
        nodata=legend.LAND_COVER.nodata,
        palette=palette,
    )


def _country(folder: Path, plan: frame.Frame, seed: int, size: int) -> Country:
    return Country(
        catalog=folder / "catalog" / "catalog.json",
        truth=folder / "truth.tif",
        region=dict(mapping(plan.outline())),
        epsg=frame.MAIN,
        period=passes.PERIOD,
        seed=seed,
        size=size,
    )
