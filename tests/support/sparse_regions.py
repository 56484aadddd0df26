"""Regions that leave much of their bounding box empty, in the coordinates of the small worlds."""

from __future__ import annotations

import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from tests.support import small_worlds


def box(left: float, top: float, width: float, height: float) -> BaseGeometry:
    """Return a rectangle, in metres to the right of and below the corner of the small worlds."""
    return shapely.box(
        small_worlds.LEFT + left,
        small_worlds.TOP - top - height,
        small_worlds.LEFT + left + width,
        small_worlds.TOP - top,
    )


SHAPES = {
    "islands": shapely.union_all([box(23, 23, 90, 90), box(1423, 1423, 90, 90)]),
    "L": shapely.union_all([box(23, 23, 150, 1500), box(23, 1373, 1500, 150)]),
    "ring": box(23, 23, 1500, 1500).difference(box(173, 173, 1200, 1200)),
    "corner": shapely.union_all([box(23, 23, 700, 700), box(1403, 723, 6, 6)]),
    "diagonal": shapely.LineString(
        [
            (small_worlds.LEFT + 60, small_worlds.TOP - 60),
            (small_worlds.LEFT + 1500, small_worlds.TOP - 1500),
        ]
    ).buffer(40),
}
"""Name → a region, projected."""


def to_lonlat(region: BaseGeometry) -> BaseGeometry:
    """Return a projected region in longitude and latitude."""
    transformer = Transformer.from_crs(small_worlds.EPSG, 4326, always_xy=True)
    return shapely.transform(region, transformer.transform, interleaved=False)
