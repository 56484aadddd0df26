"""One tile, from scenes to receipt."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask.base
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from catalogs.scene import TIMELESS, Scene
from pipeline import (
    answers,
    cells,
    composite,
    grid,
    layers,
    predict,
    radiometry,
    reading,
    receipt,
    store,
)
from pipeline.grid import Grid, Tile
from pipeline.plan import Plan
from pipeline.predict import Predictor
from pipeline.receipt import Receipt

BITS = {
    "S2L2A": layers.S2,
    "S2L1C": layers.S2,
    "S1RTC": layers.S1,
    "S1GRD": layers.S1,
    "DEM": layers.DEM,
}
COUNTS = ("observations", "first_observed", "last_observed", "inputs_used")
"""The layers that every product has: what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The composites of one grid, in memory."""

    values: Mapping[str, xr.DataArray]
    """Modality → (band, y, x) in the units of :data:`radiometry.UNITS`; NaN = no value."""

    observations: NDArray[np.uint16]
    """(y, x): days with a clear Sentinel-2 observation; Sentinel-1 where no other is given."""

    first: NDArray[np.uint16]
    """(y, x): days since 1970-01-01 of the earliest; 0 = none."""

    last: NDArray[np.uint16]
    """(y, x): days since 1970-01-01 of the latest; 0 = none."""

    steps: tuple[Seen, ...] = ()
    """The same of each part of the period that has composites of its own."""


def variables(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of a plan's product and their band names."""
    keep = plan.recipe.probabilities
    answer = answers.variables(plan.model, probabilities=keep) if plan.model else {}
    counts = {name: layers.get(name).named() for name in COUNTS}
    composites = {
        f"composite_{modality}": plan.bands(modality)
        for modality in plan.recipe.inputs
        if plan.recipe.composites and plan.bands(modality)
    }
    return answer | counts | composites | _series(plan)


