"""Join the layers of several UTM zones on one grid, by nearest neighbour.

Nothing is interpolated or averaged: every value of the mosaic is a value of a zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box

from pipeline import layer_table
from pipeline.grid import grid as grids
from pipeline.grid.grid import Grid, Tile
from pipeline.plan.plan import Plan, from_geojson
from pipeline.storage import zarr_store
from pipeline.storage.store import Store, StoreLike

NEIGHBOUR_OFFSETS = sorted(
    product((-1, 0, 1), repeat=2), key=lambda step: (abs(step[0]) + abs(step[1]), step)
)
"""Offsets from the nearest pixel to itself and its eight neighbours, the closest first."""

OBSERVATION_LAYER = "observations"
"""The layer that every plan has; its valid pixels are those of a zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zone:
    """One grid of the plan, as a source of the mosaic."""

    grid: Grid
    store: Store
    """Its Zarr group."""

    area: Any
    """Its part of the region, in the mosaic's coordinates."""

    to_zone: Transformer


def write_mosaic(
    plan: Plan,
    plan_dir: StoreLike,
    grid: Grid,
    location: StoreLike,
    layer_bands: Mapping[str, Sequence[str]],
) -> None:
    """Write the layers of all zones of a plan into a new Zarr group on one grid.

    Args:
        plan: a plan whose tiles are finished.
        plan_dir: the plan's folder.
        grid: the mosaic's grid, one of the plan's.
        location: folder of the group; the caller deletes it.
        layer_bands: layer → bands.
    """
    zarr_store.create_grid_store(location, plan, grid, plan.tile_size, layer_bands)
    for tile, values, _ in _iter_tiles(plan, plan_dir, grid, layer_bands, min_zones=0):
        zarr_store.write_layers(location, tile, values)


def iter_border_tiles(
    plan: Plan, plan_dir: StoreLike, grid: Grid, layer_bands: Mapping[str, Sequence[str]]
) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]]:
    """Yield the tiles of a mosaic in which zones meet.

    Args:
        plan: a plan whose tiles are finished.
        plan_dir: the plan's folder.
        grid: the mosaic's grid, one of the plan's.
        layer_bands: layer → bands, :data:`OBSERVATION_LAYER` among them.

    Yields:
        Layer → values, and (y, x) the number of the zone that each pixel was taken from, from 1;
        0 where there is none.
    """
    for _, values, owner in _iter_tiles(plan, plan_dir, grid, layer_bands, min_zones=2):
        yield values, owner


def _iter_tiles(
    plan: Plan,
    plan_dir: StoreLike,
    grid: Grid,
    layer_bands: Mapping[str, Sequence[str]],
    min_zones: int,
) -> Iterator[tuple[Tile, dict[str, NDArray[Any]], NDArray[np.uint8]]]:
    """Yield the joined tiles of a mosaic that at least ``min_zones`` zones intersect.

    Tiles without a pixel of the region are left out, as their shards would hold only nodata.
    """
    zones = [
        _Zone(
            grid=zone_grid,
            store=zarr_store.grid_store(plan_dir, plan, zone_grid.epsg),
            area=grids.project(plan.region_for(zone_grid.epsg), grid.epsg),
            to_zone=Transformer.from_crs(grid.epsg, zone_grid.epsg, always_xy=True),
        )
        for zone_grid in plan.grids
    ]
    region = grids.project(from_geojson(plan.region), grid.epsg)
    tiles = grids.split_into_tiles(grid, plan.tile_size)
    for tile in grids.select_tiles(tiles, grid, region):
        area = grid.window(row=tile.row, column=tile.column, height=tile.height, width=tile.width)
        if sum(zone.area.intersects(box(*area.bounds)) for zone in zones) >= min_zones:
            yield tile, *_merge_zones(plan, zones, region, area, layer_bands)


def _merge_zones(
    plan: Plan,
    zones: Sequence[_Zone],
    region: Any,
    area: Grid,
    layer_bands: Mapping[str, Sequence[str]],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
    missing = grids.rasterize_region(region, area)
    values = {
        name: _allocate(plan.layer(name), len(bands), area) for name, bands in layer_bands.items()
    }
    owner = np.zeros(area.shape, dtype=np.uint8)
    passes = [
        (number, grids.rasterize_region(zone.area, area)) for number, zone in enumerate(zones)
    ]
    passes += [(number, missing) for number, _ in enumerate(zones)]
    # ^ second pass: a pixel whose own zone has no data at its place takes another zone's pixel
    for number, mask in passes:
        before = missing.copy()
        _copy_nearest(zones[number], mask & missing, missing, area, values)
        owner[before & ~missing] = number + 1
    return values, owner


def _allocate(layer: layer_table.Layer, bands: int, area: Grid) -> NDArray[Any]:
    shape = area.shape if layer.is_single_band else (bands, *area.shape)
    return np.full(shape, layer.fill_value, dtype=layer.dtype)


def _copy_nearest(
    zone: _Zone,
    target: NDArray[np.bool_],
    missing: NDArray[np.bool_],
    area: Grid,
    values: Mapping[str, NDArray[Any]],
) -> None:
    """Copy the nearest pixel of a zone to each target pixel, and unset it in ``missing``."""
    into_rows, into_columns = np.nonzero(target)
    if not into_rows.size:
        return
    x = area.left + (into_columns + 0.5) * area.resolution
    y = area.top - (into_rows + 0.5) * area.resolution
    east, north = zone.to_zone.transform(x, y)
    rows = np.floor((zone.grid.top - north) / zone.grid.resolution).astype(np.int64)
    columns = np.floor((east - zone.grid.left) / zone.grid.resolution).astype(np.int64)
    r0, r1 = max(int(rows.min()) - 1, 0), min(int(rows.max()) + 2, zone.grid.height)
    c0, c1 = max(int(columns.min()) - 1, 0), min(int(columns.max()) + 2, zone.grid.width)
    if r0 >= r1 or c0 >= c1:
        return
    source = {
        name: zarr_store.read_layer(zone.store, name, slice(r0, r1), slice(c0, c1))
        for name in values
    }
    is_own = layer_table.get(OBSERVATION_LAYER).valid_mask(source[OBSERVATION_LAYER])
    for down, right in NEIGHBOUR_OFFSETS:
        row, column = rows + down - r0, columns + right - c0
        usable = (row >= 0) & (row < r1 - r0) & (column >= 0) & (column < c1 - c0)
        usable &= missing[into_rows, into_columns]
        usable[usable] = is_own[row[usable], column[usable]]
        into = into_rows[usable], into_columns[usable]
        for name, layer_values in values.items():
            layer_values[(..., *into)] = source[name][(..., row[usable], column[usable])]
        missing[into] = False
