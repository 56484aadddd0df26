"""The embedded country: an invented landscape, seen by Sentinel-1 and Sentinel-2."""

from __future__ import annotations

from catalogs.demo.country import SEED, SIZE, Country, build

__all__ = ["SEED", "SIZE", "Country", "build"]
