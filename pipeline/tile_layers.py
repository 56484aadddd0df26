"""The layers of a plan, and the stored values of one tile, filled row by row."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs.sensors import get_sensor
from pipeline import layer_table
from pipeline.compositing.composite_block import CompositeBlock
from pipeline.compositing.strip_reader import Strip
from pipeline.grid import grid
from pipeline.grid.grid import Grid, Tile
from pipeline.inference import downsample, output_layers
from pipeline.inference.blend import BlendedRows
from pipeline.layer_table import Layer
from pipeline.plan.plan import Plan
from pipeline.reading import units
from pipeline.storage.receipt import BandValues, PixelCounts

OBSERVATION_LAYERS = ("observations", "first_observed", "last_observed", "inputs_used")
"""The layers that every product has: what was observed, and when."""


def list_layer_bands(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of a plan's product: name → names of the bands."""
    outputs = (
        output_layers.list_output_layers(
            plan.model, include_probabilities=plan.recipe.probabilities
        )
        if plan.model
        else {}
    )
    observations = {name: layer_table.get(name).band_names() for name in OBSERVATION_LAYERS}
    composites = {
        f"composite_{modality}": plan.bands(modality)
        for modality in plan.recipe.inputs
        if plan.recipe.composites and plan.bands(modality)
    }
    return outputs | observations | composites | _list_series_bands(plan)


