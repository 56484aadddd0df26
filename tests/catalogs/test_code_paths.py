"""One item means the same on every way into the search, or is refused with the reason."""

import contextlib
import copy
import json

import pytest

from catalogs.errors import InvalidInputError, NothingFoundError, TerramosaicError
from tests.servers.scripted_stac_api import Answer, Server, page, serve
from tests.support.stac_documents import an_item, dump, find, ids, publish

HOST = "https://data.example"


def an_absolute_item(name="a", **changed):
    return an_item(name, assets={"B02": {"href": f"{HOST}/{name}.tif"}}) | changed


@contextlib.contextmanager
def _as_linked_item(folder, item):
    links = [{"rel": "item", "href": "./item.json"}]
    dump(folder / "item.json", item)
    yield dump(folder / "catalog.json", {"type": "Catalog", "id": "x", "links": links})


@contextlib.contextmanager
def _in_a_collection(folder, item):
    links = [{"rel": "item", "href": "./item.json"}]
    dump(folder / "item.json", item)
    collection = {"type": "Collection", "id": "sentinel-2-l2a", "extent": {}, "links": links}
    yield dump(folder / "collection.json", collection)


@contextlib.contextmanager
def _in_a_list_of_collections(folder, item):
    links = [{"rel": "item", "href": "./item.json"}]
    dump(folder / "item.json", item)
    collections = [
        {"type": "Collection", "id": "other", "extent": {}, "links": []},
        {"type": "Collection", "id": "sentinel-2-l2a", "extent": {}, "links": links},
    ]
    yield dump(folder / "collections.json", {"collections": collections, "links": []})


@contextlib.contextmanager
def _in_a_list_of_items(folder, item):
    links = [{"rel": "items", "href": "./items.geojson", "type": "application/geo+json"}]
    dump(folder / "items.geojson", {"type": "FeatureCollection", "features": [item]})
    collection = {"type": "Collection", "id": "sentinel-2-l2a", "extent": {}, "links": links}
    yield dump(folder / "collection.json", collection)


@contextlib.contextmanager
def _as_feature_collection(folder, item):
    yield dump(folder / "items.json", {"type": "FeatureCollection", "features": [item]})


@contextlib.contextmanager
def _as_child_feature_collection(folder, item):
    dump(folder / "items.json", {"type": "FeatureCollection", "features": [item]})
    links = [{"rel": "child", "href": "./items.json", "type": "application/geo+json"}]
    yield dump(folder / "catalog.json", {"type": "Catalog", "id": "x", "links": links})


@contextlib.contextmanager
def _as_single_item(folder, item):
    yield dump(folder / "item.json", item)


@contextlib.contextmanager
def _with_a_byte_order_mark(folder, item):
    path = folder / "item.json"
    path.write_text("\ufeff" + json.dumps(item), encoding="utf-8")
    yield path


@contextlib.contextmanager
def _in_utf_16(folder, item):
    path = folder / "item.json"
    path.write_text(json.dumps(item), encoding="utf-16")
    yield path


@contextlib.contextmanager
def _on_a_web_server(folder, item):
    del folder
    links = [{"rel": "item", "href": "./item.json"}]
    script = {
        "/c.json": Answer(body={"type": "Catalog", "id": "x", "links": links}),
        "/item.json": Answer(body=item),
    }
    with Server(lambda _: script) as server:
        yield f"{server.url}/c.json"


@contextlib.contextmanager
def _from_an_api(folder, item):
    del folder
    with serve(page([item])) as server:
        yield f"{server.url}/"


@contextlib.contextmanager
def _from_an_api_in_utf_16(folder, item):
    del folder
    body = json.dumps({"type": "FeatureCollection", "features": [item], "links": []})
    with serve(Answer(body=body.encode("utf-16"))) as server:
        yield f"{server.url}/"


WAYS = [
    _as_linked_item,
    _in_a_collection,
    _in_a_list_of_collections,
    _in_a_list_of_items,
    _as_feature_collection,
    _as_child_feature_collection,
    _as_single_item,
    _with_a_byte_order_mark,
    _in_utf_16,
    _on_a_web_server,
    _from_an_api,
    _from_an_api_in_utf_16,
]


def _find_on_all_ways(folder, item, **options):
    """Return the scenes, or the errors, of every way into the search."""
    results = {}
    for way in WAYS:
        target = folder / way.__name__
        target.mkdir()
        with way(target, item) as location:
            try:
                result = find(location, allow=("data.example",), **options)
            except TerramosaicError as error:
                results[way.__name__] = error
            else:
                assert result.refused == ()
                results[way.__name__] = [_to_dict(scene) for scene in result.scenes]
    return results


