"""Estimate bytes, requests, time and memory of a plan before anything is read.

The estimate starts from a table of constants; the receipts of earlier runs of the same product
calibrate it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from catalogs import href_policy
from catalogs.errors import InvalidInputError
from catalogs.scene import Scene
from catalogs.sensors import Sensor, get_sensor
from pipeline import tile_layers
from pipeline.compositing import radar, strip_reader
from pipeline.grid.grid import Grid, Tile
from pipeline.plan.plan import Plan
from pipeline.plan.recipe import ModelSpec
from pipeline.reading import block_reads
from pipeline.reading.block_reads import RasterLayout
from pipeline.storage import plan_file, receipt
from pipeline.storage.store import Store, StoreLike, open_store

BASE_MEMORY_BYTES = 600_000_000
"""Memory of a process with torch, GDAL and Prefect, without pixels and model weights."""

PIXELS_PER_SECOND = 6.0e6
"""Stored pixels that one core reads and composites per second."""

STRIPS_IN_MEMORY = 3
"""Strips of composites in memory: two in use by windows, one being read."""

STACK_BYTES_PER_PIXEL = 2 * (2 + 4)
"""Bytes of a scene's pixel while two bands are composited: as stored and as float32."""

SECONDS_PER_WINDOW = {"land_cover": 1 / 6, "embedding": 0.3, "generate": 1.0}
"""Per task, on two cores: the demo model's map, the base model's features and tokens."""

SECONDS_PER_DIFFUSION_STEP = 1.0
"""Seconds of one diffusion step for one window on two cores."""

GPU_SPEEDUP = 50.0
"""Speed of a GPU relative to two cores: an H200 predicts 340 windows a second (demo model)."""

DEFAULT_CORES = 2
"""Cores of a worker where the caller does not state them."""

COMPRESSION_RATIO = 0.35
"""Bytes on disk per byte of a layer, in Zarr or as a COG with overviews."""

TABLE_UNCERTAINTY = 2.0
"""Factor of uncertainty of estimates from the table alone."""

SINGLE_RUN_UNCERTAINTY = 1.25
"""Smallest factor of uncertainty of estimates calibrated with one run."""

MULTI_RUN_UNCERTAINTY = 1.1
"""Smallest factor of uncertainty of estimates calibrated with several runs."""

MAX_SAMPLED_TILES = 4096
"""Tiles that an estimate is computed from, evenly spread: a plan may have a hundred thousand."""

MAX_COMPARED_RUNS = 6
"""Runs of a product that are compared at most: those of the latest periods."""

MAX_RECEIPTS_PER_RUN = 256
"""Receipts that are read of each run, evenly spread: a run may have a hundred thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFactors:
    """Ratios of what earlier runs took to the table's estimate for the same tiles."""

    bytes: Mapping[str, float] = field(default_factory=dict)
    """By modality; the entry of the empty name applies to all others."""

    requests: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 1.0
    uncertainty: float = TABLE_UNCERTAINTY
    """Factor by which an estimate may be too high or too low."""

    runs: int = 0
    """Number of runs compared; 0 = the table alone."""


DEFAULT_FACTORS = CostFactors()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceEstimate:
    """The estimated cost of building tiles."""

    bytes: int
    """Bytes read, local or remote."""

    remote_bytes: int
    """Bytes read over the network."""

    requests: int
    """Requests over the network."""

    peak_memory_bytes: int
    seconds: float
    """Wall-clock seconds with all workers."""

    cpu_hours: float
    """Core hours."""

    gpu_hours: float
    stored_bytes: int
    """Bytes of the tiles on disk, in all formats of the product."""

    uncertainty: float
    """Factor by which the estimate may be too high or too low."""

    basis: str
    """``table`` or ``receipts``."""


@dataclass(frozen=True, slots=True)
class _TileCost:
    """The table's estimate for one tile."""

    bytes_by_modality: Mapping[str, float]
    """Bytes read, by modality."""

    remote_bytes_by_modality: Mapping[str, float]
    """Bytes read over the network, by modality."""

    requests_by_modality: Mapping[str, float]
    seconds: float
    """Seconds of one worker."""

    memory_bytes: int
    """Peak memory, bytes."""


