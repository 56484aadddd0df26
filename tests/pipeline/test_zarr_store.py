"""Stored tiles can be verified, and tiles that fail the verification are written again."""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr

from catalogs.errors import AssetReadError, TerramosaicError
from pipeline import layer_table, tile, tile_layers
from pipeline.runtime import lock
from pipeline.storage import receipt, zarr_store
from tests.support.fake_predictors import (
    Brightness,
    Painter,
    Patches,
    Several,
)
from tests.support.small_plan import FEATURES, NDVI, SEVERAL, make_plan


@pytest.fixture
def finished_store(tmp_path):
    plan = make_plan(tmp_path)
    folder = tmp_path / "product"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for planned_tile in plan.tiles:
        tile.build_tile(plan, planned_tile, Brightness(), folder, threads=1)
    return plan, folder


def open_stored_values(path):
    """Open a Zarr group without replacing nodata, scaling and decoding days."""
    return xr.open_zarr(path, mask_and_scale=False, decode_times=False)


def _read_chunks(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / zarr_store.STORE_NAME).rglob("c/*/*"))
        if path.is_file()
    }


def test_the_zarr_opens_with_its_georeference(finished_store):
    plan, folder = finished_store
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_stored_values(folder / zarr_store.STORE_NAME)
    assert data.rio.crs.to_epsg() == plan.grid.epsg
    assert data.rio.transform() == plan.grid.transform
    assert data.land_cover.rio.transform() == plan.grid.transform
    for name in tile_layers.list_layer_bands(plan):
        assert data[name].dtype == layer_table.get(name).dtype
        assert data[name].shape[-2:] == plan.grid.shape
    inside = data.observations.values != 65535
    assert 0.9 < inside.mean() <= 1.0
    mapped = data.land_cover.values
    assert set(np.unique(mapped)) == {0, 1, 8}
    assert ((data.observations.values == 0) == ((mapped == 0) & inside)).all()
    assert ((data.confidence.values == 255) == (mapped == 0)).all()
    assert ((data.last_observed.values > 0) == ((data.observations.values > 0) & inside)).all()


def test_a_second_creation_keeps_all_data(finished_store):
    plan, folder = finished_store
    before = _read_chunks(folder)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    assert _read_chunks(folder) == before


def test_the_order_and_size_of_tiles_do_not_change_the_values(finished_store, tmp_path):
    plan, folder = finished_store
    reversed_folder = tmp_path / "again"
    zarr_store.create(reversed_folder, plan, tile_layers.list_layer_bands(plan))
    for planned_tile in reversed(plan.tiles):
        tile.build_tile(plan, planned_tile, Brightness(), reversed_folder, threads=2)
    assert _read_chunks(reversed_folder) == _read_chunks(folder)
    untiled_plan = make_plan(tmp_path, tile=128)
    untiled_folder = tmp_path / "large"
    zarr_store.create(untiled_folder, untiled_plan, tile_layers.list_layer_bands(untiled_plan))
    for planned_tile in untiled_plan.tiles:
        tile.build_tile(untiled_plan, planned_tile, Brightness(), untiled_folder, threads=1)
    slices = slice(0, plan.grid.height), slice(0, plan.grid.width)
    for name in tile_layers.list_layer_bands(plan):
        expected = zarr_store.read_layer(folder / zarr_store.STORE_NAME, name, *slices)
        assert np.array_equal(
            expected, zarr_store.read_layer(untiled_folder / zarr_store.STORE_NAME, name, *slices)
        ), name


@pytest.mark.parametrize(
    ("model", "predictor_class"),
    [(FEATURES, Patches), (NDVI, Painter), (SEVERAL, Several)],
    ids=["embedding", "generate", "several"],
)
def test_other_outputs_do_not_depend_on_the_tile_size(tmp_path, model, predictor_class):
    layers_by_size = []
    for number, size in enumerate((32, 64, 128)):
        plan, folder = make_plan(tmp_path, model=model, tile=size), tmp_path / f"out-{number}"
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        for planned_tile in plan.tiles:
            tile.build_tile(plan, planned_tile, predictor_class(), folder, threads=1)
            tile_receipt = receipt.read(folder, planned_tile)
            assert zarr_store.check_tile(folder, plan, planned_tile, tile_receipt.digests) == []
        assert len(receipt.read_finished(folder, plan)) == len(plan.tiles)
        layers_by_size.append(
            {
                name: _read_whole_layer(folder, plan, name)
                for name in tile_layers.list_layer_bands(plan)
            }
        )
    assert {"observations", "last_observed", "inputs_used", model.primary_output.layer_name} <= set(
        layers_by_size[0]
    )
    for layers in layers_by_size[1:]:
        for name, values in layers_by_size[0].items():
            assert np.array_equal(values, layers[name], equal_nan=True), name