def _to_dict(scene):
    """Return a scene as JSON values, without the address of its document."""
    return scene.to_dict() | {"item_href": None}


def _remove(item, *keys):
    return {key: value for key, value in item.items() if key not in keys}


STATED = an_absolute_item()
SAME_ITEMS = {
    "stated": STATED,
    "null": STATED | {"collection": None},
    "absent": _remove(STATED, "collection"),
    "empty": STATED | {"collection": ""},
    "key in capitals": STATED | {"assets": {"b02": STATED["assets"]["B02"]}},
    "moved self link": STATED | {"links": [{"rel": "self", "href": "https://old.example/a.json"}]},
    "no links": _remove(STATED, "links"),
    "null links": STATED | {"links": None},
    "host in capitals": STATED | {"assets": {"B02": {"href": "HTTPS://DATA.example/a.tif"}}},
    "stac 0.9": STATED | {"stac_version": "0.9.0"},
    "stac 1.1": STATED
    | {
        "stac_version": "1.1.0",
        "properties": _remove(STATED["properties"], "proj:epsg") | {"proj:code": "EPSG:32632"},
    },
}


@pytest.mark.parametrize("name", SAME_ITEMS)
def test_an_item_is_the_same_scene_on_every_way(tmp_path, name):
    results = _find_on_all_ways(tmp_path, copy.deepcopy(SAME_ITEMS[name]))
    expected = find(publish(tmp_path / "stated", [STATED]), allow=("data.example",)).scenes
    assert len(expected) == 1
    document = _to_dict(expected[0])
    if name == "host in capitals":
        document["assets"]["B02"]["href"] = "https://DATA.example/a.tif"
    assert results == {way.__name__: [document] for way in WAYS}


RADIOMETRY = [
    {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]},
    {"bands": [{"name": "B02", "nodata": 0, "raster:scale": 0.0001, "raster:offset": -0.1}]},
    {"nodata": 0, "raster:scale": 0.0001, "raster:offset": -0.1},
]


def test_radiometry_means_the_same_in_every_version_of_stac(tmp_path):
    documents = []
    for number, fields in enumerate(RADIOMETRY):
        item = an_absolute_item(assets={"B02": {"href": f"{HOST}/a.tif"} | fields})
        (tmp_path / str(number)).mkdir()
        results = _find_on_all_ways(tmp_path / str(number), item)
        documents += [scene for scenes in results.values() for scene in scenes]
    assert len(documents) == len(RADIOMETRY) * len(WAYS)
    assert all(document == documents[0] for document in documents)
    assert documents[0]["assets"]["B02"]["radiometry"]["offset"] == -0.1


REFUSED_ITEMS = {
    "other assets": (
        _remove(an_absolute_item(assets={"visual": {"href": "./v.tif"}}), "collection"),
        r"no usable S2L2A asset|assets are those of no collection of demo: visual",
    ),
    "several bands": (
        STATED | {"assets": {"B02": {"href": "./a.tif", "bands": [{}, {}]}}},
        "no usable S2L2A asset",
    ),
    "two keys in other case": (
        STATED
        | {"collection": "sentinel-1-rtc"}
        | {"assets": {"Vv": {"href": f"{HOST}/a.tif"}, "vV": {"href": f"{HOST}/b.tif"}}},
        "S1RTC|S2L2A",
    ),
    "another host": (
        STATED | {"assets": {"B02": {"href": "https://other.example/a.tif"}}},
        "add other.example to the job's allow list",
    ),
    "backslash": (
        STATED | {"assets": {"B02": {"href": "px\\a.tif"}}},
        "has a backslash, as paths of Windows have",
    ),
    "collection is a number": (STATED | {"collection": 7}, "S2L2A"),
    "collection is a list": (STATED | {"collection": ["sentinel-2-l2a"]}, "S2L2A"),
    "collection in capitals": (STATED | {"collection": "Sentinel-2-L2A"}, "Sentinel-2-L2A"),
    "another collection": (STATED | {"collection": "landsat"}, "landsat"),
}


@pytest.mark.parametrize("name", REFUSED_ITEMS)
def test_an_item_is_refused_on_every_way_with_the_reason(tmp_path, name):
    item, reason = REFUSED_ITEMS[name]
    results = _find_on_all_ways(tmp_path, item)
    for way, error in results.items():
        assert isinstance(error, NothingFoundError), (way, error)
        with pytest.raises(NothingFoundError, match=reason):
            raise error


