"""What a plan will take, before anything is read: from a table, or from what earlier runs took."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from catalogs.scene import MASK_BANDS, Scene
from pipeline import tile
from pipeline.compositing import masks, stream
from pipeline.grid.grid import Grid, Tile
from pipeline.plan import layers
from pipeline.plan.plan import Plan
from pipeline.plan.recipe import ModelSpec
from pipeline.reading import block_reads
from pipeline.reading.block_reads import RasterLayout
from pipeline.storage import receipt

BYTES_PER_PIXEL = {"S2L2A": 1.3, "S1RTC": 3.5, "S1GRD": 3.5, "DEM": 3.0}
"""Compressed bytes of one stored pixel, as seen on the embedded country and on real scenes."""

BASE_MEMORY_BYTES = 600_000_000
"""Python with torch, GDAL and Prefect before any pixel is read; a model's weights come on top."""

PIXELS_PER_SECOND = 6.0e6
"""Stored pixels read and composed in a second by one core."""

STRIPS_IN_MEMORY = 3
"""Strips of composites in memory: two under the windows, and one that is being read."""

STACK_BYTES_PER_PIXEL = 2 * (2 + 4)
"""Bytes of a scene's pixel while two bands are composed: as stored, and as a number."""

SECONDS_PER_WINDOW = {"land_cover": 1 / 6, "embedding": 0.3, "generate": 1.0}
"""On two cores: the demo model's map, the base model's features and tokens."""

SECONDS_PER_DIFFUSION_STEP = 1.0
"""Of diffusion, for one window on two cores."""

GPU_SPEEDUP = 50.0
"""A GPU than two cores: an H200 makes 340 windows of the demo model in a second."""

DEFAULT_CORES = 2
"""Cores that a worker keeps busy where nobody says how many it has."""

COMPRESSION_RATIO = 0.35
"""Bytes on the disk of one byte of a layer, in Zarr or as COG with overviews: maps pack well."""

TABLE_UNCERTAINTY = 2.0
"""Factor by which figures of the table may err either way."""

SINGLE_RUN_UNCERTAINTY = 1.25
"""The same of figures from the receipts of one run, at the least."""

MULTI_RUN_UNCERTAINTY = 1.1
"""And of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFactors:
    """What earlier runs took, as factors of what the table says of the same tiles."""

    bytes: Mapping[str, float] = field(default_factory=dict)
    """By modality; that of the empty name is of all others."""

    requests: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 1.0
    uncertainty: float = TABLE_UNCERTAINTY
    """Factor by which an estimate may err either way."""

    runs: int = 0
    """Runs that this rests on; 0 = the table alone."""


DEFAULT_FACTORS = CostFactors()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What making tiles takes, about."""

    bytes: int
    """Read, from wherever."""

    remote_bytes: int
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

    uncertainty: float
    """Factor by which it may err either way."""

    basis: str
    """table or receipts."""


@dataclass(frozen=True, slots=True)
class _TileCost:
    """What the table says of one tile."""

    bytes_by_modality: Mapping[str, float]
    """Bytes of files, by modality."""

    remote_bytes_by_modality: Mapping[str, float]
    """Of them, those that come over the network."""

    requests_by_modality: Mapping[str, float]
    seconds: float
    """Of one worker."""

    memory_bytes: int
    """Bytes in memory."""


