"""Strips of a tile: read one ahead, and never to be seen in what comes of them."""

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
from pipeline.compositing import composite_block, row_buffer, stream
from pipeline.grid import grid as grids
from pipeline.grid import window_lattice
from pipeline.grid.grid import Grid
from pipeline.inference import batching, consistency
from pipeline.plan.plan import to_geojson
from pipeline.storage import receipt, zarr_store
from tests.pipeline.test_plan import SEVERAL, make
from tests.support.fakes import Brightness, Edgy, Several

GRID = Grid(epsg=32633, resolution=10.0, left=0.0, top=0.0, height=100, width=100)


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([1, 16]))
def test_strips_cover_every_row_once(height, width, cell):
    area = Grid(
        epsg=32633, resolution=10.0, left=0.0, top=0.0, height=height * cell, width=width * cell
    )
    parts = stream.split_rows(area, (), row_multiple=cell)
    assert [row for first, stop in parts for row in (first, stop)][1:-1:2] == [
        row for first, stop in parts for row in (first, stop)
    ][2::2]
    assert (parts[0][0], parts[-1][1]) == (0, area.height)
    rows = [stop - first for first, stop in parts]
    assert min(rows) > 0
    assert max(rows) * area.width <= max(
        stream.MAX_STRIP_PIXELS, stream.MIN_STRIP_ROWS * area.width
    )
    assert all(first % cell == 0 for first, _ in parts)


def test_strips_begin_where_blocks_of_the_files_begin(tmp_path):
    plan = make(tmp_path)
    (asset,) = {scene.assets["B02"].transform for scene in plan.snapshot.scenes}
    top = asset[5] - 3000 * 10.0
    area = Grid(epsg=plan.grid.epsg, resolution=10.0, left=0.0, top=top, height=5000, width=1024)
    edges = [first for first, _ in stream.split_rows(area, plan.snapshot.scenes)][1:]
    assert edges
    assert all((3000 + row) % 1024 == 0 for row in edges)


@pytest.mark.parametrize("fake", [Brightness, Edgy])
def test_strips_leave_no_trace(tmp_path, monkeypatch, fake):
    found = []
    for name, rows in (("one", 2048), ("many", 8)):
        monkeypatch.setattr(stream, "MAX_STRIP_ROWS", rows)
        monkeypatch.setattr(stream, "MIN_STRIP_ROWS", rows)
        plan, folder = make(tmp_path, tile=64), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        found.append([tile.build_tile(plan, one, fake(), folder, threads=2) for one in plan.tiles])
    one, many = found
    assert [made.digests for made in one] == [made.digests for made in many]
    assert [made.samples for made in one] == [made.samples for made in many]


def test_cells_are_not_cut_by_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "MAX_STRIP_ROWS", 24)
    monkeypatch.setattr(stream, "MIN_STRIP_ROWS", 24)
    plan, folder = make(tmp_path, model=SEVERAL, tile=64), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    cut = [tile.build_tile(plan, one, Several(), folder, threads=2).digests for one in plan.tiles]
    monkeypatch.undo()
    assert cut == [
        tile.build_tile(plan, one, Several(), folder, threads=2).digests for one in plan.tiles
    ]


def test_one_part_is_read_ahead_and_no_more():
    read, used = [], []

    def slowly(part):
        read.append(part)
        return part

    for part in stream.prefetch(range(6), slowly):
        time.sleep(0.02)
        used.append(part)
        assert len(read) <= len(used) + 1
    assert used == list(range(6))
    assert list(stream.prefetch([], slowly)) == []


def test_reading_and_working_go_side_by_side():
    meeting = threading.Barrier(2, timeout=10)

    def read(part):
        if part == 1:
            meeting.wait()
        return part

    for part in stream.prefetch(range(2), read):
        if part == 0:
            meeting.wait()
            # ^ the second part is being read while the first is worked on


def test_a_failure_of_reading_comes_out(tmp_path):
    def fail(part):
        if part == 2:
            raise OSError("gone")
        return part

    with pytest.raises(OSError, match="gone"):
        list(stream.prefetch(range(4), fail))


@given(
    st.integers(-900, 900),
    st.integers(-900, 900),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_samples_are_the_same_however_a_region_is_cut(row, column, height, width, side):
    lattice = window_lattice.Lattice(window=32, stride=24, context_width=0)
    whole = GRID.window(row=row, column=column, height=height, width=width)

    def sampled(area):
        placed = window_lattice.place_windows(area, lattice)
        found = consistency.select_sample_windows(placed, lattice, 8)
        for first, columns in found.items():
            assert first - 8 in placed.window_rows
            assert first + 32 <= placed.context_grid.height
            for across in columns:
                assert across - 8 in placed.window_columns
                assert across + 32 <= placed.context_grid.width
        down, right = placed.origin_index
        return [(down + one, right + other) for one in found for other in found[one]]

    expected = sampled(whole)
    parts = [one for cut in grids.split_into_tiles(whole, side) for one in sampled(
        whole.window(row=cut.row, column=cut.column, height=cut.height, width=cut.width)
    )]  # fmt: skip
    assert sorted(parts) == sorted(expected)
    assert len(expected) <= (height // 24 + 2) * (width // 24 + 2) / consistency.SAMPLE_INTERVAL + 5


def test_the_receipt_tells_what_samples_and_windows_said(tmp_path, monkeypatch):
    monkeypatch.setattr(consistency, "SAMPLE_INTERVAL", 1)
    plan, folder = make(tmp_path, tile=64), tmp_path / "out"
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))

    class Halved(Edgy):
        """Knows another precision, in which all is the other class."""

        @property
        def predict_reference(self):
            return lambda chips, places: (self.one(chips["S2L2A"], places)[:, [1, 0, 2]],)

    class Silent(Brightness):
        def one(self, values, places):
            return np.full_like(super().one(values, places), np.nan)

    first = plan.tiles[0]
    exact = tile.build_tile(plan, first, Brightness(), folder, threads=1).samples
    assert sum(n for n, _ in exact["shifted"]) > 100
    assert not any(differ for _, differ in exact["shifted"])
    assert "precision" not in exact
    on_gpu = dataclasses.replace(plan, model=dataclasses.replace(plan.model, device="cuda"))
    edgy = tile.build_tile(on_gpu, first, Halved(), folder, threads=1).samples
    assert sum(differ for _, differ in edgy["shifted"]) > 0
    assert sum(n for n, _ in edgy["precision"]) > 100
    assert not any(agree for _, agree in edgy["precision"])
    silent = tile.build_tile(plan, first, Silent(), folder, threads=1).samples
    assert silent["silent"] == silent["windows"] > 0
    assert receipt.read(folder, first).samples == silent
    assert not zarr_store.read_layer(
        folder / zarr_store.STORE_NAME, "land_cover", slice(0, 30), slice(0, 30)
    ).any()


