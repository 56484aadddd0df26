"""Strips of a tile: one is read ahead, and the pixels do not depend on them."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tile, tile_layers
from pipeline.compositing import composite_block, row_buffer, strip_reader
from pipeline.grid import grid as grids
from pipeline.grid import window_lattice
from pipeline.grid.grid import Grid
from pipeline.inference import batching
from pipeline.plan.plan import to_geojson
from pipeline.quality import window_agreement
from pipeline.storage import receipt, zarr_store
from tests.support.fake_predictors import Brightness, Edgy, Several
from tests.support.small_plan import SEVERAL, make_plan

GRID = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=100, width=100)


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([1, 16]))
def test_strips_cover_every_row_once(height, width, cell):
    area = Grid(
        epsg=32633, resolution=10.0, left=0.0, top=0.0, height=height * cell, width=width * cell
    )
    strips = strip_reader.split_rows(area, (), row_multiple=cell)
    assert [row for first, stop in strips for row in (first, stop)][1:-1:2] == [
        row for first, stop in strips for row in (first, stop)
    ][2::2]
    assert (strips[0][0], strips[-1][1]) == (0, area.height)
    rows = [stop - first for first, stop in strips]
    assert min(rows) > 0
    assert max(rows) * area.width <= max(
        strip_reader.MAX_STRIP_PIXELS, strip_reader.MIN_STRIP_ROWS * area.width
    )
    assert all(first % cell == 0 for first, _ in strips)


def test_strips_begin_at_block_boundaries_of_the_files(tmp_path):
    plan = make_plan(tmp_path)
    (transform,) = {scene.assets["B02"].transform for scene in plan.snapshot.scenes}
    top = transform[5] - 3000 * 10.0
    area = Grid(epsg=plan.grid.epsg, resolution=10.0, left=0.0, top=top, height=5000, width=1024)
    first_rows = [first for first, _ in strip_reader.split_rows(area, plan.snapshot.scenes)][1:]
    assert first_rows
    assert all((3000 + row) % 1024 == 0 for row in first_rows)


@pytest.mark.parametrize("predictor_class", [Brightness, Edgy])
def test_the_number_of_strips_does_not_change_the_tiles(tmp_path, monkeypatch, predictor_class):
    receipts = []
    for name, rows in (("one", 2048), ("many", 8)):
        monkeypatch.setattr(strip_reader, "MAX_STRIP_ROWS", rows)
        monkeypatch.setattr(strip_reader, "MIN_STRIP_ROWS", rows)
        plan, folder = make_plan(tmp_path, tile=64), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        receipts.append(
            [
                tile.build_tile(plan, planned_tile, predictor_class(), folder, threads=2)
                for planned_tile in plan.tiles
            ]
        )
    one_strip, many_strips = receipts
    assert [tile_receipt.digests for tile_receipt in one_strip] == [
        tile_receipt.digests for tile_receipt in many_strips
    ]
    assert [tile_receipt.samples for tile_receipt in one_strip] == [
        tile_receipt.samples for tile_receipt in many_strips
    ]


def test_cells_are_not_cut_by_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(strip_reader, "MAX_STRIP_ROWS", 24)
    monkeypatch.setattr(strip_reader, "MIN_STRIP_ROWS", 24)
    plan, folder = make_plan(tmp_path, model=SEVERAL, tile=64), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))

    def build_tiles():
        return [
            tile.build_tile(plan, planned_tile, Several(), folder, threads=2).digests
            for planned_tile in plan.tiles
        ]

    actual = build_tiles()
    monkeypatch.undo()
    assert actual == build_tiles()


def test_at_most_one_part_is_read_ahead():
    parts_read, parts_used = [], []

    def read(part):
        parts_read.append(part)
        return part

    for part in strip_reader.prefetch(range(6), read):
        time.sleep(0.02)
        parts_used.append(part)
        assert len(parts_read) <= len(parts_used) + 1
    assert parts_used == list(range(6))
    assert list(strip_reader.prefetch([], read)) == []


def test_reading_and_processing_run_in_parallel():
    barrier = threading.Barrier(2, timeout=10)

    def read(part):
        if part == 1:
            barrier.wait()
        return part

    for part in strip_reader.prefetch(range(2), read):
        if part == 0:
            barrier.wait()
            # ^ the second part is being read while the first is processed


def test_an_error_while_reading_is_raised(tmp_path):
    def read(part):
        if part == 2:
            raise OSError("gone")
        return part

    with pytest.raises(OSError, match="gone"):
        list(strip_reader.prefetch(range(4), read))


@given(
    st.integers(-900, 900),
    st.integers(-900, 900),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_sample_windows_do_not_depend_on_the_division_of_a_region(row, column, height, width, side):
    lattice = window_lattice.Lattice(window=32, stride=24, context_width=0)
    region = GRID.window(row=row, column=column, height=height, width=width)

    def select_samples(area):
        placement = window_lattice.place_windows(area, lattice)
        samples = window_agreement.select_sample_windows(placement, lattice, 8)
        for first_row, columns in samples.items():
            assert first_row - 8 in placement.window_rows
            assert first_row + 32 <= placement.context_grid.height
            for first_column in columns:
                assert first_column - 8 in placement.window_columns
                assert first_column + 32 <= placement.context_grid.width
        top, left = placement.origin_index
        return [
            (top + first_row, left + first_column)
            for first_row, columns in samples.items()
            for first_column in columns
        ]

    expected = select_samples(region)
    actual = [
        origin
        for part in grids.split_into_tiles(region, side)
        for origin in select_samples(
            region.window(row=part.row, column=part.column, height=part.height, width=part.width)
        )
    ]
    assert sorted(actual) == sorted(expected)
    assert (
        len(expected)
        <= (height // 24 + 2) * (width // 24 + 2) / window_agreement.SAMPLE_INTERVAL + 5
    )


def test_the_receipt_holds_counts_of_samples_and_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(window_agreement, "SAMPLE_INTERVAL", 1)
    plan, folder = make_plan(tmp_path, tile=64), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))

    class Inverted(Edgy):
        """Has a reference precision that gives every pixel the other class."""

        @property
        def predict_reference(self):
            return lambda chips, places: (
                self.predict_values(chips["S2L2A"], places)[:, [1, 0, 2]],
            )

    class Silent(Brightness):
        def predict_values(self, values, places):
            return np.full_like(super().predict_values(values, places), np.nan)

    first = plan.tiles[0]
    exact = tile.build_tile(plan, first, Brightness(), folder, threads=1).samples
    assert sum(count for count, _ in exact["shifted"]) > 100
    assert not any(difference for _, difference in exact["shifted"])
    assert "precision" not in exact
    on_gpu = dataclasses.replace(plan, model=dataclasses.replace(plan.model, device="cuda"))
    edgy = tile.build_tile(on_gpu, first, Inverted(), folder, threads=1).samples
    assert sum(difference for _, difference in edgy["shifted"]) > 0
    assert sum(count for count, _ in edgy["precision"]) > 100
    assert not any(agreement for _, agreement in edgy["precision"])
    silent = tile.build_tile(plan, first, Silent(), folder, threads=1).samples
    assert silent["silent"] == silent["windows"] > 0
    assert receipt.read(folder, first).samples == silent
    assert not zarr_store.read_layer(
        folder / zarr_store.STORE_NAME, "land_cover", slice(0, 30), slice(0, 30)
    ).any()


def test_a_plan_without_a_model_is_read_in_strips(tmp_path, monkeypatch):
    plan = make_plan(tmp_path, model=None, tile=64)
    digests = []
    for name, rows in (("one", 2048), ("many", 16)):
        monkeypatch.setattr(strip_reader, "MAX_STRIP_ROWS", rows)
        monkeypatch.setattr(strip_reader, "MIN_STRIP_ROWS", min(rows, 16))
        folder = tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        receipts = [
            tile.build_tile(plan, planned_tile, None, folder, threads=2)
            for planned_tile in plan.tiles
        ]
        digests.append([tile_receipt.digests for tile_receipt in receipts])
        assert all(tile_receipt.samples == {} for tile_receipt in receipts)
    assert digests[0] == digests[1]


def test_a_modality_missing_from_a_strip_is_nan_in_its_rows(tmp_path):
    """Windows across the edge of two strips see both the values and the NaN."""
    plan = make_plan(tmp_path)
    area = plan.context_grid(plan.tiles[0])
    buffer = row_buffer.RowBuffer({"S2L2A": 1, "DEM": 1}, area.width)
    for first, stop in ((0, 10), (10, 30)):
        rows = area.window(row=first, column=0, height=stop - first, width=area.width)
        block = composite_block.compose(plan, plan.snapshot.scenes, rows, threads=1)
        inputs = composite_block.to_model_inputs(plan, block)
        if first:
            inputs["DEM"] = np.ones((1, stop - first, area.width), np.float32)
        buffer.append(
            strip_reader.Strip(first_row=first, composites=block, inputs=inputs, read_seconds=0.0)
        )
    inputs, observed = buffer.read_rows(5, 25)
    assert np.isnan(inputs["DEM"][0, :5]).all()
    assert (inputs["DEM"][0, 5:] == 1).all()
    composites = composite_block.compose(plan, plan.snapshot.scenes, area, threads=1)
    assert np.array_equal(observed, composites.observations[5:25] > 0)
    expected = composites.values["S2L2A"].values[:, 5:25]
    assert np.array_equal(inputs["S2L2A"], expected, equal_nan=True)
    buffer.drop_above(10)
    assert buffer._strips[0].first_row == 10


def test_windows_of_neighbouring_tiles_are_predicted_once(tmp_path):
    """Windows across an edge are computed for the first tile only, and the bytes stay the same."""
    digests, origins, receipts = {}, {}, {}
    for name, cache in (("each", None), ("shared", batching.WindowCache())):
        predictor, plan, folder = Edgy(), make_plan(tmp_path, tile=32), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        receipts[name] = [
            tile.build_tile(plan, planned_tile, predictor, folder, threads=1, window_cache=cache)
            for planned_tile in plan.tiles
        ]
        digests[name] = [tile_receipt.digests for tile_receipt in receipts[name]]
        origins[name] = {
            (row, column) for row, column in predictor.origins if row % 20 == column % 20 == 0
        }
    assert digests["each"] == digests["shared"]
    assert origins["each"] == origins["shared"]
    cache_hits = sum(tile_receipt.samples["shared"] for tile_receipt in receipts["shared"])
    window_count = sum(tile_receipt.samples["windows"] for tile_receipt in receipts["shared"])
    assert window_count - cache_hits == len(origins["each"])
    assert cache_hits > 0


def test_the_window_cache_is_bounded():
    cache = batching.WindowCache(max_bytes=100)
    for index in range(10):
        cache.put((index, 0), (np.zeros(10, np.float32),))
    assert cache.get((9, 0)) is not None
    assert [cache.get((index, 0)) for index in range(7)] == [None] * 7


def test_windows_outside_the_region_are_not_predicted(tmp_path):
    """Pixels within the region have the same values as with all windows."""
    plan = make_plan(tmp_path, tile=128)
    points = shapely.geometry.shape(plan.region).exterior.coords
    corner = shapely.geometry.Polygon([points[0], points[1], points[2]])
    triangle_plan = dataclasses.replace(plan, region=to_geojson(corner))
    confidence, windows = {}, {}
    for name, current_plan in (("square", plan), ("triangle", triangle_plan)):
        folder = tmp_path / name
        zarr_store.create(folder, current_plan, tile_layers.list_layer_bands(current_plan))
        tile_receipt = tile.build_tile(
            current_plan, current_plan.tiles[0], Edgy(), folder, threads=1
        )
        slices = slice(0, current_plan.grid.height), slice(0, current_plan.grid.width)
        store = folder / zarr_store.STORE_NAME
        confidence[name] = zarr_store.read_layer(store, "confidence", *slices)
        windows[name] = tile_receipt.samples["windows"]
    inside = confidence["triangle"] != 255
    assert 0.3 < inside.mean() < 0.6
    assert np.array_equal(confidence["triangle"][inside], confidence["square"][inside])
    assert windows["triangle"] < windows["square"]
