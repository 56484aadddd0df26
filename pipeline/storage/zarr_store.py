"""Write and read the Zarr store of a plan; one tile is one shard of each layer."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from catalogs.errors import TerramosaicError
from pipeline.grid.grid import Grid, Tile
from pipeline.layer_table import Layer
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation
from pipeline.storage import zarr_attributes
from pipeline.storage.store import Store, StoreLike, open_store, read_json

STORE_NAME = "cube.zarr"
METADATA_NAME = "zarr.json"
MAX_CHUNK_SIZE = 512

_T = TypeVar("_T")


def chunk_size(tile: int) -> int:
    """Return the side of a chunk: the largest divisor of the tile's side up to MAX_CHUNK_SIZE."""
    return next(size for size in range(min(tile, MAX_CHUNK_SIZE), 0, -1) if tile % size == 0)


def grid_store_name(plan: Plan, epsg: int, factor: int = 1) -> str:
    """Return the name of the Zarr group of one grid in the folder of a plan.

    Args:
        plan: the plan.
        epsg: coordinate system of the grid.
        factor: coarsening factor of the layers: coarser layers lie in a group of their own, with
            their own coordinates.
    """
    name = STORE_NAME if len(plan.grids) == 1 else f"{STORE_NAME}/{epsg}"
    return name if factor == 1 else f"{name}/cells_{factor}"


def grid_store(plan_dir: StoreLike, plan: Plan, epsg: int, factor: int = 1) -> Store:
    """Return the Zarr group of one grid of a plan; see :func:`grid_store_name`."""
    return open_store(plan_dir).child(grid_store_name(plan, epsg, factor))


def create(plan_dir: StoreLike, plan: Plan, layer_bands: Mapping[str, Sequence[str]]) -> None:
    """Create the empty Zarr store of a plan, whole or not at all.

    Of a store that exists, only attributes and coordinates are brought up to date: an earlier
    version may have begun it.

    Args:
        plan_dir: the plan's folder.
        plan: the plan.
        layer_bands: layer → names of its bands.
    """
    store = open_store(plan_dir)
    with store.temporary_directory() as directory:
        _create_draft(directory, plan, layer_bands)
        if not store.exists(STORE_NAME):
            store.adopt(directory / STORE_NAME, STORE_NAME)
        elif _update_attributes(store.child(STORE_NAME), open_store(directory / STORE_NAME)):
            _consolidate_all(store, plan)


def _create_draft(directory: Path, plan: Plan, layer_bands: Mapping[str, Sequence[str]]) -> None:
    """Create the empty store of a plan in a temporary directory."""
    if len(plan.grids) > 1:
        attributes = zarr_attributes.describe_root(plan)
        zarr.create_group(directory / STORE_NAME, zarr_format=3, attributes=attributes)
    for grid in plan.grids:
        for factor, bands in group_layers_by_factor(plan, layer_bands).items():
            draft = grid_store(directory, plan, grid.epsg, factor)
            side = plan.tile_size // factor
            create_grid_store(draft, plan, grid.coarsen(factor), side, bands)
    _consolidate_all(open_store(directory), plan)


def _consolidate_all(store: Store, plan: Plan) -> None:
    """Write the consolidated metadata of all grids, including the groups of coarser layers."""
    for grid in plan.grids:
        _consolidate(grid_store(store, plan, grid.epsg))
    if len(plan.grids) > 1:
        _consolidate(store.child(STORE_NAME))


def _update_attributes(store: Store, draft: Store) -> bool:
    """Give a store the attributes and coordinates of a draft; return whether any were missing.

    Metadata that cannot be read are replaced; shape and chunks of arrays are never changed.
    """
    changed = False
    for name in draft.glob("**/*"):
        if not name.endswith(METADATA_NAME):
            content = None if store.exists(name) else draft.read(name)
            # ^ the values of a coordinate
        else:
            content = _merge_attributes(store, draft, name)
        if content is not None:
            store.write(name, content)
            changed = True
    return changed


def _merge_attributes(store: Store, draft: Store, name: str) -> bytes | None:
    """Return the metadata of a node with the attributes of a draft; None where it has them."""
    planned = read_json(draft, name)
    try:
        current = read_json(store, name)
    except (FileNotFoundError, ValueError):
        return draft.read(name)
    if current.get("attributes") == planned["attributes"]:
        return None
    merged = {**current, "attributes": planned["attributes"]}
    return json.dumps(merged, indent=2, allow_nan=False).encode()