def _read_whole_layer(folder, plan, name):
    factor = plan.coarsening_factor(name)
    path = zarr_store.grid_store(folder, plan, plan.grid.epsg, factor)
    grid = plan.grid.coarsen(factor)
    return zarr_store.read_layer(path, name, slice(0, grid.height), slice(0, grid.width))


def test_a_coarse_output_beside_a_fine_one_is_unchanged(tmp_path):
    """The georeferences of both must agree, too."""
    embeddings = {}
    for name, model, predictor_class in (("one", FEATURES, Patches), ("all", SEVERAL, Several)):
        plan, folder = make_plan(tmp_path, model=model), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        for planned_tile in plan.tiles:
            tile.build_tile(plan, planned_tile, predictor_class(), folder, threads=1)
        path = folder / zarr_store.grid_store_name(
            plan, plan.grid.epsg, plan.coarsening_factor("embedding")
        )
        with xr.open_zarr(path, decode_coords="all") as cube:
            embeddings[name] = (cube.embedding.load(), cube.rio.transform())
    assert np.array_equal(embeddings["one"][0].values, embeddings["all"][0].values, equal_nan=True)
    assert embeddings["one"][1] == embeddings["all"][1]
    with xr.open_zarr(tmp_path / "all" / zarr_store.STORE_NAME, decode_coords="all") as fine:
        assert fine.rio.transform().a * 8 == embeddings["all"][1].a
        assert fine.rio.bounds() == embeddings["all"][0].rio.bounds()


class Overcast(Brightness):
    """Predicts clouds everywhere."""

    def predict_values(self, values, places):
        probabilities = super().predict_values(values, places)
        probabilities[:] = 0
        probabilities[:, self.outputs[0].class_names.index("clouds")] = 1
        return probabilities


def test_unclassified_pixels_do_not_change_layers_of_the_observations(finished_store, tmp_path):
    plan, folder = finished_store
    cloudy_folder = tmp_path / "cloudy"
    zarr_store.create(cloudy_folder, plan, tile_layers.list_layer_bands(plan))
    for planned_tile in plan.tiles:
        tile.build_tile(plan, planned_tile, Overcast(), cloudy_folder, threads=1)
    slices = slice(0, plan.grid.height), slice(0, plan.grid.width)
    for name in ("observations", "last_observed", "inputs_used"):
        expected = zarr_store.read_layer(folder / zarr_store.STORE_NAME, name, *slices)
        assert np.array_equal(
            zarr_store.read_layer(cloudy_folder / zarr_store.STORE_NAME, name, *slices), expected
        ), name
        assert expected.any()
    assert not zarr_store.read_layer(
        cloudy_folder / zarr_store.STORE_NAME, "land_cover", *slices
    ).any()
    assert zarr_store.read_layer(folder / zarr_store.STORE_NAME, "land_cover", *slices).any()