TABLE = """
collections:
  first: {modality: S2L2A, names: {B02: B02}}
  second: {modality: S2L2A, names: {B02: B02}, offset: removed}
  radiance: {modality: S2L1C, names: {B03: green}}
  radar: {modality: S1RTC, names: {VV: vv}, unit: power}
  amplitude: {modality: S1GRD, names: {VV: vv}}
"""


@pytest.mark.parametrize(
    ("name", "assets", "properties", "modality", "outcome"),
    [
        ("a", ["B02"], {}, "S2L2A", "assets fit first and second of mine: write one of them"),
        ("a", ["green"], {}, "S2L1C", "radiance"),
        ("S2A_MSIL1C_20240610", ["green"], {}, "S2L1C", "radiance"),
        ("S2A_MSIL2A_20240610", ["green"], {}, "S2L1C", "a product of S2L2A, while radiance of"),
        ("a", ["green"], {"s2:product_type": "S2MSI2A"}, "S2L1C", "while radiance of mine holds"),
        ("a", ["vv"], {}, "S1RTC", "assets fit radar and amplitude"),
        ("a", ["vv"], {"sar:product_type": "RTC"}, "S1RTC", "radar"),
        ("a", ["vv"], {"product:type": "RTC"}, "S1RTC", "radar"),
        ("a", ["VV"], {"sar:product_type": "RTC"}, "S1RTC", "radar"),
        ("a", ["green", "vv"], {}, "S1RTC", "assets fit radiance and radar and amplitude"),
    ],
)
def test_an_item_without_a_collection_belongs_to_the_only_one_that_fits(
    tmp_path, name, assets, properties, modality, outcome
):
    item = _remove(an_item(name), "collection")
    item["assets"] = {asset: {"href": f"./{asset}.tif"} for asset in assets}
    item["properties"] |= properties
    table = tmp_path / "mine.yaml"
    table.write_text(TABLE)
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": [item]})
    if " " not in outcome:
        (scene,) = find(path, (modality,), provider=str(table)).scenes
        assert (scene.collection, scene.modality) == (outcome, modality)
        return
    with pytest.raises(NothingFoundError, match=rf"{name}: .*{outcome}"):
        find(path, (modality,), provider=str(table))


def test_items_of_several_modalities_without_collections_are_told_apart(tmp_path):
    items = [
        _remove(an_item("optical"), "collection"),
        _remove(an_item("elevation", collection="cop-dem-glo-30"), "collection"),
        _remove(an_item("radar", collection="sentinel-1-rtc"), "collection"),
    ]
    items[2]["properties"]["sar:product_type"] = "RTC"
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": items})
    result = find(path, ("S2L2A", "S1RTC", "DEM"))
    assert {scene.id: scene.modality for scene in result.scenes} == {
        "optical": "S2L2A",
        "elevation": "DEM",
        "radar": "S1RTC",
    }
    assert result.refused == ()


def test_a_table_at_a_path_means_the_same_as_the_built_in_one(tmp_path):
    from catalogs import providers

    text = (providers._YAML_FOLDER / "demo.yaml").read_text()
    table = tmp_path / "demo.yaml"
    table.write_text("\ufeff" + text, encoding="utf-8")
    catalog = publish(tmp_path / "c", [an_item("a"), an_item("v", collection="sentinel-1-rtc")])
    built_in = find(catalog, ("S2L2A", "S1RTC"))
    own = find(catalog, ("S2L2A", "S1RTC"), provider=str(table))
    assert [scene.identity() for scene in own.scenes] == [
        scene.identity() for scene in built_in.scenes
    ]