def group_layers_by_factor(plan: Plan, by_layer: Mapping[str, _T]) -> dict[int, dict[str, _T]]:
    """Return a mapping of layers by their coarsening factor, the finest first."""
    by_factor: dict[int, dict[str, _T]] = {}
    for name in sorted(by_layer, key=plan.coarsening_factor):
        by_factor.setdefault(plan.coarsening_factor(name), {})[name] = by_layer[name]
    return by_factor


def create_grid_store(
    location: StoreLike, plan: Plan, grid: Grid, tile: int, layer_bands: Mapping[str, Sequence[str]]
) -> None:
    """Create the empty Zarr group of one grid, with coordinates and an array per layer.

    Args:
        location: the folder of the group.
        plan: the plan, which has the layers.
        grid: the grid.
        tile: side of a tile, cells of the grid: that of a shard.
        layer_bands: layer → names of its bands.
    """
    store = open_store(location)
    root = zarr.create_group(
        store.zarr_store(), zarr_format=3, attributes=zarr_attributes.describe_group(plan, grid)
    )
    _write_coordinates(root, grid)
    side = chunk_size(tile)
    for name, bands in layer_bands.items():
        layer = plan.layer(name)
        shape, dims, depth = _array_shape(layer, bands, grid)
        if depth:
            root.create_array(
                dims[0],
                data=np.array(bands, dtype=np.dtypes.StringDType()),
                dimension_names=dims[:1],
                attributes={"long_name": f"band of {layer.title}"},
            )
        root.create_array(
            name,
            shape=shape,
            dtype=layer.dtype,
            chunks=(*(1,) * len(depth), side, side),
            shards=(*depth, tile, tile),
            compressors=[ZstdCodec(level=3, checksum=True)],
            # ^ without the checksum a flipped bit would go unnoticed
            fill_value=layer.fill_value,
            dimension_names=dims,
            attributes=zarr_attributes.describe_layer(layer, grid),
        )
    _consolidate(store)


_warnings_lock = threading.Lock()


def _consolidate(store: Store) -> None:
    with _warnings_lock, warnings.catch_warnings():
        # ^ filters belong to the process: two threads would restore each other's
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        # ^ not part of the Zarr 3 specification yet, but read first by xarray.open_zarr
        zarr.consolidate_metadata(store.zarr_store())


def _array_shape(
    layer: Layer, bands: Sequence[str], grid: Grid
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...]]:
    if layer.is_single_band:
        return grid.shape, ("y", "x"), ()
    dimension = f"band_{layer.name.removeprefix('composite_')}"
    # ^ one name per layer: in xarray a dimension has one length
    return (len(bands), *grid.shape), (dimension, "y", "x"), (len(bands),)


def _write_coordinates(root: zarr.Group, grid: Grid) -> None:
    root.create_array(
        zarr_attributes.GRID_MAPPING,
        data=np.array(0),
        attributes=zarr_attributes.describe_grid_mapping(grid),
    )
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    for name, values in (("x", xs), ("y", ys)):
        root.create_array(
            name,
            data=values,
            dimension_names=(name,),
            attributes=zarr_attributes.describe_coordinate(name),
        )


