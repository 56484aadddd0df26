"""The Zarr of a product: made once, written by whole shards, every byte checkable."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from zarr.codecs import ZstdCodec

from catalogs.errors import TerramosaicError
from pipeline.grid.grid import Grid, Tile
from pipeline.plan import layers
from pipeline.plan.layers import Layer
from pipeline.plan.plan import Plan
from pipeline.runtime import atomic_files, cancellation

STORE_NAME = "cube.zarr"
MAX_CHUNK_SIZE = 512

_T = TypeVar("_T")


def chunk_size(tile: int) -> int:
    """Return the side of a chunk: the largest divisor of the tile that is not above 512."""
    return next(size for size in range(min(tile, MAX_CHUNK_SIZE), 0, -1) if tile % size == 0)


def store_path(plan_dir: Path, plan: Plan, epsg: int, factor: int = 1) -> Path:
    """Return where a grid of a plan has its store: the cube itself, or its group of that grid.

    Args:
        plan_dir: the plan's folder.
        plan: the plan.
        epsg: the grid's coordinate system.
        factor: cells of the grid along a side of one cell of the layers: those of coarser answers
            lie in a group of their own, with coordinates of their own.
    """
    home = plan_dir / STORE_NAME if len(plan.grids) == 1 else plan_dir / STORE_NAME / str(epsg)
    return home if factor == 1 else home / f"cells_{factor}"


def create(plan_dir: Path, plan: Plan, layer_bands: Mapping[str, Sequence[str]]) -> None:
    """Make a plan's empty store in its folder: whole, or not at all. One shard is one tile.

    Nothing is erased: a store that stands there stays as it is.
    """
    if (plan_dir / STORE_NAME).exists():
        return
    plan_dir.mkdir(parents=True, exist_ok=True)
    with atomic_files.temporary_directory(plan_dir) as work:
        for grid in plan.grids:
            for factor, some in group_layers_by_factor(plan, layer_bands).items():
                path = store_path(work, plan, grid.epsg, factor)
                create_grid_store(path, grid.coarsen(factor), plan.tile_size // factor, some)
            _consolidate(store_path(work, plan, grid.epsg))
            # ^ once more: it names the groups inside
        if len(plan.grids) > 1:
            zarr.create_group(work / STORE_NAME, zarr_format=3)
            _consolidate(work / STORE_NAME)
        (work / STORE_NAME).rename(plan_dir / STORE_NAME)
    atomic_files.fsync(plan_dir)


def group_layers_by_factor(plan: Plan, by_layer: Mapping[str, _T]) -> dict[int, dict[str, _T]]:
    """Return layers by the cells of the grid that make one of theirs, the finest first."""
    found: dict[int, dict[str, _T]] = {}
    for name in sorted(by_layer, key=plan.coarsening_factor):
        found.setdefault(plan.coarsening_factor(name), {})[name] = by_layer[name]
    return found


def create_grid_store(
    path: Path, grid: Grid, tile: int, layer_bands: Mapping[str, Sequence[str]]
) -> None:
    """Write the empty store of one grid."""
    root = zarr.create_group(path, zarr_format=3)
    _write_coordinates(root, grid)
    side = chunk_size(tile)
    for name, bands in layer_bands.items():
        layer = layers.get(name)
        shape, dims, depth = _array_shape(layer, bands, grid)
        root.create_array(
            name,
            shape=shape,
            dtype=layer.dtype,
            chunks=(*(1,) * len(depth), side, side),
            shards=(*depth, tile, tile),
            compressors=[ZstdCodec(level=3, checksum=True)],
            # ^ without the checksum a flipped bit decodes to another map
            fill_value=layer.fill_value,
            dimension_names=dims,
            attributes=_attributes(layer, bands),
        )
    _consolidate(path)


_warnings_lock = threading.Lock()


def _consolidate(path: Path) -> None:
    with _warnings_lock, warnings.catch_warnings():
        # ^ what is filtered is of the process: two threads would put back each other's filters
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        # ^ not in the format's text yet, and what xarray.open_zarr looks for first all the same
        zarr.consolidate_metadata(path)


def _array_shape(
    layer: Layer, bands: Sequence[str], grid: Grid
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...]]:
    if layer.is_single_band:
        return grid.shape, ("y", "x"), ()
    dimension = f"band_{layer.name.removeprefix('composite_')}"
    # ^ one name per layer: xarray wants one length per dimension
    return (len(bands), *grid.shape), (dimension, "y", "x"), (len(bands),)


def _attributes(layer: Layer, bands: Sequence[str]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "long_name": layer.title,
        "description": layer.description,
        "grid_mapping": "spatial_ref",
        "coordinates": "spatial_ref",
    }
    if not np.isnan(layer.nodata):
        attributes["nodata"] = layer.nodata
    if layer.unit:
        attributes["unit"] = layer.unit
        # ^ not units: xarray would turn "days" into times
    if layer.scale != 1.0:
        attributes["scale"] = layer.scale
        # ^ not scale_factor: values stay as stored, exact
    if not layer.is_single_band:
        attributes["bands"] = list(bands)
    return attributes


def _write_coordinates(root: zarr.Group, grid: Grid) -> None:
    crs = CRS.from_epsg(grid.epsg)
    transform = " ".join(repr(value) for value in grid.transform.to_gdal())
    georeference = {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": transform}
    root.create_array("spatial_ref", data=np.array(0), attributes=georeference)
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    for name, values in (("x", xs), ("y", ys)):
        root.create_array(
            name,
            data=values,
            dimension_names=(name,),
            attributes={
                "standard_name": f"projection_{name}_coordinate",
                "units": "m",
                "axis": name.upper(),
            },
        )


def write_tile(
    plan_dir: Path, plan: Plan, tile: Tile, values: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Write all layers of a tile of a plan; return layer → sha256 of its values."""
    digests: dict[str, str] = {}
    for factor, some in group_layers_by_factor(plan, values).items():
        digests |= write_layers(
            store_path(plan_dir, plan, tile.epsg, factor), tile.coarsen(factor), some
        )
    return digests


