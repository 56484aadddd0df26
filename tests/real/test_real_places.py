"""Real scenes: the composite is what rasterio reads, and days are counted as the SCLs say."""

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

PLACES = ("282D_485L_3_3", "433D_629L_3_1", "637U_59R_1_3")
OFFSET = {"433D_629L_3_1": -1000}


def _made(values, folder, tmp_path):
    plan = planning.create_plan(jobs.parse(values, folder=folder))
    target = tmp_path / "product"
    zarr_store.create(target, plan, tile_layers.list_layer_bands(plan))
    for entry in plan.tiles:
        tile.build_tile(plan, entry, None, target, threads=2)

    def layer(name):
        rows, columns = slice(0, plan.grid.height), slice(0, plan.grid.width)
        return zarr_store.read_layer(target / zarr_store.STORE_NAME, name, rows, columns)

    return plan, layer


def _place(realdata, name, **more):
    root = realdata / "catalog" / "planetary-computer"
    item = json.loads((root / "sentinel-2-l2a" / f"S2_TM_{name}.json").read_text())
    return {
        "name": name,
        "region": {"bbox": item["bbox"]},
        "period": "2015-01-01/2024-12-31",
        "catalog": {"path": str(root / "catalog.json"), "provider": "planetary-computer"},
        "allow": [str(realdata)],
        "inputs": ["S2L2A", "S1RTC", "DEM"],
        "model": {"name": "none"},
        "output": {"composites": True},
        "execution": {"tile": 128},
    } | more


@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_composed_exactly(realdata, tmp_path, name):
    plan, layer = _made(_place(realdata, name), tmp_path, tmp_path)
    folder = realdata / "terramesh-cog" / name
    with rasterio.open(folder / "S2L2A_B02.tif") as file:
        scene = file.transform
        assert file.crs.to_epsg() == plan.grid.epsg
        height, width = file.shape
    row = (plan.grid.top - scene.f) / 10
    column = (scene.c - plan.grid.left) / 10
    assert row == pytest.approx(round(row), abs=1e-6)
    assert column == pytest.approx(round(column), abs=1e-6)
    part = (
        slice(round(row), round(row) + height),
        slice(round(column), round(column) + width),
    )
    inside = layer("observations") != 65535
    assert inside[part].mean() > 0.999

    optical = layer("composite_S2L2A")
    for index, band in enumerate(plan.bands("S2L2A")):
        with rasterio.open(folder / f"S2L2A_{band}.tif") as file:
            stored = file.read(1).astype(int)
        expected = np.where(stored == 0, -32768, stored + OFFSET.get(name, 0))
        found = optical[(index, *part)]
        assert np.array_equal(found[inside[part]], expected[inside[part]]), band
    for index, band in enumerate(("vv", "vh")):
        with rasterio.open(folder / f"S1RTC_{band}.tif") as file:
            expected = file.read(1)
        found = layer("composite_S1RTC")[(index, *part)]
        assert np.array_equal(found[inside[part]], expected[inside[part]], equal_nan=True)
    with rasterio.open(folder / "DEM.tif") as file:
        expected = file.read(1)
    found = layer("composite_DEM")[part]
    assert np.array_equal(found[inside[part]], expected[inside[part]])

    outside = np.ones(plan.grid.shape, bool)
    outside[part] = False
    assert set(np.unique(layer("observations")[outside & inside])) <= {0}
    assert not any("SCL" in scene.assets for scene in plan.snapshot.scenes)


def _catalog(realdata, collection):
    for path in sorted((realdata / "catalog" / "earth-search" / collection).glob("S2*.json")):
        item = json.loads(path.read_text())
        yield item, path.parent / item["assets"]["scl"]["href"]


def test_observations_are_counted_as_the_classifications_say(realdata, tmp_path):
    root = realdata / "catalog" / "earth-search" / "catalog.json"
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
    plan, layer = _made(values, tmp_path, tmp_path)
    assert len(plan.snapshot.scenes) == 6
    assert plan.bands("S2L2A") == ("B02", "B03", "B04", "B08")
    days: dict[dt.date, np.ndarray] = {}
    xs = plan.grid.left + (np.arange(plan.grid.width) + 0.5) * 60
    ys = plan.grid.top - (np.arange(plan.grid.height) + 0.5) * 60
    for item, scl in _catalog(realdata, "sentinel-2-l2a"):
        day = dt.datetime.fromisoformat(item["properties"]["datetime"]).date()
        seen = days.setdefault(day, np.zeros(plan.grid.shape, bool))
        with rasterio.open(scl) as file:
            codes, transform = file.read(1), file.transform
        columns = np.floor((xs - transform.c) / 120).astype(int)
        rows = np.floor((transform.f - ys) / 120).astype(int)
        inside_columns = (columns >= 0) & (columns < codes.shape[1])
        inside_rows = (rows >= 0) & (rows < codes.shape[0])
        picked = codes[np.ix_(rows[inside_rows], columns[inside_columns])]
        seen[np.ix_(inside_rows, inside_columns)] |= np.isin(picked, clear)
    assert len(days) == 3
    expected = np.sum(list(days.values()), axis=0)
    found = layer("observations")
    inside = found != 65535
    assert 0.5 < inside.mean() <= 1
    assert np.array_equal(found[inside], expected[inside])
    assert set(np.unique(found[inside])) == {0, 1, 2, 3}
    reflectance = layer("composite_S2L2A")[0]
    assert 0 < np.median(reflectance[inside & (reflectance != -32768)]) < 1500


@pytest.mark.parametrize("name", PLACES[:1])
def test_a_scene_without_classification_says_so(realdata, tmp_path, name):
    from pipeline.product import product_writer

    values = _place(realdata, name, output={"path": str(tmp_path / "out"), "composites": True})
    plan = planning.create_plan(jobs.parse(values, folder=tmp_path))
    home = product_folder.product_dir(plan)
    folder = home / plan.short_digest
    plan_file.write_plan_file(folder / "plan.json", plan)
    zarr_store.create(folder, plan, tile_layers.list_layer_bands(plan))
    for entry in plan.tiles:
        tile.build_tile(plan, entry, None, folder, threads=2)
    item = json.loads((home / product_writer.publish_product(plan, home)).read_text())
    assert item["properties"]["terramosaic:inputs_without_scl"] == [f"S2_TM_{name}"]
