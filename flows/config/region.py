"""Section ``region`` of a job, read from a bbox or GeoJSON into one valid lon/lat geometry."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import shapely
from pydantic import Field, model_validator
from shapely import MultiPolygon, Polygon

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError
from catalogs.number_format import format_numbers
from flows.config.base import ConfigModel, ExistingFile, LaxTuple

POLYGON_TYPES = ("Polygon", "MultiPolygon")
"""GeoJSON geometry types of a region."""

MAX_NESTING = 3
"""Nesting of coordinate lists in a MultiPolygon: polygons, rings, positions."""

LON_LAT_CRS_NAMES = ("WGS84", "GCS_WGS_1984", "CRS:84", "CRS84", "CRS84H", "84", "4326", "4979")
"""WGS 84 in capital letters, as a ``crs`` member of a file older than RFC 7946 may name it.

They stand alone, or behind an authority: urn:ogc:def:crs:OGC:1.3:CRS84, EPSG:9.0:4326,
http://www.opengis.net/def/crs/EPSG/0/4326. GeoJSON has longitude first in all of them.
"""

_CRS_PREFIX = re.compile(
    r"(?:urn:(?:x-)?ogc:def:crs:|https?://[^/]+/(?:def/crs/|gml/srs/epsg\.xml#|ref/)?)?"
    r"(?:(?:OGC|EPSG)[:/](?:[\d.]*[:/])?)?",
    re.IGNORECASE,
)


MAX_NAME_LENGTH = 40
"""Characters of the name of a feature that messages show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPart:
    """A polygon as the region's file draws it, or the bbox."""

    name: str
    """Name or id of its feature, else the number; with several polygons, also which of them."""

    area: Polygon | MultiPolygon
    """Its area in longitude and latitude; several polygons where it crosses 180 degrees."""


