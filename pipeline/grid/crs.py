"""Coordinate systems: which output grids accept, where to use them, which are equal."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import shapely
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError

ADVICE = "Write utm, or another code such as EPSG:3035."

AREA_OF_USE_BUFFER = 6.0
"""Degrees by which a region may exceed the area of use of its CRS: the width of a UTM zone."""


EARTH_RADIUS = 6_378_137.0
"""Semi-major axis of WGS 84 in metres."""


def check_crs(epsg: int) -> None:
    """Check that a code is a system in which a north-up raster in metres can be stored and read.

    Raises:
        InvalidInputError: it is not; the message says why, and names a better code.
    """
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError as error:
        raise InvalidInputError(f"EPSG:{epsg} does not exist. {ADVICE}") from error
    name = f"EPSG:{epsg} ({crs.name})"
    units = sorted({axis.unit_name for axis in crs.axis_info[:2]})
    if not crs.is_projected or units != ["metre"]:
        raise InvalidInputError(
            f"{name} is not projected in metres but in {' and '.join(units)}, and resolutions are "
            f"in metres. {ADVICE}"
        )
    if len(crs.axis_info) > 2:
        raise InvalidInputError(
            f"{name} states heights as well, which a map has not. "
            f"{_recommend(crs.sub_crs_list[:1])}"
        )
    if "west" in {axis.direction for axis in crs.axis_info}:
        raise InvalidInputError(
            f"{name} counts metres to the west or the south, so that rasters in it are turned "
            f"upside down or mirrored. Choose a system that counts to the east and the north. "
            f"{ADVICE}"
        )
    if crs.is_deprecated:
        raise InvalidInputError(
            f"{name} is deprecated, and readers of the file would find another code in it. "
            f"{_recommend(crs.get_non_deprecated())}"
        )


def _recommend(systems: Sequence[CRS]) -> str:
    """Return the advice to use the first of some systems that is accepted itself."""
    for system in systems:
        code = system.to_epsg()
        with contextlib.suppress(InvalidInputError):
            if code is not None:
                check_crs(code)
                return f"Write EPSG:{code}."
    return ADVICE


def check_area_of_use(region: BaseGeometry, epsg: int) -> None:
    """Reject a region far outside of the area of use of a CRS, where projections fail.

    Args:
        region: an area in longitude and latitude.
        epsg: EPSG code of the CRS.

    Raises:
        InvalidInputError: it reaches further than :data:`AREA_OF_USE_BUFFER` beyond.
    """
    use = CRS.from_epsg(epsg).area_of_use
    if use is None or _is_within(region, use.bounds, AREA_OF_USE_BUFFER):
        return
    west, south, east, north = region.bounds
    raise InvalidInputError(
        f"The region reaches from {west:.1f} to {east:.1f} and from {south:.1f} to {north:.1f} "
        f"degrees, but EPSG:{epsg} is defined for {use.west:.1f} to {use.east:.1f} and "
        f"{use.south:.1f} to {use.north:.1f}. Make the region smaller, or set another grid.crs."
    )


def _is_within(
    region: BaseGeometry, bounds: tuple[float, float, float, float], buffer: float
) -> bool:
    area = lonlat_geometry.from_bbox(bounds).buffer(buffer, join_style="mitre")
    around = shapely.union_all([translate(area, xoff=turn) for turn in (-360, 0, 360)])
    # ^ an area of use that crosses 180 degrees continues at -180
    return bool(around.covers(region))


AREA_OF_USE_TOLERANCE = 0.01
"""Degrees by which a region may exceed the area of use unmentioned: its figures are rounded."""


def describe_area_of_use(region: BaseGeometry, epsg: int) -> Iterator[str]:
    """Yield a sentence if a region reaches beyond the area of use of a CRS.

    Args:
        region: an area in longitude and latitude.
        epsg: EPSG code of the CRS.
    """
    crs = CRS.from_epsg(epsg)
    use = crs.area_of_use
    if use is None or _is_within(region, use.bounds, AREA_OF_USE_TOLERANCE):
        return
    yield (
        f"the region reaches beyond {use.west:.1f} to {use.east:.1f} and {use.south:.1f} to "
        f"{use.north:.1f} degrees, for which {crs.name} is intended: positions and areas may be "
        "less exact there"
    )


def pixel_size_metres(crs: CRS, transform: Affine) -> float:
    """Return the height of a pixel in metres; of a geographic system, along a meridian."""
    unit: float = crs.axis_info[0].unit_conversion_factor
    return math.hypot(transform.b, transform.e) * unit * (EARTH_RADIUS if crs.is_geographic else 1)
    # ^ the factor converts the unit to metres, or to radians


@functools.lru_cache(maxsize=64)
def horizontal_crs(wkt: str) -> CRS:
    """Return the horizontal part of a coordinate system: heights do not change positions."""
    return _drop_heights(CRS.from_wkt(wkt))


def _drop_heights(crs: CRS) -> CRS:
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


@functools.lru_cache(maxsize=256)
def is_same_crs(wkt: str, epsg: int) -> bool:
    """Compare definitions, not names: files may lack the EPSG code, or add a vertical system.

    Of compound systems, also where the code is one, the horizontal parts are compared. A code that
    PROJ does not know is no coordinate system's.
    """
    crs = horizontal_crs(wkt)
    if crs.to_epsg() == epsg:
        return True
    try:
        code_crs = _drop_heights(CRS.from_epsg(epsg))
    except CRSError:
        return False
    return bool(crs.equals(code_crs, ignore_axis_order=True))
