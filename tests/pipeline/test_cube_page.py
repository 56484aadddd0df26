"""The code of docs/cube.md runs unchanged on four small scenes."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import shapely
from PIL import Image

from catalogs.search import search
from tests.support import small_worlds

PAGE = Path(__file__).parents[2] / "docs" / "cube.md"
NIR = (2000, 3000, 4000, 6000)
RED = 1000
ORIGIN = {"epsg": 32632, "left": 720_000.0, "top": 5_300_000.0}


@pytest.fixture
def scenes(tmp_path):
    """Return scenes of four days; one corner of each is cloudy."""
    shape = (240, 240)
    scl = np.full(shape, 4, np.uint8)
    scl[:40, :40] = 9
    return tuple(
        small_worlds.optical(
            tmp_path,
            f"S{day}",
            {"B04": np.full(shape, RED, np.uint16), "B08": np.full(shape, nir, np.uint16)},
            scl,
            when=f"2021-06-0{day}T10:00:00+00:00",
            **ORIGIN,
        )
        for day, nir in enumerate(NIR, start=1)
    )


def test_the_code_of_the_page_computes_the_expected_index(scenes, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo").mkdir()
    footprint = shapely.geometry.shape(scenes[0].footprint).buffer(0.001)
    (tmp_path / "demo" / "region.geojson").write_text(shapely.to_geojson(footprint))
    result = search.SearchResult(scenes=scenes, refused=())
    find_scenes = mock.create_autospec(search.find_scenes, return_value=result)
    monkeypatch.setattr(search, "find_scenes", find_scenes)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, namespace)  # the page belongs to this repository
    assert len(blocks) == 2
    daily = namespace["daily"]
    expected = [(nir - RED) / (nir + RED) for nir in NIR]
    assert daily.median(("y", "x")).values == pytest.approx(expected, abs=1e-6)
    assert 600 < np.isfinite(daily[0]).sum() < 900
    # ^ 900 pixels of 80 m, 25 of them under the cloud, and some beyond the edge
    assert capsys.readouterr().out.count("2021-06-0") == 4
    with Image.open("cube.png") as picture:
        assert picture.width == 4 * (daily.sizes["x"] + 9)


def test_the_picture_of_the_page_is_small():
    picture = PAGE.with_name("cube.png")
    assert picture.stat().st_size < 200_000
    with Image.open(picture) as image:
        assert image.width > 900