class Region(ConfigModel):
    """The area to map."""

    bbox: Annotated[tuple[float, float, float, float], LaxTuple] | None = Field(
        title="A rectangle in longitude and latitude; west is larger than east across 180 degrees",
        default=None,
        description="four numbers, [west, south, east, north] in degrees",
    )
    file: ExistingFile | None = Field(
        title="A GeoJSON file: the region is the union of its polygons",
        default=None,
        description="the path of a GeoJSON file",
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> Region:
        if (self.bbox is None) == (self.file is None):
            raise ValueError(
                "give one of two: {bbox: [west, south, east, north]} or {file: region.geojson}."
            )
        return self

    def read_parts(self) -> tuple[RegionPart, ...]:
        """Return the polygons of the region in longitude and latitude.

        Raises:
            InvalidInputError: The region is not a valid area on Earth.
        """
        if self.bbox is not None:
            return (RegionPart(name="bbox", area=from_bbox(self.bbox)),)
        return read_parts(self.file or Path())


def from_bbox(bbox: Sequence[float]) -> Polygon | MultiPolygon:
    """Return the rectangle of a bbox (west, south, east, north), degrees.

    A bbox across the antimeridian has west > east, or a longitude beyond ±180; it is returned as
    two polygons.

    Raises:
        InvalidInputError: The bbox is empty, reversed, or outside of longitude and latitude.
    """
    west, south, east, north = bbox
    where = f"The bbox {format_numbers(bbox)}"
    for lon, lat in ((west, south), (east, north)):
        _check_position(lon, lat, where)
    if south >= north:
        raise InvalidInputError(f"{where} has south >= north: write [west, south, east, north].")
    if west == east:
        raise InvalidInputError(f"{where} has no width: write [west, south, east, north].")
    width = east - west if west < east else east + 360 - west
    if width > 360:
        raise InvalidInputError(f"{where} is {width:g}° wide, more than the world: it has 360°.")
    if width > 180 and west > east:
        raise InvalidInputError(
            f"{where} has west > east, so it would cross the antimeridian and be {width:g}° wide: "
            "swap west and east. If this width is intended, write a region file of two polygons."
        )
    return _split_at_antimeridian(
        shapely.box(west, south, east if west < east else east + 360, north)
    )


def join_parts(parts: Sequence[RegionPart]) -> Polygon | MultiPolygon:
    """Return the union of the parts of a region."""
    return shapely.union_all([part.area for part in parts])


def from_file(path: Path) -> Polygon | MultiPolygon:
    """Read a GeoJSON file as the union of its polygons: see :func:`read_parts`."""
    return join_parts(read_parts(path))


def read_parts(path: Path) -> tuple[RegionPart, ...]:
    """Read the polygons of a GeoJSON file, with longitudes within ±180°.

    A ring crosses the antimeridian where its longitudes go beyond ±180, or where two neighbouring
    vertices are more than 180° apart: such an edge runs the short way. A ring around a pole
    contains the pole.

    Raises:
        InvalidInputError: The file is not GeoJSON, has no area, or an invalid one.
    """
    document = _read_geojson(path)
    parts = [part for drawn in _iterate_geometries(document, path) for part in _parse_parts(drawn)]
    if not parts:
        raise InvalidInputError(f"{path} holds no geometry: draw at least one polygon in it.")
    return tuple(parts)


def _split_at_antimeridian(area: Polygon) -> Polygon | MultiPolygon:
    wrapped: Polygon | MultiPolygon = lonlat_geometry.wrap_longitudes(area)
    return wrapped


def _read_geojson(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        # ^ bytes, so that json recognises UTF-8, UTF-16 and a byte order mark
    except OSError as error:
        raise InvalidInputError(f"The region file {path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"The region file {path} cannot be read: {error}. Save it as GeoJSON in UTF-8."
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f"The region file {path} is not JSON ({error}): save the region as GeoJSON."
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise InvalidInputError(
            f"The region file {path} is JSON but not GeoJSON (it has no 'type'): give a "
            f"FeatureCollection, a Feature, a {POLYGON_TYPES[0]} or a {POLYGON_TYPES[1]}."
        )
    return document


def _check_crs(member: Any, where: str) -> None:
    """Raise where the ``crs`` of a GeoJSON object is not longitude and latitude of WGS 84."""
    crs = member.get("crs") if isinstance(member, dict) else None
    name = _read_crs_name(crs)
    if name is None:
        return
    text = name.strip().rstrip("/")
    code = _CRS_PREFIX.sub("", text, count=1).replace(" ", "").upper()
    if code not in LON_LAT_CRS_NAMES and not _is_wgs_84(text):
        raise InvalidInputError(
            f"{where} is in {name}; a region must be in longitude and latitude of WGS 84 "
            "(EPSG:4326): reproject it, for instance by `ogr2ogr -t_srs EPSG:4326 new.geojson "
            "old.geojson`, or by QGIS's Export with the CRS EPSG:4326."
        )


def _is_wgs_84(definition: str) -> bool:
    """Return whether a CRS in another form, such as WKT or a PROJ string, is WGS 84."""
    from pyproj import CRS  # noqa: PLC0415
    from pyproj.exceptions import CRSError  # noqa: PLC0415
    # ^ loading takes a while, and few files need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # ^ of forms that pyproj calls deprecated
            crs = CRS.from_user_input(definition).to_2d()
    except CRSError:
        return False
    return bool(crs.equals(CRS.from_epsg(4326), ignore_axis_order=True))


def _read_crs_name(crs: Any) -> str | None:
    """Return what a ``crs`` member states; None where it is empty, as in ``{}``."""
    if not isinstance(crs, dict):
        return str(crs) if crs else None
    properties = crs.get("properties")
    if not isinstance(properties, dict):
        properties = {key: value for key, value in crs.items() if key != "type"}
    stated = [properties.get(key) for key in ("name", "code", "href")]
    name = next(filter(None, stated), None)
    if name is None and any(properties.values()):
        name = json.dumps(crs)
    return None if name is None else str(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DrawnGeometry:
    """A GeoJSON geometry of a region file, unchecked."""

    geometry: Any
    name: str
    """What the parts of the region are called after."""

    where: str
    """Where it is in the file, for errors."""


def _iterate_geometries(document: Mapping[str, Any], path: Path) -> Iterator[_DrawnGeometry]:
    kind = document["type"]
    _check_crs(document, f"The region file {path}")
    if kind == "FeatureCollection":
        features = document.get("features")
        if not isinstance(features, list):
            raise InvalidInputError(f"The FeatureCollection in {path} has no list of 'features'.")
        for number, feature in enumerate(features, start=1):
            geometry = feature.get("geometry") if isinstance(feature, dict) else None
            _check_crs(feature, f"{path}: feature {number}")
            name = _read_feature_name(feature) or f"feature {number}"
            yield from _flatten_collection(geometry, name, f"{path}: feature {number}")
    elif kind == "Feature":
        name = _read_feature_name(document) or "the feature"
        yield from _flatten_collection(document.get("geometry"), name, f"{path}: the feature")
    else:
        yield from _flatten_collection(document, "the geometry", f"{path}: the geometry")


def _read_feature_name(feature: Any) -> str | None:
    """Return the name of a GeoJSON feature, else its id; None where it has neither."""
    if not isinstance(feature, dict):
        return None
    properties = feature.get("properties")
    values = {
        str(key).casefold(): value
        for key, value in (properties if isinstance(properties, dict) else {}).items()
    }
    for prefix, value in (
        ("", values.get("name")),
        ("id ", feature.get("id")),
        ("id ", values.get("id")),
    ):
        if isinstance(value, str) or _is_number(value):
            printable = "".join(letter if letter.isprintable() else " " for letter in str(value))
            name = " ".join(printable.split())
            if name:
                return f"{prefix}{name[:MAX_NAME_LENGTH]}"
    return None


def _flatten_collection(geometry: Any, name: str, where: str) -> Iterator[_DrawnGeometry]:
    """Yield the geometries of a GeometryCollection, or the geometry itself."""
    _check_crs(geometry, where)
    if not isinstance(geometry, dict) or geometry.get("type") != "GeometryCollection":
        yield _DrawnGeometry(geometry=geometry, name=name, where=where)
        return
    members = geometry.get("geometries")
    if not isinstance(members, list):
        raise InvalidInputError(f"{where} is a GeometryCollection without a list of 'geometries'.")
    for number, member in enumerate(members, start=1):
        yield from _flatten_collection(
            member, f"geometry {number} of {name}", f"{where}, geometry {number}"
        )


def _parse_parts(drawn: _DrawnGeometry) -> Iterator[RegionPart]:
    """Yield the polygons of a geometry."""
    areas = _parse_polygons(drawn.geometry, drawn.where)
    for number, area in enumerate(areas, start=1):
        name = drawn.name if len(areas) == 1 else f"polygon {number} of {drawn.name}"
        yield RegionPart(name=name, area=area)


def _parse_polygons(geometry: Any, where: str) -> list[Polygon | MultiPolygon]:
    if not isinstance(geometry, dict):
        raise InvalidInputError(f"{where} has no geometry: draw a polygon, or remove the feature.")
    kind = geometry.get("type")
    if kind not in POLYGON_TYPES:
        raise InvalidInputError(
            f"{where} is a {kind}; a region must be a Polygon or a MultiPolygon."
        )
    coordinates = geometry.get("coordinates")
    for lon, lat in _iterate_positions(coordinates, where):
        _check_position(lon, lat, where)
    if not coordinates:
        raise InvalidInputError(f"{where} is an empty {kind}: draw an area.")
    try:
        polygons = [coordinates] if kind == "Polygon" else coordinates
        unwrapped = [lonlat_geometry.unwrap_rings(polygon) for polygon in polygons]
    except (ValueError, TypeError, IndexError, shapely.errors.ShapelyError) as error:
        raise InvalidInputError(
            f"{where} is not a {kind} as GeoJSON writes it: {error}."
        ) from error
    areas = [_subtract_holes(rings, where) for rings in unwrapped]
    # ^ polygons that overlap or share an edge are accepted, though not valid as a MultiPolygon
    if any(area.area == 0 for area in areas):
        raise InvalidInputError(
            f"{where} is a {kind} with a polygon of zero area: draw a larger one, or remove it."
        )
    return areas


def _subtract_holes(rings: Sequence[Polygon], where: str) -> Polygon | MultiPolygon:
    """Return the outer ring's polygon less its holes."""
    for ring in rings:
        if not ring.is_valid:
            raise InvalidInputError(_invalid_geometry_message(ring, where))
    outer, *holes = (lonlat_geometry.wrap_longitudes(ring) for ring in rings)
    hole_union = shapely.union_all(holes)
    if hole_union.difference(outer).area > 1e-9:
        # ^ square degrees (a few square metres): rounding of longitudes shifted by 360
        raise InvalidInputError(
            f"{where} is not a valid area: it has a hole outside of its outline."
        )
    return outer.difference(hole_union)


def _invalid_geometry_message(shape: Polygon, where: str) -> str:
    reason, _, position = shapely.is_valid_reason(shape).partition("[")
    at = f" at longitude, latitude {position.rstrip(']').replace(' ', ', ')}" if position else ""
    problem = "is self-intersecting" if "elf-inter" in reason else "is not a valid area"
    return (
        f"{where} {problem} ({reason.strip()}{at}): correct its outline there, for instance "
        "with QGIS's 'Fix geometries'."
    )


def _iterate_positions(
    coordinates: Any, where: str, depth: int = 0
) -> Iterator[tuple[float, float]]:
    """Yield the positions of nested coordinate lists."""
    if not isinstance(coordinates, list) or depth > MAX_NESTING:
        raise InvalidInputError(f"{where} has no list of 'coordinates'.")
    if coordinates and not isinstance(coordinates[0], list):
        if len(coordinates) < 2 or not all(_is_number(value) for value in coordinates[:2]):
            raise InvalidInputError(
                f"{where} has a position that is not two numbers: {coordinates!r:.60}."
            )
        yield coordinates[0], coordinates[1]
        return
    for inner in coordinates:
        yield from _iterate_positions(inner, where, depth + 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_position(lon: float, lat: float, where: str) -> None:
    if math.isfinite(lon) and math.isfinite(lat) and abs(lon) <= 360 and abs(lat) <= 90:
        return
    if abs(lat) <= 180 and abs(lon) <= 90:
        advice = "latitude seems to be before longitude: swap them."
    elif math.isfinite(lon) and math.isfinite(lat) and max(abs(lon), abs(lat)) > 360:
        advice = "these look like projected metres: reproject to EPSG:4326."
    else:
        advice = (
            "longitude must be within -180..180 (-360..360 across 180°), latitude within -90..90."
        )
    raise InvalidInputError(
        f"{where} has the position ({lon:.10g}, {lat:.10g}), which is not on Earth: {advice}"
    )
