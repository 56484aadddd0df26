"""One tile, from scenes to receipt."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs.scene import TIMELESS, Scene
from pipeline.compositing import units
from pipeline.compositing.stream import Roll, Seen, Strip, strips
from pipeline.grid import grid
from pipeline.grid.grid import Grid, Tile
from pipeline.inference import classify, consistency, downsample, tiled
from pipeline.inference.batching import Count, Shared
from pipeline.inference.blend import Rows
from pipeline.inference.predictor import Predictor
from pipeline.inference.tiled import Look, Sample
from pipeline.plan import layers
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation, io_statistics
from pipeline.storage import receipt, zarr_store
from pipeline.storage.receipt import Receipt

BITS = {
    "S2L2A": layers.S2,
    "S2L1C": layers.S2,
    "S1RTC": layers.S1,
    "S1GRD": layers.S1,
    "DEM": layers.DEM,
}
LANES = 2
"""Batches side by side on a CPU: between two windows of one its cores go on with the other."""

COUNTS = ("observations", "first_observed", "last_observed", "inputs_used")
"""The layers that every product has: what was seen."""


def variables(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of a plan's product and their band names."""
    keep = plan.recipe.probabilities
    answer = classify.variables(plan.model, probabilities=keep) if plan.model else {}
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
    plan: Plan,
    tile: Tile,
    predictor: Predictor | None,
    folder: Path,
    *,
    threads: int,
    shared: Shared | None = None,
) -> Receipt:
    """Make one tile: read, compose, predict, write, and then say so.

    Args:
        plan: the frozen plan.
        tile: one of its tiles.
        predictor: the model; None where the plan has none.
        folder: the plan's folder; its store exists.
        threads: threads that read and compose.
        shared: what neighbouring tiles have asked the same model of the same plan already.

    Raises:
        Unreadable: an asset could not be read; nothing of the tile is written.
        Halted: the tile is no longer wanted; nothing of it is written.
    """
    started = time.perf_counter()
    scenes = plan.scenes(tile)
    made = Making(plan, tile)
    with io_statistics.counted() as moved:
        made.run(scenes, predictor, threads=threads, shared=shared)
    values = made.values()
    cancellation.look()
    writing = time.perf_counter()
    digests = zarr_store.write_tile(folder, plan, tile, values)
    ended = time.perf_counter()
    done = Receipt(
        tile=tile.id,
        key=plan.key(tile),
        scenes=tuple(sorted(scene.id for scene in scenes)),
        digests=digests,
        coverage=_coverage(values["observations"]),
        versions=versions(),
        seconds={
            "read": round(made.read, 3),
            "predict": round(made.count.seconds, 3),
            "write": round(ended - writing, 3),
            "tile": round(ended - started, 3),
        },
        samples=made.samples,
        traffic=moved.to_dict(),
    )
    receipt.write(folder, tile, done)
    return done


