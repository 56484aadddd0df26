"""Computing one tile in a worker: its plan and its model, loaded once per process."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from catalogs.errors import InvalidInputError, TerramosaicError
from flows.execution import (
    memory_release,
    model_cache,
)
from pipeline import tile
from pipeline.inference.batching import WindowCache
from pipeline.plan.plan import Plan
from pipeline.reading import http_connections
from pipeline.runtime import cancellation, io_statistics
from pipeline.runtime.io_statistics import IoStatistics
from pipeline.storage import plan_file, receipt
from pipeline.tile import TileResult

if TYPE_CHECKING:
    from model.predictor.predictor import Predictor as Loaded
    from pipeline.grid.grid import Tile
    from pipeline.inference.predictor_protocol import Predictor


ProcessTile = Callable[[str, str, int, int], TileResult]
"""Computes one tile: see :func:`process_tile`."""

_load_lock = threading.Lock()


@functools.lru_cache(maxsize=2)
def _cached_plan(path: str, _mtime_ns: int) -> Plan:
    return plan_file.read_plan_file(path)


@functools.lru_cache(maxsize=1)
def _cached_predictor(path: str, mtime_ns: int) -> Predictor | None:
    """Load the plan's model, once per process."""
    plan = _cached_plan(path, mtime_ns)
    return model_cache.find_predictor(plan) or _load_predictor(plan)


@functools.lru_cache(maxsize=1)
def _cached_windows(_path: str, _mtime_ns: int) -> WindowCache:
    return WindowCache()


def _load_predictor(plan: Plan) -> Loaded | None:
    if plan.model is None:
        return None
    from model.predictor import registry  # noqa: PLC0415

    # ^ plans without a model need no torch
    predictor = registry.load(
        **plan.settings.model.to_dict(),
        inputs=tuple(plan.model.inputs),
        device=plan.settings.execution.device,
        precision=plan.model.precision,
        batch=plan.model.batch if plan.model.device == "cuda" else None,
        # ^ on a CPU one window at a time is fastest, and gives the same bits
        nan_policy="fill",
    )
    if predictor.device_type != plan.model.device:
        raise InvalidInputError(
            f"The plan is for the device {plan.model.device}, but this machine has "
            f"{predictor.device_type}, whose results differ in their last bits. Run the plan on a "
            f"machine with {plan.model.device}, or plan again here."
        )
    if predictor.digest != plan.model.digest:
        raise InvalidInputError(
            f"The model {plan.model.name} now has the digest {predictor.digest[:12]}, but the "
            f"plan is for {plan.model.digest[:12]}. Plan again, or restore the weights."
        )
    return predictor


def check_model(plan: Plan) -> None:
    """Check that the model is still the one of the plan, before any tile is computed.

    Raises:
        InvalidInputError: The weights or other settings of the model have changed.
    """
    if "://" not in plan.settings.execution.engine:
        # ^ the workers of a remote cluster check their own model files
        model_cache.store_predictor(_load_predictor(plan))


def cuda_device(plan: Plan) -> str | None:
    """Return the CUDA device of a plan's model; None = the model runs on the CPU."""
    if plan.model is None or plan.model.device != "cuda":
        return None
    device = plan.settings.execution.device
    return "cuda" if device == "auto" else device


def process_tile(
    plan_path: str, tile_id: str, tiles_per_process: int, processes: int
) -> TileResult:
    """Compute one tile of a plan in this process.

    A tile that has its receipt is not computed again: its worker died after finishing it.

    Args:
        plan_path: The plan file, in the plan's folder.
        tile_id: Id of one of its tiles.
        tiles_per_process: Number of tiles that this process computes in parallel.
        processes: Number of processes that share the providers' connections.
    """
    memory_release.trim_heap()
    http_connections.divide_connections(processes)
    path = Path(plan_path)
    mtime_ns = path.stat().st_mtime_ns
    with _load_lock:
        # ^ otherwise threads that start together would each load the model
        plan = _cached_plan(plan_path, mtime_ns)
        predictor = _cached_predictor(plan_path, mtime_ns)
    plan_tile = plan.tiles_by_id[tile_id]
    tile_receipt = receipt.read(path.parent, plan_tile)
    if tile_receipt is not None and tile_receipt.key == plan.tile_key(plan_tile):
        return TileResult(tile=tile_id, reason=None, seconds=dict(tile_receipt.seconds))
    threads = max(len(os.sched_getaffinity(0)) // tiles_per_process, 2)
    # ^ at least two: one waits for the disk while the other one computes
    window_cache = _cached_windows(plan_path, mtime_ns)
    traffic = IoStatistics()
    try:
        with io_statistics.collect() as traffic:
            tile_receipt = tile.build_tile(
                plan,
                plan_tile,
                predictor,
                path.parent,
                threads=threads,
                window_cache=window_cache,
            )
    except (TerramosaicError, OSError) as error:
        # ^ an error of one tile, such as a full disk, does not stop the others
        cancellation.check_cancelled()
        # ^ an error caused by cancellation is no failure of the tile
        return TileResult(
            tile=tile_id,
            reason=str(error),
            retryable=not isinstance(error, InvalidInputError),
            seconds={},
            traffic=traffic.to_dict(),
        )
    return TileResult(
        tile=tile_id,
        reason=None,
        seconds=dict(tile_receipt.seconds),
        traffic=dict(tile_receipt.traffic),
        km2=tile_receipt.coverage["inside"] * _tile_area_km2(plan, plan_tile),
    )


def _tile_area_km2(plan: Plan, plan_tile: Tile) -> float:
    pixel_km2 = (plan.tile_grid(plan_tile).resolution / 1000) ** 2
    return plan_tile.height * plan_tile.width * pixel_km2
