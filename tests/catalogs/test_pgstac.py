"""The real STAC API, stac-fastapi-pgstac, against the static catalogs that it was loaded with."""

import datetime as dt
import json
from dataclasses import replace
from urllib.parse import urljoin

import pytest
import requests
import shapely

from catalogs.errors import NothingFoundError
from catalogs.search import search
from catalogs.snapshot import Snapshot
from catalogs.sources import stac_api
from tests.servers import pgstac
from tests.support.stac_documents import WORLD

PROVIDERS = ("earth-search", "planetary-computer", "cdse")


def read_with_absolute_hrefs(path):
    """Return a STAC document without links, with absolute hrefs of its assets."""
    document = json.loads(path.read_text())
    document["links"] = []
    for asset in (document.get("assets") or {}).values():
        asset["href"] = urljoin(path.as_uri(), asset["href"])
    return document


@pytest.fixture(scope="module")
def server(realdata):
    """Yield the address of an API that holds every item of the real static catalogs."""
    reason = pgstac.missing()
    if reason:
        pytest.skip(reason)
    collections, items = {}, []
    for path in sorted((realdata / "catalog").glob("*/*/*.json")):
        document = read_with_absolute_hrefs(path)
        if path.name == "collection.json":
            collections.setdefault(document["id"], document)
            # ^ three providers have a sentinel-2-l2a, an API has one
        elif document.get("collection"):
            items.append(document)
    assert items
    with pgstac.serve(list(collections.values()), items) as url:
        yield url


@pytest.fixture
def search_both(server, realdata):
    """Return a function that searches the API and the static catalog, and returns both results.

    The API holds the items of all providers in the same collections. Some of the others can supply
    a mask band, which has the same name there, so they are left out of its result.
    """

    def search_api_and_catalog(provider, modalities=("S2L2A",), region=WORLD, period=None):
        folder = realdata / "catalog" / provider
        live, static = (
            search.find_scenes(
                search.CatalogSource(provider=provider, location=location, allow=(str(realdata),)),
                modalities,
                region,
                period,
            )
            for location in (server, str(folder / "catalog.json"))
        )
        own_ids = {json.loads(path.read_text())["id"] for path in folder.glob("*/*.json")}
        own_scenes = tuple(scene for scene in live.scenes if scene.id in own_ids)
        own_caveats = tuple(caveat for caveat in live.caveats if caveat.id in own_ids)
        return [replace(live, scenes=own_scenes, caveats=own_caveats), static]

    return search_api_and_catalog


def assert_same_scenes(first, second):
    assert [scene.identity() for scene in first.scenes] == [
        scene.identity() for scene in second.scenes
    ]
    assert [scene.assets for scene in first.scenes] == [scene.assets for scene in second.scenes]
    assert Snapshot(scenes=first.scenes).digest == Snapshot(scenes=second.scenes).digest
    assert first.caveats == second.caveats


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_pages_of_any_size_hold_the_same_scenes(search_both, monkeypatch, size):
    monkeypatch.setattr(stac_api, "PAGE_SIZE", size)
    live, static = search_both("earth-search")
    assert live.scenes
    assert_same_scenes(live, static)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_and_several_collections(search_both, provider):
    modalities = ("S2L2A", "S1RTC", "DEM") if provider == "planetary-computer" else ("S2L2A",)
    live, static = search_both(provider, modalities)
    assert_same_scenes(live, static)
    assert {scene.modality for scene in live.scenes} == set(modalities)
    refused_ids = {refusal.id for refusal in live.refused} - {
        rejection.id for rejection in static.refused
    }
    assert refused_ids.isdisjoint({scene.id for scene in static.scenes})


def test_region_and_period_are_sent_to_the_api(search_both, monkeypatch):
    monkeypatch.setattr(stac_api, "PAGE_SIZE", 2)
    all_scenes = search_both("planetary-computer")[1].scenes
    for scene in all_scenes[::6]:
        moment = scene.datetime
        west, south, east, north = scene.bbox
        corner = shapely.box(west, south, (west + east) / 2, (south + north) / 2)
        triangle = shapely.Polygon([(west, south), (east, south), (west, north)])
        for region in (corner, triangle, shapely.union_all([corner, shapely.box(100, 0, 101, 1)])):
            period = (moment - dt.timedelta(days=6), moment + dt.timedelta(days=6))
            live, static = search_both("planetary-computer", region=region, period=period)
            assert_same_scenes(live, static)
            assert scene.id in {scene.id for scene in live.scenes}
            assert len(live.scenes) < len(all_scenes)


def test_a_region_across_180_degrees_is_searched(search_both):
    live, static = search_both("earth-search", region=shapely.box(15.5, 45, 200, 47))
    # ^ from the middle of the scenes eastward to 160 degrees west
    assert_same_scenes(live, static)
    assert live.scenes
    with pytest.raises(NothingFoundError):
        search_both("earth-search", region=shapely.box(170, 45, 190, 47))


def test_the_error_of_an_empty_result_states_the_extent(search_both, server):
    with pytest.raises(NothingFoundError) as raised:
        search_both("earth-search", region=shapely.box(-60, -30, -59, -29))
    message = str(raised.value)
    assert server in message
    assert "sentinel-2-l2a runs from 20" in message


def test_the_client_can_query(server):
    from pystac_client import Client

    query = Client.open(server).search(
        collections=["sentinel-2-l2a"], query={"eo:cloud_cover": {"lt": 30}}, limit=2
    )
    item_ids = {item["id"] for item in query.items_as_dicts()}
    features = requests.post(
        f"{server}/search", json={"collections": ["sentinel-2-l2a"], "limit": 500}, timeout=30
    ).json()["features"]
    expected = {
        item["id"] for item in features if item["properties"].get("eo:cloud_cover", 100) < 30
    }
    assert item_ids == expected
    assert 0 < len(expected) < len(features)
