"""Coordinate system, transform and shape of an asset: STAC's projection extension, 1.0 to 2.0."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalogs.stac.parsing import UnusableItemError, format_value, parse_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    Item = Mapping[str, Any]
    Transform = tuple[float, float, float, float, float, float]

LONLAT = 4326
"""EPSG code of longitude and latitude on WGS 84."""

SQUARE_PIXEL_TOLERANCE = 0.01
"""Largest relative difference between the sides of a pixel, in degrees, of a geocoded raster."""

_EPSG = re.compile(r"(?:EPSG:)?(\d{4,6})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetProjection:
    """Georeference of an asset, as far as the catalog states it."""

    epsg: int | None
    transform: Transform | None
    shape: tuple[int, int] | None


def parse_asset(item: Item, asset: Mapping[str, Any], band: str) -> AssetProjection:
    """Return the georeference that the asset states, or else its item.

    Raises:
        UnusableItemError: The EPSG code, the affine transform or the shape is invalid.
    """
    return AssetProjection(
        epsg=_read_epsg(item, asset),
        transform=_parse_transform(_get_field(item, asset, "proj:transform"), band),
        shape=_parse_shape(_get_field(item, asset, "proj:shape"), band),
    )


def is_radar_geometry(item: Item, projection: AssetProjection) -> bool:
    """Return whether a GRD raster is still in radar geometry (along the orbit, not geocoded).

    Catalogs state EPSG:4326 for such files and stretch the corners of the image over its bbox:
    the raster then has as many pixels as ESA's product, and they are not square.
    """
    if projection.epsg is None or projection.transform is None:
        return True
    if projection.epsg != LONLAT:
        return False
    counts = item["properties"].get("s1:shape")
    if (
        projection.shape is not None
        and isinstance(counts, list)
        and sorted(map(str, counts)) == sorted(map(str, projection.shape))
    ):
        return True
    a, b, _, d, e, _ = projection.transform
    return not math.isclose(math.hypot(a, d), math.hypot(b, e), rel_tol=SQUARE_PIXEL_TOLERANCE)


def _get_field(item: Item, asset: Mapping[str, Any], key: str) -> Any:
    value = asset.get(key)
    return item["properties"].get(key) if value is None else value


def _read_epsg(item: Item, asset: Mapping[str, Any]) -> int | None:
    for source in (asset, item["properties"]):
        for key in ("proj:epsg", "proj:code"):
            value = source.get(key)
            if value is not None:
                return _parse_epsg(value)
    return None


def _parse_epsg(value: object) -> int:
    match = _EPSG.fullmatch(str(value).removesuffix(".0"))
    if match is None:
        raise UnusableItemError(
            f"unknown coordinate system {format_value(value)}: only EPSG codes are supported"
        )
    return int(match[1])


def _parse_transform(values: object, band: str) -> Transform | None:
    """Return the first six numbers of an affine matrix; its third row is always 0, 0, 1."""
    if values is None:
        return None
    if not isinstance(values, list | tuple) or len(values) not in (6, 9):
        raise UnusableItemError(f"its proj:transform of {band} has neither 6 nor 9 numbers")
    a, b, c, d, e, f, *last = (parse_number(value, f"proj:transform of {band}") for value in values)
    if (last and last != [0, 0, 1]) or a * e == b * d:
        raise UnusableItemError(
            f"its proj:transform of {band} is no valid transform: {format_value(values)}"
        )
    return (a, b, c, d, e, f)


def _parse_shape(values: object, band: str) -> tuple[int, int] | None:
    """Return (rows, columns)."""
    if values is None:
        return None
    if isinstance(values, list | tuple) and len(values) == 2:
        rows, columns = (parse_number(value, f"proj:shape of {band}") for value in values)
        if all(1 <= count < 2**31 and count == math.floor(count) for count in (rows, columns)):
            return int(rows), int(columns)
    raise UnusableItemError(
        f"its proj:shape of {band} is {format_value(values)}, not (rows, columns)"
    )