def test_cells_hold_the_mean_of_observed_pixels(tmp_path):
    plan, folder = make_plan(tmp_path, model=FEATURES), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for planned_tile in plan.tiles:
        tile.build_tile(plan, planned_tile, Patches(), folder, threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_stored_values(folder / zarr_store.STORE_NAME)
    assert data.embedding.dims == ("band_embedding", "y", "x")
    assert data.rio.transform() == plan.grid.transform
    assert data.rio.transform().a == 80.0
    embedding, days = data.embedding.values, data.observations.values
    is_observed = (days > 0) & (days != 65535)
    assert is_observed.any()
    assert (np.isfinite(embedding) == is_observed).all()
    composite = data.composite_S2L2A.values[0]
    is_complete = is_observed & (days == 2)
    # ^ both dates reach half of the cell: nearly all of its pixels have a value
    assert embedding[0][is_complete] == pytest.approx(composite[is_complete], rel=0.3)
    assert embedding[2][is_observed] == pytest.approx(7)
    assert (composite == -32768).sum() < composite.size


def test_finished_tiles_are_found_by_their_receipts(finished_store):
    plan, folder = finished_store
    assert set(receipt.read_finished(folder, plan)) == {
        planned_tile.id for planned_tile in plan.tiles
    }
    (folder / receipt.receipt_name(plan.tiles[0])).write_text("{ half")
    receipt.delete(folder, plan.tiles[1])
    assert set(receipt.read_finished(folder, plan)) == {
        planned_tile.id for planned_tile in plan.tiles[2:]
    }


def test_receipts_of_another_recipe_are_ignored(finished_store, tmp_path):
    _, folder = finished_store
    other_plan = make_plan(tmp_path, scenes=3)
    assert receipt.read_finished(folder, other_plan) == {}


def test_undamaged_tiles_pass_the_check(finished_store):
    plan, folder = finished_store
    for planned_tile in plan.tiles:
        tile_receipt = receipt.read(folder, planned_tile)
        assert (
            zarr_store.check_layers(
                folder / zarr_store.STORE_NAME, planned_tile, tile_receipt.digests
            )
            == []
        )


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_every_damage_is_detected(finished_store, damage):
    plan, folder = finished_store
    rng = np.random.default_rng(11)
    shards = sorted(path for path in (folder / zarr_store.STORE_NAME).glob("confidence/c/*/*"))
    for _ in range(20):
        damaged, other_index = rng.choice(len(shards), 2, replace=False)
        contents = {path: path.read_bytes() for path in (shards[damaged], shards[other_index])}
        if contents[shards[damaged]] == contents[shards[other_index]]:
            continue
        data = bytearray(contents[shards[damaged]])
        if damage == "flip":
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            shards[damaged].write_bytes(bytes(data))
        elif damage == "cut":
            shards[damaged].write_bytes(bytes(data[: rng.integers(1, len(data))]))
        elif damage == "remove":
            shards[damaged].unlink()
        else:
            shutil.copy(shards[other_index], shards[damaged])
        damaged_tiles = [
            planned_tile.id
            for planned_tile in plan.tiles
            if zarr_store.check_layers(
                folder / zarr_store.STORE_NAME,
                planned_tile,
                receipt.read(folder, planned_tile).digests,
            )
        ]
        row, column = shards[damaged].parent.name, shards[damaged].name
        assert damaged_tiles == [f"r{int(row):03d}c{int(column):03d}"]
        for path, content in contents.items():
            path.write_bytes(content)


def test_reading_a_damaged_shard_is_an_error(finished_store):
    _, folder = finished_store
    shard = next((folder / zarr_store.STORE_NAME).glob("confidence/c/*/*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(TerramosaicError, match="damaged"):
        zarr_store.read_layer(
            folder / zarr_store.STORE_NAME, "confidence", slice(0, 80), slice(0, 80)
        )


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("damage", ["index", "cut"])
def test_a_damaged_shard_is_replaced(finished_store, damage, position):
    """The last tile does not fill its shard, so that zarr would keep the rest of the old one."""
    plan, folder = finished_store
    planned_tile = plan.tiles[0 if position == "first" else -1]
    path = folder / zarr_store.STORE_NAME
    values = {
        "confidence": zarr_store.read_layer(
            path,
            "confidence",
            slice(planned_tile.row, planned_tile.row + planned_tile.height),
            slice(planned_tile.column, planned_tile.column + planned_tile.width),
        )
    }
    shard = (
        path
        / "confidence"
        / "c"
        / str(planned_tile.row // plan.tile_size)
        / str(planned_tile.column // plan.tile_size)
    )
    data = shard.read_bytes()
    shard.write_bytes(
        data[:-2] + bytes([data[-2] ^ 8]) + data[-1:] if damage == "index" else data[:-9]
    )
    assert zarr_store.check_layers(path, planned_tile, {"confidence": "?"})
    digests = zarr_store.write_layers(path, planned_tile, values)
    assert zarr_store.check_layers(path, planned_tile, digests) == []


def test_a_tile_with_a_missing_asset_writes_nothing(tmp_path):
    plan = make_plan(tmp_path)
    folder = tmp_path / "product"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    (tmp_path / "scene-0" / "B02.tif").unlink()
    with pytest.raises(AssetReadError, match="scene-0"):
        tile.build_tile(plan, plan.tiles[0], Brightness(), folder, threads=1)
    assert not _read_chunks(folder)
    assert receipt.read_finished(folder, plan) == {}


def test_a_second_run_is_refused(tmp_path):
    with (
        lock.acquire(tmp_path),
        pytest.raises(TerramosaicError, match="Another run"),
        lock.acquire(tmp_path),
    ):
        pass
    with lock.acquire(tmp_path):
        pass


def test_empty_tiles_written_in_parallel_are_stored(tmp_path):
    plan = make_plan(tmp_path, tile=16)
    path = tmp_path / zarr_store.STORE_NAME
    zarr_store.create_grid_store(
        path, plan, plan.grid, plan.tile_size, tile_layers.list_layer_bands(plan)
    )

    def write_empty_tile(planned_tile):
        shapes = dict.fromkeys(
            tile_layers.list_layer_bands(plan), (planned_tile.height, planned_tile.width)
        )
        shapes["composite_S2L2A"] = (1, planned_tile.height, planned_tile.width)
        return zarr_store.write_layers(
            path,
            planned_tile,
            {
                name: np.full(layer_shape, layer_table.get(name).fill_value)
                for name, layer_shape in shapes.items()
            },
        )

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(write_empty_tile, plan.tiles))
    for planned_tile, tile_digests in zip(plan.tiles, digests, strict=True):
        assert zarr_store.check_layers(path, planned_tile, tile_digests) == []
