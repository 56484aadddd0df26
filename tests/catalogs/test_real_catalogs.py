"""Search in the real static catalogs and in recorded responses read as files."""

import datetime as dt
import json
import os
from pathlib import Path

import pytest
import shapely

from tests.support.real_items import (
    get_modality,
    iterate_items,
    select_known_collections,
    select_place,
)
from tests.support.stac_documents import (
    WORLD,
    day,
    find,
    ids,
)

REALDATA = os.environ.get("TERRAMOSAIC_REALDATA")
pytestmark = pytest.mark.skipif(not REALDATA, reason="TERRAMOSAIC_REALDATA is not set")


def read_recorded(name):
    path = Path(REALDATA or "") / "stac" / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the real documents")
    return json.loads(path.read_text())


def test_recorded_pages_hold_every_scene_twice():
    region = shapely.box(9, 47, 10, 48)
    period = (day("2020-03-01"), day("2020-03-05"))
    names, documents = [], []
    for page in (1, 2):
        name = f"earth-search-v1/_api/search_s2_duplicates_page{page}.response.json"
        documents += read_recorded(name)["features"]
        path = Path(REALDATA) / "stac" / name
        result = find(path, region=region, period=period, provider="earth-search")
        assert result.refused == ()
        for scene in result.scenes:
            assert {asset.radiometry.offset for asset in scene.assets.values()} == {0.0}
        names += ids(result)
    assert sorted(names) == sorted({document["id"] for document in documents})
    assert {"S2A_32TMT_20200305_0_L2A", "S2A_32TMT_20200305_1_L2A"} <= set(names)


def test_a_recorded_response_of_cdse():
    name = "cdse/_api/search_s2_4items.response.json"
    documents = read_recorded(name)["features"]
    path = Path(REALDATA) / "stac" / name
    result = find(path, region=WORLD, period=None, provider="cdse")
    assert sorted(ids(result)) == sorted(document["id"] for document in documents)
    for scene in result.scenes:
        assert scene.baseline == "05.00"
        assert scene.assets["B02"].href.startswith("s3://eodata/")
        assert scene.assets["B02"].href.endswith("_B02_10m.jp2")
        assert scene.assets["B02"].radiometry.offset == -0.1
        assert scene.assets["B02"].epsg == 32632


@pytest.mark.parametrize("path", ["{provider}/catalog.json", "catalog.json"])
@pytest.mark.parametrize(
    ("provider", "modalities"),
    [
        ("planetary-computer", ("S2L2A", "S1RTC", "DEM")),
        ("earth-search", ("S2L2A",)),
        ("cdse", ("S2L2A",)),
    ],
)
def test_every_item_of_a_real_static_catalog_is_a_scene(path, provider, modalities):
    result = find(
        Path(REALDATA) / "catalog" / path.format(provider=provider),
        modalities,
        region=WORLD,
        period=None,
        provider=provider,
        allow=(REALDATA,),
    )
    of_provider = [item for folder, item in iterate_items(Path(REALDATA)) if folder == provider]
    expected = {
        item["id"]
        for item in select_known_collections(provider, of_provider)
        if get_modality(item) in modalities
    }
    assert expected
    assert expected <= {*ids(result), *(refusal.id for refusal in result.refused)}
    assert len(expected - set(ids(result))) < len(expected) / 2


@pytest.mark.parametrize("place", ["433D_629L_3_1", "637U_59R_1_3", "282D_485L_3_3"])
def test_each_real_place_has_all_three_inputs(place):
    (item,) = (
        item for item in select_place(Path(REALDATA), place) if get_modality(item) == "S2L2A"
    )
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
    assert {scene.modality for scene in result.scenes} == {"DEM", "S1RTC", "S2L2A"}
    assert item["id"] in ids(result)
