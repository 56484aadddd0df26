"""A product is built and published in any store: a local folder or memory."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import xarray as xr

from catalogs.errors import InvalidInputError
from catalogs.sensors import COPERNICUS_DEM_NOTICE, SENTINEL_NOTICE
from catalogs.snapshot import Snapshot
from flows.run import verify
from pipeline import reuse, tile, tile_layers
from pipeline.product import product_writer, published_item, stac_collection
from pipeline.storage import plan_file, receipt, zarr_store
from pipeline.storage.memory_store import MemoryStore
from pipeline.storage.store import LocalStore
from tests.support.fake_predictors import Brightness
from tests.support.small_plan import make_plan


def _build_tiles(plan, plan_store, tiles=None):
    plan_file.write_plan(plan_store, plan)
    zarr_store.create(plan_store, plan, tile_layers.list_layer_bands(plan))
    for plan_tile in tiles or plan.tiles:
        tile.build_tile(plan, plan_tile, Brightness(), plan_store, threads=1)


@pytest.fixture(params=["local", "memory"])
def collection_store(request, tmp_path):
    return LocalStore(tmp_path / "out") if request.param == "local" else MemoryStore()


def test_a_product_is_published_and_verified(collection_store, tmp_path):
    plan = make_plan(tmp_path)
    product_store = collection_store.child("2024-06-01_2024-06-30")
    plan_store = product_store.child(plan.short_digest)
    assert not published_item.is_complete(product_store, plan)
    _build_tiles(plan, plan_store)
    assert product_writer.publish_product(plan, product_store) == "item.json"
    assert published_item.is_complete(product_store, plan)
    assert published_item.read_current_plan(product_store) == (plan, plan_store)
    assert verify.find_damaged_files(product_store) == []
    assert published_item.read_finished_tiles(product_store) == {
        plan_tile.id for plan_tile in plan.tiles
    }
    assert [item["id"] for item in stac_collection.read_items(collection_store)]
    assert collection_store.exists("collection.json")
    for plan_tile in plan.tiles:
        digests = receipt.read(plan_store, plan_tile).digests
        assert zarr_store.check_tile(plan_store, plan, plan_tile, digests) == []
    name = f"{plan.short_digest}/{plan.grid.epsg}/land_cover.tif"
    with rasterio.open(product_store.gdal_path(name)) as source:
        cog_values = source.read(1)
    group = zarr_store.grid_store(plan_store, plan, plan.grid.epsg).zarr_store()
    with xr.open_zarr(group, mask_and_scale=False) as cube:
        assert np.array_equal(cube.land_cover.values, cog_values)
    assert cog_values.any()

    page = product_store.read(f"{plan.short_digest}/report.html")
    product_store.write(f"{plan.short_digest}/report.html", page + b" ")
    product_store.delete(name)
    reasons = {entry.file: entry.reason for entry in verify.find_damaged_files(product_store)}
    assert reasons == {
        f"./{name}": "the file is missing",
        f"./{plan.short_digest}/report.html": "the file differs from the published one",
    }
    assert not published_item.is_complete(product_store, plan)


@pytest.mark.parametrize(
    ("modalities", "notices"),
    [
        (("S2L2A", "S2L2A"), (SENTINEL_NOTICE,)),
        (("S1RTC", "S2L2A"), (SENTINEL_NOTICE,)),
        (("S2L2A", "DEM"), (SENTINEL_NOTICE, COPERNICUS_DEM_NOTICE)),
        (("DEM", "DEM"), (COPERNICUS_DEM_NOTICE,)),
    ],
)
def test_the_notices_are_those_of_the_sensors_that_are_used(tmp_path, modalities, notices):
    plan = make_plan(tmp_path)
    scenes = tuple(
        dataclasses.replace(scene, modality=modality, assets={})
        for scene, modality in zip(plan.snapshot.scenes, modalities, strict=True)
    )
    changed = dataclasses.replace(plan, snapshot=Snapshot(scenes=scenes))
    assert product_writer._list_notices(changed) == notices


def test_a_product_without_terrain_has_no_notice_of_it(tmp_path):
    plan, store = make_plan(tmp_path), LocalStore(tmp_path / "out" / "period")
    plan_store = store.child(plan.short_digest)
    _build_tiles(plan, plan_store)
    product_writer.publish_product(plan, store)
    item = json.loads(store.read("item.json"))
    collection = json.loads(store.parent().read("collection.json"))
    for document in (item, collection):
        licences = [link["href"] for link in document["links"] if link["rel"] == "license"]
        assert licences == [SENTINEL_NOTICE.href]
    page = plan_store.read("report.html").decode()
    assert SENTINEL_NOTICE.href in page
    assert COPERNICUS_DEM_NOTICE.href not in page


def test_both_stores_hold_the_same_bytes(tmp_path):
    plan = make_plan(tmp_path)
    stores = (LocalStore(tmp_path / "out"), MemoryStore())
    for store in stores:
        _build_tiles(plan, store.child("plan"))
        names = store.child("plan").glob("cube.zarr/**/*")
        assert any(name.startswith("cube.zarr/land_cover/c/") for name in names)
    local, memory = (
        {name: store.read(name) for name in store.glob("plan/cube.zarr/**/*")} for store in stores
    )
    assert local == memory


def test_tiles_of_another_plan_are_found_and_copied(collection_store, tmp_path):
    product_store = collection_store.child("period")
    plan = make_plan(tmp_path)
    _build_tiles(plan, product_store.child("first"))
    plan_store = product_store.child("second")
    _build_tiles(plan, plan_store, tiles=plan.tiles[:1])
    reusable = reuse.find_reusable_tiles(plan_store, plan, plan.tiles[1:])
    assert set(reusable) == {plan_tile.id for plan_tile in plan.tiles[1:]}
    assert reuse.copy_tiles(plan_store, plan, reusable) == set(reusable)
    assert len(receipt.read_finished(plan_store, plan)) == len(plan.tiles)


def test_an_absent_or_damaged_plan_file_is_named(collection_store):
    with pytest.raises(InvalidInputError, match=r"plan\.json cannot be read as a plan"):
        plan_file.read_plan(collection_store)
    collection_store.write("plan.json", b"{ half")
    with pytest.raises(InvalidInputError, match=r"plan\.json cannot be read as a plan"):
        plan_file.read_plan(collection_store)
