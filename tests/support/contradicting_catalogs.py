"""Catalogs whose statements about correct small files are wrong, for property tests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

SIZE = 40
LEFT, TOP, EPSG = 500_000.0, 5_300_000.0, 32633
BOUNDS = transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", LEFT, TOP - SIZE * 10, LEFT + SIZE * 10, TOP)
REGION = transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", LEFT + 60, TOP - 330, LEFT + 340, TOP - 70)
VOID = np.s_[12:18, 14:22]
"""Pixels without data."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """How the files of an input hold their values."""

    modality: str
    collection: str
    names: tuple[str, ...]
    """Keys of the assets."""

    bands: tuple[str, ...]
    days: tuple[str, ...]
    dtype: str = "uint16"
    nodata: float | None = 0
    """Stored value of pixels without data."""

    has_tag: bool = True
    """Whether the files state the nodata value."""

    scale: float = 1.0
    """Scale of the stored values: physical value = stored * scale."""

    has_scale_tag: bool = False
    unit: str | None = None

    def stored_values(self, day: int, band: int) -> np.ndarray:
        """Return (y, x) stored values."""
        generator = np.random.default_rng(10 * day + band)
        low, high = {"S2L2A": (300, 3000), "S1RTC": (0.02, 0.4), "DEM": (200, 900)}[self.modality]
        values = generator.uniform(low, high, (SIZE, SIZE))
        if self.modality == "DEM":
            values = values / self.scale
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            values = np.round(values)
        values = values.astype(self.dtype)
        if self.nodata is not None:
            values[VOID] = self.nodata
        return values

    def item_id(self, day: int) -> str:
        """Return the id of an item: the name of a product with its day."""
        date = self.days[day].replace("-", "")
        return {
            "S2L2A": f"S2A_MSIL2A_{date}T100031_R122_T33UWP_{date}T120000",
            "S1RTC": f"S1A_IW_GRDH_1SDV_{date}T051000_{date}T051025_032000_03B000_rtc",
            "DEM": f"dem-{day}",
        }[self.modality]


OPTICAL = {
    "modality": "S2L2A",
    "collection": "sentinel-2-l2a",
    "names": ("B02", "B04"),
    "bands": ("B02", "B04"),
    "days": ("2020-06-10", "2020-06-15"),
    "scale": 1e-4,
}
RADAR = {
    "modality": "S1RTC",
    "collection": "sentinel-1-rtc",
    "names": ("vv", "vh"),
    "bands": ("VV", "VH"),
    "days": ("2020-06-11", "2020-06-17"),
    "dtype": "float32",
    "unit": "1",
}
ELEVATION = {
    "modality": "DEM",
    "collection": "cop-dem-glo-30",
    "names": ("data",),
    "bands": ("DEM",),
    "days": ("2021-04-22",),
    "dtype": "float32",
    "unit": "metre",
}
KINDS: tuple[Files, ...] = (
    Files(**OPTICAL, has_tag=False),
    Files(**OPTICAL),
    Files(**OPTICAL, has_scale_tag=True),
    Files(**OPTICAL | {"dtype": "int16"}, nodata=-9999),
    Files(**OPTICAL | {"dtype": "int16"}, nodata=32767),
    Files(**OPTICAL | {"dtype": "float32"}, nodata=float("nan")),
    Files(**RADAR, nodata=-32768),
    Files(**RADAR, nodata=-32768, has_tag=False),
    Files(**RADAR, nodata=float("nan")),
    Files(**ELEVATION, nodata=-9999),
    Files(**ELEVATION, nodata=None),
    Files(**ELEVATION, nodata=-9999, has_tag=False),
    Files(**ELEVATION | {"dtype": "int32"}, nodata=-9999, scale=0.1, has_scale_tag=True),
)


def write_files(folder: Path, files: Files) -> None:
    """Write the files of all items of an input."""
    for day in range(len(files.days)):
        for index, name in enumerate(files.names):
            path = folder / files.item_id(day) / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=SIZE,
                width=SIZE,
                count=1,
                dtype=files.dtype,
                crs=f"EPSG:{EPSG}",
                transform=from_origin(LEFT, TOP, 10, 10),
                nodata=files.nodata if files.has_tag else None,
            ) as file:
                file.write(files.stored_values(day, index), 1)
                if files.has_scale_tag:
                    file.scales = (files.scale,)


def build_item(files: Files, day: int) -> dict[str, Any]:
    """Return an item that states everything correctly."""
    asset: dict[str, Any] = {
        "proj:transform": [10.0, 0.0, LEFT, 0.0, -10.0, TOP],
        "proj:shape": [SIZE, SIZE],
        "roles": ["data"],
    }
    values: dict[str, Any] = {"data_type": files.dtype, "scale": files.scale, "offset": 0}
    if files.nodata is not None:
        values["nodata"] = "nan" if np.isnan(files.nodata) else files.nodata
    if files.unit is not None:
        values["unit"] = files.unit
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": files.item_id(day),
        "collection": files.collection,
        "properties": {
            "datetime": f"{files.days[day]}T10:00:31Z",
            "platform": "sentinel-2a" if files.modality == "S2L2A" else "sentinel-1a",
            "proj:epsg": EPSG,
            "sat:orbit_state": "descending",
        }
        | ({"s2:processing_baseline": "02.14"} if files.modality == "S2L2A" else {}),
        "geometry": shapely.geometry.mapping(shapely.box(*BOUNDS)),
        "bbox": list(BOUNDS),
        "links": [],
        "assets": {
            name: {
                **asset,
                "href": f"./{files.item_id(day)}/{name}.tif",
                "raster:bands": [dict(values)],
                "eo:bands": [{"name": band}],
            }
            for name, band in zip(files.names, files.bands, strict=True)
        },
    }


def write_catalog(folder: Path, files: Files, items: list[dict[str, Any]]) -> Path:
    """Write a static catalog of one collection, in one document; return its path."""
    path = folder / "catalog.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


# -- wrong statements ----------------------------------------------------------------------------

Item = dict[str, Any]


def _change_assets(item: Item, change: Callable[[dict[str, Any]], None]) -> None:
    for asset in item["assets"].values():
        change(asset)


def _change_transform(item: Item, dice: random.Random) -> None:
    wrong = dice.choice(
        [
            [LEFT, 10.0, 0.0, TOP, 0.0, -10.0],
            [100.0, 0.0, LEFT, 0.0, -100.0, TOP],
            [1.0, 0.0, LEFT, 0.0, -1.0, TOP],
            [10.0, 0.0, LEFT + 5, 0.0, -10.0, TOP - 5],
            [10.0, 0.0, LEFT + 200_000, 0.0, -10.0, TOP],
            [10.0, 0.0, LEFT, 0.0, -10.0, TOP - 2_000_000],
            [10.0, 0.0, LEFT, 0.0, 10.0, TOP],
            [10.0, 0.0, LEFT + 100, 0.0, -10.0, TOP - 100],
        ]
    )
    if dice.random() < 0.7:
        _change_assets(item, lambda asset: asset.update({"proj:transform": wrong}))
    else:
        dice.choice(list(item["assets"].values()))["proj:transform"] = wrong


def _change_shape(item: Item, dice: random.Random) -> None:
    wrong = dice.choice([[1, 1], [SIZE * 2, SIZE * 2], [10, SIZE], [10980, 10980], [5, 5]])
    _change_assets(item, lambda asset: asset.update({"proj:shape": wrong}))


def _change_epsg(item: Item, dice: random.Random) -> None:
    item["properties"]["proj:epsg"] = dice.choice([32632, 32634, 3857, 4326, 32733, 99999])


def _change_value(key: str, choices: list[Any]) -> Callable[[Item, random.Random], None]:
    def change(item: Item, dice: random.Random) -> None:
        current = next(iter(item["assets"].values()))["raster:bands"][0].get(key)
        wrong = dice.choice([value for value in choices if value != current])
        _change_assets(item, lambda asset: asset["raster:bands"][0].update({key: wrong}))

    return change


def _move(bounds: tuple[float, float, float, float], dice: random.Random) -> Any:
    west, south, east, north = bounds
    width, height = east - west, north - south
    return dice.choice(
        [
            (west + 1, south, east + 1, north),
            (west - 40, south - 20, east - 40, north - 20),
            (west, south, west + 0.1 * width, south + 0.1 * height),
            (west - 3, south - 3, east + 3, north + 3),
            (west + 0.3 * width, south + 0.3 * height, east + 0.3 * width, north + 0.3 * height),
        ]
    )


def _change_bbox(item: Item, dice: random.Random) -> None:
    item["bbox"] = list(_move(BOUNDS, dice))


def _change_geometry(item: Item, dice: random.Random) -> None:
    item["geometry"] = shapely.geometry.mapping(shapely.box(*_move(BOUNDS, dice)))


def _change_datetime(item: Item, dice: random.Random) -> None:
    day = dice.choice(["2020-06-02", "2020-06-28", "2020-08-12", "2019-06-10", "2021-01-01"])
    item["properties"]["datetime"] = f"{day}T10:00:31Z"


def _change_bands(item: Item, dice: random.Random) -> None:
    names = list(item["assets"])
    wrong = {"VV": "HH", "VH": "HV", "B02": "B08", "B04": "B02", "DEM": "DEM"}
    for name in dice.sample(names, dice.randint(1, len(names))):
        entry = item["assets"][name]["eo:bands"][0]
        if dice.random() < 0.5 and name.startswith("B"):
            item["assets"][name]["eo:bands"] = [{"common_name": "nir"}]
        else:
            entry["name"] = wrong[entry["name"]]


CHANGES: Mapping[str, Callable[[Item, random.Random], None]] = {
    "transform": _change_transform,
    "shape": _change_shape,
    "epsg": _change_epsg,
    "nodata": _change_value(
        "nodata", [0, 1, 300, 500, 32767, 65535, -9999, -32768, "nan", 1e10, 0.1]
    ),
    "scale": _change_value("scale", [1, 0.001, 1e-8, 0.1, -1e-4, 0.5]),
    "offset": _change_value("offset", [-0.1, -1000, 0.5, 1, 100]),
    "dtype": _change_value("data_type", ["int8", "uint8", "float32", "int16", "uint32"]),
    "bbox": _change_bbox,
    "geometry": _change_geometry,
    "datetime": _change_datetime,
    "bands": _change_bands,
}
"""Fact → function that makes an item state it wrongly."""

WORDS: Mapping[str, str] = {
    "transform": "transform|extent|lies at|reaches to",
    "shape": "shape|extent|reaches to",
    "epsg": "EPSG|coordinate system",
    "nodata": "nodata",
    "scale": "scale",
    "offset": "offset",
    "dtype": "type",
    "bbox": "bbox",
    "geometry": "geometry|footprint",
    "datetime": "datetime",
    "bands": "bands|band",
}
"""Fact → words by which a message names it."""
