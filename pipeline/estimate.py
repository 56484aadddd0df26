"""What a plan will take, before anything is read: from a table, or from what earlier runs took."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalogs.errors import Wrong
from catalogs.scene import Scene
from pipeline import layers, receipt, strip, tile
from pipeline.grid import Grid, Tile
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


CORES = 2
"""Cores that a worker keeps busy where nobody says how many it has."""

PACKED = 0.35
"""Bytes on the disk of one byte of a layer, in Zarr or as COG with overviews: maps pack well."""

GUESS = 2.0
"""Factor by which figures of the table may err either way."""

SURE = 1.1
"""The same of figures from receipts, at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What earlier runs took, as factors of what the table says of the same tiles."""

    bytes: float = 1.0
    requests: float = 1.0
    seconds: float = 1.0
    spread: float = GUESS
    """Factor by which an estimate may err either way."""

    tiles: int = 0
    """Receipts that this rests on; 0 = the table alone."""


TABLE = Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What making tiles takes, about."""

    bytes: int
    requests: int
    peak_memory_bytes: int
    seconds: float
    """Of all workers side by side."""

    cpu_hours: float
    """Hours of one core."""

    gpu_hours: float
    stored_bytes: int
    """Of the product: COGs and Zarr."""

    spread: float
    """Factor by which it may err either way."""

    basis: str
    """table or receipts."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What the table says of one tile."""

    stored: float
    """Pixels of files."""

    volume: float
    """Bytes."""

    requests: int
    seconds: float
    """Of one worker."""

    held: int
    """Bytes in memory."""


def of(
    plan: Plan,
    *,
    workers: int,
    tiles: Sequence[Tile] | None = None,
    rates: Rates = TABLE,
    cores: int = CORES,
) -> Estimate:
    """Estimate what making tiles of a plan takes.

    Args:
        plan: the plan.
        workers: tiles made side by side.
        tiles: those that are made; None = all.
        rates: of earlier runs, see :func:`seen`.
        cores: of each worker.
    """
    some = plan.tiles if tiles is None else tiles
    needs = _needs(plan, some)
    volume, requests, busy, peak = 0.0, 0, 0.0, 0
    for need in needs:
        volume += need.volume
        requests += need.requests
        busy += need.seconds
        peak = max(peak, need.held)
    busy *= rates.seconds
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return Estimate(
        bytes=round(volume * rates.bytes),
        requests=round(requests * rates.requests),
        peak_memory_bytes=BASE_BYTES + peak * max(workers, 1),
        seconds=round(busy / max(workers, 1), 1),
        cpu_hours=round(busy * cores / 3600, 4),
        gpu_hours=round(busy / 3600, 4) if on_gpu else 0.0,
        stored_bytes=stored(plan),
        spread=round(rates.spread, 3),
        basis="receipts" if rates.tiles else "table",
    )


def seen(home: Path) -> Rates:
    """Compare what runs of a product took with what the table says, by their receipts.

    Args:
        home: the folder of all periods of the product.
    """
    ratios: dict[str, list[tuple[float, float]]] = {"bytes": [], "requests": [], "seconds": []}
    count = 0
    for path in sorted(home.glob("*/*/plan.json"))[-MOST_RUNS:]:
        for name, pair in _compared(path):
            ratios[name].append(pair)
            count += name == "seconds"
    if not count:
        return TABLE
    found = {name: _ratio(pairs) for name, pairs in ratios.items()}
    spreads = [_spread(pairs) for pairs in ratios.values() if len(pairs) > 1]
    return Rates(
        **{name: factor for name, factor in found.items() if factor is not None},
        spread=max([SURE, *spreads]),
        tiles=count,
    )


MOST_RUNS = 6
"""Plans of a product that are compared at most: the latest periods."""

MOST_TILES = 256
"""Receipts of each, evenly spread: a plan may have a hundred thousand."""


def _compared(path: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield kind, and (actual, by the table) of all tiles of a run together."""
    proofs = {one.tile: one for one in receipt.all_in(path.parent, most=MOST_TILES)}
    if not proofs:
        return
    try:
        plan = Plan.read(path)
    except Wrong:
        return
        # ^ of another version, or damaged
    made = [plan.named[name] for name in proofs if name in plan.named]
    needs = list(_needs(plan, made))
    own = [proofs[one.id] for one in made]
    yield "seconds", (sum(one.seconds["tile"] for one in own), sum(one.seconds for one in needs))
    if all(one.traffic.get("requests") for one in own):
        # ^ from files of this machine nothing was counted
        for name, due in (("bytes", "volume"), ("requests", "requests")):
            taken = sum(one.traffic[name] for one in own)
            yield name, (taken, sum(getattr(one, due) for one in needs))


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    actual, due = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return actual / due if actual and due else None


def _spread(pairs: Sequence[tuple[float, float]]) -> float:
    """Return by which factor single runs lie off all of them."""
    whole = _ratio(pairs)
    if whole is None:
        return GUESS
    off = [actual / due / whole for actual, due in pairs if actual and due]
    return min(max([*off, *(1 / one for one in off)], default=GUESS), GUESS)


def _needs(plan: Plan, tiles: Sequence[Tile]) -> Iterator[_Need]:
    kinds = [_kind(plan, scene) for scene in plan.snapshot.scenes]
    bands_held = sum(len(plan.bands(name)) for name in plan.recipe.inputs)
    window = _seconds(plan)
    for one in tiles:
        placed = plan.placement(one)
        area = plan.context(one)
        depth: dict[str, int] = {}
        stored = volume = 0.0
        requests = 0
        for modality, sizes in (kinds[number] for number in plan.near(one)):
            depth[modality] = depth.get(modality, 0) + 1
            read, asked = _read(sizes, area.resolution, area.height * area.width)
            stored += read
            volume += read * BYTES_PER_PIXEL[modality]
            requests += asked
        windows = len(placed.rows) * len(placed.columns) if placed else 0
        yield _Need(
            stored=stored,
            volume=volume,
            requests=requests,
            seconds=stored / PIXELS_PER_SECOND + windows * window,
            held=_held(plan, area, max(depth.values(), default=1), bands_held),
        )


def stored(plan: Plan) -> int:
    """Return the bytes of the files of a product."""
    cells = sum(one.height * one.width for one in plan.grids)
    each = sum(
        len(names) * np.dtype(layers.get(name).dtype).itemsize / plan.factor(name) ** 2
        for name, names in tile.variables(plan).items()
    )
    formats = len(plan.job["output"].get("formats", ("cog", "zarr")))
    return round(cells * each * PACKED * max(formats, 1))


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
