"""A scene knows the address of its item, so that products can link to it."""

from __future__ import annotations

import pytest

from tests.servers.scripted_stac_api import page, serve
from tests.support.stac_documents import an_item, dump, find, publish


def _add_self(item, href):
    return item | {"links": [{"rel": "self", "href": href}]}


def test_an_item_of_a_static_catalog_is_its_file(tmp_path):
    """Its own statement is not used: copies of catalogs still state the address of the original."""
    moved = _add_self(an_item("a"), "https://example.org/original/a.json")
    (scene,) = find(publish(tmp_path, [moved])).scenes
    assert scene.item_href == str(tmp_path / "sentinel-2-l2a" / "a.json")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("{url}/collections/sentinel-2-l2a/items/a", "{url}/collections/sentinel-2-l2a/items/a"),
        ("{url}/v2/items/a?token=SECRET", "{url}/v2/items/a"),
        ("http://stac-api:8080/items/a", "{url}/collections/sentinel-2-l2a/items/a"),
        ("./a.json", "{url}/collections/sentinel-2-l2a/items/a"),
        (None, "{url}/collections/sentinel-2-l2a/items/a"),
    ],
    ids=["own", "query", "behind-proxy", "relative", "none"],
)
def test_an_item_of_an_api_has_a_url_on_its_host(stated, expected):
    item = an_item("a")
    with serve(page([item])) as server:
        if stated is not None:
            item["links"] = [{"rel": "self", "href": stated.format(url=server.url)}]
        item["assets"] = {"B02": {"href": f"{server.url}/a.tif"}}
        (scene,) = find(server.url).scenes
        assert scene.item_href == expected.format(url=server.url)


def test_ids_are_percent_encoded_in_built_urls():
    with serve(page([an_item("S2A one/ä")])) as server:
        (scene,) = find(server.url).scenes
        root = f"{server.url}/collections/sentinel-2-l2a/items"
        assert scene.item_href == f"{root}/S2A%20one%2F%C3%A4"


def test_items_of_a_saved_search_are_what_they_state(tmp_path):
    url = "https://example.org/collections/sentinel-2-l2a/items/a"
    features = [_add_self(an_item("a"), url), an_item("b")]
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": features})
    hrefs = {scene.id: scene.item_href for scene in find(path, allow=("example.org",)).scenes}
    assert hrefs == {"a": url, "b": None}