def _series(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of the parts of the period: a band for each part and band."""
    starts = [start for start, _ in plan.recipe.steps]
    if not starts or not plan.recipe.composites:
        return {}
    return {"series_observations": tuple(starts)} | {
        f"series_{modality}": tuple(
            f"{start}_{band}" for start in starts for band in plan.bands(modality)
        )
        for modality in plan.recipe.inputs
        if modality not in TIMELESS and plan.bands(modality)
    }


def finish(
    plan: Plan, tile: Tile, predictor: Predictor | None, folder: Path, *, threads: int
) -> Receipt:
    """Make one tile: read, compose, predict, write, and then say so.

    Args:
        plan: the frozen plan.
        tile: one of its tiles.
        predictor: the model; None where the plan has none.
        folder: the plan's folder; its store exists.
        threads: threads that read and compose.

    Raises:
        Unreadable: an asset could not be read; nothing of the tile is written.
    """
    started = time.perf_counter()
    context = plan.context(tile)
    seen = see(plan, tile, context, threads=threads)
    read = time.perf_counter()
    values = answer(plan, tile, context, seen, predictor)
    predicted = time.perf_counter()
    digests = store.write(store.of(folder, plan, tile.epsg), tile, values)
    done = Receipt(
        tile=tile.id,
        key=plan.key(tile),
        scenes=tuple(sorted(scene.id for scene in plan.scenes(tile))),
        digests=digests,
        coverage=_coverage(values["observations"]),
        versions=versions(),
        seconds={
            "read": round(read - started, 3),
            "predict": round(predicted - read, 3),
            "write": round(time.perf_counter() - predicted, 3),
        },
    )
    receipt.write(folder, tile, done)
    return done


def see(plan: Plan, tile: Tile, area: Grid, *, threads: int) -> Seen:
    """Read and compose everything a tile needs on the grid it must read."""
    touching = plan.scenes(tile)
    steps = plan.recipe.steps if plan.recipe.composites else ()
    lazy = [_lazy(plan, touching, area)]
    lazy += [_lazy(plan, composite.in_step(touching, step), area) for step in steps]
    readers = reading.threads(touching, threads)
    (computed,) = dask.base.compute(lazy, scheduler="threads", num_workers=readers)
    # ^ not by dask.config: it is global, and tiles are made side by side
    whole, *parts = (_seen(plan, one, area) for one in computed)
    return replace(whole, steps=tuple(parts))


def _lazy(plan: Plan, scenes: Sequence[Scene], area: Grid) -> dict[str, tuple[Any, ...]]:
    """Return values, counts, first and last days of each modality, not computed yet."""
    lazy: dict[str, tuple[Any, ...]] = {}
    for modality in plan.recipe.inputs:
        some = [scene for scene in scenes if scene.modality == modality]
        bands = plan.bands(modality)
        if some and bands:
            made = composite.of(modality, some, bands, area, recipe=plan.recipe)
            planes = (made.observations.data, made.first.data, made.last.data)
            lazy[modality] = (made.values, *planes)
    return lazy


def _seen(plan: Plan, computed: Mapping[str, tuple[Any, ...]], area: Grid) -> Seen:
    empty = np.zeros(area.shape, dtype=np.uint16)
    _, observations, first, last = computed.get(_witness(plan.given), (None, *(empty,) * 3))
    return Seen(
        values={modality: values for modality, (values, *_) in computed.items()},
        observations=observations,
        first=first,
        last=last,
    )


def _witness(inputs: Sequence[str]) -> str:
    """Return the modality whose days are counted: Sentinel-2, else Sentinel-1, else the first."""
    return min(inputs, key=lambda name: ("S2", "S1", "DE").index(name[:2]))


def answer(
    plan: Plan, tile: Tile, context: Grid, seen: Seen, predictor: Predictor | None
) -> dict[str, NDArray[Any]]:
    """Return the stored values of every layer of a tile.

    Args:
        plan: the frozen plan.
        tile: one of its tiles.
        context: the pixels that were read.
        seen: what was read of them.
        predictor: the model; None where the plan has none.
    """
    area = plan.area(tile)
    own = grid.inside(grid.project(plan.ground(tile.epsg), tile.epsg), area)
    part = _part(plan.pixels(area), context)
    observations = cells.reached(seen.observations[part], plan.cell)
    placement, lattice = plan.placement(tile), plan.lattice
    values: dict[str, NDArray[Any]] = {}
    if predictor is not None and plan.model and placement and lattice:
        values = answers.of(
            plan.model,
            predict.blended(
                at_the_door(plan, seen),
                seen.observations > 0,
                tile,
                placement,
                lattice,
                predictor,
                batch=plan.model.batch,
            ),
            observations > 0,
            probabilities=plan.recipe.probabilities,
        )
    values["observations"] = observations
    # ^ what the scenes say, whatever the model makes of them
    values["first_observed"] = np.where(
        observations > 0, cells.earliest(seen.first[part], plan.cell), 0
    )
    values["last_observed"] = np.where(
        observations > 0, cells.latest(seen.last[part], plan.cell), 0
    )
    values["inputs_used"] = _bits(plan, seen, part, observations > 0)
    if plan.recipe.composites:
        values |= _composites(plan, seen, part, area)
    if seen.steps:
        values |= _parts(plan, seen.steps, part, area)
    return {name: _masked(name, layer, own) for name, layer in values.items()}


def _part(area: Grid, context: Grid) -> tuple[slice, slice]:
    """Return where an area lies on the grid that was read."""
    row = round((context.top - area.top) / area.resolution)
    column = round((area.left - context.left) / area.resolution)
    return slice(row, row + area.height), slice(column, column + area.width)


def at_the_door(plan: Plan, seen: Seen) -> dict[str, NDArray[np.float32]]:
    """Return the model's inputs: power becomes decibel here and nowhere earlier.

    Raises:
        Wrong: an input is not in its modality's unit.
    """
    return {
        name: radiometry.for_model(values, name).values
        for name, values in seen.values.items()
        if plan.model is None or name in plan.model.inputs
    }


def _bits(
    plan: Plan, seen: Seen, part: tuple[slice, slice], observed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    bits = np.zeros(observed.shape, dtype=np.uint8)
    for modality, values in seen.values.items():
        if modality in plan.given:
            there = np.asarray(np.isfinite(values.values[(slice(None), *part)]).any(axis=0))
            bits[cells.some(there, plan.cell)] |= BITS[modality]
    return np.where(observed, bits, 0).astype(np.uint8)


def _composites(
    plan: Plan, seen: Seen, part: tuple[slice, slice], area: Grid
) -> dict[str, NDArray[Any]]:
    result: dict[str, NDArray[Any]] = {}
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        if not bands:
            continue
        layer = layers.get(f"composite_{modality}")
        values = np.full((len(bands), *area.shape), np.nan, dtype=np.float32)
        if modality in seen.values:
            held = seen.values[modality]
            radiometry.expect(held, radiometry.UNITS[modality])
            values = cells.mean(held.values[(slice(None), *part)], plan.cell)
        result[layer.name] = _stored(values, layer)
    return result


def _parts(
    plan: Plan, steps: Sequence[Seen], part: tuple[slice, slice], area: Grid
) -> dict[str, NDArray[Any]]:
    """Return the layers of :func:`_series`: composites and counts of each part of the period."""
    made = [_composites(plan, one, part, area) for one in steps]
    result = {
        name: np.concatenate([one[name.replace("series_", "composite_")] for one in made])
        for name in _series(plan)
        if name != "series_observations"
    }
    counts = [cells.reached(one.observations[part], plan.cell) for one in steps]
    return {"series_observations": np.stack(counts)} | result


def _stored(values: NDArray[np.float32], layer: layers.Layer) -> NDArray[Any]:
    if np.issubdtype(np.dtype(layer.dtype), np.floating):
        stored: NDArray[Any] = values.astype(layer.dtype)
    else:
        limits = np.iinfo(layer.dtype)
        whole = np.clip(np.rint(values), limits.min + 1, limits.max)
        # ^ the lowest number is nodata; reflectances above 3.2767 are saturated clouds
        stored = np.where(np.isfinite(values), whole, layer.fill).astype(layer.dtype)
    return stored[0] if layer.planar else stored


def _masked(name: str, values: NDArray[Any], own: NDArray[np.bool_]) -> NDArray[Any]:
    layer = layers.get(name)
    return np.where(own, values, layer.fill).astype(layer.dtype)


def _coverage(observations: NDArray[np.uint16]) -> dict[str, float]:
    own = observations != layers.get("observations").fill
    inside = float(own.mean())
    seen = float((own & (observations > 0)).sum() / max(int(own.sum()), 1))
    return {"inside": round(inside, 6), "observed": round(seen, 6)}


def versions() -> dict[str, str]:
    """Return the versions that a pixel may depend on."""
    names = ("terramosaic", "numpy", "rasterio", "stackstac", "torch", "zarr")
    return {name: importlib.metadata.version(name) for name in names}
