"""A cube over HTTP with 50 ms per request: ours beside plain rasterio, odc-stac and stackstac.

Each turn is a process of its own, so that no cache of one helps another and its peak of memory is
its own; it has read as much from other addresses before. The ways take turns, and all must give
the same pixels.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from tests.benchmarks.square_scenes import SquareScenes

ROUNDS = 3
LATENCY = 0.05
THREADS = 16
EPSG, LEFT, TOP = 32632, 600_000.0, 5_200_020.0
BANDS = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B11": 20, "B12": 20, "SCL": 20}
DAYS = ("2024-06-01", "2024-06-06", "2024-06-11", "2024-06-16")
ROW, COLUMN, SIDE = 3300, 3100, 2048
"""The window, 10 m pixels: on the pixels of both resolutions, on the blocks of none."""


SCENES = SquareScenes(epsg=EPSG, left=LEFT, top=TOP, side=109_800, bands=BANDS, days=DAYS)


def _write(folder: Path) -> None:
    """Write COGs as the catalogs have them: noise about the window, one value elsewhere."""
    for band, metres in BANDS.items():
        size, rng = SCENES.size(band), np.random.default_rng(list(BANDS).index(band))
        values = np.full((size, size), 1500, np.uint16)
        part = slice(20_000 // metres, 70_000 // metres)
        values[part, part] = rng.integers(
            1, 12 if band == "SCL" else 4000, (part.stop - part.start,) * 2
        )
        first = folder / DAYS[0] / f"{band}.tif"
        first.parent.mkdir(exist_ok=True)
        with rasterio.open(
            first,
            "w",
            driver="COG",
            height=size,
            width=size,
            count=1,
            dtype="uint8" if band == "SCL" else "uint16",
            crs=f"EPSG:{EPSG}",
            transform=SCENES.transform(band),
            nodata=0,
            compress="deflate",
            predictor=1 if band == "SCL" else 2,
            blocksize=512,
            overview_resampling="nearest",
        ) as file:
            file.write(values.astype(file.dtypes[0]), 1)
        for day in (*DAYS[1:], *(f"warm/{day}" for day in DAYS)):
            (folder / day).mkdir(exist_ok=True, parents=True)
            os.link(first, folder / day / f"{band}.tif")


def _ours(address: str) -> np.ndarray:
    from pipeline.grid.grid import Grid
    from pipeline.reading import asset_opener, cube

    scenes = SCENES.build_scenes(address)
    grid = Grid(
        epsg=EPSG,
        resolution=10.0,
        left=LEFT + 10 * COLUMN,
        top=TOP - 10 * ROW,
        height=SIDE,
        width=SIDE,
    )
    lazy = cube.load(scenes, list(BANDS), grid, stored=True)
    result = np.empty(lazy.shape, np.uint16)
    workers = asset_opener.count_read_threads(scenes, 2)
    dask.array.store(lazy.data, result, lock=False, scheduler="threads", num_workers=workers)
    return result


def _windows(address: str) -> np.ndarray:
    result = np.zeros((len(DAYS), len(BANDS), SIDE, SIDE), np.uint16)

    def one(place: tuple[int, int]) -> None:
        band, metres = list(BANDS.items())[place[1]]
        step = metres // 10
        window = Window(COLUMN // step, ROW // step, SIDE // step, SIDE // step)
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(f"{address}/{DAYS[place[0]]}/{band}.tif") as file,
        ):
            values = file.read(1, window=window)
        result[place] = values.repeat(step, 0).repeat(step, 1) if step > 1 else values

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, np.ndindex(result.shape[:2])))
    return result


def _odc(address: str, **how: Any) -> Any:
    import odc.stac
    import pystac
    from odc.geo.geobox import GeoBox

    box = GeoBox(
        (SIDE, SIDE), Affine(10, 0, LEFT + 10 * COLUMN, 0, -10, TOP - 10 * ROW), f"EPSG:{EPSG}"
    )
    return odc.stac.load(
        [pystac.Item.from_dict(item) for item in SCENES.build_items(address)],
        bands=list(BANDS),
        geobox=box,
        groupby="time",
        resampling="nearest",
        dtype="uint16",
        **how,
    )


def _odc_pool(address: str) -> np.ndarray:
    return _odc(address, pool=THREADS).to_dataarray("band").transpose("time", ...).values


def _odc_dask(address: str) -> np.ndarray:
    lazy = _odc(address, chunks={"x": SIDE, "y": SIDE})
    done = lazy.compute(scheduler="threads", num_workers=THREADS)
    return done.to_dataarray("band").transpose("time", ...).values


def _stackstac(address: str) -> np.ndarray:
    import stackstac

    left, top = LEFT + 10 * COLUMN, TOP - 10 * ROW
    lazy = stackstac.stack(
        SCENES.build_items(address),
        assets=list(BANDS),
        epsg=EPSG,
        resolution=10,
        bounds=(left, top - 10 * SIDE, left + 10 * SIDE, top),
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        rescale=False,
        chunksize=SIDE,
    )
    return lazy.data.compute(scheduler="threads", num_workers=THREADS)


WAYS: dict[str, tuple[str, tuple[str, ...], Callable[[str], np.ndarray]]] = {
    "ours": ("ours: cube.load", ("pipeline.reading.cube", "dask.threaded"), _ours),
    "rasterio": (f"rasterio windows, {THREADS} threads", ("rasterio.warp",), _windows),
    "odc-pool": (f"odc-stac, pool of {THREADS}", ("odc.stac", "dask.threaded"), _odc_pool),
    "odc-dask": (f"odc-stac, dask, {THREADS} threads", ("odc.stac", "dask.threaded"), _odc_dask),
    "stackstac": (
        f"stackstac's own reader, dask, {THREADS} threads",
        ("stackstac", "dask.threaded"),
        _stackstac,
    ),
}
"""Name → (words, modules, the first of which may be missing; how to read)."""


def turn(way: str, address: str) -> None:
    """Read the cube once and print what it took, as JSON."""
    words, modules, read = WAYS[way]
    del words
    for name in modules:
        importlib.import_module(name)
    read(f"{address}/warm")
    print("warm", flush=True)
    sys.stdin.readline()
    # ^ tiles are read by processes that have done so before, from addresses that they have not
    started, used = time.perf_counter(), time.process_time()
    values = read(address)
    taken = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
    digest = zlib.crc32(np.ascontiguousarray(values).astype(np.uint16, copy=False).tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**taken, "rss": peak, "digest": digest}))


def _serve(folder: str, pipe: Any) -> None:
    from tests.faults import range_server

    with range_server.serving(Path(folder), latency=LATENCY) as state:
        pipe.send(state.address)
        while pipe.recv() == "count":
            pipe.send((state.requests, state.sent, state.max_active))
            state.reset_counts()


def _turns(names: list[str], address: str, pipe: Any) -> dict[str, list[dict[str, float]]]:
    done: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            with subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.reading", name, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as reader:
                reader.stdout.readline()
                pipe.send("count")
                pipe.recv()
                said, _ = reader.communicate("go\n")
            pipe.send("count")
            requests, sent, most = pipe.recv()
            found = json.loads(said)
            done[name].append({**found, "requests": requests, "mb": sent / 1e6, "most": most})
    return done


def run() -> Iterator[str]:
    """Yield the lines of a table."""
    names = [
        name for name, way in WAYS.items() if importlib.util.find_spec(way[1][0].partition(".")[0])
    ]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        pipe, end = context.Pipe()
        web = context.Process(target=_serve, args=(folder, end), daemon=True)
        web.start()
        try:
            done = _turns(names, pipe.recv(), pipe)
        finally:
            pipe.send("stop")
            web.join()
    if len({turn["digest"] for turns in done.values() for turn in turns}) > 1:
        raise AssertionError(f"the readers disagree: {done}")
    middle = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in done.items()
    }
    fastest = min(one["seconds"] for one in middle.values())
    yield "| reader | s | of the fastest | s, each round | CPU s | requests | at once | MB | GiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, one in middle.items():
        rounds = " ".join(f"{turn['seconds']:.2f}" for turn in done[name])
        yield (
            f"| {WAYS[name][0]} | {one['seconds']:.2f} | **{one['seconds'] / fastest:.2f}** "
            f"| {rounds} | {one['cpu']:.1f} | {one['requests']:.0f} | {one['most']:.0f} "
            f"| {one['mb']:.0f} | {one['rss']:.2f} |"
        )
    for name in WAYS.keys() - middle.keys():
        yield f"| {WAYS[name][0]} | not installed: `pip install -c constraints.txt -e '.[bench]'` |"


if __name__ == "__main__":
    turn(*sys.argv[1:])
