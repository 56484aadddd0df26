"""Static catalogs of small rasters on disk, and jobs over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pyproj import Transformer
from rasterio.warp import transform_bounds

from tests.support import small_worlds

SIZE = 64
"""Rows and columns of every raster, pixels of 10 m."""


def an_item(
    folder: Path,
    name: str,
    bands: dict[str, Any],
    *,
    collection: str = "sentinel-2-l2a",
    raster_fields: dict[str, Any] | None = None,
    left: float = small_worlds.LEFT,
    top: float = small_worlds.TOP,
    epsg: int = small_worlds.EPSG,
    **properties: Any,
) -> dict[str, Any]:
    """Write one uniform raster per asset, and return the STAC item that describes them.

    Args:
        folder: where the catalog is.
        name: id of the item.
        bands: asset name -> value of all of its pixels, or of each.
        collection: id of the collection.
        raster_fields: ``raster:bands`` of every asset.
        left: x of the left edge.
        top: y of the upper edge.
        epsg: EPSG code of the rasters.
        **properties: properties of the item; datetime and platform have defaults.
    """
    bounds = (left, top - 10 * SIZE, left + 10 * SIZE, top)
    west, south, east, north = transform_bounds(epsg, 4326, *bounds)
    assets = {}
    for asset, value in bands.items():
        values = np.broadcast_to(value, (SIZE, SIZE))
        path = small_worlds.raster(
            folder / "pixels" / collection / name / f"{asset}.tif",
            values.astype(np.float32 if values.dtype.kind == "f" else np.uint16),
            left=left,
            top=top,
            epsg=epsg,
        )
        assets[asset] = {
            "href": str(path),
            "proj:transform": [10.0, 0.0, left, 0.0, -10.0, top],
            "proj:shape": [SIZE, SIZE],
        } | ({"raster:bands": [raster_fields]} if raster_fields else {})
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": {
            "datetime": "2024-06-10T10:00:00Z",
            "platform": "sentinel-2a",
            "proj:epsg": epsg,
        }
        | properties,
        "links": [],
        "assets": assets,
    }


def write_job(
    folder: Path,
    items: list[dict[str, Any]],
    *,
    provider: str = "earth-search",
    **sections: Any,
) -> Path:
    """Write a catalog of items, and a job of composites over the rasters of the first one."""
    catalog = folder / "catalog.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    first = items[0]
    transform = next(iter(first["assets"].values()))["proj:transform"]
    epsg = first["properties"]["proj:epsg"]
    corners = ((transform[2] + 105, transform[5] - 505), (transform[2] + 505, transform[5] - 105))
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    bbox = [float(degrees) for corner in corners for degrees in to_lonlat.transform(*corner)]
    values = {
        "name": "small",
        "region": {"bbox": bbox},
        "period": "2024-06",
        "catalog": {"path": str(catalog), "provider": provider},
        "inputs": ["S2L2A"],
        "grid": {"crs": f"EPSG:{epsg}"},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True, "formats": ["cog"]},
    } | sections
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
