"""Scenes of the grid's own UTM zone and of the neighbouring one: ours beside odc-stac and rasterio.

Six scenes of twelve bands are read from local COGs onto 1536² pixels and reduced to their median,
two threads at a time. Each turn is a process of its own that has read a small part before; the
ways take turns.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from tests.benchmarks.square_scenes import SquareScenes

ROUNDS = 3
THREADS = 2
SIDE = 1536
SCENE_SIDE = 24_000
"""Metres."""

EPSG, LEFT, TOP = 32633, 300_000.0, 5_260_020.0
OTHER_EPSG = 32632
BANDS = (
    {f"B{number:02}": 10 for number in (2, 3, 4, 8)}
    | {f"B{number:02}": 20 for number in (5, 6, 7, 11, 12)}
    | {"B8A": 20, "B01": 60, "B09": 60}
)
DAYS = tuple(f"2024-06-{day:02}" for day in (1, 6, 11, 16, 21, 26))


SCENES = SquareScenes(epsg=EPSG, left=LEFT, top=TOP, side=SCENE_SIDE, bands=BANDS, days=DAYS)


def _write(folder: Path) -> None:
    """Write COGs with noise."""
    for band in BANDS:
        size = SCENES.size(band)
        for number, day in enumerate(DAYS):
            rng = np.random.default_rng((number, list(BANDS).index(band)))
            (folder / day).mkdir(exist_ok=True)
            with rasterio.open(
                folder / day / f"{band}.tif",
                "w",
                driver="COG",
                height=size,
                width=size,
                count=1,
                dtype="uint16",
                crs=f"EPSG:{EPSG}",
                transform=SCENES.transform(band),
                nodata=0,
                compress="deflate",
                predictor=2,
                blocksize=512,
                overviews="none",
            ) as file:
                file.write(rng.integers(1, 4000, (size, size)).astype(np.uint16), 1)


def _place(zone: str, side: int) -> tuple[int, float, float]:
    """Return EPSG code, left and top of a grid of a side in pixels in the middle of the scenes."""
    middle = (LEFT + SCENE_SIDE / 2, TOP - SCENE_SIDE / 2)
    epsg = EPSG if zone == "own" else OTHER_EPSG
    with rasterio.Env():
        (x,), (y,) = rasterio.warp.transform(f"EPSG:{EPSG}", f"EPSG:{epsg}", *zip(middle))
    return epsg, round(x / 60) * 60.0 - 5 * side, round(y / 60) * 60.0 + 5 * side


def _read_ours(folder: Path, zone: str, side: int) -> np.ndarray:
    import dask

    from pipeline.compositing.optical import compose_optical
    from pipeline.grid.grid import Grid
    from pipeline.plan.recipe import Recipe

    scenes = SCENES.build_scenes(str(folder))
    epsg, left, top = _place(zone, side)
    grid = Grid(epsg=epsg, resolution=10.0, left=left, top=top, height=side, width=side)
    recipe = Recipe(
        inputs=("S2L2A",),
        clear_scl=(4, 5, 6, 7),
        dilate_m=0.0,
        method="median",
        stride=192,
        margin=0,
        probabilities=False,
        composites=False,
    )
    rows = 512
    # ^ strips, as tiles are read
    result = np.empty((len(BANDS), side, side), np.float32)
    for first in range(0, side, rows):
        strip = grid.window(row=first, column=0, height=min(rows, side - first), width=side)
        lazy = compose_optical(scenes, list(BANDS), strip, recipe=recipe)
        (values,) = dask.compute(lazy.values.data, scheduler="threads", num_workers=THREADS)
        result[:, first : first + rows] = values
    return result


def _read_with_odc(folder: Path, zone: str, side: int) -> np.ndarray:
    import odc.stac
    import pystac
    from odc.geo.geobox import GeoBox

    epsg, left, top = _place(zone, side)
    lazy = odc.stac.load(
        [pystac.Item.from_dict(item) for item in SCENES.build_items(str(folder))],
        bands=list(BANDS),
        geobox=GeoBox((side, side), Affine(10, 0, left, 0, -10, top), f"EPSG:{epsg}"),
        groupby="time",
        resampling="nearest" if zone == "own" else "bilinear",
        dtype="uint16",
        chunks={"x": 512, "y": 512},
    ).to_dataarray("band")
    masked = lazy.where(lazy != 0).astype(np.float32)
    return masked.median("time").compute(scheduler="threads", num_workers=THREADS).values


def _read_with_rasterio(folder: Path, zone: str, side: int) -> np.ndarray:
    epsg, left, top = _place(zone, side)
    resampling = Resampling.nearest if zone == "own" else Resampling.bilinear

    def read(path: Path) -> np.ndarray:
        with (
            rasterio.open(path) as file,
            WarpedVRT(
                file,
                crs=f"EPSG:{epsg}",
                transform=Affine(10, 0, left, 0, -10, top),
                width=side,
                height=side,
                resampling=resampling,
                tolerance=1e-6,
                XSCALE=1,
                YSCALE=1,
            ) as warped,
        ):
            return warped.read(1)

    def compute_median(band: str) -> np.ndarray:
        values = np.stack([read(folder / day / f"{band}.tif") for day in DAYS]).astype(np.float32)
        values[values == 0] = np.nan
        return np.nanmedian(values, axis=0)

    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(compute_median, BANDS)))


WAYS: dict[str, tuple[str, str, Callable[[Path, str, int], np.ndarray]]] = {
    "ours": ("ours", "pipeline", _read_ours),
    "odc": ("odc-stac and xarray's median", "odc", _read_with_odc),
    "rasterio": ("rasterio (exact positions) and numpy's median", "rasterio", _read_with_rasterio),
}
"""Name → (words, the package that it needs, how to read)."""


def measure(way: str, zone: str, folder: Path) -> None:
    """Read once and print what it took, as JSON."""
    warnings.simplefilter("ignore")
    read = WAYS[way][2]
    read(folder, zone, 64)
    started, used = time.perf_counter(), time.process_time()
    values = read(folder, zone, SIDE)
    taken = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    np.save(folder / f"{way}-{zone}.npy", values)
    print(json.dumps({**taken, "peak": peak}))


def run() -> Iterator[str]:
    """Yield the lines of a table."""
    ways = [name for name, (_, package, _) in WAYS.items() if importlib.util.find_spec(package)]
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    differences: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        for _ in range(ROUNDS):
            for zone in ("own", "other"):
                for way in ways:
                    command = ["-m", "tests.benchmarks.warping", way, zone, folder]
                    printed = subprocess.run(
                        [sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True
                    ).stdout
                    taken.setdefault((zone, way), []).append(json.loads(printed))
        for zone, way in taken:
            values, exact = (np.load(Path(folder) / f"{w}-{zone}.npy") for w in (way, "rasterio"))
            differences[zone, way] = float(np.mean(np.abs(values - exact) > 1))
    yield "| zone | reader | core s | of odc-stac | s | peak, MiB | more than 1 DN off rasterio |"
    yield "|---|---|---|---|---|---|---|"
    for (zone, way), rounds in taken.items():
        cpu, seconds, peak = (
            statistics.median(turn[key] for turn in rounds) for key in ("cpu", "seconds", "peak")
        )
        odc = statistics.median(turn["cpu"] for turn in taken.get((zone, "odc"), rounds))
        yield (
            f"| {zone} | {WAYS[way][0]} | {cpu:.1f} | **{cpu / odc:.2f}** | {seconds:.1f} "
            f"| {peak:.0f} | {100 * differences[zone, way]:.4f} % |"
        )
    if "odc" not in ways:
        yield "| | odc-stac | not installed: `pip install -c constraints.txt -e '.[bench]'` |"


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