def write_tile(
    plan_dir: StoreLike, plan: Plan, tile: Tile, values: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Write all layers of a tile of a plan; return layer → SHA-256 of its values."""
    digests: dict[str, str] = {}
    for factor, layer_values in group_layers_by_factor(plan, values).items():
        group = grid_store(plan_dir, plan, tile.epsg, factor)
        digests |= write_layers(group, tile.coarsen(factor), layer_values)
    return digests


def read_tile(
    plan_dir: StoreLike, plan: Plan, tile: Tile, layer_names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Read layers of a tile of a plan: (tile.height, tile.width), or with bands before them.

    Raises:
        TerramosaicError: a shard is damaged.
    """
    values: dict[str, NDArray[Any]] = {}
    for factor, names in group_layers_by_factor(plan, dict.fromkeys(layer_names)).items():
        group, cells = grid_store(plan_dir, plan, tile.epsg, factor), tile.coarsen(factor)
        rows = slice(cells.row, cells.row + cells.height)
        columns = slice(cells.column, cells.column + cells.width)
        values |= {name: read_layer(group, name, rows, columns) for name in names}
    return values


def check_tile(
    plan_dir: StoreLike, plan: Plan, tile: Tile, digests: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Compare all stored values of a tile of a plan with their digests, by :func:`check_layers`."""
    damages: list[tuple[str, str]] = []
    for factor, layer_digests in group_layers_by_factor(plan, digests).items():
        group = grid_store(plan_dir, plan, tile.epsg, factor)
        damages += check_layers(group, tile.coarsen(factor), layer_digests)
    return damages


def write_layers(
    location: StoreLike, tile: Tile, values: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Write the layers of a tile, each a whole shard, and make them durable.

    Args:
        location: the folder of the grid's Zarr group.
        tile: position on the grid.
        values: layer → (tile.height, tile.width) or (band, tile.height, tile.width).

    Returns:
        Layer → SHA-256 of its values.
    """
    store = open_store(location)
    root = zarr.open_group(store.zarr_store(), mode="r+")
    digests, shards = {}, []
    for name, data in values.items():
        array = _open_array(root, name).with_config({"write_empty_chunks": True})
        # ^ an unwritten chunk reads as the fill value: lost and empty chunks would look the same.
        # ^ Set per array, as zarr.config is global and tiles are written in parallel
        stored = np.ascontiguousarray(data, dtype=array.dtype)
        shard = _shard_name(name, tile, array)
        store.delete(shard)
        # ^ at the edge of the grid zarr would first read the old shard, which may be damaged
        array[_tile_selection(array, tile)] = stored
        shards.append(shard)
        digests[name] = hashlib.sha256(stored.tobytes()).hexdigest()
    store.sync(shards)
    # ^ before a receipt states that they exist
    return digests


def _shard_name(layer_name: str, tile: Tile, array: zarr.Array[Any]) -> str:
    """Return the name of a tile's shard in the folder of its Zarr group."""
    rows, columns = (array.shards or array.chunks)[-2:]
    bands = ["0"] * (array.ndim - 2)
    position = [*bands, str(tile.row // rows), str(tile.column // columns)]
    return "/".join([layer_name, "c", *position])


def read_layer(location: StoreLike, layer_name: str, rows: slice, columns: slice) -> NDArray[Any]:
    """Read a window of a layer: (rows, columns) or (band, rows, columns).

    Raises:
        TerramosaicError: a shard is damaged.
        Cancelled: the run was cancelled.
    """
    cancellation.check_cancelled()
    store = open_store(location)
    root = zarr.open_group(store.zarr_store(), mode="r")
    try:
        return np.asarray(_open_array(root, layer_name)[(..., rows, columns)])
    except (ValueError, RuntimeError, OSError) as error:
        raise TerramosaicError(
            f"{store.name}/{layer_name} is damaged in rows {rows.start}-{rows.stop}, columns "
            f"{columns.start}-{columns.stop} ({error}). "
            "terramosaic verify lists the damaged tiles; run the job again to rebuild them."
        ) from error


def check_layers(
    location: StoreLike, tile: Tile, digests: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Compare the stored values of a tile with their digests.

    Returns:
        (file, reason) of each layer that differs; empty if none does.

    Raises:
        Cancelled: the run was cancelled.
    """
    cancellation.check_cancelled()
    store = open_store(location)
    try:
        root = zarr.open_group(store.zarr_store(), mode="r")
    except (OSError, ValueError, KeyError) as error:
        return [(store.name, f"the store cannot be opened: {type(error).__name__}")]
    damages = []
    for name, digest in digests.items():
        reason = _find_damage(root, store, name, tile, digest)
        if reason:
            damages.append((f"{store.name}/{name}", reason))
    return damages


def _find_damage(root: zarr.Group, store: Store, name: str, tile: Tile, digest: str) -> str | None:
    """Return what is wrong with a layer of a tile; None if nothing is."""
    try:
        array = _open_array(root, name)
        if not store.exists(_shard_name(name, tile, array)):
            return "the shard is missing"
        values = np.ascontiguousarray(array[_tile_selection(array, tile)])
    except KeyError:
        return "the layer is missing"
    except (ValueError, RuntimeError, OSError) as error:
        return f"the shard does not decode: {error}"
    if hashlib.sha256(values.tobytes()).hexdigest() != digest:
        return "the values differ from those listed in the receipt"
    return None


def _open_array(root: zarr.Group, name: str) -> zarr.Array[Any]:
    member = root[name]
    if not isinstance(member, zarr.Array):
        raise KeyError(name)
    return member


def _tile_selection(array: zarr.Array[Any], tile: Tile) -> tuple[Any, ...]:
    sides = (array.shards or array.chunks)[-2:]
    if tile.row % sides[0] or tile.column % sides[1]:
        raise AssertionError(f"tile {tile.id} does not begin at a shard")
        # ^ two writers of one shard would silently overwrite each other's pixels
    return (
        ...,
        slice(tile.row, tile.row + tile.height),
        slice(tile.column, tile.column + tile.width),
    )
