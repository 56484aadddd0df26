"""The static STAC catalog, in the Planetary Computer's words."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

from shapely.geometry import shape

from catalogs.demo import cog, frame, passes, radar, spectra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from catalogs.demo.scenes import File, Record

Document = dict[str, Any]

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSION = "https://stac-extensions.github.io/{}/v{}/schema.json"
_TITLES = {
    "sentinel-2-l2a": "Sentinel-2 Level-2A (synthetic country)",
    "sentinel-1-rtc": "Sentinel 1 Radiometrically Terrain Corrected (synthetic country)",
    "cop-dem-glo-30": "Copernicus DEM GLO-30 (synthetic country)",
}
_BANDS = {
    "B01": ("coastal", "Coastal aerosol", 0.443, 0.027),
    "B02": ("blue", "Blue", 0.49, 0.098),
    "B03": ("green", "Green", 0.56, 0.045),
    "B04": ("red", "Red", 0.665, 0.038),
    "B05": ("rededge", "Vegetation red edge 1", 0.704, 0.019),
    "B06": ("rededge", "Vegetation red edge 2", 0.74, 0.018),
    "B07": ("rededge", "Vegetation red edge 3", 0.783, 0.028),
    "B08": ("nir", "NIR", 0.842, 0.145),
    "B8A": ("rededge", "Vegetation red edge 4", 0.865, 0.033),
    "B09": (None, "Water vapor", 0.945, 0.026),
    "B11": ("swir16", "SWIR (1.6)", 1.61, 0.143),
    "B12": ("swir22", "SWIR (2.2)", 2.19, 0.242),
}
_SHARES = {
    "s2:saturated_defective_pixel_percentage": 1,
    "s2:dark_features_percentage": 2,
    "s2:cloud_shadow_percentage": 3,
    "s2:vegetation_percentage": 4,
    "s2:not_vegetated_percentage": 5,
    "s2:water_percentage": 6,
    "s2:unclassified_percentage": 7,
    "s2:medium_proba_clouds_percentage": 8,
    "s2:high_proba_clouds_percentage": 9,
    "s2:thin_cirrus_percentage": 10,
    "s2:snow_ice_percentage": 11,
}


def publish(root: Path, records: Mapping[str, Sequence[Record]]) -> Path:
    """Write items, collections and the catalog; return the catalog's path.

    Args:
        root: folder of the catalog; the files of a record lie in it.
        records: by collection.

    """
    describe = {
        "sentinel-2-l2a": _optical,
        "sentinel-1-rtc": _radar,
        "cop-dem-glo-30": _elevation,
    }
    for collection, members in records.items():
        folder = root / collection
        items = [
            _item(record, collection) | describe[collection](record, folder) for record in members
        ]
        items.sort(key=lambda item: (item["properties"]["datetime"], item["id"]))
        for item in items:
            _write(folder / f"{item['id']}.json", item)
        _write(folder / "collection.json", _collection(collection, items))
    path = root / "catalog.json"
    _write(path, _catalog(list(records)))
    return path


def _write(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _link(relation: str, href: str, title: str | None = None) -> Document:
    kind = "application/geo+json" if relation == "item" else "application/json"
    return {"rel": relation, "href": href, "type": kind} | ({"title": title} if title else {})


def _item(record: Record, collection: str) -> Document:
    bounds = shape(record.footprint).bounds
    return {
        "id": record.id,
        "bbox": [round(value, 8) for value in bounds],
        "type": "Feature",
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "./collection.json"),
            _link("collection", "./collection.json"),
        ],
        "geometry": _rounded(record.footprint),
        "collection": collection,
        "stac_version": "1.0.0",
    }


def _rounded(geometry: Document) -> Document:
    rings = [[[round(x, 8), round(y, 8)] for x, y in ring] for ring in geometry["coordinates"]]
    return {"type": geometry["type"], "coordinates": rings}


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.024000Z"


def _file(file: File, folder: Path) -> Document:
    return {
        "href": f"./{os.path.relpath(file.path, folder)}",
        "type": _COG,
        "roles": ["data"],
        "file:size": file.path.stat().st_size,
        "file:checksum": cog.multihash(file.path),
    }


def _grid(file: File) -> Document:
    height, width = file.shape
    right, bottom = file.transform @ (width, height)
    return {
        "proj:bbox": [file.transform.c, bottom, right, file.transform.f],
        "proj:shape": [height, width],
        "proj:transform": list(file.transform)[:6],
    }


# -- Sentinel-2 ---------------------------------------------------------------------------------


def _optical(record: Record, folder: Path) -> Document:
    return {
        "assets": {key: _band(key, file, folder) for key, file in record.files.items()},
        "properties": _optical_facts(record),
        "stac_extensions": [
            _EXTENSION.format("eo", "1.0.0"),
            _EXTENSION.format("sat", "1.0.0"),
            _EXTENSION.format("projection", "1.1.0"),
            _EXTENSION.format("file", "2.1.0"),
        ],
    }


def _band(key: str, file: File, folder: Path) -> Document:
    asset = _file(file, folder) | _grid(file)
    if key == "SCL":
        return asset | {"gsd": 20.0, "title": "Scene classfication map (SCL)"}
    # ^ the provider's own spelling
    common, words, middle, breadth = _BANDS[key]
    resolution = spectra.RESOLUTION[key]
    number = key[1:].lstrip("0")
    band: Document = {"name": key, "description": f"Band {number} - {words}"}
    band |= {"common_name": common} if common else {}
    band |= {"center_wavelength": middle, "full_width_half_max": breadth}
    return asset | {
        "gsd": float(resolution),
        "title": f"Band {number} - {words} - {resolution}m",
        "eo:bands": [band],
    }


def _optical_facts(record: Record) -> Document:
    flight, granule, edition = (record.facts[name] for name in ("flight", "granule", "edition"))
    sensed, done, sun = (record.facts[name] for name in ("sensed", "done", "sun"))
    short = record.id[:3]
    version = f"N{edition.baseline}"
    absolute = f"{flight.absolute:06d}"
    return {
        "datetime": _stamp(flight.sensed),
        "platform": flight.platform,
        "proj:epsg": granule.epsg,
        "instruments": ["msi"],
        "s2:mgrs_tile": granule.tile,
        "constellation": "Sentinel 2",
        "s2:granule_id": (
            f"{short}_OPER_MSI_L2A_TL_DEMO_{done}_A{absolute}_T{granule.tile}_{version}"
        ),
        "s2:datatake_id": f"G{short}_{sensed}_{absolute}_{version}",
        "s2:product_uri": (
            f"{short}_MSIL2A_{sensed}_{version.replace('.', '')}_R{flight.orbit:03d}"
            f"_T{granule.tile}_{done}.SAFE"
        ),
        "s2:datastrip_id": f"{short}_OPER_MSI_L2A_DS_DEMO_{done}_S{sensed}_{version}",
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": _stamp(edition.processed),
        "sat:relative_orbit": flight.orbit,
        "s2:mean_solar_zenith": round(sun.zenith, 6),
        "s2:mean_solar_azimuth": round(sun.azimuth, 6),
        "s2:processing_baseline": edition.baseline,
    } | _percentages(record.facts["shares"])


def _percentages(shares: Any) -> Document:
    """Return the shares of the scene classification, of the pixels that have data."""
    seen = max(1 - float(shares[0]), 1e-9)
    facts = {name: round(100 * float(shares[code]) / seen, 6) for name, code in _SHARES.items()}
    clouds = sum(float(shares[code]) for code in (8, 9, 10))
    return {
        "eo:cloud_cover": round(100 * clouds / seen, 6),
        "s2:nodata_pixel_percentage": round(100 * float(shares[0]), 6),
        "s2:degraded_msi_data_percentage": 0.0,
    } | facts


# -- Sentinel-1 and the elevation model ----------------------------------------------------------


def _radar(record: Record, folder: Path) -> Document:
    flight = record.facts["flight"]
    file = record.files["vv"]
    facts = {
        "datetime": _stamp(flight.start + (flight.stop - flight.start) / 2),
        "platform": flight.platform,
        "start_datetime": f"{flight.start:%Y-%m-%dT%H:%M:%SZ}",
        "end_datetime": f"{flight.stop:%Y-%m-%dT%H:%M:%SZ}",
        "constellation": "Sentinel-1",
        "proj:epsg": file.epsg,
        "s1:shape": list(file.shape)[::-1],
        "s1:resolution": "high",
        "s1:datatake_id": str(record.facts["take"]),
        "s1:processing_level": "1",
        "s1:instrument_configuration_ID": "7",
        "sar:looks_range": 5,
        "sar:looks_azimuth": 1,
        "sar:looks_equivalent_number": spectra.LOOKS,
        "sar:product_type": "GRD",
        "sar:polarizations": ["VV", "VH"],
        "sar:frequency_band": "C",
        "sar:center_frequency": 5.405,
        "sar:instrument_mode": "IW",
        "sar:resolution_range": 20,
        "sar:resolution_azimuth": 22,
        "sar:pixel_spacing_range": 10,
        "sar:pixel_spacing_azimuth": 10,
        "sar:observation_direction": "right",
        "sat:orbit_state": flight.state,
        "sat:absolute_orbit": flight.absolute,
        "sat:relative_orbit": flight.orbit,
        "sat:platform_international_designator": "2014-016A",
    } | _grid(file)
    facts["proj:transform"] = [*facts["proj:transform"], 0.0, 0.0, 1.0]
    return {
        "assets": {key: _polarization(key, each, folder) for key, each in record.files.items()},
        "properties": facts,
        "stac_extensions": [
            _EXTENSION.format("sar", "1.0.0"),
            _EXTENSION.format("sat", "1.0.0"),
            _EXTENSION.format("projection", "1.1.0"),
            _EXTENSION.format("file", "2.1.0"),
            _EXTENSION.format("raster", "1.1.0"),
        ],
    }


def _polarization(key: str, file: File, folder: Path) -> Document:
    received = {"v": "vertical", "h": "horizontal"}[key[1]]
    return _file(file, folder) | {
        "title": f"{key.upper()}: vertical transmit, {received} receive",
        "description": (
            "Terrain-corrected gamma naught values of signal transmitted with vertical "
            f"polarization and received with {received} polarization with radiometric terrain "
            "correction applied."
        ),
        "raster:bands": [
            {"nodata": int(radar.NODATA), "data_type": "float32", "spatial_resolution": 10.0}
        ],
    }


def _elevation(record: Record, folder: Path) -> Document:
    (file,) = record.files.values()
    grid = _grid(file)
    return {
        "assets": {"data": _file(file, folder) | {"title": record.facts["title"]}},
        "properties": {
            "gsd": 30,
            "datetime": "2021-04-22T00:00:00Z",
            "platform": "TanDEM-X",
            "proj:epsg": file.epsg,
            "proj:shape": grid["proj:shape"],
            "proj:transform": grid["proj:transform"],
        },
        "stac_extensions": [
            _EXTENSION.format("projection", "1.1.0"),
            _EXTENSION.format("file", "2.1.0"),
        ],
    }


# -- collections and the catalog -----------------------------------------------------------------


def _collection(name: str, items: list[Document]) -> Document:
    boxes = [item["bbox"] for item in items]
    bounds = [
        *(min(box[side] for box in boxes) for side in (0, 1)),
        *(max(box[side] for box in boxes) for side in (2, 3)),
    ]
    first, last = (
        datetime.combine(day, time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for day in passes.PERIOD
    )
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "title": _TITLES[name],
        "description": (
            "Scenes of a synthetic country, rendered by terramosaic, with metadata like those of "
            "the Planetary Computer's collection of the same name. No pixel was measured."
        ),
        "license": "Apache-2.0",
        "providers": [{"name": "terramosaic", "roles": ["producer", "host"]}],
        "extent": {"spatial": {"bbox": [bounds]}, "temporal": {"interval": [[first, last]]}},
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../catalog.json"),
            *(_link("item", f"./{item['id']}.json") for item in items),
        ],
    }


def _catalog(collections: list[str]) -> Document:
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "terramosaic-demo",
        "title": "A synthetic country",
        "description": (
            "A static catalog of a synthetic country at the edge of UTM zones "
            f"{frame.MAIN - 32600} and {frame.NEIGHBOUR - 32600}, with metadata like those of the "
            "Planetary Computer."
        ),
        "links": [
            _link("root", "./catalog.json"),
            *(_link("child", f"./{name}/collection.json", _TITLES[name]) for name in collections),
        ],
    }
