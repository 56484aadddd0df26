"""Synthetic STAC documents and static catalogs, and the search that most tests run."""

import datetime as dt
import json

import shapely

from catalogs.search import search

HERE = shapely.box(9.2, 56.2, 9.8, 56.8)
WORLD = shapely.box(-180, -90, 180, 90)


def day(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


JUNE = (day("2024-06-01"), day("2024-06-30"))


def square(west=9.0, south=56.0, size=1.0):
    east, north = west + size, south + size
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def an_item(name, stamp="2024-06-10T10:00:00Z", *, collection="sentinel-2-l2a", **changed):
    band = {"sentinel-2-l2a": "B02", "sentinel-1-rtc": "vv", "cop-dem-glo-30": "data"}[collection]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": square(),
        "bbox": [9, 56, 10, 57],
        "properties": {"datetime": stamp, "proj:epsg": 32632, "s2:processing_baseline": "05.10"},
        "links": [],
        "assets": {band: {"href": f"./{name}.tif"}},
    } | changed


def dump(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def publish(folder, items, children=()):
    """Write a catalog with one folder per collection and one file per item."""
    by_collection = {}
    for document in items:
        by_collection.setdefault(document["collection"], []).append(document)
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in by_collection]
    links += [{"rel": "root", "href": "./catalog.json"}, *children]
    for name, members in by_collection.items():
        item_links = [{"rel": "item", "href": f"./{member['id']}.json"} for member in members]
        item_links += [{"rel": "parent", "href": "../catalog.json"}]
        dump(
            folder / name / "collection.json",
            {"type": "Collection", "id": name, "extent": {}, "links": item_links},
        )
        for member in members:
            dump(folder / name / f"{member['id']}.json", member)
    return dump(folder / "catalog.json", {"type": "Catalog", "id": "x", "links": links})


def find(location, modalities=("S2L2A",), region=HERE, period=JUNE, provider="demo", allow=()):
    source = search.CatalogSource(provider=provider, location=str(location), allow=allow)
    return search.find_scenes(source, modalities, region, period)


def ids(result):
    return [scene.id for scene in result.scenes]


FIVE = [an_item(f"s{number}", f"2024-06-1{number}T10:00:00Z") for number in range(5)]
ALL_FIVE = ["s0", "s1", "s2", "s3", "s4"]
