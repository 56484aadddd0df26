"""What a plan will take, before anything is read."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from catalogs.scene import Scene
from pipeline import layers, strip, tile
from pipeline.grid import Grid
from pipeline.plan import Plan

BYTES_PER_PIXEL = {"S2L2A": 1.3, "S1RTC": 3.5, "S1GRD": 3.5, "DEM": 3.0}
"""Compressed bytes of one stored pixel, as seen on the embedded country and on real scenes."""

BLOCK = 512
"""Side of a COG's block, pixels: the least that one request fetches."""

BASE_BYTES = 600_000_000
"""Python with torch, GDAL and Prefect before any pixel is read; a model's weights come on top."""

PIXELS_PER_SECOND = 6.0e6
"""Stored pixels read and composed in a second by one core."""

STRIPS_HELD = 3
"""Strips of composites in memory: two under the windows, and one that is being read."""

STACKED = 2 * (2 + 4)
"""Bytes of a scene's pixel while two bands are composed: as stored, and as a number."""

SECONDS_PER_WINDOW = {"land_cover": 1 / 6, "embedding": 0.3, "generate": 1.0}
"""On two cores: the demo model's map, the base model's features and tokens."""

SECONDS_PER_STEP = 1.0
"""Of diffusion, for one window on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Rough figures: a factor of two either way is nothing unusual."""

    bytes: int
    requests: int
    peak_memory_bytes: int
    seconds: float


def of(plan: Plan, *, workers: int) -> Estimate:
    """Estimate bytes, requests, memory and time of all tiles of a plan."""
    stored = volume = 0.0
    requests = peak = windows = 0
    kinds = [_kind(plan, scene) for scene in plan.snapshot.scenes]
    bands_held = sum(len(plan.bands(name)) for name in plan.recipe.inputs)
    for one in plan.tiles:
        placed = plan.placement(one)
        area = plan.context(one)
        depth: dict[str, int] = {}
        for modality, sizes in (kinds[number] for number in plan.near(one)):
            depth[modality] = depth.get(modality, 0) + 1
            read, asked = _read(sizes, area.resolution, area.height * area.width)
            stored += read
            volume += read * BYTES_PER_PIXEL[modality]
            requests += asked
        held = _held(plan, area, max(depth.values(), default=1), bands_held)
        if placed:
            windows += len(placed.rows) * len(placed.columns)
        peak = max(peak, held)
    seconds = stored / PIXELS_PER_SECOND / max(workers, 1) + windows * _seconds(plan)
    return Estimate(
        bytes=round(volume),
        requests=requests,
        peak_memory_bytes=BASE_BYTES + peak * max(workers, 1),
        seconds=round(seconds, 1),
    )


def _held(plan: Plan, area: Grid, deepest: int, bands: int) -> int:
    """Return the bytes of a tile on its way: strips, scenes, sums of one row of windows, layers."""
    first, stop = strip.cut(area, ())[0]
    rows = (stop - first) * area.width
    strips = rows * bands * 4 * STRIPS_HELD + rows * deepest * STACKED
    channels = (
        sum(len(one.channels) / one.cell**2 for one in plan.model.answers) if plan.model else 0
    )
    sums = 2 * 4 * channels * (plan.model.window if plan.model else 0) * area.width
    stored = sum(
        len(names) * np.dtype(layers.get(name).dtype).itemsize / plan.factor(name) ** 2
        for name, names in tile.variables(plan).items()
    )
    return round(strips + sums + stored * plan.tile**2)


Kind = tuple[str, tuple[float | None, ...]]
"""Modality of a scene, and the pixel sizes of its assets that are read, where they are known."""


def _kind(plan: Plan, scene: Scene) -> Kind:
    bands = {*plan.bands(scene.modality), "SCL"}
    return scene.modality, tuple(
        abs(asset.transform[0]) if asset.transform else None
        for asset in scene.assets.values()
        if asset.band in bands
    )


@functools.lru_cache(maxsize=4096)
def _read(sizes: tuple[float | None, ...], resolution: float, pixels: int) -> tuple[float, int]:
    """Return the stored pixels and the requests of reading a scene on so many pixels of a grid."""
    read = [pixels * (resolution / max(size or resolution, resolution)) ** 2 for size in sizes]
    return sum(read), sum(2 + round(some / BLOCK**2) for some in read)


def _seconds(plan: Plan) -> float:
    """Return the seconds that a window takes."""
    if plan.model is None:
        return 0.0
    steps = int(plan.job["model"].get("timesteps", 0))
    return (
        sum(SECONDS_PER_WINDOW[one.task] for one in plan.model.answers) + SECONDS_PER_STEP * steps
    )
