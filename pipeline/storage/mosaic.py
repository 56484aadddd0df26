"""Several zones' layers on one grid: each of its pixels is the nearest pixel of one zone.

Nothing is interpolated or averaged: a value of the mosaic is a value of the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box

from pipeline.grid import grid as grids
from pipeline.grid.grid import Grid, Tile
from pipeline.plan import layers
from pipeline.plan.plan import Plan, from_geojson
from pipeline.storage import zarr_store

NEIGHBOUR_OFFSETS = sorted(
    product((-1, 0, 1), repeat=2), key=lambda step: (abs(step[0]) + abs(step[1]), step)
)
"""Steps from the nearest pixel to itself and the eight around it, the closest first."""

OBSERVATION_LAYER = "observations"
"""The layer that every plan has, and that tells a zone's own pixels from all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zone:
    """What a mosaic needs of one grid of the plan."""

    grid: Grid
    path: Path
    area: Any
    """The ground of the zone, in the mosaic's coordinates."""

    to_zone: Transformer


def write_mosaic(
    plan: Plan, plan_dir: Path, grid: Grid, path: Path, layer_bands: Mapping[str, Sequence[str]]
) -> None:
    """Write the layers of all zones of a plan into a new store on one grid.

    Args:
        plan: a plan whose tiles are finished.
        plan_dir: the plan's folder.
        grid: the mosaic's grid, one of the plan's.
        path: the store to make; it is the caller's to remove.
        layer_bands: layer → bands.
    """
    zarr_store.create_grid_store(path, grid, plan.tile_size, layer_bands)
    for tile, values, _ in _iter_tiles(plan, plan_dir, grid, layer_bands, min_zones=0):
        zarr_store.write_layers(path, tile, values)


def iter_border_tiles(
    plan: Plan, plan_dir: Path, grid: Grid, layer_bands: Mapping[str, Sequence[str]]
) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]]:
    """Return the tiles of a mosaic in which zones meet.

    Args:
        plan: a plan whose tiles are finished.
        plan_dir: the plan's folder.
        grid: the mosaic's grid, one of the plan's.
        layer_bands: layer → bands, :data:`OBSERVATION_LAYER` among them.

    Returns:
        Layer → values, and (y, x) the number of the zone that each pixel was taken from, from 1;
        0 where there is none.
    """
    for _, values, owner in _iter_tiles(plan, plan_dir, grid, layer_bands, min_zones=2):
        yield values, owner


def _iter_tiles(
    plan: Plan, plan_dir: Path, grid: Grid, layer_bands: Mapping[str, Sequence[str]], min_zones: int
) -> Iterator[tuple[Tile, dict[str, NDArray[Any]], NDArray[np.uint8]]]:
    """Return the tiles of a mosaic that so many zones reach, joined."""
    parts = [
        _Zone(
            grid=one,
            path=zarr_store.store_path(plan_dir, plan, one.epsg),
            area=grids.project(plan.region_for(one.epsg), grid.epsg),
            to_zone=Transformer.from_crs(grid.epsg, one.epsg, always_xy=True),
        )
        for one in plan.grids
    ]
    inside = grids.project(from_geojson(plan.region), grid.epsg)
    for tile in grids.split_into_tiles(grid, plan.tile_size):
        area = grid.window(row=tile.row, column=tile.column, height=tile.height, width=tile.width)
        if sum(part.area.intersects(box(*area.bounds)) for part in parts) >= min_zones:
            yield tile, *_merge_zones(parts, inside, area, layer_bands)


def _merge_zones(
    zones: Sequence[_Zone], region: Any, area: Grid, layer_bands: Mapping[str, Sequence[str]]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
    missing = grids.rasterize_region(region, area)
    values = {
        name: _allocate(layers.get(name), len(bands), area) for name, bands in layer_bands.items()
    }
    owner = np.zeros(area.shape, dtype=np.uint8)
    turns = [(number, grids.rasterize_region(zone.area, area)) for number, zone in enumerate(zones)]
    turns += [(number, missing) for number, _ in enumerate(zones)]
    # ^ where a zone's own nearest pixel is another zone's ground, that zone's pixel is as near
    for number, wanted in turns:
        before = missing.copy()
        _copy_nearest(zones[number], wanted & missing, missing, area, values)
        owner[before & ~missing] = number + 1
    return values, owner


def _allocate(layer: layers.Layer, bands: int, area: Grid) -> NDArray[Any]:
    shape = area.shape if layer.is_single_band else (bands, *area.shape)
    return np.full(shape, layer.fill_value, dtype=layer.dtype)


def _copy_nearest(
    zone: _Zone,
    wanted: NDArray[np.bool_],
    missing: NDArray[np.bool_],
    area: Grid,
    values: Mapping[str, NDArray[Any]],
) -> None:
    """Copy the nearest pixel of a zone to each wanted pixel, and strike it off the missing ones."""
    into_rows, into_columns = np.nonzero(wanted)
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
    held = {
        name: zarr_store.read_layer(zone.path, name, slice(r0, r1), slice(c0, c1))
        for name in values
    }
    own = layers.get(OBSERVATION_LAYER).valid_mask(held[OBSERVATION_LAYER])
    for down, right in NEIGHBOUR_OFFSETS:
        row, column = rows + down - r0, columns + right - c0
        there = (row >= 0) & (row < r1 - r0) & (column >= 0) & (column < c1 - c0)
        there &= missing[into_rows, into_columns]
        there[there] = own[row[there], column[there]]
        into = into_rows[there], into_columns[there]
        for name, target in values.items():
            target[(..., *into)] = held[name][(..., row[there], column[there])]
        missing[into] = False