def estimate_cost(
    plan: Plan,
    *,
    workers: int,
    tiles: Sequence[Tile] | None = None,
    factors: CostFactors = DEFAULT_FACTORS,
    cores: int = DEFAULT_CORES,
    workers_per_gpu: int = 1,
) -> CostEstimate:
    """Estimate what making tiles of a plan takes.

    Args:
        plan: the plan.
        workers: tiles made side by side.
        tiles: those that are made; None = all.
        factors: of earlier runs, see :func:`calibrate_factors`.
        cores: of each worker.
        workers_per_gpu: workers that share a GPU.
    """
    some = plan.tiles if tiles is None else tiles
    looked = some[:: -(-len(some) // MAX_SAMPLED_TILES) or 1]
    share = len(some) / max(len(looked), 1)
    volume, far, requests, busy, peak = 0.0, 0.0, 0.0, 0.0, 0
    for need in _iter_tile_costs(plan, looked):
        volume += share * _weighted_sum(need.bytes_by_modality, factors.bytes)
        far += share * _weighted_sum(need.remote_bytes_by_modality, factors.bytes)
        requests += share * _weighted_sum(need.requests_by_modality, factors.requests)
        busy += share * need.seconds
        peak = max(peak, need.memory_bytes)
    busy *= factors.seconds
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return CostEstimate(
        bytes=round(volume),
        remote_bytes=round(far),
        requests=round(requests),
        peak_memory_bytes=BASE_MEMORY_BYTES + peak * max(workers, 1),
        seconds=round(busy / max(workers, 1), 1),
        cpu_hours=round(busy * cores / 3600, 4),
        gpu_hours=round(busy / workers_per_gpu / 3600, 4) if on_gpu else 0.0,
        stored_bytes=estimate_stored_bytes(plan, some),
        uncertainty=round(factors.uncertainty, 3),
        basis="receipts" if factors.runs else "table",
    )


def _weighted_sum(amounts: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """Return the sum of amounts by modality, each times its factor."""
    other = factors.get("", 1.0)
    return sum(amount * factors.get(kind, other) for kind, amount in amounts.items())


def calibrate_factors(product_dir: Path, model: ModelSpec | None) -> CostFactors:
    """Compare what runs of a product took with what the table says, by their receipts.

    Args:
        product_dir: the folder of all periods of the product.
        model: the one of the run to come: seconds of others say nothing.
    """
    ratios: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    count = 0
    for path in sorted(product_dir.glob("*/*/plan.json"))[-MAX_COMPARED_RUNS:]:
        compared = _compare_run(path, model)
        count += bool(compared)
        for name, pair in compared.items():
            ratios[name].append(pair)
    if not count:
        return DEFAULT_FACTORS
    found = {name: _ratio(pairs) for name, pairs in ratios.items()}
    return CostFactors(
        bytes={kind: factor for (what, kind), factor in found.items() if what == "bytes"},
        requests={kind: factor for (what, kind), factor in found.items() if what == "requests"},
        seconds=found.get(("seconds", ""), 1.0),
        uncertainty=max(
            MULTI_RUN_UNCERTAINTY if count > 1 else SINGLE_RUN_UNCERTAINTY,
            *map(_run_uncertainty, ratios.values()),
        ),
        runs=count,
    )


MAX_SAMPLED_TILES = 4096
"""Tiles of a plan that are looked at, evenly spread: a plan may have a hundred thousand."""

MAX_COMPARED_RUNS = 6
"""Plans of a product that are compared at most: the latest periods."""

MAX_RECEIPTS_PER_RUN = 256
"""Receipts of each, evenly spread: a plan may have a hundred thousand."""


def _compare_run(path: Path, model: ModelSpec | None) -> dict[tuple[str, str], tuple[float, float]]:
    """Return what and modality → (actual, by the table) of tiles of a run together."""
    try:
        plan = Plan.read(path)
    except InvalidInputError:
        return {}
        # ^ of another version, or damaged
    made = [
        one
        for one in receipt.read_all(path.parent, max_count=MAX_RECEIPTS_PER_RUN)
        if one.tile in plan.tiles_by_id
    ]
    needs = list(_iter_tile_costs(plan, [plan.tiles_by_id[one.tile] for one in made]))
    pairs = [pair for pair in zip(made, needs, strict=True) if pair[0].traffic.get("requests")]
    # ^ of files of this machine nothing is counted
    taken, due = (defaultdict[tuple[str, str], float](float) for _ in range(2))
    for one, need in pairs:
        for what, amounts in (
            ("bytes", need.remote_bytes_by_modality),
            ("requests", need.requests_by_modality),
        ):
            for kind, amount in (*amounts.items(), ("", sum(amounts.values()))):
                due[what, kind] += amount
                taken[what, kind] += one.traffic.get(f"{what}_{kind}" if kind else what, 0)
    found = {name: (taken[name], due[name]) for name in due}
    if _is_comparable(plan.model, model):
        busy = sum(one.seconds["tile"] for one in made)
        found["seconds", ""] = (busy, sum(need.seconds for need in needs))
    return {name: (actual, table) for name, (actual, table) in found.items() if actual and table}


def _is_comparable(one: ModelSpec | None, other: ModelSpec | None) -> bool:
    """Tell whether windows take as long."""
    if one is None or other is None:
        return one is other
    names = ("digest", "device", "precision", "outputs")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    actual, due = (sum(side) for side in zip(*pairs, strict=True))
    return float(actual / due)


def _run_uncertainty(pairs: Sequence[tuple[float, float]]) -> float:
    """Return by which factor single runs lie off all of them; 1 where there are none."""
    whole = _ratio(pairs)
    off = [actual / due / whole for actual, due in pairs]
    return min(max([1.0, *off, *(1 / one for one in off)]), TABLE_UNCERTAINTY)


def _iter_tile_costs(plan: Plan, tiles: Sequence[Tile]) -> Iterator[_TileCost]:
    kinds = [_scene_reads(plan, scene) for scene in plan.snapshot.scenes]
    bands_held = sum(len(plan.bands(name)) for name in plan.recipe.inputs)
    window = _seconds_per_window(plan)
    times = 2 if plan.recipe.composites and plan.recipe.steps else 1
    # ^ the parts of the period are read by themselves
    for one in tiles:
        placed = plan.window_placement(one)
        area = plan.context_grid(one)
        scenes = plan.tile_scenes(one)
        depth: dict[str, int] = {}
        for scene in scenes:
            depth[scene.modality] = depth.get(scene.modality, 0) + 1
        pixels = 0.0
        volume, far, requests = (defaultdict[str, float](float) for _ in range(3))
        for first, stop in stream.split_rows(area, scenes):
            part = area.window(row=first, column=0, height=stop - first, width=area.width)
            for kind in (kinds[number] for number in plan.scene_indices(part)):
                for raster, pad, count, remote in kind.rasters:
                    read, asked = block_reads.estimate_block_reads(raster, _pad_grid(part, pad))
                    each = read * BYTES_PER_PIXEL[kind.modality] + block_reads.HEADER_BYTES
                    pixels += times * count * read
                    volume[kind.modality] += times * count * each
                    far[kind.modality] += times * remote * each
                    requests[kind.modality] += times * remote * asked
        windows = len(placed.window_rows) * len(placed.window_columns) if placed else 0
        yield _TileCost(
            bytes_by_modality=volume,
            remote_bytes_by_modality=far,
            requests_by_modality=requests,
            seconds=pixels / PIXELS_PER_SECOND + windows * window,
            memory_bytes=_tile_memory_bytes(plan, area, max(depth.values(), default=1), bands_held),
        )


def estimate_stored_bytes(plan: Plan, tiles: Sequence[Tile]) -> int:
    """Return the bytes of tiles in the files of a product."""
    cells = sum(one.height * one.width for one in tiles)
    each = sum(
        len(names) * np.dtype(layers.get(name).dtype).itemsize / plan.coarsening_factor(name) ** 2
        for name, names in tile.list_layer_bands(plan).items()
    )
    formats = len(plan.job["output"].get("formats", ("cog", "zarr")))
    return round(cells * each * COMPRESSION_RATIO * max(formats, 1))


def _tile_memory_bytes(plan: Plan, area: Grid, deepest: int, bands: int) -> int:
    """Return the bytes of a tile on its way: strips, scenes, sums of one row of windows, layers."""
    first, stop = stream.split_rows(area, ())[0]
    rows = (stop - first) * area.width
    strips = rows * bands * 4 * STRIPS_IN_MEMORY + rows * deepest * STACK_BYTES_PER_PIXEL
    channels = (
        sum(len(one.channels) / one.stride**2 for one in plan.model.outputs) if plan.model else 0
    )
    sums = 2 * 4 * channels * (plan.model.window if plan.model else 0) * area.width
    stored = sum(
        len(names) * np.dtype(layers.get(name).dtype).itemsize / plan.coarsening_factor(name) ** 2
        for name, names in tile.list_layer_bands(plan).items()
    )
    return round(strips + sums + stored * plan.tile_size**2)


@dataclass(frozen=True, slots=True)
class _SceneReads:
    """A scene as it is read."""

    modality: str
    rasters: tuple[tuple[RasterLayout, int, int, int], ...]
    """Each with the pixels around a grid that are read too, with how many bands lie so, and how
    many of them come over the network."""


def _scene_reads(plan: Plan, scene: Scene) -> _SceneReads:
    doubted = plan.recipe.max_cloud_probability is not None
    bands = {*plan.bands(scene.modality), "SCL", *(("CLD",) if doubted else ())}
    alike: dict[tuple[RasterLayout, int], list[bool]] = {}
    for asset in scene.assets.values():
        if asset.band in bands:
            placed = RasterLayout(
                epsg=asset.epsg,
                transform=asset.transform,
                shape=asset.shape,
                is_picked=scene.modality.startswith("S2"),
            )
            pad = _padding(plan, scene.modality, asset.band)
            alike.setdefault((placed, pad), []).append(href_policy.is_remote(asset.href))
    return _SceneReads(
        scene.modality, tuple((*one, len(far), sum(far)) for one, far in alike.items())
    )


def _padding(plan: Plan, modality: str, band: str) -> int:
    """Return how many pixels around a grid are read: borders and clouds reach into it."""
    resolution = plan.pixel_grid(plan.grids[0]).resolution
    if modality.startswith("S1"):
        return masks.border_noise_reach(resolution)
    return math.ceil(plan.recipe.dilate_m / resolution) if band in MASK_BANDS else 0


def _pad_grid(area: Grid, pad: int) -> Grid:
    return area.window(
        row=-pad, column=-pad, height=area.height + 2 * pad, width=area.width + 2 * pad
    )


def _seconds_per_window(plan: Plan) -> float:
    """Return the seconds that a window takes."""
    if plan.model is None:
        return 0.0
    steps = int(plan.job["model"].get("timesteps", 0))
    answers = sum(
        SECONDS_PER_WINDOW.get(output.task, SECONDS_PER_WINDOW["generate"])
        for output in plan.model.outputs
    )
    whole = answers + SECONDS_PER_DIFFUSION_STEP * steps
    return whole / GPU_SPEEDUP if plan.model.device == "cuda" else whole
