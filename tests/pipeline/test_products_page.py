"""The code of docs/products.md runs unchanged on a small product."""

from __future__ import annotations

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


def test_the_code_of_the_page_opens_the_product(product_dir, monkeypatch, capsys):
    monkeypatch.chdir(product_dir.parents[2])
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(block.replace('"B04"', '"B02"'), namespace)  # the small plan has one band
    assert blocks
    assert 0 < float(namespace["red"].mean()) < 1
    assert namespace["stored"].composite_S2L2A.dtype == np.int16
    assert namespace["stored"].last_observed.dtype == np.uint16
    output = capsys.readouterr().out
    assert "EPSG:32633" in output
    assert "2024-06-02" in output
