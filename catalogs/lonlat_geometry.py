"""Footprints and regions in longitude and latitude, also across the antimeridian."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import shapely
from shapely.affinity import translate
from shapely.geometry import mapping, shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pyproj import Transformer

WORLD = shapely.box(-180, -90, 180, 90)

MIN_COVERED_FRACTION = 0.9
"""Share of a footprint that an area must cover to count as covering it.

Less than 1, as footprints are simplified differently from one processing to the next.
"""

MAX_SLIVER_WIDTH = 0.02
"""Largest width, in degrees, of an uncovered part of a footprint that is ignored.

The footprints that real catalogs state for one granule differ by strips of up to half this width;
the parts of a split granule and the edges of swaths leave much wider ones.
"""


@lru_cache(maxsize=256)
def get_transformer(epsg: int) -> Transformer:
    """Return the transformer from longitude and latitude; building one takes milliseconds."""
    from pyproj import Transformer  # noqa: PLC0415

    # ^ slow to import, and most catalogs are searched without
    return Transformer.from_crs(4326, epsg, always_xy=True)


def from_item(item: Mapping[str, Any]) -> Any:
    """Return an item's footprint as a valid shapely area within -180..180 degrees.

    A missing geometry is replaced by the bbox, which is larger but contains every pixel.

    Raises:
        ValueError: The item has neither, or the footprint is empty.
    """
    geometry = item.get("geometry")
    area = from_bbox(read_bbox(item)) if geometry is None else _from_geojson(geometry)
    if area.is_empty:
        raise ValueError("its footprint covers no area")
    return area


def read_bbox(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return an item's bbox as (west, south, east, north), without heights.

    Raises:
        ValueError: The item has neither a bbox nor a geometry.
    """
    values = item.get("bbox")
    if values is not None and len(values) in (4, 6):
        east = len(values) // 2
        return (float(values[0]), float(values[1]), float(values[east]), float(values[east + 1]))
    if item.get("geometry") is None:
        raise ValueError("it has neither a geometry nor a bbox")
    west, south, east, north = _from_geojson(item["geometry"]).bounds
    return (west, south, east, north)


def from_bbox(bbox: Sequence[float]) -> Any:
    """Return the area of (west, south, east, north); west > east crosses 180 degrees."""
    west, south, east, north = bbox
    if west <= east:
        return wrap_longitudes(shapely.box(west, south, east, north))
    return shapely.union_all(
        [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    )


def to_bbox(area: Any) -> tuple[float, float, float, float]:
    """Return (west, south, east, north) of an area; west > east where that is the shorter way."""
    west, south, east, north = (float(value) for value in area.bounds)
    eastern = [
        translate(part, xoff=360) if part.bounds[0] < 0 else part
        for part in getattr(area, "geoms", [area])
    ]
    first, last = min(part.bounds[0] for part in eastern), max(part.bounds[2] for part in eastern)
    if last - first < east - west:
        return (first, south, last - 360, north)
    return (west, south, east, north)


def to_geojson(area: Any) -> dict[str, Any]:
    """Return an area as a GeoJSON Polygon or MultiPolygon."""
    return dict(mapping(area))


def unwrap_rings(polygon: Sequence[Sequence[Sequence[float]]]) -> list[Any]:
    """Return the areas within the rings of a GeoJSON polygon, the outer one first.

    Longitudes are made continuous, so an area may extend beyond ±180 degrees; invalid rings are
    not repaired.
    """
    return [_unwrap_ring(ring) for ring in polygon]


def wrap_longitudes(area: Any) -> Any:
    """Move the parts of an area beyond ±180 degrees to the other side of the antimeridian."""
    if WORLD.covers(area):
        return area
    shifts = range(-720, 721, 360)
    parts = [shapely.intersection(translate(area, xoff=shift), WORLD) for shift in shifts]
    return _to_valid_polygons(shapely.union_all(parts))


def nearly_covers(area: Any, footprint: Any) -> bool:
    """Return whether an area covers all of a footprint except for slivers."""
    uncovered = shapely.difference(footprint, area)
    return bool(
        uncovered.area <= (1 - MIN_COVERED_FRACTION) * footprint.area
        and shapely.is_empty(shapely.buffer(uncovered, -MAX_SLIVER_WIDTH / 2))
    )


def covered_fraction(area: Any, region: Any) -> float:
    """Return the share of a region that an area covers, 0 to 1, by area on the sphere."""
    region_size = _to_equal_area(region).area
    covered_size = _to_equal_area(shapely.intersection(area, region)).area
    return min(1.0, covered_size / region_size) if region_size else 0.0


def union(areas: Iterable[Any]) -> Any:
    """Return the union of areas; an empty area where there are none."""
    return shapely.union_all(list(areas))


def _from_geojson(geometry: Mapping[str, Any]) -> Any:
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"its footprint is a {geometry.get('type')}, not a polygon")
    polygons = (
        [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    )
    if not any(_crosses_antimeridian(ring) for polygon in polygons for ring in polygon):
        return wrap_longitudes(_to_valid_polygons(shapely.force_2d(shape(geometry))))
    return shapely.union_all([_wrap_polygon(polygon) for polygon in polygons])


def _wrap_polygon(polygon: Sequence[Sequence[Sequence[float]]]) -> Any:
    """Return the area of a polygon whose rings may cross 180 degrees or enclose a pole."""
    outer, *holes = [wrap_longitudes(_to_valid_polygons(ring)) for ring in unwrap_rings(polygon)]
    return _to_valid_polygons(shapely.difference(outer, shapely.union_all(holes)))


def _crosses_antimeridian(ring: Sequence[Sequence[float]]) -> bool:
    """Return whether a ring crosses 180 degrees or encloses a pole.

    An edge longer than 180 degrees is assumed to run across the antimeridian. An edge of 360
    degrees follows a parallel, as two sides of a box do; a single one closes a ring around a pole.
    """
    steps = [abs(second[0] - first[0]) for first, second in pairwise(ring)]
    return any(180 < step < 360 for step in steps) or steps.count(360) % 2 == 1


def _unwrap_ring(ring: Sequence[Sequence[float]]) -> Any:
    """Return the area within a ring; a ring around a pole includes the pole."""
    if not _crosses_antimeridian(ring):
        return shapely.Polygon([position[:2] for position in ring])
    corners = [(float(ring[0][0]), float(ring[0][1]))]
    for longitude, latitude, *_ in ring[1:]:
        turns = round((corners[-1][0] - longitude) / 360)
        corners.append((longitude + 360 * turns, float(latitude)))
    if abs(corners[-1][0] - corners[0][0]) > 180:
        pole = 90.0 if sum(latitude for _, latitude in corners) > 0 else -90.0
        corners += [(corners[-1][0], pole), (corners[0][0], pole)]
        # ^ the unwrapped ring is open: its ends are joined along two meridians and over the pole
    return shapely.Polygon(corners)


def _to_valid_polygons(geometry: Any) -> Any:
    """Return the valid polygons of a geometry, dropping points and lines."""
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    if valid.geom_type in ("Polygon", "MultiPolygon"):
        return valid
    return shapely.union_all(_polygon_parts(valid))


def _polygon_parts(geometry: Any) -> Iterable[Any]:
    parts = getattr(geometry, "geoms", [geometry])
    return [part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")]


def _to_equal_area(area: Any) -> Any:
    """Project to Lambert's cylindrical equal-area system (longitude, sine of latitude)."""

    def project(corners: Any) -> Any:
        projected = corners.copy()
        projected[:, 1] = [math.degrees(math.sin(math.radians(y))) for _, y in corners]
        return projected

    return shapely.transform(area, project)
