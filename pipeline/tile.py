"""One tile, from scenes to receipt."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs.scene import Scene
from catalogs.sensors import get_sensor
from pipeline.compositing.stream import CompositeBlock, RowBuffer, Strip, read_strips
from pipeline.grid import grid
from pipeline.grid.grid import Grid, Tile
from pipeline.inference import classify, consistency, downsample, tiled
from pipeline.inference.batching import WindowCache, WindowStats
from pipeline.inference.blend import BlendedRows
from pipeline.inference.predictor import Predictor
from pipeline.inference.tiled import SampleWindow, WindowRow
from pipeline.plan import layers
from pipeline.plan.plan import Plan
from pipeline.reading import units
from pipeline.runtime import cancellation, io_statistics
from pipeline.storage import receipt, zarr_store
from pipeline.storage.receipt import Receipt
from pipeline.storage.store import StoreLike

CPU_PARALLEL_BATCHES = 2
"""Batches side by side on a CPU: between two windows of one its cores go on with the other."""

OBSERVATION_LAYERS = ("observations", "first_observed", "last_observed", "inputs_used")
"""The layers that every product has: what was seen."""


def list_layer_bands(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of a plan's product and their band names."""
    keep = plan.recipe.probabilities
    answer = (
        classify.list_output_layers(plan.model, include_probabilities=keep) if plan.model else {}
    )
    counts = {name: layers.get(name).band_names() for name in OBSERVATION_LAYERS}
    composites = {
        f"composite_{modality}": plan.bands(modality)
        for modality in plan.recipe.inputs
        if plan.recipe.composites and plan.bands(modality)
    }
    return answer | counts | composites | _series_layer_bands(plan)