def test_a_plan_without_a_model_is_read_in_strips_too(tmp_path, monkeypatch):
    plan = make(tmp_path, model=None, tile=64)
    found = []
    for name, rows in (("one", 2048), ("many", 16)):
        monkeypatch.setattr(stream, "MAX_STRIP_ROWS", rows)
        monkeypatch.setattr(stream, "MIN_STRIP_ROWS", min(rows, 16))
        folder = tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        made = [tile.build_tile(plan, one, None, folder, threads=2) for one in plan.tiles]
        found.append([one.digests for one in made])
        assert all(one.samples == {} for one in made)
    assert found[0] == found[1]


def test_a_modality_that_only_some_strips_have_is_missing_in_the_others(tmp_path):
    """What a strip has no scene of is NaN there: the windows across its edge see both."""
    plan = make(tmp_path)
    area = plan.context_grid(plan.tiles[0])
    roll = row_buffer.RowBuffer({"S2L2A": 1, "DEM": 1}, area.width)
    for first, stop in ((0, 10), (10, 30)):
        part = area.window(row=first, column=0, height=stop - first, width=area.width)
        seen = composite_block.compose(plan, plan.snapshot.scenes, part, threads=1)
        inputs = composite_block.to_model_inputs(plan, seen)
        if first:
            inputs["DEM"] = np.ones((1, stop - first, area.width), np.float32)
        roll.append(stream.Strip(first_row=first, composites=seen, inputs=inputs, read_seconds=0.0))
    inputs, observed = roll.read_rows(5, 25)
    assert np.isnan(inputs["DEM"][0, :5]).all()
    assert (inputs["DEM"][0, 5:] == 1).all()
    whole = composite_block.compose(plan, plan.snapshot.scenes, area, threads=1)
    assert np.array_equal(observed, whole.observations[5:25] > 0)
    due = whole.values["S2L2A"].values[:, 5:25]
    assert np.array_equal(inputs["S2L2A"], due, equal_nan=True)
    roll.drop_above(10)
    assert dataclasses.replace(roll._strips[0]).first_row == 10


def test_neighbouring_tiles_ask_the_model_once(tmp_path):
    """The windows across an edge are computed for the first tile, and the bytes stay the same."""
    found = {}
    for name, shared in (("each", None), ("shared", batching.WindowCache())):
        fake, plan, folder = Edgy(), make(tmp_path, tile=32), tmp_path / name
        zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
        made = [
            tile.build_tile(plan, one, fake, folder, threads=1, window_cache=shared)
            for one in plan.tiles
        ]
        asked = [place for place in fake.places if place[0] % 20 == place[1] % 20 == 0]
        found[name] = [one.digests for one in made], set(asked), made
    assert found["each"][0] == found["shared"][0]
    assert found["each"][1] == found["shared"][1]
    taken = sum(one.samples["shared"] for one in found["shared"][2])
    used = sum(one.samples["windows"] for one in found["shared"][2])
    assert used - taken == len(found["each"][1])
    assert taken > 0


def test_what_is_shared_is_bounded():
    shared = batching.WindowCache(max_bytes=100)
    for index in range(10):
        shared.put((index, 0), (np.zeros(10, np.float32),))
    assert shared.get((9, 0)) is not None
    assert [shared.get((index, 0)) for index in range(7)] == [None] * 7


def test_windows_beside_the_region_are_not_asked_for(tmp_path):
    """And what lies in the region has the same answer as if they were."""
    plan = make(tmp_path, tile=128)
    points = shapely.geometry.shape(plan.region).exterior.coords
    corner = shapely.geometry.Polygon([points[0], points[1], points[2]])
    some = dataclasses.replace(plan, region=to_geojson(corner))
    found = {}
    for name, one in (("all", plan), ("some", some)):
        fake, folder = Edgy(), tmp_path / name
        zarr_store.create(folder, one, tile_layers.list_layer_bands(one))
        made = tile.build_tile(one, one.tiles[0], fake, folder, threads=1)
        whole = slice(0, one.grid.height), slice(0, one.grid.width)
        found[name] = (
            zarr_store.read_layer(folder / zarr_store.STORE_NAME, "confidence", *whole),
            made.samples["windows"],
        )
    inside = found["some"][0] != 255
    assert 0.3 < inside.mean() < 0.6
    assert np.array_equal(found["some"][0][inside], found["all"][0][inside])
    assert found["some"][1] < found["all"][1]
