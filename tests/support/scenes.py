"""Scenes without files, for the tests of selection."""

from __future__ import annotations

import datetime as dt

import shapely

from catalogs.scene import Asset, Radiometry, Scene

REGION = shapely.box(9, 56, 10, 57)
NOON = dt.datetime(2024, 6, 1, 10, 20, 21, tzinfo=dt.UTC)
UNIT = {"S2L2A": "reflectance", "S2L1C": "reflectance", "S1RTC": "power", "DEM": "m"}


def a_scene(
    name,
    *,
    bands=("B02", "B04", "SCL"),
    box=(9, 56, 10, 57),
    offset=0.0,
    pixel_sizes=None,
    **changed,
):
    """Build a scene over a box of longitude and latitude.

    Args:
        name: its id.
        bands: its bands.
        box: west, south, east, north in degrees.
        offset: offset of all bands but those that mask.
        pixel_sizes: band -> stated size of its pixels; none is stated of the others.
        **changed: other fields of the scene.
    """
    modality = changed.get("modality", "S2L2A")
    measured = Radiometry(scale=1, offset=offset, unit=UNIT[modality])
    masks = {
        "SCL": Radiometry(scale=1, offset=0, unit="class"),
        "CLD": Radiometry(scale=1, offset=0, unit="probability"),
    }
    sizes = pixel_sizes or {}
    collection = changed.get("collection", "sentinel-2-l2a")
    values = {
        "id": name,
        "collection": collection,
        "provider": "demo",
        "modality": modality,
        "datetime": NOON,
        "footprint": shapely.geometry.mapping(shapely.box(*box)),
        "bbox": box,
        "platform": "sentinel-2a",
        "tile": "32VNH",
        "baseline": "05.10",
        "processed": NOON + dt.timedelta(days=1),
        "assets": {
            band: Asset(
                band=band,
                href=f"/{collection}/{name}/{band}.tif",
                radiometry=masks.get(band, measured),
                transform=(sizes[band], 0, 0, 0, -sizes[band], 0) if band in sizes else None,
            )
            for band in bands
        },
    }
    return Scene(**values | changed)


def radar(name, **changed):
    """Build a Sentinel-1 scene."""
    values = {"modality": "S1RTC", "bands": ("VV", "VH"), "tile": None, "baseline": None}
    return a_scene(name, **values | {"platform": "sentinel-1a"} | changed)


def heights(name, **changed):
    """Build a tile of an elevation model."""
    values = {"modality": "DEM", "bands": ("DEM",), "datetime": None, "processed": None}
    return a_scene(name, **values | {"tile": None, "platform": None, "baseline": None} | changed)
