"""One tile, from scenes to receipt."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.base
import numpy as np
from numpy.typing import NDArray

from catalogs import classes
from pipeline import composite, grid, layers, predict, radiometry, receipt, store, windows
from pipeline.grid import Grid, Tile
from pipeline.plan import Plan, geometry
from pipeline.predict import Predictor
from pipeline.receipt import Receipt

BITS = {"S2L2A": layers.S2, "S1RTC": layers.S1, "S1GRD": layers.S1, "DEM": layers.DEM}
UNCLASSED = ("nodata", "clouds")
"""Answers that are none: they are published as not observed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The composites of one grid, in memory."""

    values: Mapping[str, NDArray[np.float32]]
    """Modality → (band, y, x) in the units of :data:`radiometry.UNITS`; NaN = no value."""

    observations: NDArray[np.uint16]
    """(y, x): days with a clear Sentinel-2 observation; Sentinel-1 where the plan has no other."""

    last: NDArray[np.uint16]
    """(y, x): days since 1970-01-01 of the latest."""


def variables(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of a plan's product and their band names."""
    bands: dict[str, tuple[str, ...]] = {
        modality: plan.bands(modality) for modality in plan.recipe.inputs
    }
    bands["classes"] = plan.model.class_names if plan.model else ()
    return store.variables(
        bands,
        probabilities=plan.recipe.probabilities,
        composites=plan.recipe.composites,
        mapped=plan.model is not None,
    )


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
    area = plan.context(tile)
    seen = see(plan, tile, area, threads=threads)
    read = time.perf_counter()
    values = answer(plan, tile, area, seen, predictor)
    predicted = time.perf_counter()
    digests = store.write(folder / store.NAME, tile, values)
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
    lazy: dict[str, tuple[Any, Any, Any]] = {}
    touching = plan.scenes(tile)
    for modality in plan.recipe.inputs:
        scenes = [scene for scene in touching if scene.modality == modality]
        bands = plan.bands(modality)
        if scenes and bands:
            made = composite.of(
                modality,
                scenes,
                bands,
                area,
                clear_scl=plan.recipe.clear_scl,
                dilate_m=plan.recipe.dilate_m,
            )
            radiometry.expect(made.values, radiometry.UNITS[modality])
            lazy[modality] = (made.values.data, made.observations.data, made.last.data)
    (computed,) = dask.base.compute(lazy, scheduler="threads", num_workers=threads)
    # ^ not by dask.config: it is global, and tiles are made side by side
    empty = np.zeros(area.shape, dtype=np.uint16)
    _, observations, last = computed.get(_witness(plan.recipe.inputs), (None, empty, empty))
    return Seen(
        values={modality: values for modality, (values, _, _) in computed.items()},
        observations=observations,
        last=last,
    )


def _witness(inputs: Sequence[str]) -> str:
    """Return the modality whose days are counted: Sentinel-2, else Sentinel-1, else the first."""
    radar = [name for name in inputs if name.startswith("S1")]
    return "S2L2A" if "S2L2A" in inputs else (*radar, *inputs)[0]


def answer(
    plan: Plan, tile: Tile, area: Grid, seen: Seen, predictor: Predictor | None
) -> dict[str, NDArray[Any]]:
    """Return the stored values of every layer of a tile."""
    own = grid.inside(
        grid.project(geometry(plan.region), plan.grid.epsg),
        plan.grid.window(row=tile.row, column=tile.column, height=tile.height, width=tile.width),
    )
    part = _part(plan, tile, area)
    observations = seen.observations[part].copy()
    values: dict[str, NDArray[Any]] = {}
    if predictor is not None and plan.model is not None and plan.lattice is not None:
        placement = windows.place(plan.grid, tile, plan.lattice)
        blended = predict.probabilities(
            _at_the_door(plan, seen),
            seen.observations > 0,
            tile,
            placement,
            plan.lattice,
            predictor,
            batch=plan.model.batch,
        )
        values = classify(blended, plan.model.class_names, observations > 0)
        observations[(values["land_cover"] == classes.NODATA)] = 0
        if not plan.recipe.probabilities:
            del values["probabilities"]
    values["observations"] = observations
    values["last_observed"] = np.where(observations > 0, seen.last[part], 0)
    values["inputs_used"] = _bits(seen, part, observations > 0)
    if plan.recipe.composites:
        values |= _composites(plan, seen, part)
    return {name: _masked(name, layer, own) for name, layer in values.items()}


def _part(plan: Plan, tile: Tile, area: Grid) -> tuple[slice, slice]:
    row = round((area.top - plan.grid.top) / plan.grid.resolution) + tile.row
    column = round((plan.grid.left - area.left) / plan.grid.resolution) + tile.column
    return slice(row, row + tile.height), slice(column, column + tile.width)


def _at_the_door(plan: Plan, seen: Seen) -> dict[str, NDArray[np.float32]]:
    """Return the model's inputs: power becomes decibel here and nowhere earlier."""
    if plan.model is None:
        return {}
    return {
        name: radiometry.to_decibel(values) if name.startswith("S1") else values
        for name, values in seen.values.items()
        if name in plan.model.inputs
    }


def classify(
    probabilities: NDArray[np.float32],
    names: Sequence[str],
    observed: NDArray[np.bool_],
) -> dict[str, NDArray[np.uint8]]:
    """Turn blended probabilities into layers; what was not observed has no class.

    Args:
        probabilities: (class, y, x); NaN = no answer.
        names: names of the legend, in the order of the probabilities.
        observed: (y, x).
    """
    codes = np.array([classes.BY_NAME[name].code for name in names], dtype=np.uint8)
    known = np.where(np.isfinite(probabilities), probabilities, 0)
    order = np.argsort(-known, axis=0, kind="stable")[:2]
    best, second = np.take_along_axis(known, order, axis=0)
    none = np.isin(codes, [classes.BY_NAME[name].code for name in UNCLASSED])
    there = observed & np.isfinite(probabilities).all(axis=0) & ~none[order[0]]
    return {
        "land_cover": np.where(there, codes[order[0]], classes.NODATA).astype(np.uint8),
        "confidence": _percent(best, there),
        "second_class": np.where(there, codes[order[1]], classes.NODATA).astype(np.uint8),
        "margin": _percent(best - second, there),
        "probabilities": np.where(
            there, np.rint(known * 200), layers.get("probabilities").fill
        ).astype(np.uint8),
    }


def _percent(share: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(there, np.rint(share * 100), 255).astype(np.uint8)


def _bits(seen: Seen, part: tuple[slice, slice], observed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    bits = np.zeros(observed.shape, dtype=np.uint8)
    for modality, values in seen.values.items():
        bits[np.isfinite(values[(slice(None), *part)]).any(axis=0)] |= BITS[modality]
    return np.where(observed, bits, 0).astype(np.uint8)


def _composites(plan: Plan, seen: Seen, part: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
    result: dict[str, NDArray[Any]] = {}
    height, width = part[0].stop - part[0].start, part[1].stop - part[1].start
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        if not bands:
            continue
        layer = layers.get(f"composite_{modality}")
        missing = np.full((len(bands), height, width), np.nan, dtype=np.float32)
        values = seen.values[modality][(slice(None), *part)] if modality in seen.values else missing
        result[layer.name] = _stored(values, layer)
    return result


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
