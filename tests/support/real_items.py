"""Items of the real static catalogs, read as plain JSON, and the facts about their pixels.

The table ``OFFSET_IN_PIXELS`` states, independently of the provider tables, which collections have
ESA's offset in their pixels. Everything else is read from the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import shapely

from catalogs import providers
from catalogs.href_policy import HrefPolicy
from catalogs.scene import Scene
from catalogs.search import search
from catalogs.stac import item as stac_item
from catalogs.stac.parsing import UnusableItemError
from flows.config import job as jobs
from flows.run import planning
from pipeline.plan.plan import Plan

Item = dict[str, Any]

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2")
WORLD = shapely.box(-180, -89, 180, 89)
OFFSET_IN_PIXELS = {
    ("earth-search", "sentinel-2-l2a"): False,
    ("earth-search", "sentinel-2-c1-l2a"): True,
    ("earth-search", "sentinel-2-l1c"): True,
    ("planetary-computer", "sentinel-2-l2a"): True,
    ("cdse", "sentinel-2-l2a"): True,
    ("cdse", "sentinel-2-l1c"): True,
    ("earth-search-v0", "sentinel-s2-l2a-cogs"): False,
    ("stactools", "sentinel-2-l2a"): True,
}
"""Whether pixels hold the 1000 that ESA adds since baseline 04.00; others do."""

COLOURS = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir22": "B12",
    "data": "DEM",
}


def iterate_items(realdata: Path) -> Iterator[tuple[str, Item]]:
    """Yield (folder of the catalog, item) of every static catalog, with absolute hrefs.

    Items without a collection, without a link to them, or whose rasters are elsewhere are left out.
    """
    for path in sorted((realdata / "catalog").glob("*/*/*.json")):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature" and item.get("collection") and _is_linked(path):
            for asset in item["assets"].values():
                asset["href"] = str((path.parent / asset["href"]).resolve())
            hrefs = [Path(asset["href"]) for asset in item["assets"].values()]
            rasters = [href for href in hrefs if href.suffix.lower() in RASTER_SUFFIXES]
            if rasters and all(raster.is_file() for raster in rasters):
                yield path.parents[1].name, item


def _is_linked(path: Path) -> bool:
    """Return whether the collection beside an item links to it."""
    collection = path.parent / "collection.json"
    links = json.loads(collection.read_text()).get("links", []) if collection.is_file() else []
    return path.name in {Path(unquote(link["href"])).name for link in links}


def select_known_collections(provider: str, items: Iterable[Item]) -> list[Item]:
    """Return the items whose collection has an entry in a provider's table."""
    known = providers.get(provider).collections_by_id
    return [item for item in items if item["collection"] in known]


def is_usable(provider: str, item: Item) -> bool:
    """Return whether an item of a known collection becomes a scene; some contradict themselves."""
    table = providers.get(provider)
    folders = {str(Path(asset["href"]).parent) for asset in item["assets"].values()}
    try:
        stac_item.parse(
            item,
            provider=table,
            modality=table.collections_by_id[item["collection"]].modality,
            policy=HrefPolicy(provider=table, allow=tuple(sorted(folders))),
            base="/item.json",
        )
    except UnusableItemError:
        return False
    return True


def get_modality(item: Item) -> str | None:
    """Return the modality of an item, from its properties and the names of its assets."""
    properties, names = item["properties"], item["assets"]
    if "sar:product_type" in properties:
        return {"RTC": "S1RTC", "GRD": "S1GRD"}.get(properties["sar:product_type"])
    if "msi" in (properties.get("instruments") or ()):
        return "S2L1C" if {"B10", "cirrus"} & set(names) else "S2L2A"
    return "DEM" if "dem" in str(item.get("collection")) else None


def get_band(name: str) -> str:
    """Return the band of an asset by the asset's name."""
    return COLOURS.get(name, name.split("_", maxsplit=1)[0].upper())


def get_baseline(item: Item) -> str | None:
    """Return the processing baseline, from the older or the newer property."""
    properties = item["properties"]
    return properties.get("s2:processing_baseline") or properties.get("processing:version")


def compute_added_offset(folder: str, item: Item) -> int:
    """Return the number to add to stored values of Sentinel-2, in counts."""
    if not OFFSET_IN_PIXELS.get((folder, item["collection"]), True):
        return 0
    baseline = get_baseline(item)
    if baseline is not None:
        return -1000 if Decimal(baseline) >= 4 else 0
    offsets = [
        fields["offset"]
        for asset in item["assets"].values()
        for fields in asset.get("raster:bands", ())
        if "offset" in fields
    ]
    return round(10_000 * offsets[0]) if offsets else 0


