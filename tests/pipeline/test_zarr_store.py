"""What is stored can be proved, and what is not proved is made again."""

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
from tests.pipeline.test_plan import FEATURES, NDVI, SEVERAL, make
from tests.support.fake_predictors import (
    Brightness,
    Painter,
    Patches,
    Several,
)


@pytest.fixture
def finished(tmp_path):
    plan = make(tmp_path)
    folder = tmp_path / "product"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for one in plan.tiles:
        tile.build_tile(plan, one, Brightness(), folder, threads=1)
    return plan, folder


def _bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / zarr_store.STORE_NAME).rglob("c/*/*"))
        if path.is_file()
    }


def test_the_zarr_opens_and_lies_where_it_should(finished):
    plan, folder = finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(folder / zarr_store.STORE_NAME)
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


def test_a_second_creation_erases_nothing(finished):
    plan, folder = finished
    before = _bytes(folder)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    assert _bytes(folder) == before


def test_the_order_of_tiles_and_their_size_do_not_matter(finished, tmp_path):
    plan, folder = finished
    again = tmp_path / "again"
    zarr_store.create(again, plan, tile_layers.list_layer_bands(plan))
    for one in reversed(plan.tiles):
        tile.build_tile(plan, one, Brightness(), again, threads=2)
    assert _bytes(again) == _bytes(folder)
    whole = make(tmp_path, tile=128)
    large = tmp_path / "large"
    zarr_store.create(large, whole, tile_layers.list_layer_bands(whole))
    for one in whole.tiles:
        tile.build_tile(whole, one, Brightness(), large, threads=1)
    everything = slice(0, plan.grid.height), slice(0, plan.grid.width)
    for name in tile_layers.list_layer_bands(plan):
        small = zarr_store.read_layer(folder / zarr_store.STORE_NAME, name, *everything)
        assert np.array_equal(
            small, zarr_store.read_layer(large / zarr_store.STORE_NAME, name, *everything)
        ), name


@pytest.mark.parametrize(
    ("model", "fake"),
    [(FEATURES, Patches), (NDVI, Painter), (SEVERAL, Several)],
    ids=["embedding", "generate", "several"],
)
def test_another_answer_does_not_know_its_tiles_either(tmp_path, model, fake):
    found = []
    for number, size in enumerate((32, 64, 128)):
        plan, folder = make(tmp_path, model=model, tile=size), tmp_path / f"out-{number}"
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        for one in plan.tiles:
            tile.build_tile(plan, one, fake(), folder, threads=1)
            proof = receipt.read(folder, one)
            assert zarr_store.check_tile(folder, plan, one, proof.digests) == []
        assert len(receipt.read_finished(folder, plan)) == len(plan.tiles)
        found.append(
            {name: _whole(folder, plan, name) for name in tile_layers.list_layer_bands(plan)}
        )
    assert {"observations", "last_observed", "inputs_used", model.primary_output.layer_name} <= set(
        found[0]
    )
    for other in found[1:]:
        for name, values in found[0].items():
            assert np.array_equal(values, other[name], equal_nan=True), name


def _whole(folder, plan, name):
    factor = plan.coarsening_factor(name)
    path = zarr_store.grid_store(folder, plan, plan.grid.epsg, factor)
    grid = plan.grid.coarsen(factor)
    return zarr_store.read_layer(path, name, slice(0, grid.height), slice(0, grid.width))


