"""STAC items, and our scenes, of square Sentinel-2 scenes at one place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rasterio
import rasterio.warp
from rasterio.transform import Affine

from catalogs.scene import Asset, Radiometry, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareScenes:
    """Scenes of the same square on several days."""

    epsg: int
    left: float
    top: float
    side: int
    """Metres."""

    bands: Mapping[str, int]
    """Band → pixel size in metres."""

    days: Sequence[str]

    def size(self, band: str) -> int:
        """Return the pixels along each side of a band."""
        return self.side // self.bands[band]

    def transform(self, band: str) -> Affine:
        """Return the transform of a band."""
        metres = self.bands[band]
        return Affine(metres, 0, self.left, 0, -metres, self.top)

    def build_items(self, address: str) -> list[dict[str, Any]]:
        """Return STAC items as an API would, whose files are ADDRESS/DAY/BAND.tif."""
        with rasterio.Env():
            west, south, east, north = rasterio.warp.transform_bounds(
                self.epsg,
                4326,
                *(self.left, self.top - self.side, self.left + self.side, self.top),
            )
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return [
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "stac_extensions": [
                    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
                    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
                ],
                "id": f"scene-{day}",
                "collection": "bench",
                "bbox": [west, south, east, north],
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"datetime": f"{day}T10:00:00Z", "proj:epsg": self.epsg},
                "links": [],
                "assets": {
                    band: {
                        "href": f"{address}/{day}/{band}.tif",
                        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                        "roles": ["data"],
                        "proj:shape": [self.size(band)] * 2,
                        "proj:transform": list(self.transform(band))[:6],
                        "raster:bands": [
                            {"data_type": "uint8" if band == "SCL" else "uint16", "nodata": 0}
                        ],
                    }
                    for band in self.bands
                },
            }
            for day in self.days
        ]

    def build_scenes(self, address: str) -> list[Scene]:
        """Return the scenes of these items."""
        return [
            Scene(
                id=item["id"],
                collection="bench",
                provider="demo",
                modality="S2L2A",
                datetime=dt.datetime.fromisoformat(item["properties"]["datetime"]),
                footprint=item["geometry"],
                bbox=tuple(item["bbox"]),
                assets={
                    band: Asset(
                        band=band,
                        href=asset["href"],
                        radiometry=Radiometry(
                            scale=1.0 if band == "SCL" else 1e-4,
                            offset=0.0,
                            unit="class" if band == "SCL" else "reflectance",
                        ),
                        epsg=self.epsg,
                        transform=tuple(asset["proj:transform"]),
                        shape=tuple(asset["proj:shape"]),
                        nodata=0.0,
                    )
                    for band, asset in item["assets"].items()
                },
            )
            for item in self.build_items(address)
        ]
