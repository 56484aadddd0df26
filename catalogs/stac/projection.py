"""Where an item says that its pixels lie: STAC's projection extension, 1.0 to 2.0."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalogs.stac.radiometry import Unusable, number, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    Item = Mapping[str, Any]
    Transform = tuple[float, float, float, float, float, float]

SQUARE = 0.01
"""Relative difference of a pixel's sides in degrees up to which it is no radar geometry."""

_EPSG = re.compile(r"(?:EPSG:)?(\d{4,6})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Where the pixels of an asset lie, as far as the catalog says so."""

    epsg: int | None
    transform: Transform | None
    shape: tuple[int, int] | None


def of_asset(item: Item, asset: Mapping[str, Any], band: str) -> Georeference:
    """Return what the asset states, else what its item states.

    Raises:
        Unusable: It states what is no EPSG code, affine transform or shape.
    """
    return Georeference(
        epsg=_epsg(item, asset),
        transform=_transform(_either(item, asset, "proj:transform"), band),
        shape=_shape(_either(item, asset, "proj:shape"), band),
    )


def in_radar_geometry(item: Item, grid: Georeference) -> bool:
    """Return whether a GRD's pixels still lie along the orbit.

    Catalogs claim EPSG:4326 for such files, and stretch the corners of the image over its bbox:
    the pixels are then as many as ESA's product has, and not square.
    """
    if grid.epsg is None or grid.transform is None:
        return True
    if grid.epsg != 4326:
        return False
    counts = item["properties"].get("s1:shape")
    if (
        grid.shape is not None
        and isinstance(counts, list)
        and sorted(map(str, counts)) == sorted(map(str, grid.shape))
    ):
        return True
    a, b, _, d, e, _ = grid.transform
    return not math.isclose(math.hypot(a, d), math.hypot(b, e), rel_tol=SQUARE)


def _either(item: Item, asset: Mapping[str, Any], key: str) -> Any:
    value = asset.get(key)
    return item["properties"].get(key) if value is None else value


def _epsg(item: Item, asset: Mapping[str, Any]) -> int | None:
    for source in (asset, item["properties"]):
        for key in ("proj:epsg", "proj:code"):
            value = source.get(key)
            if value is not None:
                return _epsg_number(value)
    return None


def _epsg_number(value: object) -> int:
    found = _EPSG.fullmatch(str(value).removesuffix(".0"))
    if found is None:
        raise Unusable(f"unknown coordinate system {shown(value)}: only EPSG codes are known here")
    return int(found[1])


def _transform(values: object, band: str) -> Transform | None:
    """Return six numbers; the third row of a full matrix says nothing."""
    if values is None:
        return None
    if not isinstance(values, list | tuple) or len(values) not in (6, 9):
        raise Unusable(f"its proj:transform of {band} has neither 6 nor 9 numbers")
    a, b, c, d, e, f, *last = (number(value, f"proj:transform of {band}") for value in values)
    if (last and last != [0, 0, 1]) or a * e == b * d:
        raise Unusable(f"its proj:transform of {band} maps no pixels: {shown(values)}")
    return (a, b, c, d, e, f)


def _shape(values: object, band: str) -> tuple[int, int] | None:
    """Return (rows, columns)."""
    if values is None:
        return None
    if isinstance(values, list | tuple) and len(values) == 2:
        rows, columns = (number(value, f"proj:shape of {band}") for value in values)
        if all(1 <= count < 2**31 and count == math.floor(count) for count in (rows, columns)):
            return int(rows), int(columns)
    raise Unusable(f"its proj:shape of {band} is {shown(values)}, not (rows, columns)")
