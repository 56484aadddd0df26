"""Versions of the software that makes a product, for receipts and items."""

from __future__ import annotations

import importlib.metadata


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that pixel values may depend on."""
    names = ("terramosaic", "numpy", "rasterio", "stackstac", "torch", "zarr")
    return {name: importlib.metadata.version(name) for name in names}