def test_a_repeated_key_of_a_provider_table_is_refused_as_in_a_job(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("collections: {s2: {modality: S2L2A, names: {B02: blue, B02: green}}}")
    path = dump(tmp_path / "item.json", an_item("a"))
    with pytest.raises(InvalidInputError, match="the key 'B02' is repeated"):
        find(path, provider=str(table))


# -- relative hrefs -------------------------------------------------------------------------------


def test_relative_hrefs_of_a_saved_collection_start_at_its_items(tmp_path):
    """An ItemCollection that pystac saves keeps hrefs relative to the items' own addresses."""
    (tmp_path / "data").mkdir()
    own = tmp_path / "data" / "items" / "a.json"
    item = an_item("a", links=[{"rel": "self", "href": str(own)}])
    saved = dump(tmp_path / "saved.json", {"type": "FeatureCollection", "features": [item]})
    (scene,) = find(saved).scenes
    assert scene.assets["B02"].href == str(own.parent / "a.tif")
    (tmp_path / "a.tif").touch()
    (scene,) = find(saved).scenes
    assert scene.assets["B02"].href == str(tmp_path / "a.tif")
    # ^ rasters that were downloaded beside the file


@pytest.mark.parametrize("own", [True, False])
def test_relative_hrefs_from_an_api_start_at_the_item(own):
    item = an_item("a")
    script = page([item])
    with serve(script) as server:
        if own:
            item["links"] = [{"rel": "self", "href": f"{server.url}/static/x/a.json"}]
        (scene,) = find(f"{server.url}/").scenes
        folder = "static/x" if own else "collections/sentinel-2-l2a/items"
        assert scene.assets["B02"].href == f"{server.url}/{folder}/a.tif"


def test_an_own_address_elsewhere_opens_no_other_host(tmp_path):
    item = an_item("a", links=[{"rel": "self", "href": "https://evil.example/a.json"}])
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": [item]})
    with pytest.raises(NothingFoundError, match=r"evil\.example, which is not a host of demo"):
        find(path)
    outside = an_item("a", links=[{"rel": "self", "href": "/etc/a.json"}])
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": [outside]})
    with pytest.raises(NothingFoundError, match="outside of the catalog's own folder"):
        find(path)


# -- documents that hold a part only --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "caveat"),
    [
        ({}, None),
        ({"numberMatched": 1}, None),
        ({"numberMatched": 1, "links": [{"rel": "next", "href": "?page=2"}]}, None),
        ({"numberMatched": 40}, "holds 1 of 40 items of a search"),
        ({"context": {"matched": 40}}, "holds 1 of 40 items"),
        ({"links": [{"rel": "next", "href": "?page=2"}]}, "the pages after it are not read"),
    ],
)
def test_a_saved_page_of_a_search_is_told(tmp_path, fields, caveat):
    document = {"type": "FeatureCollection", "features": [an_item("a")]} | fields
    result = find(dump(tmp_path / "page.json", document))
    assert ids(result) == ["a"]
    texts = [entry.text for entry in result.caveats if str(tmp_path) in entry.text]
    assert len(texts) == (caveat is not None)
    assert all(caveat in text for text in texts)


def test_a_collection_of_an_api_is_refused_with_the_address_of_the_api(tmp_path):
    links = [
        {"rel": "items", "href": "https://api.example/collections/sentinel-2-l2a/items"},
        {"rel": "root", "href": "https://api.example/"},
    ]
    collection = {"type": "Collection", "id": "sentinel-2-l2a", "extent": {}, "links": links}
    path = dump(tmp_path / "collection.json", collection)
    with pytest.raises(InvalidInputError, match=r"catalog: \{url: https://api\.example/, provider"):
        find(path)
    with (
        Server(lambda _: {"/collections/c": Answer(body=collection)}) as server,
        pytest.raises(InvalidInputError, match=r"catalog: \{url: https://api\.example/, provider"),
    ):
        find(f"{server.url}/collections/c")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b\x08\x00abc", "is compressed: unpack it"),
        (b"PK\x03\x04abc", "is compressed: unpack it"),
        (b"[]", 'write its items as {"type": "FeatureCollection"'),
        (b'{"type": "Feature"}\n{"type": "Feature"}', "is no JSON"),
        ("é".encode("latin-1"), "is no JSON"),
    ],
)
def test_a_file_of_another_format_is_refused_with_advice(tmp_path, content, reason):
    path = tmp_path / "items.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=reason):
        find(path)


def test_parts_of_other_providers_are_named_where_nothing_is_found(tmp_path):
    publish(tmp_path / "stactools", [an_item("a")])
    links = [{"rel": "child", "href": "./stactools/catalog.json"}]
    root = dump(tmp_path / "catalog.json", {"type": "Catalog", "id": "root", "links": links})
    with pytest.raises(NothingFoundError, match="Its parts stactools were not entered"):
        find(root)


def test_a_collection_in_other_case_is_named_with_advice(tmp_path):
    item = an_item("a") | {"collection": "SENTINEL-2-L2A"}
    path = dump(tmp_path / "items.json", {"type": "FeatureCollection", "features": [item]})
    with pytest.raises(NothingFoundError, match=r"are: SENTINEL-2-L2A\. .*table of your own"):
        find(path)
    table = tmp_path / "mine.yaml"
    table.write_text("collections: {SENTINEL-2-L2A: {modality: S2L2A, names: {B02: B02}}}")
    assert ids(find(path, provider=str(table))) == ["a"]
