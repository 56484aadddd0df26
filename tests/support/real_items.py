"""Items of the real static catalogs, read as plain JSON, and what is known of their numbers.

The table ``ESA_ADDS`` says once more, apart from the providers' tables, whose pixels still hold
what ESA added. Everything else is told by the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import shapely

from flows.config import job as jobs
from flows.run import planning
from pipeline.plan.plan import Plan

Item = dict[str, Any]

WORLD = shapely.box(-180, -89, 180, 89)
ESA_ADDS = {
    ("earth-search", "sentinel-2-l2a"): False,
    ("earth-search", "sentinel-2-c1-l2a"): True,
    ("earth-search", "sentinel-2-l1c"): True,
    ("planetary-computer", "sentinel-2-l2a"): True,
    ("cdse", "sentinel-2-l2a"): True,
    ("cdse", "sentinel-2-l1c"): True,
    ("earth-search-v0", "sentinel-s2-l2a-cogs"): False,
    ("stactools", "sentinel-2-l2a"): True,
}
"""Whether the 1000 that ESA adds from baseline 04.00 on is in the pixels; elsewhere it is."""

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


def items(realdata: Path) -> Iterator[tuple[str, Item]]:
    """Yield (folder of the catalog, item) of every static catalog, hrefs written out."""
    for path in sorted((realdata / "catalog").glob("*/*/*.json")):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature":
            for asset in item["assets"].values():
                asset["href"] = str((path.parent / asset["href"]).resolve())
            yield path.parents[1].name, item


def modality(item: Item) -> str | None:
    """Return what an item measures, by its properties and the names of its assets."""
    facts, names = item["properties"], item["assets"]
    if "sar:product_type" in facts:
        return {"RTC": "S1RTC", "GRD": "S1GRD"}[facts["sar:product_type"]]
    if "msi" in (facts.get("instruments") or ()):
        return "S2L1C" if {"B10", "cirrus"} & set(names) else "S2L2A"
    return "DEM" if "dem" in item["collection"] else None


def band(name: str) -> str:
    """Return the band behind the name of an asset."""
    return COLOURS.get(name, name.split("_", maxsplit=1)[0].upper())


def baseline(item: Item) -> str | None:
    """Return the processing baseline, in the older or the newer way of saying it."""
    facts = item["properties"]
    return facts.get("s2:processing_baseline") or facts.get("processing:version")


def added(folder: str, item: Item) -> int:
    """Return what must be added to the stored numbers of Sentinel-2, in counts."""
    if not ESA_ADDS.get((folder, item["collection"]), True):
        return 0
    number = baseline(item)
    if number is not None:
        return -1000 if Decimal(number) >= 4 else 0
    stated = [
        one["offset"]
        for asset in item["assets"].values()
        for one in asset.get("raster:bands", ())
        if "offset" in one
    ]
    return round(10_000 * stated[0]) if stated else 0


def publish(target: Path, some: Sequence[Item]) -> Path:
    """Write items into a static catalog of their own, and return its path."""
    for name in {item["collection"] for item in some}:
        (target / name).mkdir(parents=True)
        mine = [item for item in some if item["collection"] == name]
        links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in mine]
        collection = {"type": "Collection", "id": name, "links": links}
        _write(target / name / "collection.json", collection)
        for item in mine:
            _write(target / name / f"{item['id']}.json", item | {"links": []})
    names = sorted({item["collection"] for item in some})
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in names]
    _write(target / "catalog.json", {"type": "Catalog", "id": "some", "links": links})
    return target / "catalog.json"


def _write(path: Path, document: Item) -> None:
    told = {"stac_version": "1.0.0", "description": "Real items, some with another claim."}
    path.write_text(json.dumps(told | document))


def radar(realdata: Path) -> Iterator[tuple[str, Item]]:
    """Yield (provider, item): what lies in the other catalog goes by a published table's names."""
    for folder, item in items(realdata):
        kind = modality(item)
        if kind in ("S1RTC", "S1GRD") and {"vv", "vh"} <= set(item["assets"]):
            collection = {"S1RTC": "sentinel-1-rtc", "S1GRD": "sentinel-1-grd"}[kind]
            provider = folder if folder != "other" else "planetary-computer"
            yield provider, item | {"collection": collection}


def job(
    location: Path, provider: str, some: Sequence[Item], how: str, **more: Any
) -> dict[str, Any]:
    """Return a job over a small place that all items show."""
    common = shapely.intersection_all([shapely.geometry.shape(one["geometry"]) for one in some])
    place = common.representative_point()
    return {
        "name": "claims",
        "region": {"bbox": list(place.buffer(0.001).bounds)},
        "period": "2014-01-01/2025-12-31",
        "catalog": {"path": str(location), "provider": provider},
        "allow": sorted(
            {str(Path(asset["href"]).parent) for item in some for asset in item["assets"].values()}
        ),
        "inputs": [modality(some[0])],
        "grid": {"crs": "utm", "resolution": 20},
        "composite": {"max_cloud_cover": 100},
        "radiometry": {"proof": how},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True},
    } | more


def plan(location: Path, provider: str, some: Sequence[Item], how: str, **more: Any) -> Plan:
    """Freeze such a job."""
    values = job(location, provider, some, how, **more)
    return planning.create_plan(jobs.parse(values, folder=location.parent))
