"""Regions that leave tiles empty: only tiles with a pixel of the region are built."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import rasterio
import shapely

from flows.run import verify
from pipeline import resource_estimate, reuse, tile, tile_layers
from pipeline.compositing import strip_reader
from pipeline.grid import grid as grids
from pipeline.plan.plan import Plan, to_geojson
from pipeline.product import product_writer, published_item
from pipeline.quality import quality_metrics
from pipeline.storage import plan_file, receipt, zarr_store
from pipeline.storage.store import LocalStore
from tests.support import sparse_regions
from tests.support.fake_predictors import Moody, Several
from tests.support.small_plan import MODEL, SEVERAL, make_plan
from tests.support.sparse_regions import SHAPES

MOODY = dataclasses.replace(MODEL, outputs=Moody.outputs)
SIZE = 160


class DensePlan(Plan):
    """A plan as the releases made it that built every tile of the grids, whole."""

    @property
    def tiles(self):
        return tuple(
            built for area in self.grids for built in grids.split_into_tiles(area, self.tile_size)
        )

    def clip_tile(self, tile):
        return tile


def _as_dense(plan):
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return DensePlan(**values)


def _build(plan, folder, predictor):
    plan_file.write_plan(folder, plan)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    return [tile.build_tile(plan, planned, predictor, folder, threads=1) for planned in plan.tiles]


def _read_layers(plan, folder):
    return {
        name: zarr_store.read_layer(
            zarr_store.grid_store(folder, plan, plan.grid.epsg, plan.coarsening_factor(name)),
            name,
            slice(0, plan.grid.height),
            slice(0, plan.grid.width),
        )
        for name in tile_layers.list_layer_bands(plan)
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [8, 24, 64])
def test_the_tiles_are_those_that_hold_a_pixel_centre(tmp_path, shape, side):
    plan = make_plan(tmp_path, area=SHAPES[shape], tile=side, size=SIZE)
    region = grids.project(plan.region_for(plan.grid.epsg), plan.grid.epsg)
    all_tiles = grids.split_into_tiles(plan.grid, side)
    expected = [
        planned
        for planned in all_tiles
        if grids.rasterize_region(region, plan.tile_grid(planned)).any()
    ]
    assert list(plan.tiles) == expected
    assert 0 < len(expected) < len(all_tiles)


@pytest.mark.parametrize(
    ("shape", "model", "predictor"),
    [
        *((shape, MOODY, Moody) for shape in SHAPES),
        ("islands", None, None),
        ("L", None, None),
        ("ring", SEVERAL, Several),
        ("corner", SEVERAL, Several),
    ],
)
def test_the_pixels_are_those_of_a_dense_plan(tmp_path, shape, model, predictor):
    plan = make_plan(tmp_path, area=SHAPES[shape], model=model, tile=48, size=SIZE)
    dense = _as_dense(plan)
    assert plan.digest == dense.digest
    assert len(plan.tiles) < len(dense.tiles)
    for built, name in ((plan, "sparse"), (dense, "dense")):
        _build(built, LocalStore(tmp_path / name), predictor and predictor())
    actual, expected = (
        _read_layers(plan, LocalStore(tmp_path / name)) for name in ("sparse", "dense")
    )
    for name, values in expected.items():
        assert np.array_equal(actual[name], values, equal_nan=True), name
    assert (expected["observations"] != 65535).sum() > 100
    for planned in plan.tiles:
        sparse_receipt, dense_receipt = (
            receipt.read(LocalStore(tmp_path / name), planned) for name in ("sparse", "dense")
        )
        assert sparse_receipt.key == dense_receipt.key
        assert sparse_receipt.digests == dense_receipt.digests
        assert sparse_receipt.coverage == dense_receipt.coverage


def test_only_the_ground_around_the_region_is_read_and_predicted(tmp_path, monkeypatch):
    """A field in the corner of a tile costs what the field needs, not what the tile does."""
    monkeypatch.setattr(strip_reader, "MAX_STRIP_ROWS", 16)
    monkeypatch.setattr(strip_reader, "MIN_STRIP_ROWS", 16)
    plan = make_plan(tmp_path, area=SHAPES["islands"], tile=160, size=SIZE)
    (planned,) = plan.tiles
    rows_read = []
    compose = strip_reader.composite_block.compose

    def record(plan, scenes, area, *, threads):
        rows_read.append((round((plan.grid.top - area.top) / 10), area.height))
        return compose(plan, scenes, area, threads=threads)

    monkeypatch.setattr(strip_reader.composite_block, "compose", record)
    predictor = Moody()
    folder = LocalStore(tmp_path / "out")
    _build(plan, folder, predictor)
    assert sum(rows for _, rows in rows_read) < 0.8 * plan.context_grid(planned).height
    region = grids.project(plan.region_for(plan.grid.epsg), plan.grid.epsg)
    top, left = plan.grid.origin_index()
    for row, column in predictor.origins:
        window = plan.grid.window(row=row - top, column=column - left, height=32, width=32)
        assert shapely.box(*window.bounds).intersects(region)

    lone_plan = make_plan(
        tmp_path,
        area=shapely.union_all(
            [sparse_regions.box(23, 23, 90, 90), sparse_regions.box(1423, 1423, 90, 90)]
        ),
        tile=80,
        size=SIZE,
    )
    first = lone_plan.tiles[0]
    part = lone_plan.clip_tile(first)
    assert (part.height, part.width) == (11, 11)
    # ^ nine rows and columns, and one more on either side that lies in the tile
    assert lone_plan.context_grid(part).height < lone_plan.context_grid(first).height


def test_a_sparse_product_is_published_and_verified(tmp_path):
    plan = make_plan(tmp_path, area=SHAPES["islands"], model=MOODY, tile=32, size=SIZE)
    assert len(plan.tiles) < len(_as_dense(plan).tiles) / 4
    products = {}
    for built, name in ((plan, "sparse"), (_as_dense(plan), "dense")):
        product_store = LocalStore(tmp_path / name / "2024-06-01_2024-06-30")
        plan_store = product_store.child(plan.short_digest)
        _build(built, plan_store, Moody())
        quality = quality_metrics.measure_quality(built, plan_store)
        product_writer.publish_product(built, product_store, quality=quality)
        assert published_item.is_complete(product_store, plan)
        assert verify.find_damaged_tiles(built, plan_store) == []
        assert verify.find_damaged_files(product_store) == []
        products[name] = {
            asset: product_store.sha256(f"{plan.short_digest}/{plan.grid.epsg}/{asset}.tif")
            for asset in ("land_cover", "observations", "composite_S2L2A")
        }
        assert receipt.read_finished(plan_store, plan).keys() == {
            planned.id for planned in plan.tiles
        }
        # ^ what a release has built that made all tiles counts as well
    assert products["sparse"] == products["dense"]


def test_a_shard_that_is_lost_is_found_though_empty_tiles_have_none(tmp_path):
    plan = make_plan(tmp_path, area=SHAPES["islands"], model=MOODY, tile=32, size=SIZE)
    folder = LocalStore(tmp_path / "out")
    _build(plan, folder, Moody())
    group = zarr_store.grid_store(folder, plan, plan.grid.epsg)
    group.delete("land_cover/c/0/0")
    (damage,) = verify.find_damaged_tiles(plan, folder)
    assert (damage.tile, damage.reason) == ("r000c000", "the shard is missing")


def test_tiles_of_a_dense_product_are_copied(tmp_path):
    plan = make_plan(tmp_path, area=SHAPES["L"], model=MOODY, tile=32, size=SIZE)
    product = LocalStore(tmp_path / "out")
    _build(_as_dense(plan), product.child("earlier"), Moody())
    reusable = reuse.find_reusable_tiles(product.child("now"), plan, plan.tiles)
    assert reusable.keys() == {planned.id for planned in plan.tiles}


def test_the_estimate_counts_only_tiles_of_the_region(tmp_path):
    plan = make_plan(tmp_path, area=SHAPES["islands"], tile=32, size=SIZE)
    sparse, dense = (
        resource_estimate.estimate_resources(built, workers=1) for built in (plan, _as_dense(plan))
    )
    assert sparse.bytes < dense.bytes / 4
    assert sparse.seconds < dense.seconds / 4
    assert sparse.stored_bytes < dense.stored_bytes / 4


def test_each_zone_has_only_the_tiles_of_its_part_of_the_region(tmp_path):
    fields = shapely.union_all(
        [shapely.box(11.90, 46.9, 11.94, 46.92), shapely.box(12.2, 46.7, 12.24, 46.72)]
    )
    plan = dataclasses.replace(
        make_plan(tmp_path, tile=64),
        region=to_geojson(shapely.union_all([fields, shapely.box(11.2, 46.7, 11.24, 46.72)])),
        grids=tuple(
            grids.build_covering_grid(part, epsg, 10.0, (0.0, 0.0))
            for epsg, part in (
                (32632, shapely.box(11.2, 46.7, 11.94, 46.92)),
                (32633, fields.geoms[1]),
            )
        ),
        mosaic_grids=(grids.build_covering_grid(fields, 32632, 10.0, (0.0, 0.0)),),
    )
    for area in plan.grids:
        region = grids.project(plan.region_for(area.epsg), area.epsg)
        expected = [
            planned.id
            for planned in grids.split_into_tiles(area, 64, id_prefix=f"{area.epsg}-")
            if grids.rasterize_region(region, plan.tile_grid(planned)).any()
        ]
        assert [planned.id for planned in plan.tiles if planned.epsg == area.epsg] == expected
    assert len(plan.tiles) < 60 < len(_as_dense(plan).tiles)


def test_a_cap_around_the_pole_leaves_the_corners_of_its_grid_empty(tmp_path):
    cap = shapely.box(-180, 89.7, 180, 90)
    area = grids.build_covering_grid(cap, 5041, 100.0, (0.0, 0.0))
    tiles = grids.split_into_tiles(area, 64)
    region = grids.project(cap, 5041)
    selected = grids.select_tiles(tiles, area, region)
    expected = [
        planned
        for planned in tiles
        if grids.rasterize_region(
            region,
            area.window(
                row=planned.row,
                column=planned.column,
                height=planned.height,
                width=planned.width,
            ),
        ).any()
    ]
    assert list(selected) == expected
    assert 0.8 * len(tiles) < len(expected) < len(tiles)


def test_the_mosaic_of_a_sparse_product_has_no_hole(tmp_path):
    """The mosaic reads the zones' stores, in which empty tiles have no shard."""
    folder = tmp_path / "product"
    plan = make_plan(tmp_path, area=SHAPES["islands"], model=MOODY, tile=32, size=SIZE)
    mosaic_grid = grids.build_covering_grid(
        sparse_regions.to_lonlat(SHAPES["islands"]), 32632, 10.0, (0.0, 0.0)
    )
    plan = dataclasses.replace(plan, mosaic_grids=(mosaic_grid,))
    product_store = LocalStore(folder)
    _build(plan, product_store.child(plan.short_digest), Moody())
    product_writer.publish_product(plan, product_store)
    path = f"{plan.short_digest}/mosaic_32632/land_cover.tif"
    with rasterio.open(product_store.gdal_path(path)) as source:
        mapped = source.read(1) != 0
    projected = grids.project(sparse_regions.to_lonlat(SHAPES["islands"]), 32632)
    inside = grids.rasterize_region(projected, mosaic_grid)
    assert mapped[~inside].sum() == 0
    assert (mapped & inside).sum() > 0.8 * inside.sum()
