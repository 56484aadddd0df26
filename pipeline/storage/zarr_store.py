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

NAME = "cube.zarr"
LARGEST_CHUNK = 512

_T = TypeVar("_T")


def chunk(tile: int) -> int:
    """Return the side of a chunk: the largest divisor of the tile that is not above 512."""
    return next(size for size in range(min(tile, LARGEST_CHUNK), 0, -1) if tile % size == 0)


def of(folder: Path, plan: Plan, epsg: int, factor: int = 1) -> Path:
    """Return where a grid of a plan has its store: the cube itself, or its group of that grid.

    Args:
        folder: the plan's folder.
        plan: the plan.
        epsg: the grid's coordinate system.
        factor: cells of the grid along a side of one cell of the layers: those of coarser answers
            lie in a group of their own, with coordinates of their own.
    """
    home = folder / NAME if len(plan.grids) == 1 else folder / NAME / str(epsg)
    return home if factor == 1 else home / f"cells_{factor}"


def create(folder: Path, plan: Plan, names: Mapping[str, Sequence[str]]) -> None:
    """Make a plan's empty store in its folder: whole, or not at all. One shard is one tile.

    Nothing is erased: a store that stands there stays as it is.
    """
    if (folder / NAME).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files.workspace(folder) as work:
        for grid in plan.grids:
            for factor, some in sheets(plan, names).items():
                path = of(work, plan, grid.epsg, factor)
                blank(path, grid.coarsened(factor), plan.tile // factor, some)
            _consolidate(of(work, plan, grid.epsg))
            # ^ once more: it names the groups inside
        if len(plan.grids) > 1:
            zarr.create_group(work / NAME, zarr_format=3)
            _consolidate(work / NAME)
        (work / NAME).rename(folder / NAME)
    atomic_files.sync(folder)


def sheets(plan: Plan, names: Mapping[str, _T]) -> dict[int, dict[str, _T]]:
    """Return layers by the cells of the grid that make one of theirs, the finest first."""
    found: dict[int, dict[str, _T]] = {}
    for name in sorted(names, key=plan.factor):
        found.setdefault(plan.factor(name), {})[name] = names[name]
    return found


def blank(path: Path, grid: Grid, tile: int, names: Mapping[str, Sequence[str]]) -> None:
    """Write the empty store of one grid."""
    root = zarr.create_group(path, zarr_format=3)
    _write_coordinates(root, grid)
    side = chunk(tile)
    for name, bands in names.items():
        layer = layers.get(name)
        shape, dims, depth = _shape(layer, bands, grid)
        root.create_array(
            name,
            shape=shape,
            dtype=layer.dtype,
            chunks=(*(1,) * len(depth), side, side),
            shards=(*depth, tile, tile),
            compressors=[ZstdCodec(level=3, checksum=True)],
            # ^ without the checksum a flipped bit decodes to another map
            fill_value=layer.fill,
            dimension_names=dims,
            attributes=_attributes(layer, bands),
        )
    _consolidate(path)


_warnings = threading.Lock()


def _consolidate(path: Path) -> None:
    with _warnings, warnings.catch_warnings():
        # ^ what is filtered is of the process: two threads would put back each other's filters
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        # ^ not in the format's text yet, and what xarray.open_zarr looks for first all the same
        zarr.consolidate_metadata(path)


def _shape(
    layer: Layer, bands: Sequence[str], grid: Grid
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...]]:
    if layer.planar:
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
    if not layer.planar:
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
    folder: Path, plan: Plan, tile: Tile, values: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Write all layers of a tile of a plan; return layer → sha256 of its values."""
    digests: dict[str, str] = {}
    for factor, some in sheets(plan, values).items():
        digests |= write(of(folder, plan, tile.epsg, factor), tile.coarsened(factor), some)
    return digests


def read_tile(
    folder: Path, plan: Plan, tile: Tile, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Read layers of a tile of a plan: (tile.height, tile.width), or with bands before them.

    Raises:
        TerramosaicError: the bytes do not decode.
    """
    found: dict[str, NDArray[Any]] = {}
    for factor, some in sheets(plan, dict.fromkeys(names)).items():
        path, part = of(folder, plan, tile.epsg, factor), tile.coarsened(factor)
        rows = slice(part.row, part.row + part.height)
        columns = slice(part.column, part.column + part.width)
        found |= {name: read(path, name, rows, columns) for name in some}
    return found


