"""The code of docs/products.md runs unchanged on a small product."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import tile, tile_layers
from pipeline.product import product_writer
from pipeline.storage import plan_file, zarr_store
from tests.support.fake_predictors import Brightness
from tests.support.small_plan import make_plan

PAGE = Path(__file__).parents[2] / "docs" / "products.md"


@pytest.fixture
def product_dir(tmp_path):
    """Publish a small product, and return its folder."""
    plan = make_plan(tmp_path)
    folder = tmp_path / "out" / plan.name / "2024-06-01_2024-06-30"
    plan_dir = folder / plan.short_digest
    plan_dir.mkdir(parents=True)
    plan_file.write_plan(plan_dir, plan)
    zarr_store.create(plan_dir, plan, tile_layers.list_layer_bands(plan))
    for plan_tile in plan.tiles:
        tile.build_tile(plan, plan_tile, Brightness(), plan_dir, threads=1)
    product_writer.publish_product(plan, folder)
    return folder


def _run_blocks(section, namespace):
    """Execute the Python code of a section of the page; the small plan has one band, B02."""
    _, _, text = PAGE.read_text().partition(f"\n## {section}\n")
    blocks = re.findall(r"```python\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    assert blocks
    for block in blocks:
        if "import odc" not in block or importlib.util.find_spec("odc") is not None:
            exec(block.replace('"B04"', '"B02"'), namespace)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:odc")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_readers_of_stac_open_the_product(product_dir, monkeypatch):
    monkeypatch.chdir(product_dir.parents[2])
    namespace = {}
    _run_blocks("COG and STAC item", namespace)
    mean = float(namespace["confidence"].mean())
    assert 50 < mean <= 100
    assert float(namespace["stack"].mean()) == pytest.approx(mean)
    if "loaded" in namespace:
        land_cover = namespace["loaded"].land_cover
        assert (land_cover.nodata, land_cover.dtype) == (0, np.uint8)


def test_xarray_opens_the_zarr_of_the_product(product_dir, monkeypatch, capsys):
    monkeypatch.chdir(product_dir.parents[2])
    namespace = {}
    _run_blocks("Zarr", namespace)
    assert 0 < float(namespace["red"].mean()) < 1
    assert namespace["stored"].composite_S2L2A.dtype == np.int16
    assert namespace["stored"].last_observed.dtype == np.uint16
    output = capsys.readouterr().out
    assert "EPSG:32633" in output
    assert "2024-06-02" in output
