"""Footprints and regions in longitude and latitude, also across the antimeridian."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import shapely
from shapely.affinity import translate
from shapely.geometry import mapping, shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WORLD = shapely.box(-180, -90, 180, 90)


def of_item(item: Mapping[str, Any]) -> Any:
    """Return an item's footprint as a valid shapely area within -180..180 degrees.

    A missing geometry is replaced by the bbox, which is larger but never misses a pixel.

    Raises:
        ValueError: There is neither, or what there is covers no area.
    """
    geometry = item.get("geometry")
    area = from_bbox(box_of(item)) if geometry is None else _from_geometry(geometry)
    if area.is_empty:
        raise ValueError("its footprint covers no area")
    return area


def box_of(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return an item's bbox as (west, south, east, north), without heights.

    Raises:
        ValueError: There is none.
    """
    values = item.get("bbox")
    if values is not None and len(values) in (4, 6):
        east = len(values) // 2
        return (float(values[0]), float(values[1]), float(values[east]), float(values[east + 1]))
    if item.get("geometry") is None:
        raise ValueError("it has neither a geometry nor a bbox")
    west, south, east, north = _from_geometry(item["geometry"]).bounds
    return (west, south, east, north)


def from_bbox(bbox: Sequence[float]) -> Any:
    """Return the area of (west, south, east, north); west > east crosses 180 degrees."""
    west, south, east, north = bbox
    if west <= east:
        return _within_world(shapely.box(west, south, east, north))
    return shapely.union_all(
        [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    )


def geojson(area: Any) -> dict[str, Any]:
    """Return an area as a GeoJSON Polygon or MultiPolygon."""
    return dict(mapping(area))


def _from_geometry(geometry: Mapping[str, Any]) -> Any:
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"its footprint is a {geometry.get('type')}, not a polygon")
    polygons = (
        [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    )
    if not any(_jumps(polygon[0]) for polygon in polygons):
        return _within_world(_areal(shapely.force_2d(shape(geometry))))
    return shapely.union_all([_within_world(_unwrapped(polygon)) for polygon in polygons])


def _jumps(ring: Sequence[Sequence[float]]) -> bool:
    """Return whether two neighbouring corners are more than half the world apart.

    No scene is that wide, so such an edge runs the other way round, across 180 degrees.
    """
    return any(abs(second[0] - first[0]) > 180 for first, second in pairwise(ring))


def _unwrapped(polygon: Sequence[Sequence[Sequence[float]]]) -> Any:
    """Return the polygon of one outer ring with its longitudes made continuous."""
    corners = [(float(polygon[0][0][0]), float(polygon[0][0][1]))]
    for longitude, latitude, *_ in polygon[0][1:]:
        turns = round((corners[-1][0] - longitude) / 360)
        corners.append((longitude + 360 * turns, float(latitude)))
    if abs(corners[-1][0] - corners[0][0]) > 180:
        # ^ the ring goes round a pole and never closes
        latitudes = [latitude for _, latitude in corners]
        pole = 90 if sum(latitudes) > 0 else -90
        return shapely.box(-180, min(*latitudes, pole), 180, max(*latitudes, pole))
    return _areal(shapely.Polygon(corners))


def _within_world(area: Any) -> Any:
    """Bring what lies beyond 180 degrees to the other side."""
    if WORLD.covers(area):
        return area
    parts = [shapely.intersection(translate(area, xoff=turn), WORLD) for turn in (-360, 0, 360)]
    return _areal(shapely.union_all(parts))


def _areal(geometry: Any) -> Any:
    """Return the valid polygons of a geometry, dropping points and lines."""
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    if valid.geom_type in ("Polygon", "MultiPolygon"):
        return valid
    return shapely.union_all(_polygons(valid))


def _polygons(geometry: Any) -> Iterable[Any]:
    parts = getattr(geometry, "geoms", [geometry])
    return [part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")]