def test_a_coarse_answer_beside_a_fine_one_is_what_it_is_by_itself(tmp_path):
    """Both lie where they should, too: the same ground, by their own coordinates."""
    held = {}
    for name, model, fake in (("one", FEATURES, Patches), ("all", SEVERAL, Several)):
        plan, folder = make(tmp_path, model=model), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        for one in plan.tiles:
            tile.build_tile(plan, one, fake(), folder, threads=1)
        path = folder / zarr_store.grid_store_name(
            plan, plan.grid.epsg, plan.coarsening_factor("embedding")
        )
        with xr.open_zarr(path, decode_coords="all") as cube:
            held[name] = (cube.embedding.load(), cube.rio.transform())
    assert np.array_equal(held["one"][0].values, held["all"][0].values, equal_nan=True)
    assert held["one"][1] == held["all"][1]
    with xr.open_zarr(tmp_path / "all" / zarr_store.STORE_NAME, decode_coords="all") as fine:
        assert fine.rio.transform().a * 8 == held["all"][1].a
        assert fine.rio.bounds() == held["all"][0].rio.bounds()


class Overcast(Brightness):
    """Sees clouds wherever it looks."""

    def one(self, values, places):
        answers = super().one(values, places)
        answers[:] = 0
        answers[:, self.outputs[0].class_names.index("clouds")] = 1
        return answers


def test_an_answer_that_is_no_class_does_not_change_what_the_scenes_say(finished, tmp_path):
    plan, folder = finished
    cloudy = tmp_path / "cloudy"
    zarr_store.create(cloudy, plan, tile_layers.list_layer_bands(plan))
    for one in plan.tiles:
        tile.build_tile(plan, one, Overcast(), cloudy, threads=1)
    whole = slice(0, plan.grid.height), slice(0, plan.grid.width)
    for name in ("observations", "last_observed", "inputs_used"):
        due = zarr_store.read_layer(folder / zarr_store.STORE_NAME, name, *whole)
        assert np.array_equal(
            zarr_store.read_layer(cloudy / zarr_store.STORE_NAME, name, *whole), due
        ), name
        assert due.any()
    assert not zarr_store.read_layer(cloudy / zarr_store.STORE_NAME, "land_cover", *whole).any()
    assert zarr_store.read_layer(folder / zarr_store.STORE_NAME, "land_cover", *whole).any()