def estimate_resources(
    plan: Plan,
    *,
    workers: int,
    tiles: Sequence[Tile] | None = None,
    factors: CostFactors = DEFAULT_FACTORS,
    cores: int = DEFAULT_CORES,
    workers_per_gpu: int = 1,
) -> ResourceEstimate:
    """Estimate the cost of building tiles of a plan.

    Args:
        plan: the plan.
        workers: tiles built in parallel.
        tiles: the tiles to build; None = all.
        factors: ratios measured on earlier runs, see :func:`calibrate_factors`.
        cores: cores of each worker.
        workers_per_gpu: workers that share a GPU.
    """
    tiles = plan.tiles if tiles is None else tiles
    sampled = tiles[:: -(-len(tiles) // MAX_SAMPLED_TILES) or 1]
    tiles_per_sample = len(tiles) / max(len(sampled), 1)
    num_bytes, remote_bytes, requests, busy_seconds, peak_bytes = 0.0, 0.0, 0.0, 0.0, 0
    for cost in _iter_tile_costs(plan, sampled):
        num_bytes += tiles_per_sample * _weighted_sum(cost.bytes_by_modality, factors.bytes)
        remote_bytes += tiles_per_sample * _weighted_sum(
            cost.remote_bytes_by_modality, factors.bytes
        )
        requests += tiles_per_sample * _weighted_sum(cost.requests_by_modality, factors.requests)
        busy_seconds += tiles_per_sample * cost.seconds
        peak_bytes = max(peak_bytes, cost.memory_bytes)
    busy_seconds *= factors.seconds
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return ResourceEstimate(
        bytes=round(num_bytes),
        remote_bytes=round(remote_bytes),
        requests=round(requests),
        peak_memory_bytes=BASE_MEMORY_BYTES + peak_bytes * max(workers, 1),
        seconds=round(busy_seconds / max(workers, 1), 1),
        cpu_hours=round(busy_seconds * cores / 3600, 4),
        gpu_hours=round(busy_seconds / workers_per_gpu / 3600, 4) if on_gpu else 0.0,
        stored_bytes=estimate_stored_bytes(plan, tiles),
        uncertainty=round(factors.uncertainty, 3),
        basis="receipts" if factors.runs else "table",
    )


def _weighted_sum(amounts: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """Return the sum over modalities of amount times factor."""
    default = factors.get("", 1.0)
    return sum(amount * factors.get(modality, default) for modality, amount in amounts.items())


def calibrate_factors(product_dir: StoreLike, model: ModelSpec | None) -> CostFactors:
    """Compare what earlier runs of a product took, by their receipts, with the table.

    Args:
        product_dir: the folder of all periods of the product.
        model: the model of the next run; seconds of runs with other models are ignored.
    """
    pairs_by_metric: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    runs = 0
    store = open_store(product_dir)
    for name in store.glob(f"*/*/{plan_file.PLAN_NAME}")[-MAX_COMPARED_RUNS:]:
        compared = _compare_run(store.child(name.rpartition("/")[0]), model)
        runs += bool(compared)
        for metric, pair in compared.items():
            pairs_by_metric[metric].append(pair)
    if not runs:
        return DEFAULT_FACTORS
    ratios = {metric: _ratio(pairs) for metric, pairs in pairs_by_metric.items()}
    return CostFactors(
        bytes={modality: ratio for (name, modality), ratio in ratios.items() if name == "bytes"},
        requests={
            modality: ratio for (name, modality), ratio in ratios.items() if name == "requests"
        },
        seconds=ratios.get(("seconds", ""), 1.0),
        uncertainty=max(
            MULTI_RUN_UNCERTAINTY if runs > 1 else SINGLE_RUN_UNCERTAINTY,
            *map(_run_uncertainty, pairs_by_metric.values()),
        ),
        runs=runs,
    )


def _compare_run(
    plan_store: Store, model: ModelSpec | None
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return (metric, modality) → (actual, estimated by the table) over the tiles of one run."""
    try:
        plan = plan_file.read_plan(plan_store)
    except InvalidInputError:
        return {}
        # ^ damaged, or written by another version
    receipts = [
        tile_receipt
        for tile_receipt in receipt.read_all(plan_store, max_count=MAX_RECEIPTS_PER_RUN)
        if tile_receipt.tile in plan.tiles_by_id
    ]
    costs = list(
        _iter_tile_costs(plan, [plan.tiles_by_id[tile_receipt.tile] for tile_receipt in receipts])
    )
    actual, estimated = (defaultdict[tuple[str, str], float](float) for _ in range(2))
    for tile_receipt, cost in zip(receipts, costs, strict=True):
        if not tile_receipt.traffic.get("requests"):
            continue
            # ^ reads of local files are not counted
        for name, amounts in (
            ("bytes", cost.remote_bytes_by_modality),
            ("requests", cost.requests_by_modality),
        ):
            for modality, amount in (*amounts.items(), ("", sum(amounts.values()))):
                estimated[name, modality] += amount
                key = f"{name}_{modality}" if modality else name
                actual[name, modality] += tile_receipt.traffic.get(key, 0)
    pairs = {metric: (actual[metric], estimated[metric]) for metric in estimated}
    if _is_comparable(plan.model, model):
        pairs["seconds", ""] = (
            sum(tile_receipt.seconds["tile"] for tile_receipt in receipts),
            sum(cost.seconds for cost in costs),
        )
    return {metric: pair for metric, pair in pairs.items() if all(pair)}


def _is_comparable(first: ModelSpec | None, second: ModelSpec | None) -> bool:
    """Tell whether two models take the same time per window."""
    if first is None or second is None:
        return first is second
    names = ("digest", "device", "precision", "outputs")
    return all(getattr(first, name) == getattr(second, name) for name in names)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    actual, estimated = (sum(values) for values in zip(*pairs, strict=True))
    return float(actual / estimated)


def _run_uncertainty(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the largest factor between the ratio of one run and that of all runs."""
    mean_ratio = _ratio(pairs)
    deviations = [actual / estimated / mean_ratio for actual, estimated in pairs]
    return min(
        max([1.0, *deviations, *(1 / deviation for deviation in deviations)]), TABLE_UNCERTAINTY
    )


def _iter_tile_costs(plan: Plan, tiles: Sequence[Tile]) -> Iterator[_TileCost]:
    scene_reads = [_scene_reads(plan, scene) for scene in plan.snapshot.scenes]
    num_bands = sum(len(plan.bands(modality)) for modality in plan.recipe.inputs)
    seconds_per_window = _seconds_per_window(plan)
    passes = 2 if plan.recipe.composites and plan.recipe.steps else 1
    # ^ the composites of the parts of the period read all scenes a second time
    for planned_tile in tiles:
        part = plan.clip_tile(planned_tile)
        placement = plan.window_placement(part)
        area = plan.context_grid(part)
        scenes = plan.tile_scenes(planned_tile)
        scene_counts = Counter(scene.modality for scene in scenes)
        pixels = 0.0
        num_bytes, remote_bytes, requests = (defaultdict[str, float](float) for _ in range(3))
        for first, stop in strip_reader.split_rows(area, scenes):
            strip = area.window(row=first, column=0, height=stop - first, width=area.width)
            for scene_read in (scene_reads[index] for index in plan.scene_indices(strip)):
                modality = scene_read.modality
                bytes_per_pixel = get_sensor(modality).bytes_per_pixel
                for group in scene_read.rasters:
                    band_pixels, band_requests = block_reads.estimate_block_reads(
                        group.layout, _pad_grid(strip, group.padding)
                    )
                    band_bytes = band_pixels * bytes_per_pixel + block_reads.HEADER_BYTES
                    pixels += passes * group.bands * band_pixels
                    num_bytes[modality] += passes * group.bands * band_bytes
                    remote_bytes[modality] += passes * group.remote_bands * band_bytes
                    requests[modality] += passes * group.remote_bands * band_requests
        windows = len(placement.window_rows) * len(placement.window_columns) if placement else 0
        yield _TileCost(
            bytes_by_modality=num_bytes,
            remote_bytes_by_modality=remote_bytes,
            requests_by_modality=requests,
            seconds=pixels / PIXELS_PER_SECOND + windows * seconds_per_window,
            memory_bytes=_tile_memory_bytes(
                plan, area, max(scene_counts.values(), default=1), num_bands
            ),
        )


def estimate_stored_bytes(plan: Plan, tiles: Sequence[Tile]) -> int:
    """Estimate the bytes of tiles on disk, in all formats of the product."""
    cells = sum(planned_tile.height * planned_tile.width for planned_tile in tiles)
    bytes_per_cell = _layer_bytes_per_cell(plan)
    formats = len(plan.settings.formats)
    return round(cells * bytes_per_cell * COMPRESSION_RATIO * max(formats, 1))


def _layer_bytes_per_cell(plan: Plan) -> float:
    """Return the uncompressed bytes of all layers for one cell of the grid."""
    return sum(
        len(bands) * np.dtype(plan.layer(name).dtype).itemsize / plan.coarsening_factor(name) ** 2
        for name, bands in tile_layers.list_layer_bands(plan).items()
    )


def _tile_memory_bytes(plan: Plan, area: Grid, max_scenes: int, num_bands: int) -> int:
    """Estimate the peak memory of one tile, bytes.

    Args:
        plan: the plan.
        area: the context grid of the tile.
        max_scenes: the largest number of scenes of one modality.
        num_bands: bands of all modalities.
    """
    first, stop = strip_reader.split_rows(area, ())[0]
    strip_pixels = (stop - first) * area.width
    strips = strip_pixels * num_bands * 4 * STRIPS_IN_MEMORY
    stacks = strip_pixels * max_scenes * STACK_BYTES_PER_PIXEL
    sums = 0.0
    if plan.model:
        channels = sum(len(output.channels) / output.stride**2 for output in plan.model.outputs)
        sums = 2 * 4 * channels * plan.model.window * area.width
        # ^ weighted sums and their quotient for one row of windows
    return round(strips + stacks + sums + _layer_bytes_per_cell(plan) * plan.tile_size**2)


@dataclass(frozen=True, slots=True)
class _RasterGroup:
    """Bands of a scene that are stored and read alike."""

    layout: RasterLayout
    padding: int
    """Pixels around the output grid that are read too."""

    bands: int
    remote_bands: int
    """Bands that are read over the network."""


@dataclass(frozen=True, slots=True)
class _SceneReads:
    """The rasters of a scene that a plan reads."""

    modality: str
    rasters: tuple[_RasterGroup, ...]


def _scene_reads(plan: Plan, scene: Scene) -> _SceneReads:
    sensor = get_sensor(scene.modality)
    bands = {*plan.bands(scene.modality), "SCL"}
    if plan.recipe.max_cloud_probability is not None:
        bands.add("CLD")
    remote_flags: dict[tuple[RasterLayout, int], list[bool]] = {}
    for asset in scene.assets.values():
        if asset.band in bands:
            layout = RasterLayout(
                epsg=asset.epsg,
                transform=asset.transform,
                shape=asset.shape,
                is_picked=sensor.group == "optical",
            )
            padding = _padding(plan, sensor, asset.band)
            is_remote = href_policy.is_remote(asset.href)
            remote_flags.setdefault((layout, padding), []).append(is_remote)
    return _SceneReads(
        scene.modality,
        tuple(
            _RasterGroup(layout, padding, len(flags), sum(flags))
            for (layout, padding), flags in remote_flags.items()
        ),
    )


def _padding(plan: Plan, sensor: Sensor, band: str) -> int:
    """Return how many pixels around a grid are read: masks that are dilated reach into it."""
    resolution = plan.pixel_grid(plan.grids[0]).resolution
    if sensor.group == "radar":
        return radar.border_noise_reach(resolution)
    return math.ceil(plan.recipe.dilate_m / resolution) if band in sensor.mask_bands else 0


def _pad_grid(area: Grid, padding: int) -> Grid:
    return area.window(
        row=-padding,
        column=-padding,
        height=area.height + 2 * padding,
        width=area.width + 2 * padding,
    )


def _seconds_per_window(plan: Plan) -> float:
    """Return the seconds that the model takes for one window."""
    if plan.model is None:
        return 0.0
    steps = plan.settings.model.timesteps or 0
    seconds = sum(
        SECONDS_PER_WINDOW.get(output.task, SECONDS_PER_WINDOW["generate"])
        for output in plan.model.outputs
    )
    seconds += SECONDS_PER_DIFFUSION_STEP * steps
    return seconds / GPU_SPEEDUP if plan.model.device == "cuda" else seconds
