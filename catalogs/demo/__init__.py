"""The synthetic country: a generated landscape with scenes of Sentinel-1, Sentinel-2 and a DEM."""

from __future__ import annotations

from catalogs.demo.country import SEED, SIZE, Country, build

__all__ = ["SEED", "SIZE", "Country", "build"]