def check_tile(
    folder: Path, plan: Plan, tile: Tile, digests: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Compare all stored values of a tile of a plan with their digests, as :func:`check` does."""
    found: list[tuple[str, str]] = []
    for factor, some in sheets(plan, digests).items():
        found += check(of(folder, plan, tile.epsg, factor), tile.coarsened(factor), some)
    return found


def write(path: Path, tile: Tile, values: Mapping[str, NDArray[Any]]) -> dict[str, str]:
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
        array = _array(root, name).with_config({"write_empty_chunks": True})
        # ^ an unwritten chunk reads as fill: lost, empty and not done would look the same; and not
        # ^ by zarr.config, which is global: tiles are written side by side
        stored = np.ascontiguousarray(data, dtype=array.dtype)
        for file in _shard_files(path, name, tile, root):
            file.unlink(missing_ok=True)
            # ^ at the edge of the grid zarr would read the old one first, which may be damaged
        array[_place(array, tile)] = stored
        digests[name] = hashlib.sha256(stored.tobytes()).hexdigest()
    _sync_shards(path, values, tile, root)
    return digests


def _sync_shards(path: Path, names: Mapping[str, Any], tile: Tile, root: zarr.Group) -> None:
    """Force the tile's shards onto the disk, before a receipt says that they are there."""
    for name in names:
        for file in _shard_files(path, name, tile, root):
            atomic_files.sync(file)


def _shard_files(path: Path, name: str, tile: Tile, root: zarr.Group) -> list[Path]:
    array = _array(root, name)
    rows, columns = (array.shards or array.chunks)[-2:]
    leading = ["0"] * (array.ndim - 2)
    return [path.joinpath(name, "c", *leading, str(tile.row // rows), str(tile.column // columns))]


def read(path: Path, name: str, rows: slice, columns: slice) -> NDArray[Any]:
    """Read a part of a layer: (rows, columns) or (band, rows, columns).

    Raises:
        TerramosaicError: the bytes do not decode, so the store is damaged.
        Halted: they are no longer wanted.
    """
    cancellation.look()
    root = zarr.open_group(path, mode="r")
    try:
        return np.asarray(_array(root, name)[(..., rows, columns)])
    except (ValueError, RuntimeError, OSError) as error:
        raise TerramosaicError(
            f"{path.name}/{name} is damaged in rows {rows.start}-{rows.stop}, columns "
            f"{columns.start}-{columns.stop} ({error}). "
            "terramosaic verify names the tiles; run the job again to make them anew."
        ) from error


def check(path: Path, tile: Tile, digests: Mapping[str, str]) -> list[tuple[str, str]]:
    """Compare a tile's stored values with their digests.

    Returns:
        (file, reason) of each layer that is not what was written; empty = all is well.

    Raises:
        Halted: nobody wants to know any longer.
    """
    cancellation.look()
    try:
        root = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        return [(path.name, f"the store cannot be opened: {type(error).__name__}")]
    bad = []
    for name, expected in digests.items():
        reason = _damage(root, path, name, tile, expected)
        if reason:
            bad.append((f"{path.name}/{name}", reason))
    return bad


def _damage(root: zarr.Group, path: Path, name: str, tile: Tile, expected: str) -> str | None:
    try:
        array = _array(root, name)
        if not all(file.exists() for file in _shard_files(path, name, tile, root)):
            return "the shard is missing"
        values = np.ascontiguousarray(array[_place(array, tile)])
    except KeyError:
        return "the layer is missing"
    except (ValueError, RuntimeError, OSError) as error:
        return f"the shard does not decode: {error}"
    if hashlib.sha256(values.tobytes()).hexdigest() != expected:
        return "the values are not those that the receipt vouches for"
    return None


def _array(root: zarr.Group, name: str) -> zarr.Array[Any]:
    member = root[name]
    if not isinstance(member, zarr.Array):
        raise KeyError(name)
    return member


def _place(array: zarr.Array[Any], tile: Tile) -> tuple[Any, ...]:
    sides = (array.shards or array.chunks)[-2:]
    if tile.row % sides[0] or tile.column % sides[1]:
        raise AssertionError(f"tile {tile.id} does not begin at a shard")
        # ^ two writers in one shard lose each other's pixels without a word
    return (
        ...,
        slice(tile.row, tile.row + tile.height),
        slice(tile.column, tile.column + tile.width),
    )