def _list_series_bands(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the layers of the parts of the period: one band for each part and band."""
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


class TileLayers:
    """The stored values of all layers of one tile; strips and blended rows fill them."""

    def __init__(self, plan: Plan, tile: Tile) -> None:
        """Allocate all layers, filled with nodata.

        Args:
            plan: the plan.
            tile: one of its tiles, or a part of one.
        """
        self._plan, self._tile = plan, tile
        self._context_grid = plan.context_grid(tile)
        tile_grid = plan.tile_grid(tile)
        self._pixel_grid = plan.pixel_grid(tile_grid)
        self._values = {
            name: _nodata_array(plan.layer(name), bands, tile_grid, plan.coarsening_factor(name))
            for name, bands in list_layer_bands(plan).items()
        }
        region = grid.project(plan.region_for(tile.epsg), tile.epsg)
        self._region_masks = {
            factor: grid.rasterize_region(region, tile_grid.coarsen(factor))
            for factor in {1, *(plan.coarsening_factor(name) for name in self._values)}
        }
        self._band_values: dict[str, dict[str, BandValues]] = {}

    @functools.cached_property
    def region_mask(self) -> NDArray[np.bool_]:
        """Return which cells of the tile's grid lie in the region, or in a coarser cell that does.

        (y, x); a region may hold the centre of a coarse cell and none of the cells in it.
        """
        mask = self._region_masks[1].copy()
        for factor, coarse_mask in self._region_masks.items():
            enlarged = coarse_mask.repeat(factor, axis=0).repeat(factor, axis=1)
            mask |= enlarged[: mask.shape[0], : mask.shape[1]]
        return mask

    def get(self, name: str) -> NDArray[Any] | None:
        """Return the values of a layer as stored so far; None where the plan has no such layer."""
        return self._values.get(name)

    def store_strip(self, strip: Strip) -> None:
        """Store counts, days and composites of the rows of a strip that belong to the tile."""
        stride = self._plan.output_stride
        context, pixels = self._context_grid, self._pixel_grid
        top = round((context.top - pixels.top) / pixels.resolution)
        left = round((pixels.left - context.left) / pixels.resolution)
        first = max(strip.first_row, top)
        stop = min(strip.stop_row, top + pixels.height)
        if first >= stop:
            return
        source = (
            slice(first - strip.first_row, stop - strip.first_row),
            slice(left, left + pixels.width),
        )
        target = slice((first - top) // stride, (stop - top) // stride)
        for name, values in _strip_values(self._plan, strip.composites, source).items():
            self._values[name][..., target, :] = values
        in_region = self.region_mask[target].repeat(stride, axis=0).repeat(stride, axis=1)
        for modality, composite in strip.composites.values.items():
            counts = self._band_values.setdefault(modality, {})
            bands = composite.coords["band"].values.tolist()
            for band, values in zip(bands, composite.values, strict=True):
                band_values = _summarise_values(values[source][in_region])
                counts[band] = counts[band].join(band_values) if band in counts else band_values

    def store_outputs(self, rows: BlendedRows) -> None:
        """Classify finished rows of the model's outputs and store their layers.

        The strips of these rows must have been stored before: what was not observed has no
        output.
        """
        model, stride = self._plan.model, self._plan.output_stride
        if model is None:
            raise AssertionError("a plan without a model has no outputs")
        cells = slice(rows.start // stride, rows.stop // stride)
        observations = self._values["observations"][cells]
        for output_spec, blended in zip(model.outputs, rows.values, strict=True):
            observed = downsample.upper_median(observations, output_spec.stride // stride) > 0
            target = slice(rows.start // output_spec.stride, rows.stop // output_spec.stride)
            layer_values = output_layers.to_layers(
                output_spec,
                blended,
                observed,
                include_probabilities=self._plan.recipe.probabilities,
            )
            for name, values in layer_values.items():
                self._values[name][..., target, :] = values

    def finalize(self, tile: Tile) -> dict[str, NDArray[Any]]:
        """Set everything outside of the region to nodata, and return the values by layer.

        Args:
            tile: the whole tile, where the layers are those of a part: the rest is nodata.
        """
        for name, values in self._values.items():
            outside = ~self._region_masks[self._plan.coarsening_factor(name)]
            values[..., outside] = self._plan.layer(name).fill_value
        if tile == self._tile:
            return self._values
        return {
            name: self._pad_to_tile(name, values, tile) for name, values in self._values.items()
        }

    def _pad_to_tile(self, name: str, values: NDArray[Any], tile: Tile) -> NDArray[Any]:
        factor = self._plan.coarsening_factor(name)
        whole, part = tile.coarsen(factor), self._tile.coarsen(factor)
        row, column = part.row - whole.row, part.column - whole.column
        shape = (*values.shape[:-2], whole.height, whole.width)
        padded = np.full(shape, self._plan.layer(name).fill_value, dtype=values.dtype)
        padded[..., row : row + part.height, column : column + part.width] = values
        return padded

    def count_pixels(self) -> PixelCounts:
        """Return the counts of pixels with values inside the region; call it after finalize."""
        cells = int(self.region_mask.sum())
        outputs: dict[str, tuple[int, int]] = {}
        for output in self._plan.model.outputs if self._plan.model else ():
            values = self._values[output.layer_name]
            valid = self._plan.layer(output.layer_name).valid_mask(values)
            region = self._region_masks[self._plan.coarsening_factor(output.layer_name)]
            outputs[output.layer_name] = (
                int(region.sum()),
                int((valid.any(axis=0) if values.ndim == 3 else valid).sum()),
            )
        observations = self._values["observations"][self.region_mask]
        return PixelCounts(
            pixels=cells * self._plan.output_stride**2,
            cells=cells,
            observed=int((observations > 0).sum()),
            bands=self._band_values,
            outputs=outputs,
        )


def _summarise_values(values: NDArray[np.float32]) -> BandValues:
    """Return how many values there are, the least and the largest; NaN = no value."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return BandValues(pixels=0, low=None, high=None)
    return BandValues(pixels=finite.size, low=float(finite.min()), high=float(finite.max()))


def _nodata_array(layer: Layer, bands: tuple[str, ...], area: Grid, factor: int) -> NDArray[Any]:
    shape = area.coarsen(factor).shape
    return np.full(
        shape if layer.is_single_band else (len(bands), *shape), layer.fill_value, dtype=layer.dtype
    )


def _strip_values(
    plan: Plan, block: CompositeBlock, source: tuple[slice, slice]
) -> dict[str, NDArray[Any]]:
    """Return the stored values of all layers that do not come from the model.

    Args:
        plan: the plan.
        block: the composites of a strip.
        source: rows and columns of the strip that belong to the tile.
    """
    stride = plan.output_stride
    observations = downsample.upper_median(block.observations[source], stride)
    observed = observations > 0
    first_day = downsample.earliest_day(block.first_day[source], stride)
    last_day = downsample.latest_day(block.last_day[source], stride)
    values: dict[str, NDArray[Any]] = {
        "observations": observations,
        "first_observed": np.where(observed, first_day, 0),
        "last_observed": np.where(observed, last_day, 0),
        "inputs_used": _input_bits(plan, block, source, observed),
    }
    if plan.recipe.composites:
        values |= _composite_values(plan, block, source, observations.shape)
    if block.steps:
        values |= _series_values(plan, block.steps, source, observations.shape)
    return values


def _input_bits(
    plan: Plan, block: CompositeBlock, source: tuple[slice, slice], observed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    bits = np.zeros(observed.shape, dtype=np.uint8)
    for modality, composite in block.values.items():
        if modality in plan.model_inputs:
            valid = np.asarray(np.isfinite(composite.values[(slice(None), *source)]).any(axis=0))
            bit = get_sensor(modality).input_flag.bit
            bits[downsample.any_pixel(valid, plan.output_stride)] |= bit
    return np.where(observed, bits, 0).astype(np.uint8)


def _composite_values(
    plan: Plan, block: CompositeBlock, source: tuple[slice, slice], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Return the stored values of the composite layers; nodata where no scene was read."""
    stored: dict[str, NDArray[Any]] = {}
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        if not bands:
            continue
        layer = layer_table.get(f"composite_{modality}")
        values = np.full((len(bands), *shape), np.nan, dtype=np.float32)
        if modality in block.values:
            composite = block.values[modality]
            units.check_unit(composite, get_sensor(modality).unit)
            values = downsample.mean(composite.values[(slice(None), *source)], plan.output_stride)
        stored[layer.name] = _cast_to_layer(values, layer)
    return stored


def _series_values(
    plan: Plan,
    steps: tuple[CompositeBlock, ...],
    source: tuple[slice, slice],
    shape: tuple[int, ...],
) -> dict[str, NDArray[Any]]:
    """Return the stored values of the layers of the parts of the period."""
    composites = [_composite_values(plan, step, source, shape) for step in steps]
    series = {
        name: np.concatenate(
            [values[name.replace("series_", "composite_")] for values in composites]
        )
        for name in _list_series_bands(plan)
        if name != "series_observations"
    }
    counts = [
        downsample.upper_median(step.observations[source], plan.output_stride) for step in steps
    ]
    return {"series_observations": np.stack(counts)} | series


def _cast_to_layer(values: NDArray[np.float32], layer: Layer) -> NDArray[Any]:
    """Convert (band, y, x) values to the data type of a layer, NaN to its nodata."""
    if np.issubdtype(np.dtype(layer.dtype), np.floating):
        stored: NDArray[Any] = values.astype(layer.dtype)
    else:
        limits = np.iinfo(layer.dtype)
        rounded = np.clip(np.rint(values), limits.min + 1, limits.max)
        # ^ the smallest integer is nodata; reflectances above 3.2767 are saturated clouds
        stored = np.where(np.isfinite(values), rounded, layer.fill_value).astype(layer.dtype)
    return stored[0] if layer.is_single_band else stored
