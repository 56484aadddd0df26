"""A new output needs only an entry in the layer table, from the windows to the report."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import xarray as xr

from pipeline import layer_table, tile, tile_layers
from pipeline.layer_table import Layer
from pipeline.plan.output_spec import OutputSpec
from pipeline.product import product_writer
from pipeline.storage import plan_file, zarr_store
from tests.support import stac_schemas
from tests.support.fake_predictors import Brightness
from tests.support.small_plan import MODEL, make_plan

CANOPY_HEIGHT = Layer(
    name="canopy_height",
    title="Canopy height",
    description="Height of the vegetation above the ground.",
    dtype="uint16",
    nodata=65535,
    scale=0.1,
    unit="m",
    stored_unit="dm",
    overview_resampling="average",
    bands=("canopy_height",),
    kind="values",
)


@pytest.fixture
def predictor(monkeypatch):
    """Return a predictor of the new layer, which is in the table during the test."""
    monkeypatch.setitem(layer_table.LAYERS_BY_NAME, CANOPY_HEIGHT.name, CANOPY_HEIGHT)

    class CanopyHeight(Brightness):
        """A height of brightness / 20 decimetres."""

        outputs = (OutputSpec(task="canopy_height", bands=("canopy_height",), unit="dm"),)

        def predict_values(self, values, places):
            return np.nan_to_num(values).astype(np.float32) / 20

    return CanopyHeight()


def build_product(folder, predictor):
    """Map the small region of `make_plan`, and return the plan and the folder of the product."""
    plan = make_plan(folder, model=dataclasses.replace(MODEL, outputs=predictor.outputs))
    product_dir = folder / "product" / "2024-06-01_2024-06-30"
    plan_dir = product_dir / plan.short_digest
    plan_dir.mkdir(parents=True)
    plan_file.write_plan_file(plan_dir / "plan.json", plan)
    zarr_store.create(plan_dir, plan, tile_layers.list_layer_bands(plan))
    for entry in plan.tiles:
        tile.build_tile(plan, entry, predictor, plan_dir, threads=1)
    return plan, product_dir


def test_a_new_layer_needs_only_a_table_entry(predictor, tmp_path):
    plan, product_dir = build_product(tmp_path, predictor)
    plan_dir = product_dir / plan.short_digest
    assert plan_file.read_plan_file(plan_dir / "plan.json").digest == plan.digest

    with xr.open_zarr(plan_dir / zarr_store.STORE_NAME, mask_and_scale=False) as cube:
        stored = cube.canopy_height.values
        observed = (cube.observations.values > 0) & (cube.observations.values != 65535)
    with xr.open_zarr(plan_dir / zarr_store.STORE_NAME) as cube:
        assert cube.canopy_height.attrs["units"] == "m"
        assert np.allclose(
            cube.canopy_height.values, np.where(observed, stored * 0.1, np.nan), equal_nan=True
        )
    assert stored.dtype == np.uint16
    assert np.array_equal(stored != 65535, observed)
    assert 0 <= stored[observed].min() < stored[observed].max() <= 400

    item_name = product_writer.publish_product(plan, product_dir)
    item = json.loads((product_dir / item_name).read_text())
    stac_schemas.check(item, stac_schemas.validator())
    (band,) = item["assets"]["canopy_height"]["raster:bands"]
    assert (band["unit"], band["scale"], band["nodata"]) == ("m", 0.1, 65535)
    with rasterio.open(product_dir / item["assets"]["canopy_height"]["href"]) as cog:
        assert np.array_equal(cog.read(1), stored)
        assert (cog.nodata, cog.scales, cog.units) == (65535, (0.1,), ("m",))

    style = (product_dir / item["assets"]["style"]["href"]).read_text()
    assert "colorrampshader" in style
    assert item["assets"]["style"]["href"] == (
        item["assets"]["canopy_height"]["href"].removesuffix(".tif") + ".qml"
    )
    # ^ QGIS applies a style of the same name in the same folder
    report = (product_dir / item["assets"]["report"]["href"]).read_text()
    assert "Canopy height" in report
    assert (product_dir / item["assets"]["quicklook"]["href"]).stat().st_size > 1000


def test_an_output_without_an_entry_is_refused():
    with pytest.raises(ValueError, match=r"unknown task 'canopy_height'.*land_cover, embedding"):
        OutputSpec(task="canopy_height", bands=("canopy_height",), unit="dm")


def test_a_layer_that_stores_no_output_is_refused():
    with pytest.raises(ValueError, match="unknown task 'observations'"):
        OutputSpec(task="observations", bands=("observations",))


def test_an_output_in_another_unit_is_refused(predictor):
    with pytest.raises(
        ValueError, match="'canopy_height' stores values in 'dm', but the model's output is in 'm'"
    ):
        dataclasses.replace(predictor.outputs[0], unit="m")
