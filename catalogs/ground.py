"""How much of one area another holds: footprints and regions in longitude and latitude."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import shapely

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_COVERED_FRACTION = 0.9
"""Share of a footprint that others must hold before it counts as held by them.

Footprints are simplified differently from one processing to the next, hence not 1.
"""

MAX_SLIVER_WIDTH = 0.02
"""Degrees: what the others lack may nowhere be wider, or it is ground of its own.

The outlines that real catalogs draw of one and the same granule differ by strips up to half of
this; the parts of a split granule, and the edges of swaths, leave much wider ones.
"""


def nearly_covers(area: Any, footprint: Any) -> bool:
    """Tell whether an area holds all of a footprint but for slivers."""
    left = shapely.difference(footprint, area)
    return bool(
        left.area <= (1 - MIN_COVERED_FRACTION) * footprint.area
        and shapely.is_empty(shapely.buffer(left, -MAX_SLIVER_WIDTH / 2))
    )


def covered_fraction(area: Any, region: Any) -> float:
    """Return the share of a region that an area covers, 0 to 1, by area on the sphere."""
    whole = _to_equal_area(region).area
    covered = _to_equal_area(shapely.intersection(area, region)).area
    return min(1.0, covered / whole) if whole else 0.0


def union(areas: Iterable[Any]) -> Any:
    """Return all areas as one; none gives an empty one."""
    return shapely.union_all(list(areas))


def _to_equal_area(area: Any) -> Any:
    """Project to Lambert's cylindrical equal-area system (longitude, sine of latitude)."""

    def project(corners: Any) -> Any:
        projected = corners.copy()
        projected[:, 1] = [math.degrees(math.sin(math.radians(y))) for _, y in corners]
        return projected

    return shapely.transform(area, project)
