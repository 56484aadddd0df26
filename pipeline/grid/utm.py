"""UTM zones as polygons: which zones a region touches, and its part in each."""

from __future__ import annotations

import functools

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

MAX_LATITUDE, MIN_LATITUDE = 84.0, -80.0
"""Degrees: where UTM ends and Universal Polar Stereographic begins."""

UPS_NORTH, UPS_SOUTH = 5041, 5042
"""EPSG codes of the polar grids, axes easting and northing."""

GRANULE_SIDE = 109_800.0
"""Side of a Sentinel-2 granule, metres: so far granules of a zone reach into its neighbours."""

ZONE_EXCEPTIONS = {
    # the exceptions around Norway and Svalbard, (south, north): {zone: (west, east)}
    (56.0, 64.0): {31: (0.0, 3.0), 32: (3.0, 12.0)},
    (72.0, 84.0): {31: (0.0, 9.0), 33: (9.0, 21.0), 35: (21.0, 33.0), 37: (33.0, 42.0)},
}


@functools.cache
def zone_polygons() -> dict[int, BaseGeometry]:
    """Return EPSG code → polygon of the zone in longitude and latitude; they do not overlap.

    Source: DMA Technical Manual 8358.2, The Universal Grids, § 2-2 and § 3-1.
    """
    polygons: dict[int, BaseGeometry] = {}
    for zone in range(1, 61):
        west = -180.0 + 6.0 * (zone - 1)
        polygons[32600 + zone] = _northern_zone_polygon(zone, west)
        polygons[32700 + zone] = shapely.box(west, MIN_LATITUDE, west + 6.0, 0.0)
    polygons[UPS_NORTH] = shapely.box(-180.0, MAX_LATITUDE, 180.0, 90.0)
    polygons[UPS_SOUTH] = shapely.box(-180.0, -90.0, 180.0, MIN_LATITUDE)
    return {code: area for code, area in polygons.items() if not area.is_empty}


def _northern_zone_polygon(zone: int, west: float) -> BaseGeometry:
    area: BaseGeometry = shapely.box(west, 0.0, west + 6.0, MAX_LATITUDE)
    for (south, north), zones in ZONE_EXCEPTIONS.items():
        band = shapely.box(
            min(start for start, _ in zones.values()),
            south,
            max(end for _, end in zones.values()),
            north,
        )
        area = area.difference(band)
        if zone in zones:
            start, end = zones[zone]
            area = area.union(shapely.box(start, south, end, north))
    return area


def find_zones(region: BaseGeometry) -> tuple[int, ...]:
    """Return the EPSG codes of the zones that contain part of a region's area, ascending.

    Args:
        region: an area in longitude and latitude, within ±180 degrees.
    """
    shapely.prepare(region)
    return tuple(
        code
        for code, area in zone_polygons().items()
        if region.intersects(area) and region.intersection(area).area > 0.0
    )


def clip_to_zone(region: BaseGeometry, epsg: int) -> BaseGeometry:
    """Return the part of a region that lies in a zone."""
    part: BaseGeometry = region.intersection(zone_polygons()[epsg])
    if part.geom_type in ("Polygon", "MultiPolygon"):
        return part
    areas = [geometry for geometry in shapely.get_parts(part) if geometry.geom_type == "Polygon"]
    # ^ a region that touches the zone's edge from outside leaves lines and points there
    return shapely.MultiPolygon(areas)


def is_in_reach(region: BaseGeometry, epsg: int) -> bool:
    """Return whether granules of a UTM zone may cover a region: it lies in the zone or near it.

    The squares of the Military Grid Reference System (MGRS) are cut off at the edges of the zones;
    granules are not. Granules of two zones overlap by up to :data:`GRANULE_SIDE`.

    Args:
        region: an area in longitude and latitude.
        epsg: EPSG code of the zone; other codes are in reach of no region.
    """
    zone = zone_polygons().get(epsg)
    if zone is None or epsg in (UPS_NORTH, UPS_SOUTH):
        return False
    _, south, _, north = region.bounds
    nearby = zone.intersection(shapely.box(-180, south - 2, 180, north + 2))
    if nearby.is_empty:
        return False
    to_zone = Transformer.from_crs(4326, epsg, always_xy=True)
    projected, outline = (
        shapely.transform(shapely.segmentize(area, 0.05), to_zone.transform, interleaved=False)
        for area in (nearby, region)
    )
    if not np.isfinite(shapely.get_coordinates(outline)).all():
        return False
    positions = shapely.points(shapely.get_coordinates(outline))
    return bool((shapely.distance(projected, positions) <= GRANULE_SIDE).all())
