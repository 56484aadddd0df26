"""Search in the real static catalogs and in recorded responses read as files."""

import datetime as dt
import json
import os
from pathlib import Path

import pytest
import shapely

from tests.support.stac_documents import (
    WORLD,
    day,
    find,
    ids,
)

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
pytestmark = pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")


def read_recorded(name):
    return json.loads((Path(REALDATA or "") / "stac" / name).read_text())


def test_recorded_pages_hold_every_scene_twice():
    region = shapely.box(9, 47, 10, 48)
    period = (day("2020-03-01"), day("2020-03-05"))
    names = []
    for page in (1, 2):
        path = (
            Path(REALDATA)
            / f"stac/earth-search-v1/_api/search_s2_duplicates_page{page}.response.json"
        )
        result = find(path, region=region, period=period, provider="earth-search")
        assert result.refused == ()
        for scene in result.scenes:
            assert {asset.radiometry.offset for asset in scene.assets.values()} == {0.0}
        names += ids(result)
    assert len(names) == len(set(names)) == 16
    assert {"S2A_32TMT_20200305_0_L2A", "S2A_32TMT_20200305_1_L2A"} <= set(names)


def test_a_recorded_response_of_cdse():
    path = Path(REALDATA) / "stac/cdse/_api/search_s2_4items.response.json"
    result = find(path, region=WORLD, period=None, provider="cdse")
    assert len(result.scenes) == 4
    for scene in result.scenes:
        assert scene.baseline == "05.00"
        assert scene.assets["B02"].href.startswith("s3://eodata/")
        assert scene.assets["B02"].href.endswith("_B02_10m.jp2")
        assert scene.assets["B02"].radiometry.offset == -0.1
        assert scene.assets["B02"].epsg == 32632


@pytest.mark.parametrize(
    ("path", "provider", "modalities", "count"),
    [
        ("planetary-computer/catalog.json", "planetary-computer", ("S2L2A", "S1RTC", "DEM"), 30),
        ("earth-search/catalog.json", "earth-search", ("S2L2A",), 6),
        ("cdse/catalog.json", "cdse", ("S2L2A",), 2),
        ("catalog.json", "planetary-computer", ("S2L2A", "S1RTC", "DEM"), 30),
        ("catalog.json", "earth-search", ("S2L2A",), 6),
    ],
)
def test_real_static_catalogs(path, provider, modalities, count):
    result = find(
        Path(REALDATA) / "catalog" / path,
        modalities,
        region=WORLD,
        period=None,
        provider=provider,
        allow=(REALDATA,),
    )
    assert len(result.scenes) == count
    assert result.refused == ()


def test_each_real_place_has_all_three_inputs():
    for name in ("433D_629L_3_1", "637U_59R_1_3", "282D_485L_3_3"):
        item = read_recorded(f"../catalog/planetary-computer/sentinel-2-l2a/S2_TM_{name}.json")
        moment = day(item["properties"]["datetime"][:10])
        period = (moment - dt.timedelta(days=5), moment + dt.timedelta(days=5))
        result = find(
            Path(REALDATA) / "catalog/planetary-computer",
            ("S2L2A", "S1RTC", "DEM"),
            region=shapely.box(*item["bbox"]),
            period=period,
            provider="planetary-computer",
            allow=(REALDATA,),
        )
        assert sorted(scene.modality for scene in result.scenes) == ["DEM", "S1RTC", "S2L2A"]