class Making:
    """The stored values of one tile, as they come in row by row."""

    def __init__(self, plan: Plan, tile: Tile) -> None:
        self._plan, self._tile = plan, tile
        self._area = plan.area(tile)
        self._context = plan.context(tile)
        self._placement, self._lattice = plan.placement(tile), plan.lattice
        self._held = {
            name: _blank(name, bands, self._area, plan.factor(name))
            for name, bands in variables(plan).items()
        }
        ground = grid.project(plan.ground(tile.epsg), tile.epsg)
        self._own = {
            factor: grid.inside(ground, self._area.coarsened(factor))
            for factor in {1, *(plan.factor(name) for name in self._held)}
        }
        self.count = Count()
        self.read = 0.0
        """Seconds of reading and composing."""

        self.samples: dict[str, Any] = {}

    def run(
        self,
        scenes: tuple[Scene, ...],
        predictor: Predictor | None,
        *,
        threads: int,
        shared: Shared | None = None,
    ) -> None:
        """Read the scenes, and ask the model where there is one."""
        coming = strips(self._plan, scenes, self._context, threads=threads)
        lattice, placement, model = self._lattice, self._placement, self._plan.model
        if predictor is None or not (model and placement and lattice):
            for strip in coming:
                self._take(strip)
            return
        modalities = {
            name: len(bands)
            for name, bands in model.inputs.items()
            if any(scene.modality == name for scene in scenes)
        }
        found: list[Sample] = []
        for part in tiled.blended(
            self._looks(coming, Roll(modalities, self._context.width)),
            placement,
            lattice,
            predictor,
            batch=model.batch,
            count=self.count,
            average_below=self._plan.recipe.average_below,
            shared=shared,
            lanes=1 if model.device == "cuda" else LANES,
        ):
            if isinstance(part, Sample):
                found.append(part)
            else:
                self._answer(part)
        self.samples = {
            "windows": self.count.used,
            "shared": self.count.shared,
            "silent": self.count.silent,
            **consistency.of(self._plan, placement, found, self._held.get("land_cover"), predictor),
        }

    def _looks(self, coming: Iterator[Strip], roll: Roll) -> Iterator[Look]:
        """Yield the rows of windows, and the samples where they lie among them."""
        placement, lattice = self._placement, self._lattice
        if placement is None or lattice is None:
            raise AssertionError("only a model has windows")
        beside = consistency.places(placement, lattice, self._plan.coarsest)

        def look(row: int, columns: tuple[int, ...], *, sampled: bool) -> Look:
            while roll.stop < row + lattice.window:
                strip = next(coming)
                self._take(strip)
                roll.take(strip)
            values, observed = roll.rows(row, row + lattice.window)
            return Look(row=row, columns=columns, values=values, observed=observed, sample=sampled)

        for row in placement.rows:
            columns = tuple(one for one in placement.columns if self._wanted(row, one))
            yield look(row, columns, sampled=False)
            for other in (one for one in beside if row <= one < row + lattice.stride):
                yield look(other, beside[other], sampled=True)
            roll.forget(row + lattice.stride)
        for strip in coming:
            self._take(strip)

    def _wanted(self, row: int, column: int) -> bool:
        """Tell whether a window that begins there sees any pixel that the tile answers for."""
        placement, lattice = self._placement, self._lattice
        if placement is None or lattice is None:
            return False
        cell, (above, left) = self._plan.cell, placement.offset
        rows = slice(max(row - above, 0) // cell, max(row + lattice.window - above, 0) // cell)
        columns = slice(
            max(column - left, 0) // cell, max(column + lattice.window - left, 0) // cell
        )
        return bool(self._own[1][rows, columns].any())

    def _take(self, strip: Strip) -> None:
        """Store what the scenes say in some rows, whatever the model makes of them."""
        cancellation.look()
        self.read += strip.seconds
        cell = self._plan.cell
        own = self._plan.pixels(self._area)
        above = round((self._context.top - own.top) / own.resolution)
        left = round((own.left - self._context.left) / own.resolution)
        first = max(strip.row, above)
        stop = min(strip.stop, above + own.height)
        if first >= stop:
            return
        part = slice(first - strip.row, stop - strip.row), slice(left, left + own.width)
        into = slice((first - above) // cell, (stop - above) // cell)
        seen = strip.seen
        for name, values in self._counted(seen, part).items():
            self._held[name][..., into, :] = values

    def _counted(self, seen: Seen, part: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        plan = self._plan
        observations = downsample.reached(seen.observations[part], plan.cell)
        some = observations > 0
        values: dict[str, NDArray[Any]] = {
            "observations": observations,
            "first_observed": np.where(some, downsample.earliest(seen.first[part], plan.cell), 0),
            "last_observed": np.where(some, downsample.latest(seen.last[part], plan.cell), 0),
            "inputs_used": _bits(plan, seen, part, some),
        }
        if plan.recipe.composites:
            values |= _composites(plan, seen, part, observations.shape)
        if seen.steps:
            values |= _parts(plan, seen.steps, part, observations.shape)
        return values

    def _answer(self, rows: Rows) -> None:
        """Store the finished rows of the model's answers."""
        model = self._plan.model
        if model is None:
            raise AssertionError("only a model answers")
        seen = self._held["observations"]
        for said, blended in zip(model.answers, rows.values, strict=True):
            factor = said.cell // self._plan.cell
            fine = slice(rows.first // self._plan.cell, rows.stop // self._plan.cell)
            observed = downsample.reached(seen[fine], factor) > 0
            into = slice(rows.first // said.cell, rows.stop // said.cell)
            found = classify.of(
                said, blended, observed, probabilities=self._plan.recipe.probabilities
            )
            for name, values in found.items():
                self._held[name][..., into, :] = values

    def values(self) -> dict[str, NDArray[Any]]:
        """Return the stored values of every layer; nodata outside the region."""
        for name, values in self._held.items():
            values[..., ~self._own[self._plan.factor(name)]] = layers.get(name).fill
        return self._held


def _blank(name: str, bands: tuple[str, ...], area: Grid, factor: int) -> NDArray[Any]:
    layer = layers.get(name)
    shape = area.coarsened(factor).shape
    return np.full(shape if layer.planar else (len(bands), *shape), layer.fill, dtype=layer.dtype)


def _bits(
    plan: Plan, seen: Seen, part: tuple[slice, slice], observed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    bits = np.zeros(observed.shape, dtype=np.uint8)
    for modality, values in seen.values.items():
        if modality in plan.given:
            there = np.asarray(np.isfinite(values.values[(slice(None), *part)]).any(axis=0))
            bits[downsample.some(there, plan.cell)] |= BITS[modality]
    return np.where(observed, bits, 0).astype(np.uint8)


def _composites(
    plan: Plan, seen: Seen, part: tuple[slice, slice], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    result: dict[str, NDArray[Any]] = {}
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        if not bands:
            continue
        layer = layers.get(f"composite_{modality}")
        values = np.full((len(bands), *shape), np.nan, dtype=np.float32)
        if modality in seen.values:
            held = seen.values[modality]
            units.expect(held, units.UNITS[modality])
            values = downsample.mean(held.values[(slice(None), *part)], plan.cell)
        result[layer.name] = _stored(values, layer)
    return result


def _parts(
    plan: Plan, steps: tuple[Seen, ...], part: tuple[slice, slice], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Return the layers of :func:`_series`: composites and counts of each part of the period."""
    made = [_composites(plan, one, part, shape) for one in steps]
    result = {
        name: np.concatenate([one[name.replace("series_", "composite_")] for one in made])
        for name in _series(plan)
        if name != "series_observations"
    }
    counts = [downsample.reached(one.observations[part], plan.cell) for one in steps]
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


def _coverage(observations: NDArray[np.uint16]) -> dict[str, float]:
    own = observations != layers.get("observations").fill
    inside = float(own.mean())
    seen = float((own & (observations > 0)).sum() / max(int(own.sum()), 1))
    return {"inside": round(inside, 6), "observed": round(seen, 6)}


def versions() -> dict[str, str]:
    """Return the versions that a pixel may depend on."""
    names = ("terramosaic", "numpy", "rasterio", "stackstac", "torch", "zarr")
    return {name: importlib.metadata.version(name) for name in names}
