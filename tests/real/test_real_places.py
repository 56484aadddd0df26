"""Composites of real scenes equal what rasterio reads; observations are counted from the SCL."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
import rasterio

from flows.config import job as jobs
from flows.run import planning, product_folder
from pipeline import tile, tile_layers
from pipeline.storage import plan_file, zarr_store
from tests.support import real_items

PLACES = ("282D_485L_3_3", "433D_629L_3_1", "637U_59R_1_3")
OFFSET = {"433D_629L_3_1": -1000}


def _build_product(values, folder, tmp_path):
    plan = planning.create_plan(jobs.parse(values, folder=folder))
    target = tmp_path / "product"
    zarr_store.create(target, plan, tile_layers.list_layer_bands(plan))
    for plan_tile in plan.tiles:
        tile.build_tile(plan, plan_tile, None, target, threads=2)

    def layer(name):
        rows, columns = slice(0, plan.grid.height), slice(0, plan.grid.width)
        return zarr_store.read_layer(target / zarr_store.STORE_NAME, name, rows, columns)

    return plan, layer


def _build_job(realdata, tmp_path, name, **sections):
    items = real_items.select_place(realdata, name)
    location = real_items.publish_catalog(tmp_path / "catalog", items)
    (bbox,) = (item["bbox"] for item in items if item["collection"] == "sentinel-2-l2a")
    return {
        "name": name,
        "region": {"bbox": bbox},
        "period": "2015-01-01/2024-12-31",
        "catalog": {"path": str(location), "provider": "planetary-computer"},
        "allow": [str(realdata)],
        "inputs": ["S2L2A", "S1RTC", "DEM"],
        "model": {"name": "none"},
        "output": {"composites": True},
        "execution": {"tile": 128},
    } | sections


@pytest.mark.parametrize("name", PLACES)
def test_the_composite_of_a_place_equals_the_files(realdata, tmp_path, name):
    plan, layer = _build_product(_build_job(realdata, tmp_path, name), tmp_path, tmp_path)
    folder = realdata / "terramesh-cog" / name
    with rasterio.open(folder / "S2L2A_B02.tif") as file:
        transform = file.transform
        assert file.crs.to_epsg() == plan.grid.epsg
        height, width = file.shape
    row = (plan.grid.top - transform.f) / 10
    column = (transform.c - plan.grid.left) / 10
    assert row == pytest.approx(round(row), abs=1e-6)
    assert column == pytest.approx(round(column), abs=1e-6)
    window = (
        slice(round(row), round(row) + height),
        slice(round(column), round(column) + width),
    )
    valid = layer("observations") != 65535
    assert valid[window].mean() > 0.999

    optical = layer("composite_S2L2A")
    for index, band in enumerate(plan.bands("S2L2A")):
        with rasterio.open(folder / f"S2L2A_{band}.tif") as file:
            stored = file.read(1).astype(int)
        expected = np.where(stored == 0, -32768, stored + OFFSET.get(name, 0))
        actual = optical[(index, *window)]
        assert np.array_equal(actual[valid[window]], expected[valid[window]]), band
    for index, band in enumerate(("vv", "vh")):
        with rasterio.open(folder / f"S1RTC_{band}.tif") as file:
            expected = file.read(1)
        actual = layer("composite_S1RTC")[(index, *window)]
        assert np.array_equal(actual[valid[window]], expected[valid[window]], equal_nan=True)
    with rasterio.open(folder / "DEM.tif") as file:
        expected = file.read(1)
    actual = layer("composite_DEM")[window]
    assert np.array_equal(actual[valid[window]], expected[valid[window]])

    outside_window = np.ones(plan.grid.shape, bool)
    outside_window[window] = False
    assert set(np.unique(layer("observations")[outside_window & valid])) <= {0}
    assert not any("SCL" in transform.assets for transform in plan.snapshot.scenes)


def test_observations_are_counted_from_the_classifications(realdata, tmp_path):
    items = real_items.select_slovenian_scenes(realdata)
    root = real_items.publish_catalog(tmp_path / "catalog", items)
    clear = [2, 4, 5, 6, 7, 11]
    values = {
        "name": "33TW",
        "region": {"bbox": [15.02, 45.75, 15.7, 46.45]},
        "period": "2023-08-01/2023-08-31",
        "catalog": {"path": str(root), "provider": "earth-search"},
        "allow": [str(realdata)],
        "inputs": ["S2L2A"],
        "grid": {"crs": "utm", "resolution": 60},
        "mask": {"clear_scl": clear, "dilate_m": 0},
        "composite": {"max_cloud_cover": 100},
        "model": {"name": "none"},
        "output": {"composites": True},
        "execution": {"tile": 512},
    }
    plan, layer = _build_product(values, tmp_path, tmp_path)
    assert len(plan.snapshot.scenes) == 6
    assert plan.bands("S2L2A") == ("B02", "B03", "B04", "B08")
    days: dict[dt.date, np.ndarray] = {}
    xs = plan.grid.left + (np.arange(plan.grid.width) + 0.5) * 60
    ys = plan.grid.top - (np.arange(plan.grid.height) + 0.5) * 60
    for item in items:
        day = dt.datetime.fromisoformat(item["properties"]["datetime"]).date()
        observed = days.setdefault(day, np.zeros(plan.grid.shape, bool))
        with rasterio.open(item["assets"]["scl"]["href"]) as file:
            codes, transform = file.read(1), file.transform
        columns = np.floor((xs - transform.c) / 120).astype(int)
        rows = np.floor((transform.f - ys) / 120).astype(int)
        inside_columns = (columns >= 0) & (columns < codes.shape[1])
        inside_rows = (rows >= 0) & (rows < codes.shape[0])
        sampled = codes[np.ix_(rows[inside_rows], columns[inside_columns])]
        observed[np.ix_(inside_rows, inside_columns)] |= np.isin(sampled, clear)
    assert len(days) == 3
    expected = np.sum(list(days.values()), axis=0)
    actual = layer("observations")
    valid = actual != 65535
    assert 0.5 < valid.mean() <= 1
    assert np.array_equal(actual[valid], expected[valid])
    assert set(np.unique(actual[valid])) == {0, 1, 2, 3}
    reflectance = layer("composite_S2L2A")[0]
    assert 0 < np.median(reflectance[valid & (reflectance != -32768)]) < 1500


@pytest.mark.parametrize("name", PLACES[:1])
def test_scenes_without_classification_are_listed(realdata, tmp_path, name):
    from pipeline.product import product_writer

    values = _build_job(
        realdata, tmp_path, name, output={"path": str(tmp_path / "out"), "composites": True}
    )
    plan = planning.create_plan(jobs.parse(values, folder=tmp_path))
    product_dir = product_folder.product_dir(plan)
    folder = product_dir / plan.short_digest
    plan_file.write_plan_file(folder / "plan.json", plan)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for plan_tile in plan.tiles:
        tile.build_tile(plan, plan_tile, None, folder, threads=2)
    item = json.loads((product_dir / product_writer.publish_product(plan, product_dir)).read_text())
    assert item["properties"]["terramosaic:inputs_without_scl"] == [f"S2_TM_{name}"]