def test_cells_hold_the_mean_of_what_was_seen(tmp_path):
    plan, folder = make(tmp_path, model=FEATURES), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for one in plan.tiles:
        tile.build_tile(plan, one, Patches(), folder, threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(folder / zarr_store.STORE_NAME)
    assert data.embedding.dims == ("band_embedding", "y", "x")
    assert data.rio.transform() == plan.grid.transform
    assert data.rio.transform().a == 80.0
    embedding, days = data.embedding.values, data.observations.values
    seen = (days > 0) & (days != 65535)
    assert seen.any()
    assert (np.isfinite(embedding) == seen).all()
    composite = data.composite_S2L2A.values[0]
    full = seen & (days == 2)
    # ^ both dates reach half of the cell: nearly all of its pixels have a value
    assert embedding[0][full] == pytest.approx(composite[full], rel=0.3)
    assert embedding[2][seen] == pytest.approx(7)
    assert (composite == -32768).sum() < composite.size


def test_finished_tiles_are_known_by_their_receipts(finished):
    plan, folder = finished
    assert set(receipt.read_finished(folder, plan)) == {one.id for one in plan.tiles}
    (folder / receipt.receipt_name(plan.tiles[0])).write_text("{ half")
    receipt.delete(folder, plan.tiles[1])
    assert set(receipt.read_finished(folder, plan)) == {one.id for one in plan.tiles[2:]}


def test_the_receipts_of_another_recipe_do_not_count(finished, tmp_path):
    _, folder = finished
    other = make(tmp_path, scenes=3)
    assert receipt.read_finished(folder, other) == {}


def test_all_is_well_with_what_was_just_written(finished):
    plan, folder = finished
    for one in plan.tiles:
        proof = receipt.read(folder, one)
        assert zarr_store.check_layers(folder / zarr_store.STORE_NAME, one, proof.digests) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_every_damage_is_found(finished, damage):
    plan, folder = finished
    rng = np.random.default_rng(11)
    shards = sorted(path for path in (folder / zarr_store.STORE_NAME).glob("confidence/c/*/*"))
    for _ in range(20):
        victim, other = rng.choice(len(shards), 2, replace=False)
        kept = {path: path.read_bytes() for path in (shards[victim], shards[other])}
        if kept[shards[victim]] == kept[shards[other]]:
            continue
        data = bytearray(kept[shards[victim]])
        if damage == "flip":
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            shards[victim].write_bytes(bytes(data))
        elif damage == "cut":
            shards[victim].write_bytes(bytes(data[: rng.integers(1, len(data))]))
        elif damage == "remove":
            shards[victim].unlink()
        else:
            shutil.copy(shards[other], shards[victim])
        bad = [
            one.id
            for one in plan.tiles
            if zarr_store.check_layers(
                folder / zarr_store.STORE_NAME, one, receipt.read(folder, one).digests
            )
        ]
        row, column = shards[victim].parent.name, shards[victim].name
        assert bad == [f"r{int(row):03d}c{int(column):03d}"]
        for path, content in kept.items():
            path.write_bytes(content)


def test_reading_a_damaged_shard_is_an_error(finished):
    _, folder = finished
    shard = next((folder / zarr_store.STORE_NAME).glob("confidence/c/*/*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(TerramosaicError, match="damaged"):
        zarr_store.read_layer(
            folder / zarr_store.STORE_NAME, "confidence", slice(0, 80), slice(0, 80)
        )


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("damage", ["index", "cut"])
def test_a_damaged_shard_is_written_anew(finished, damage, place):
    """That of the last tile is not filled to its edge, so that zarr would keep the rest of it."""
    plan, folder = finished
    one = plan.tiles[0 if place == "first" else -1]
    path = folder / zarr_store.STORE_NAME
    values = {
        "confidence": zarr_store.read_layer(
            path,
            "confidence",
            slice(one.row, one.row + one.height),
            slice(one.column, one.column + one.width),
        )
    }
    shard = (
        path
        / "confidence"
        / "c"
        / str(one.row // plan.tile_size)
        / str(one.column // plan.tile_size)
    )
    data = shard.read_bytes()
    shard.write_bytes(
        data[:-2] + bytes([data[-2] ^ 8]) + data[-1:] if damage == "index" else data[:-9]
    )
    assert zarr_store.check_layers(path, one, {"confidence": "?"})
    digests = zarr_store.write_layers(path, one, values)
    assert zarr_store.check_layers(path, one, digests) == []


def test_a_tile_whose_asset_is_gone_writes_nothing(tmp_path):
    plan = make(tmp_path)
    folder = tmp_path / "product"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    (tmp_path / "scene-0" / "B02.tif").unlink()
    with pytest.raises(AssetReadError, match="scene-0"):
        tile.build_tile(plan, plan.tiles[0], Brightness(), folder, threads=1)
    assert not _bytes(folder)
    assert receipt.read_finished(folder, plan) == {}


def test_one_run_at_a_time(tmp_path):
    with (
        lock.acquire(tmp_path),
        pytest.raises(TerramosaicError, match="Another run"),
        lock.acquire(tmp_path),
    ):
        pass
    with lock.acquire(tmp_path):
        pass


def test_empty_tiles_written_side_by_side_are_there(tmp_path):
    plan = make(tmp_path, tile=16)
    path = tmp_path / zarr_store.STORE_NAME
    zarr_store.create_grid_store(
        path, plan.grid, plan.tile_size, tile_layers.list_layer_bands(plan)
    )

    def empty(one):
        shape = dict.fromkeys(tile_layers.list_layer_bands(plan), (one.height, one.width))
        shape["composite_S2L2A"] = (1, one.height, one.width)
        return zarr_store.write_layers(
            path,
            one,
            {name: np.full(size, layer_table.get(name).fill_value) for name, size in shape.items()},
        )

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(empty, plan.tiles))
    for one, proof in zip(plan.tiles, digests, strict=True):
        assert zarr_store.check_layers(path, one, proof) == []