def read_tile(
    plan_dir: Path, plan: Plan, tile: Tile, layer_names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Read layers of a tile of a plan: (tile.height, tile.width), or with bands before them.

    Raises:
        TerramosaicError: the bytes do not decode.
    """
    found: dict[str, NDArray[Any]] = {}
    for factor, some in group_layers_by_factor(plan, dict.fromkeys(layer_names)).items():
        path, part = store_path(plan_dir, plan, tile.epsg, factor), tile.coarsen(factor)
        rows = slice(part.row, part.row + part.height)
        columns = slice(part.column, part.column + part.width)
        found |= {name: read_layer(path, name, rows, columns) for name in some}
    return found


def check_tile(
    plan_dir: Path, plan: Plan, tile: Tile, digests: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Compare all stored values of a tile of a plan with their digests, as :func:`check_layers` does."""
    found: list[tuple[str, str]] = []
    for factor, some in group_layers_by_factor(plan, digests).items():
        found += check_layers(
            store_path(plan_dir, plan, tile.epsg, factor), tile.coarsen(factor), some
        )
    return found


def write_layers(path: Path, tile: Tile, values: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Write a tile's layers, each a whole shard.

    Args:
        path: the store.
        tile: where on the grid.
        values: layer → (tile.height, tile.width) or (band, tile.height, tile.width).

    Returns:
        Layer → sha256 of its values.
    """
    root = zarr.open_group(path, mode="r+")
    digests = {}
    for name, data in values.items():
        array = _open_array(root, name).with_config({"write_empty_chunks": True})
        # ^ an unwritten chunk reads as fill: lost, empty and not done would look the same; and not
        # ^ by zarr.config, which is global: tiles are written side by side
        stored = np.ascontiguousarray(data, dtype=array.dtype)
        for file in _shard_files(path, name, tile, root):
            file.unlink(missing_ok=True)
            # ^ at the edge of the grid zarr would read the old one first, which may be damaged
        array[_tile_selection(array, tile)] = stored
        digests[name] = hashlib.sha256(stored.tobytes()).hexdigest()
    _sync_shards(path, values, tile, root)
    return digests


def _sync_shards(path: Path, names: Mapping[str, Any], tile: Tile, root: zarr.Group) -> None:
    """Force the tile's shards onto the disk, before a receipt says that they are there."""
    for name in names:
        for file in _shard_files(path, name, tile, root):
            atomic_files.fsync(file)


def _shard_files(path: Path, name: str, tile: Tile, root: zarr.Group) -> list[Path]:
    array = _open_array(root, name)
    rows, columns = (array.shards or array.chunks)[-2:]
    leading = ["0"] * (array.ndim - 2)
    return [path.joinpath(name, "c", *leading, str(tile.row // rows), str(tile.column // columns))]


def read_layer(path: Path, layer_name: str, rows: slice, columns: slice) -> NDArray[Any]:
    """Read a part of a layer: (rows, columns) or (band, rows, columns).

    Raises:
        TerramosaicError: the bytes do not decode, so the store is damaged.
        Cancelled: they are no longer wanted.
    """
    cancellation.check_cancelled()
    root = zarr.open_group(path, mode="r")
    try:
        return np.asarray(_open_array(root, layer_name)[(..., rows, columns)])
    except (ValueError, RuntimeError, OSError) as error:
        raise TerramosaicError(
            f"{path.name}/{layer_name} is damaged in rows {rows.start}-{rows.stop}, columns "
            f"{columns.start}-{columns.stop} ({error}). "
            "terramosaic verify names the tiles; run the job again to make them anew."
        ) from error


def check_layers(path: Path, tile: Tile, digests: Mapping[str, str]) -> list[tuple[str, str]]:
    """Compare a tile's stored values with their digests.

    Returns:
        (file, reason) of each layer that is not what was written; empty = all is well.

    Raises:
        Cancelled: nobody wants to know any longer.
    """
    cancellation.check_cancelled()
    try:
        root = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        return [(path.name, f"the store cannot be opened: {type(error).__name__}")]
    bad = []
    for name, expected in digests.items():
        reason = _find_damage(root, path, name, tile, expected)
        if reason:
            bad.append((f"{path.name}/{name}", reason))
    return bad


def _find_damage(root: zarr.Group, path: Path, name: str, tile: Tile, expected: str) -> str | None:
    try:
        array = _open_array(root, name)
        if not all(file.exists() for file in _shard_files(path, name, tile, root)):
            return "the shard is missing"
        values = np.ascontiguousarray(array[_tile_selection(array, tile)])
    except KeyError:
        return "the layer is missing"
    except (ValueError, RuntimeError, OSError) as error:
        return f"the shard does not decode: {error}"
    if hashlib.sha256(values.tobytes()).hexdigest() != expected:
        return "the values are not those that the receipt vouches for"
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
        # ^ two writers in one shard lose each other's pixels without a word
    return (
        ...,
        slice(tile.row, tile.row + tile.height),
        slice(tile.column, tile.column + tile.width),
    )
