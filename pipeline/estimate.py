"""What a plan will take, before anything is read: from a table, or from what earlier runs took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalogs import trust
from catalogs.errors import Wrong
from catalogs.scene import Scene
from pipeline import blocks, layers, receipt, strip, tile
from pipeline.blocks import Raster
from pipeline.grid import Grid, Tile
from pipeline.plan import Plan
from pipeline.recipe import Model

BYTES_PER_PIXEL = {"S2L2A": 1.3, "S1RTC": 3.5, "S1GRD": 3.5, "DEM": 3.0}
"""Compressed bytes of one stored pixel, as seen on the embedded country and on real scenes."""

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

FASTER = 50.0
"""A GPU than two cores: an H200 makes 340 windows of the demo model in a second."""

CORES = 2
"""Cores that a worker keeps busy where nobody says how many it has."""

PACKED = 0.35
"""Bytes on the disk of one byte of a layer, in Zarr or as COG with overviews: maps pack well."""

GUESS = 2.0
"""Factor by which figures of the table may err either way."""

ONCE = 1.25
"""The same of figures from the receipts of one run, at the least."""

SURE = 1.1
"""And of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What earlier runs took, as factors of what the table says of the same tiles."""

    bytes: float = 1.0
    requests: float = 1.0
    seconds: float = 1.0
    spread: float = GUESS
    """Factor by which an estimate may err either way."""

    runs: int = 0
    """Runs that this rests on; 0 = the table alone."""


TABLE = Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What making tiles takes, about."""

    bytes: int
    """Read, from wherever."""

    far_bytes: int
    """Of them, those that come over the network."""

    requests: int
    """Over the network."""

    peak_memory_bytes: int
    seconds: float
    """Of all workers side by side."""

    cpu_hours: float
    """Hours of one core."""

    gpu_hours: float
    stored_bytes: int
    """Of the tiles in the product: COGs and Zarr."""

    spread: float
    """Factor by which it may err either way."""

    basis: str
    """table or receipts."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What the table says of one tile."""

    volume: float
    """Bytes of files."""

    far: float
    """Of them, those that come over the network."""

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
    on_one: int = 1,
) -> Estimate:
    """Estimate what making tiles of a plan takes.

    Args:
        plan: the plan.
        workers: tiles made side by side.
        tiles: those that are made; None = all.
        rates: of earlier runs, see :func:`seen`.
        cores: of each worker.
        on_one: workers that share a GPU.
    """
    some = plan.tiles if tiles is None else tiles
    looked = some[:: -(-len(some) // MOST_LOOKED) or 1]
    share = len(some) / max(len(looked), 1)
    volume, far, requests, busy, peak = 0.0, 0.0, 0.0, 0.0, 0
    for need in _needs(plan, looked):
        volume += share * need.volume
        far += share * need.far
        requests += share * need.requests
        busy += share * need.seconds
        peak = max(peak, need.held)
    busy *= rates.seconds
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return Estimate(
        bytes=round(volume * rates.bytes),
        far_bytes=round(far * rates.bytes),
        requests=round(requests * rates.requests),
        peak_memory_bytes=BASE_BYTES + peak * max(workers, 1),
        seconds=round(busy / max(workers, 1), 1),
        cpu_hours=round(busy * cores / 3600, 4),
        gpu_hours=round(busy / on_one / 3600, 4) if on_gpu else 0.0,
        stored_bytes=stored(plan, some),
        spread=round(rates.spread, 3),
        basis="receipts" if rates.runs else "table",
    )


def seen(home: Path, model: Model | None) -> Rates:
    """Compare what runs of a product took with what the table says, by their receipts.

    Args:
        home: the folder of all periods of the product.
        model: the one of the run to come: seconds of others say nothing.
    """
    ratios: dict[str, list[tuple[float, float]]] = {"bytes": [], "requests": [], "seconds": []}
    count = 0
    for path in sorted(home.glob("*/*/plan.json"))[-MOST_RUNS:]:
        compared = _compared(path, model)
        count += bool(compared)
        for name, pair in compared.items():
            ratios[name].append(pair)
    if not count:
        return TABLE
    found = {name: _ratio(pairs) for name, pairs in ratios.items()}
    return Rates(
        **{name: factor for name, factor in found.items() if factor is not None},
        spread=max(SURE if count > 1 else ONCE, *map(_spread, ratios.values())),
        runs=count,
    )


MOST_LOOKED = 4096
"""Tiles of a plan that are looked at, evenly spread: a plan may have a hundred thousand."""

MOST_RUNS = 6
"""Plans of a product that are compared at most: the latest periods."""

MOST_TILES = 256
"""Receipts of each, evenly spread: a plan may have a hundred thousand."""


def _compared(path: Path, model: Model | None) -> dict[str, tuple[float, float]]:
    """Return kind → (actual, by the table) of tiles of a run together."""
    try:
        plan = Plan.read(path)
    except Wrong:
        return {}
        # ^ of another version, or damaged
    made = [one for one in receipt.all_in(path.parent, most=MOST_TILES) if one.tile in plan.named]
    needs = list(_needs(plan, [plan.named[one.tile] for one in made]))
    pairs = [pair for pair in zip(made, needs, strict=True) if pair[0].traffic.get("requests")]
    # ^ of files of this machine nothing is counted
    found = {
        "seconds": (
            sum(one.seconds["tile"] for one in made) if _alike(plan.model, model) else 0.0,
            sum(need.seconds for need in needs),
        ),
        "bytes": (sum(one.traffic["bytes"] for one, _ in pairs), sum(n.far for _, n in pairs)),
        "requests": (
            sum(one.traffic["requests"] for one, _ in pairs),
            sum(need.requests for _, need in pairs),
        ),
    }
    return {name: pair for name, pair in found.items() if all(pair)}


def _alike(one: Model | None, other: Model | None) -> bool:
    """Tell whether windows take as long."""
    if one is None or other is None:
        return one is other
    names = ("digest", "device", "precision", "answers")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    actual, due = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return actual / due if actual and due else None


def _spread(pairs: Sequence[tuple[float, float]]) -> float:
    """Return by which factor single runs lie off all of them; 1 where there are none."""
    whole = _ratio(pairs) or 1.0
    off = [actual / due / whole for actual, due in pairs]
    return min(max([1.0, *off, *(1 / one for one in off)]), GUESS)


def _needs(plan: Plan, tiles: Sequence[Tile]) -> Iterator[_Need]:
    kinds = [_kind(plan, scene) for scene in plan.snapshot.scenes]
    bands_held = sum(len(plan.bands(name)) for name in plan.recipe.inputs)
    window = _seconds(plan)
    times = 2 if plan.recipe.composites and plan.recipe.steps else 1
    # ^ the parts of the period are read by themselves
    for one in tiles:
        placed = plan.placement(one)
        area = plan.context(one)
        near = plan.near(one)
        strips = [
            area.window(row=first, column=0, height=stop - first, width=area.width)
            for first, stop in strip.cut(area, [plan.snapshot.scenes[number] for number in near])
        ]
        depth: dict[str, int] = {}
        pixels = volume = far = 0.0
        requests = 0
        for kind in (kinds[number] for number in near):
            depth[kind.modality] = depth.get(kind.modality, 0) + 1
            for raster, count, remote in kind.rasters:
                for part in strips:
                    read, asked = blocks.read(raster, part)
                    each = read * BYTES_PER_PIXEL[kind.modality] + blocks.HEADER
                    pixels += times * count * read
                    volume += times * count * each
                    far += times * remote * each
                    requests += times * remote * asked
        windows = len(placed.rows) * len(placed.columns) if placed else 0
        yield _Need(
            volume=volume,
            far=far,
            requests=requests,
            seconds=pixels / PIXELS_PER_SECOND + windows * window,
            held=_held(plan, area, max(depth.values(), default=1), bands_held),
        )


def stored(plan: Plan, tiles: Sequence[Tile]) -> int:
    """Return the bytes of tiles in the files of a product."""
    cells = sum(one.height * one.width for one in tiles)
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


@dataclass(frozen=True, slots=True)
class _Kind:
    """A scene as it is read."""

    modality: str
    rasters: tuple[tuple[Raster, int, int], ...]
    """Each with how many bands lie so, and how many of them come over the network."""


def _kind(plan: Plan, scene: Scene) -> _Kind:
    bands = {*plan.bands(scene.modality), "SCL"}
    alike: dict[Raster, list[bool]] = {}
    for asset in scene.assets.values():
        if asset.band in bands:
            placed = Raster(
                epsg=asset.epsg,
                transform=asset.transform,
                shape=asset.shape,
                exact=scene.modality.startswith("S2"),
            )
            alike.setdefault(placed, []).append(trust.is_remote(asset.href))
    return _Kind(scene.modality, tuple((one, len(far), sum(far)) for one, far in alike.items()))


def _seconds(plan: Plan) -> float:
    """Return the seconds that a window takes."""
    if plan.model is None:
        return 0.0
    steps = int(plan.job["model"].get("timesteps", 0))
    answers = sum(SECONDS_PER_WINDOW[one.task] for one in plan.model.answers)
    whole = answers + SECONDS_PER_STEP * steps
    return whole / FASTER if plan.model.device == "cuda" else whole
