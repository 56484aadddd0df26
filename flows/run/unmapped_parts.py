"""Parts of a region in which no pixel of a map has its centre: reported, and refused if all are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import shapely
from shapely.geometry.base import BaseGeometry

from catalogs import number_format
from catalogs.errors import InvalidInputError
from catalogs.scene import Caveat
from flows.config.region import RegionPart
from pipeline.grid import grid, utm
from pipeline.grid.grid import Grid

MAX_LISTED_PARTS = 5
"""Parts that a message names."""


def find_unmapped_parts(
    parts: Sequence[RegionPart], rasters: Mapping[str, Sequence[Grid]], resolution: float
) -> Iterator[Caveat]:
    """Yield a caveat for each raster of a product that has no pixel in some parts of its region.

    Rasters that lack no other parts than those before them are not reported.

    Args:
        parts: the parts of the region.
        rasters: what a raster is called → its grids, one for each coordinate system.
        resolution: the job's metres per pixel.

    Raises:
        InvalidInputError: a raster has no pixel in any part.
    """
    listed_indices: set[int] = set()
    for raster, grids in rasters.items():
        unmapped = _select_unmapped(parts, grids)
        if listed_indices.issuperset(unmapped):
            continue
        listed_indices.update(unmapped)
        areas = [_project_largest(parts[index], grids) for index in unmapped]
        listed = _list_parts([parts[index] for index in unmapped], areas)
        advice = _advise(areas, grids[0].resolution, resolution)
        if len(unmapped) == len(parts):
            raise InvalidInputError(
                f"No pixel of {raster} has its centre in the region: {listed}. {advice}"
            )
        yield Caveat(
            id="region",
            text=f"no pixel of {raster} has its centre in {len(unmapped)} of its {len(parts)} "
            f"parts, so they are not mapped: {listed}. {advice}",
        )


def _select_unmapped(parts: Sequence[RegionPart], grids: Sequence[Grid]) -> list[int]:
    """Return the indices of the parts without a pixel, less those within parts that have some."""
    unmapped, mapped = list[int](), list[BaseGeometry]()
    for index, part in enumerate(parts):
        if any(grid.has_pixel(area, zone) for zone, area in _project_to_grids(part, grids)):
            mapped.append(part.area)
        else:
            unmapped.append(index)
    if not unmapped:
        return unmapped
    mapped_area = shapely.union_all(mapped)
    shapely.prepare(mapped_area)
    return [index for index in unmapped if not mapped_area.covers(parts[index].area)]


def _project_to_grids(
    part: RegionPart, grids: Sequence[Grid]
) -> Iterator[tuple[Grid, BaseGeometry]]:
    """Yield the grids that map a part, each with the area that it maps in its coordinates."""
    for zone in grids:
        area = part.area if len(grids) == 1 else utm.clip_to_zone(part.area, zone.epsg)
        if not area.is_empty:
            yield zone, grid.project(area, zone.epsg)


def _project_largest(part: RegionPart, grids: Sequence[Grid]) -> BaseGeometry:
    """Return the projected area of a part, on the grid that maps most of it."""
    areas = [area for _, area in _project_to_grids(part, grids)]
    return max(areas, key=lambda area: float(area.area))


def _list_parts(parts: Sequence[RegionPart], areas: Sequence[BaseGeometry]) -> str:
    """Return the names, sizes and positions of parts."""
    texts = []
    for part, area in list(zip(parts, areas, strict=True))[:MAX_LISTED_PARTS]:
        left, bottom, right, top = area.bounds
        width, height = map(number_format.format_length, (right - left, top - bottom))
        position = part.area.representative_point()
        texts.append(
            f"{part.name} ({width} m wide and {height} m high, at "
            f"{position.x:.5f}, {position.y:.5f})"
        )
    if len(parts) > MAX_LISTED_PARTS:
        texts.append(f"and {len(parts) - MAX_LISTED_PARTS} more")
    return "; ".join(texts)


def _advise(areas: Sequence[BaseGeometry], side: float, resolution: float) -> str:
    """Return what makes sure that a pixel has its centre in each of some projected areas.

    A disc holds the centre of a pixel, wherever it is, if its diameter is the pixel's diagonal.

    Args:
        areas: the areas, metres.
        side: width of a pixel, metres.
        resolution: the job's metres per pixel, to which the width is proportional.
    """
    diameter = 2 * min(float(shapely.maximum_inscribed_circle(area).length) for area in areas)
    finest = math.floor(10 * diameter / math.sqrt(2) * resolution / side) / 10
    advice = f"A pixel is {side:g} m wide: buffer what is not mapped by {side:g} m"
    return f"{advice}, or set grid: {{resolution: {finest:g}}}." if finest >= 1 else f"{advice}."
    # ^ the smallest resolution of a job is 1 m
