"""Cloud-optimised GeoTIFFs, the same bytes for the same pixels."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import rasterio

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.transform import Affine

BLOCK = 512


def write(
    path: Path,
    pixels: NDArray[Any],
    *,
    epsg: int,
    transform: Affine,
    nodata: float | None,
    palette: Mapping[int, tuple[int, int, int]] | None = None,
) -> None:
    """Write one band; classes (uint8) get overviews by nearest, measurements by mean."""
    classes = pixels.dtype.kind == "u" and pixels.dtype.itemsize == 1
    profile = {
        "driver": "COG",
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "count": 1,
        "dtype": pixels.dtype,
        "crs": f"EPSG:{epsg}",
        "transform": transform,
        "nodata": nodata,
        "blocksize": BLOCK,
        "compress": "DEFLATE",
        "level": 1,
        "predictor": "NO" if classes else "YES",
        "resampling": "NEAREST" if classes else "AVERAGE",
        "bigtiff": "NO",
        "num_threads": 1,
        # ^ the order of compressed blocks must not depend on threads
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels, 1)
        if palette is not None:
            target.write_colormap(1, {code: (*color, 255) for code, color in palette.items()})


def multihash(path: Path) -> str:
    """Return the checksum as STAC's file extension wants it: sha2-256, 32 bytes."""
    return "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