def _series_layer_bands(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of the parts of the period: a band for each part and band."""
    starts = [start for start, _ in plan.recipe.steps]
    if not starts or not plan.recipe.composites:
        return {}
    return {"series_observations": tuple(starts)} | {
        f"series_{modality}": tuple(
            f"{start}_{band}" for start in starts for band in plan.bands(modality)
        )
        for modality in plan.recipe.inputs
        if get_sensor(modality).is_temporal and plan.bands(modality)
    }


def build_tile(
    plan: Plan,
    tile: Tile,
    predictor: Predictor | None,
    folder: StoreLike,
    *,
    threads: int,
    window_cache: WindowCache | None = None,
) -> Receipt:
    """Make one tile: read, compose, predict, write, and then say so.

    Args:
        plan: the frozen plan.
        tile: one of its tiles.
        predictor: the model; None where the plan has none.
        folder: the plan's folder; its store exists.
        threads: threads that read and compose.
        window_cache: what neighbouring tiles have asked the same model of the same plan already.

    Raises:
        AssetReadError: an asset could not be read; nothing of the tile is written.
        Cancelled: the tile is no longer wanted; nothing of it is written.
    """
    started = time.perf_counter()
    scenes = plan.tile_scenes(tile)
    made = TileBuilder(plan, tile)
    with io_statistics.collect() as moved:
        made.process_strips(scenes, predictor, threads=threads, window_cache=window_cache)
    values = made.finalize_values()
    cancellation.check_cancelled()
    writing = time.perf_counter()
    digests = zarr_store.write_tile(folder, plan, tile, values)
    ended = time.perf_counter()
    done = Receipt(
        tile=tile.id,
        key=plan.tile_key(tile),
        scenes=tuple(sorted(scene.id for scene in scenes)),
        digests=digests,
        coverage=_coverage_shares(values["observations"]),
        versions=package_versions(),
        seconds={
            "read": round(made.read_seconds, 3),
            "predict": round(made.window_stats.seconds, 3),
            "write": round(ended - writing, 3),
            "tile": round(ended - started, 3),
        },
        samples=made.samples,
        traffic=moved.to_dict(),
    )
    receipt.write(folder, tile, done)
    return done


class TileBuilder:
    """The stored values of one tile, as they come in row by row."""

    def __init__(self, plan: Plan, tile: Tile) -> None:
        self._plan, self._tile = plan, tile
        self._tile_grid = plan.tile_grid(tile)
        self._context_grid = plan.context_grid(tile)
        self._placement, self._lattice = plan.window_placement(tile), plan.lattice
        self._layer_values = {
            name: _nodata_array(name, bands, self._tile_grid, plan.coarsening_factor(name))
            for name, bands in list_layer_bands(plan).items()
        }
        ground = grid.project(plan.region_for(tile.epsg), tile.epsg)
        self._region_masks = {
            factor: grid.rasterize_region(ground, self._tile_grid.coarsen(factor))
            for factor in {1, *(plan.coarsening_factor(name) for name in self._layer_values)}
        }
        self.window_stats = WindowStats()
        self.read_seconds = 0.0
        """Seconds of reading and composing."""

        self.samples: dict[str, Any] = {}

    def process_strips(
        self,
        scenes: tuple[Scene, ...],
        predictor: Predictor | None,
        *,
        threads: int,
        window_cache: WindowCache | None = None,
    ) -> None:
        """Read the scenes, and ask the model where there is one."""
        coming = read_strips(self._plan, scenes, self._context_grid, threads=threads)
        lattice, placement, model = self._lattice, self._placement, self._plan.model
        if predictor is None or not (model and placement and lattice):
            for strip in coming:
                self._store_strip(strip)
            return
        modalities = {
            name: len(bands)
            for name, bands in model.inputs.items()
            if any(scene.modality == name for scene in scenes)
        }
        found: list[SampleWindow] = []
        for part in tiled.predict_tile(
            self._iter_window_rows(coming, RowBuffer(modalities, self._context_grid.width)),
            placement,
            lattice,
            predictor,
            batch_size=model.batch,
            stats=self.window_stats,
            tta_threshold=self._plan.recipe.average_below,
            window_cache=window_cache,
            parallel_batches=1 if model.device == "cuda" else CPU_PARALLEL_BATCHES,
        ):
            if isinstance(part, SampleWindow):
                found.append(part)
            else:
                self._store_predictions(part)
        self.samples = {
            "windows": self.window_stats.used,
            "shared": self.window_stats.cache_hits,
            "silent": self.window_stats.non_finite,
            **consistency.compare_samples(
                self._plan, placement, found, self._layer_values.get("land_cover"), predictor
            ),
        }

    def _iter_window_rows(
        self, strip_iterator: Iterator[Strip], row_buffer: RowBuffer
    ) -> Iterator[WindowRow]:
        """Yield the rows of windows, and the samples where they lie among them."""
        placement, lattice = self._placement, self._lattice
        if placement is None or lattice is None:
            raise AssertionError("only a model has windows")
        beside = consistency.select_sample_windows(placement, lattice, self._plan.max_output_stride)

        def look(row: int, columns: tuple[int, ...], *, sampled: bool) -> WindowRow:
            while row_buffer.stop_row < row + lattice.window:
                strip = next(strip_iterator)
                self._store_strip(strip)
                row_buffer.append(strip)
            values, observed = row_buffer.read_rows(row, row + lattice.window)
            return WindowRow(
                row=row, columns=columns, inputs=values, observed=observed, is_sample=sampled
            )

        for row in placement.window_rows:
            columns = tuple(
                one for one in placement.window_columns if self._is_window_needed(row, one)
            )
            yield look(row, columns, sampled=False)
            for other in (one for one in beside if row <= one < row + lattice.stride):
                yield look(other, beside[other], sampled=True)
            row_buffer.drop_above(row + lattice.stride)
        for strip in strip_iterator:
            self._store_strip(strip)

    def _is_window_needed(self, row: int, column: int) -> bool:
        """Tell whether a window that begins there sees any pixel that the tile answers for."""
        placement, lattice = self._placement, self._lattice
        if placement is None or lattice is None:
            return False
        cell, (above, left) = self._plan.output_stride, placement.tile_offset
        rows = slice(max(row - above, 0) // cell, max(row + lattice.window - above, 0) // cell)
        columns = slice(
            max(column - left, 0) // cell, max(column + lattice.window - left, 0) // cell
        )
        return bool(self._region_masks[1][rows, columns].any())

    def _store_strip(self, strip: Strip) -> None:
        """Store what the scenes say in some rows, whatever the model makes of them."""
        cancellation.check_cancelled()
        self.read_seconds += strip.read_seconds
        cell = self._plan.output_stride
        own = self._plan.pixel_grid(self._tile_grid)
        above = round((self._context_grid.top - own.top) / own.resolution)
        left = round((own.left - self._context_grid.left) / own.resolution)
        first = max(strip.first_row, above)
        stop = min(strip.stop_row, above + own.height)
        if first >= stop:
            return
        part = slice(first - strip.first_row, stop - strip.first_row), slice(left, left + own.width)
        into = slice((first - above) // cell, (stop - above) // cell)
        seen = strip.composites
        for name, values in self._strip_layers(seen, part).items():
            self._layer_values[name][..., into, :] = values

    def _strip_layers(
        self, block: CompositeBlock, part: tuple[slice, slice]
    ) -> dict[str, NDArray[Any]]:
        plan = self._plan
        observations = downsample.upper_median(block.observations[part], plan.output_stride)
        some = observations > 0
        values: dict[str, NDArray[Any]] = {
            "observations": observations,
            "first_observed": np.where(
                some, downsample.earliest_day(block.first_day[part], plan.output_stride), 0
            ),
            "last_observed": np.where(
                some, downsample.latest_day(block.last_day[part], plan.output_stride), 0
            ),
            "inputs_used": _input_bits(plan, block, part, some),
        }
        if plan.recipe.composites:
            values |= _composite_values(plan, block, part, observations.shape)
        if block.steps:
            values |= _series_values(plan, block.steps, part, observations.shape)
        return values

    def _store_predictions(self, rows: BlendedRows) -> None:
        """Store the finished rows of the model's answers."""
        model = self._plan.model
        if model is None:
            raise AssertionError("only a model answers")
        seen = self._layer_values["observations"]
        for said, blended in zip(model.outputs, rows.values, strict=True):
            factor = said.stride // self._plan.output_stride
            fine = slice(
                rows.start // self._plan.output_stride, rows.stop // self._plan.output_stride
            )
            observed = downsample.upper_median(seen[fine], factor) > 0
            into = slice(rows.start // said.stride, rows.stop // said.stride)
            found = classify.to_layers(
                said, blended, observed, include_probabilities=self._plan.recipe.probabilities
            )
            for name, values in found.items():
                self._layer_values[name][..., into, :] = values

    def finalize_values(self) -> dict[str, NDArray[Any]]:
        """Return the stored values of every layer; nodata outside the region."""
        for name, values in self._layer_values.items():
            values[..., ~self._region_masks[self._plan.coarsening_factor(name)]] = layers.get(
                name
            ).fill_value
        return self._layer_values


def _nodata_array(name: str, bands: tuple[str, ...], area: Grid, factor: int) -> NDArray[Any]:
    layer = layers.get(name)
    shape = area.coarsen(factor).shape
    return np.full(
        shape if layer.is_single_band else (len(bands), *shape), layer.fill_value, dtype=layer.dtype
    )


def _input_bits(
    plan: Plan, block: CompositeBlock, part: tuple[slice, slice], observed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    bits = np.zeros(observed.shape, dtype=np.uint8)
    for modality, values in block.values.items():
        if modality in plan.model_inputs:
            there = np.asarray(np.isfinite(values.values[(slice(None), *part)]).any(axis=0))
            bit = get_sensor(modality).input_flag.bit
            bits[downsample.any_pixel(there, plan.output_stride)] |= bit
    return np.where(observed, bits, 0).astype(np.uint8)


def _composite_values(
    plan: Plan, block: CompositeBlock, part: tuple[slice, slice], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    result: dict[str, NDArray[Any]] = {}
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        if not bands:
            continue
        layer = layers.get(f"composite_{modality}")
        values = np.full((len(bands), *shape), np.nan, dtype=np.float32)
        if modality in block.values:
            held = block.values[modality]
            units.check_unit(held, get_sensor(modality).unit)
            values = downsample.mean(held.values[(slice(None), *part)], plan.output_stride)
        result[layer.name] = _cast_to_layer(values, layer)
    return result


def _series_values(
    plan: Plan, steps: tuple[CompositeBlock, ...], part: tuple[slice, slice], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Return the layers of :func:`_series_layer_bands`: composites and counts of each part of the period."""
    made = [_composite_values(plan, one, part, shape) for one in steps]
    result = {
        name: np.concatenate([one[name.replace("series_", "composite_")] for one in made])
        for name in _series_layer_bands(plan)
        if name != "series_observations"
    }
    counts = [downsample.upper_median(one.observations[part], plan.output_stride) for one in steps]
    return {"series_observations": np.stack(counts)} | result


def _cast_to_layer(values: NDArray[np.float32], layer: layers.Layer) -> NDArray[Any]:
    if np.issubdtype(np.dtype(layer.dtype), np.floating):
        stored: NDArray[Any] = values.astype(layer.dtype)
    else:
        limits = np.iinfo(layer.dtype)
        whole = np.clip(np.rint(values), limits.min + 1, limits.max)
        # ^ the lowest number is nodata; reflectances above 3.2767 are saturated clouds
        stored = np.where(np.isfinite(values), whole, layer.fill_value).astype(layer.dtype)
    return stored[0] if layer.is_single_band else stored


def _coverage_shares(observations: NDArray[np.uint16]) -> dict[str, float]:
    own = observations != layers.get("observations").fill_value
    inside = float(own.mean())
    seen = float((own & (observations > 0)).sum() / max(int(own.sum()), 1))
    return {"inside": round(inside, 6), "observed": round(seen, 6)}


def package_versions() -> dict[str, str]:
    """Return the versions that a pixel may depend on."""
    names = ("terramosaic", "numpy", "rasterio", "stackstac", "torch", "zarr")
    return {name: importlib.metadata.version(name) for name in names}