def find_scenes(realdata: Path, name: str, modalities: Sequence[str]) -> tuple[Scene, ...]:
    """Return the scenes of a static catalog whose rasters are on this machine."""
    source = search.CatalogSource(
        provider=name,
        location=str(realdata / "catalog" / name / "catalog.json"),
        allow=(str(realdata),),
    )
    scenes = search.find_scenes(source, modalities, WORLD, None).scenes
    return tuple(
        scene
        for scene in scenes
        if all(Path(asset.href).is_file() for asset in scene.assets.values())
    )


def select_slovenian_scenes(realdata: Path) -> list[Item]:
    """Return six granules of Earth Search: 33TWL and 33TWM on 10, 13 and 18 August 2023."""
    name = re.compile(r"S2[AB]_33TW[LM]_202308(10|13|18)_0_L2A")
    items = [item for _, item in iterate_items(realdata) if name.fullmatch(item["id"])]
    return list({item["id"]: item for item in items}.values())


def select_place(realdata: Path, place: str) -> list[Item]:
    """Return the three items of a place of TerraMesh: S2L2A, S1RTC and DEM."""
    collections = {"sentinel-2-l2a", "sentinel-1-rtc", "cop-dem-glo-30"}
    return [
        item
        for folder, item in iterate_items(realdata)
        if folder == "planetary-computer"
        and item["collection"] in collections
        and re.fullmatch(rf"(S1|S2|DEM)_TM_{place}(_rtc)?", item["id"])
    ]


def publish_catalog(target: Path, items: Sequence[Item]) -> Path:
    """Write items into a new static catalog, and return its path."""
    for name in {item["collection"] for item in items}:
        (target / name).mkdir(parents=True)
        members = [item for item in items if item["collection"] == name]
        links = [{"rel": "item", "href": f"./{number}.json"} for number in range(len(members))]
        collection = {"type": "Collection", "id": name, "links": links}
        _write(target / name / "collection.json", collection)
        for number, item in enumerate(members):
            _write(target / name / f"{number}.json", item | {"links": []})
    names = sorted({item["collection"] for item in items})
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in names]
    _write(target / "catalog.json", {"type": "Catalog", "id": "some", "links": links})
    return target / "catalog.json"


def _write(path: Path, document: Item) -> None:
    defaults = {"stac_version": "1.0.0", "description": "Real items, some with another claim."}
    path.write_text(json.dumps(defaults | document))


def iterate_radar(realdata: Path) -> Iterator[tuple[str, Item]]:
    """Yield (provider, item) of radar; items of the other catalog get collections of a provider."""
    for folder, item in iterate_items(realdata):
        modality = get_modality(item)
        assets = [item["assets"].get(name, {}) for name in ("vv", "vh")]
        states_units = all("unit" in (asset.get("raster:bands") or [{}])[0] for asset in assets)
        if modality in ("S1RTC", "S1GRD") and states_units:
            collection = {"S1RTC": "sentinel-1-rtc", "S1GRD": "sentinel-1-grd"}[modality]
            provider = folder if folder in providers.list_names() else "planetary-computer"
            yield provider, item | {"collection": collection}


def build_job(
    location: Path, provider: str, items: Sequence[Item], check: str, **sections: Any
) -> dict[str, Any]:
    """Return a job over a small region that lies in all items."""
    common = shapely.intersection_all([shapely.geometry.shape(item["geometry"]) for item in items])
    point = common.representative_point()
    return {
        "name": "claims",
        "region": {"bbox": list(point.buffer(0.001).bounds)},
        "period": "2014-01-01/2098-12-31",
        "catalog": {"path": str(location), "provider": provider},
        "allow": sorted(
            {str(Path(asset["href"]).parent) for item in items for asset in item["assets"].values()}
        ),
        "inputs": [get_modality(items[0])],
        "grid": {"crs": "utm", "resolution": 20},
        "composite": {"max_cloud_cover": 100},
        "radiometry": {"proof": check},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True},
    } | sections


def create_plan(
    location: Path, provider: str, items: Sequence[Item], check: str, **sections: Any
) -> Plan:
    """Plan such a job."""
    values = build_job(location, provider, items, check, **sections)
    return planning.create_plan(jobs.parse(values, folder=location.parent))
