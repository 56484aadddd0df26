"""A scene knows the address of its item, so that products can link to it."""

from __future__ import annotations

import pytest

from tests.servers.scripted_stac_api import Answer, Server, landing, page
from tests.support.stac_documents import an_item, dump, find, publish


def _add_self(item, href):
    return item | {"links": [{"rel": "self", "href": href}]}


def test_an_item_of_a_static_catalog_is_its_file(tmp_path):
    """Its own statement is not used: copies of catalogs still state the address of the original."""
    moved = _add_self(an_item("a"), "https://example.org/original/a.json")
    (scene,) = find(publish(tmp_path, [moved])).scenes
    assert scene.item_href == str(tmp_path / "sentinel-2-l2a" / "a.json")


FEATURES = "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core"


def _serve(item, stated, *classes):
    """Return a server of one item, which states an address of its own."""

    def answer(url):
        links = [] if stated is None else [{"rel": "self", "href": stated.format(url=url)}]
        assets = {"B02": {"href": f"{url}/a.tif"}}
        root = landing(url)
        return {
            "/": Answer(body=root | {"conformsTo": [*root["conformsTo"], *classes]}),
            "/search": page([item | {"links": links, "assets": assets}]),
        }

    return Server(answer)


@pytest.mark.parametrize(
    "stated",
    [
        "{url}/collections/sentinel-2-l2a/items/S2A%20one%2F%C3%A4",
        "{url}/stac/stac/collections/sentinel-2-l2a/items/a",
        "http://stac-api:8080/items/a",
        "./a.json",
        None,
    ],
    ids=["right", "root-path-twice", "behind-proxy", "relative", "none"],
)
def test_an_item_of_an_api_lies_below_the_address_that_was_searched(stated):
    with _serve(an_item("S2A one/ä"), stated, FEATURES) as server:
        (scene,) = find(server.url).scenes
        root = f"{server.url}/collections/sentinel-2-l2a/items"
        assert scene.item_href == f"{root}/S2A%20one%2F%C3%A4"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("{url}/v2/items/a?token=SECRET", "{url}/v2/items/a"),
        ("http://stac-api:8080/items/a", None),
        (None, None),
    ],
    ids=["own", "behind-proxy", "none"],
)
def test_an_api_without_pages_of_items_is_believed_for_its_own_host(stated, expected):
    with _serve(an_item("a"), stated) as server:
        (scene,) = find(server.url).scenes
        assert scene.item_href == (expected and expected.format(url=server.url))


def test_items_of_a_saved_search_are_what_they_state(tmp_path):
    url = "https://example.org/collections/sentinel-2-l2a/items/a"
    features = [_add_self(an_item("a"), url), an_item("b")]
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": features})
    hrefs = {scene.id: scene.item_href for scene in find(path, allow=("example.org",)).scenes}
    assert hrefs == {"a": url, "b": None}
