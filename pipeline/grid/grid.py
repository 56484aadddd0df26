"""Output grids and their tiles: geometry only, no raster is opened here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError
from catalogs.scene import Scene
from catalogs.sensors import get_sensor
from pipeline.grid import crs, utm


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A north-up raster grid in a projected coordinate system."""

    epsg: int
    """EPSG code of the coordinate reference system; its unit is the metre."""

    resolution: float
    """Side of a square pixel, metres."""

    left: float
    """x of the western edge of the first column, metres."""

    top: float
    """y of the northern edge of the first row, metres."""

    height: int
    """Rows."""

    width: int
    """Columns."""

    def __post_init__(self) -> None:
        if not self.resolution > 0 or not math.isfinite(self.resolution):
            raise ValueError(f"A grid needs a positive resolution, not {self.resolution!r}.")
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"A grid needs at least one row and one column, not {self.height} x {self.width}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return (self.height, self.width)

    @property
    def transform(self) -> Affine:
        """Return the affine transform from (column, row) to the (x, y) of a pixel's corner."""
        return Affine(self.resolution, 0.0, self.left, 0.0, -self.resolution, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return (left, bottom, right, top) of the outer edges, metres."""
        return (
            self.left,
            self.top - self.height * self.resolution,
            self.left + self.width * self.resolution,
            self.top,
        )

    @property
    def alignment(self) -> tuple[float, float]:
        """Return the offset of pixel corners from multiples of the resolution: (x, y), metres."""
        return _alignment(self.left, self.resolution), _alignment(self.top, self.resolution)

    def window(self, *, row: int, column: int, height: int, width: int) -> Grid:
        """Return the grid of a window, in pixels of this grid; it may extend beyond this grid."""
        return Grid(
            epsg=self.epsg,
            resolution=self.resolution,
            left=self.left + column * self.resolution,
            top=self.top - row * self.resolution,
            height=height,
            width=width,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as JSON-ready values."""
        return {
            "epsg": self.epsg,
            "resolution": self.resolution,
            "left": self.left,
            "top": self.top,
            "height": self.height,
            "width": self.width,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Build a grid from :meth:`to_dict`'s values."""
        return cls(**values)

    def origin_index(self) -> tuple[int, int]:
        """Return the (row, column) of the first pixel, counted from the origin of the CRS.

        Grids of the same resolution and alignment give a ground pixel the same index, wherever
        they begin; windows and warp blocks are anchored to these indices.
        """
        return (
            math.floor(-self.top / self.resolution + ALIGNMENT_TOLERANCE),
            math.floor(self.left / self.resolution + ALIGNMENT_TOLERANCE),
        )

    def refine(self, factor: int) -> Grid:
        """Return the same extent with each pixel split into ``factor`` x ``factor`` pixels."""
        return Grid(
            epsg=self.epsg,
            resolution=self.resolution / factor,
            left=self.left,
            top=self.top,
            height=self.height * factor,
            width=self.width * factor,
        )

    def coarsen(self, factor: int) -> Grid:
        """Return the smallest grid of cells of ``factor`` x ``factor`` pixels that covers this one.

        Cells are counted from the origin of the CRS, as pixels are, so the same pixels form a
        cell whatever the region.
        """
        row, column = self.origin_index()
        above, before = row % factor, column % factor
        return Grid(
            epsg=self.epsg,
            resolution=self.resolution * factor,
            left=self.left - before * self.resolution,
            top=self.top + above * self.resolution,
            height=-(-(self.height + above) // factor),
            width=-(-(self.width + before) // factor),
        )


ALIGNMENT_TOLERANCE = 1e-6
"""Pixels: smaller differences are rounding errors of coordinates written as decimals."""


_SEARCH_BLOCK = 1024
"""Side of the blocks in which :func:`has_pixel` searches; the first pixel ends the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A rectangle of grid pixels: the unit of work and of failure."""

    id: str
    """Row and column of the tile, ``r003c001``; with several grids ``32633-r003c001``."""

    row: int
    """First grid row."""

    column: int
    """First grid column."""

    height: int
    """Rows."""

    width: int
    """Columns."""

    epsg: int
    """EPSG code of the grid that it belongs to."""

    def coarsen(self, factor: int) -> Tile:
        """Return the same tile on a grid whose cells are ``factor`` x ``factor`` pixels."""
        row, column, height, width = (
            length // factor for length in (self.row, self.column, self.height, self.width)
        )
        return replace(self, row=row, column=column, height=height, width=width)


def split_into_tiles(grid: Grid, size: int, *, id_prefix: str = "") -> tuple[Tile, ...]:
    """Split a grid into tiles of ``size`` pixels, row by row; the last ones may be smaller."""
    return tuple(
        Tile(
            id=f"{id_prefix}r{row // size:03d}c{column // size:03d}",
            row=row,
            column=column,
            height=min(size, grid.height - row),
            width=min(size, grid.width - column),
            epsg=grid.epsg,
        )
        for row in range(0, grid.height, size)
        for column in range(0, grid.width, size)
    )


def select_tiles(
    tiles: Sequence[Tile], grid: Grid, region: BaseGeometry, factors: Iterable[int] = (1,)
) -> tuple[Tile, ...]:
    """Return the tiles that hold the centre of a cell in a projected region.

    Args:
        tiles: tiles of the grid.
        grid: the grid.
        region: the region in the coordinates of the grid.
        factors: cells of so many grid cells along a side count too.
    """
    if not tiles:
        return ()
    lefts = grid.left + np.array([tile.column for tile in tiles]) * grid.resolution
    tops = grid.top - np.array([tile.row for tile in tiles]) * grid.resolution
    boxes = shapely.box(
        lefts,
        tops - np.array([tile.height for tile in tiles]) * grid.resolution,
        lefts + np.array([tile.width for tile in tiles]) * grid.resolution,
        tops,
    )
    shapely.prepare(region)
    touched = shapely.intersects(region, boxes)
    covered = shapely.contains_properly(region, boxes)
    parts = shapely.STRtree(shapely.get_parts(region))
    return tuple(
        tile
        for tile, is_touched, is_covered in zip(tiles, touched, covered, strict=True)
        if is_covered or (is_touched and _holds_centre(tile, grid, parts, factors))
    )


def _holds_centre(tile: Tile, grid: Grid, parts: shapely.STRtree, factors: Iterable[int]) -> bool:
    part = clip_tile(tile, grid, parts, max(factors, default=1))
    area = grid.window(row=part.row, column=part.column, height=part.height, width=part.width)
    region = _near_parts(parts, shapely.box(*area.bounds).buffer(area.resolution * max(factors)))
    shapely.prepare(region)
    return any(_contains_centre(area.coarsen(factor), region) for factor in factors)


def _near_parts(parts: shapely.STRtree, outline: BaseGeometry) -> BaseGeometry:
    """Return the polygons of a region that touch an outline: a region may have thousands."""
    near: BaseGeometry = shapely.multipolygons(
        parts.geometries[parts.query(outline, predicate="intersects")]
    )
    return near


SCANNED_ROW_STEP = 64
"""Rows between the first ones in which a cell of a region is looked for."""


def _contains_centre(area: Grid, region: BaseGeometry) -> bool:
    """Tell whether :func:`rasterize_region` would find a cell, without looking at all rows."""
    xs, ys = _cell_centres(area)
    coarse_first = sorted(range(area.height), key=lambda row: (row % SCANNED_ROW_STEP > 0, row))
    # ^ most parts of a region extend over many rows
    return any(
        shapely.contains_xy(region, xs, np.full_like(xs, ys[row])).any() for row in coarse_first
    )


def clip_tile(tile: Tile, grid: Grid, parts: shapely.STRtree, multiple: int = 1) -> Tile:
    """Return the smallest part of a tile that holds its part of a projected region.

    Args:
        tile: a tile of the grid that the region touches.
        grid: the grid.
        parts: the polygons of the region, in the coordinates of the grid.
        multiple: the part begins and ends at multiples of so many cells of the grid.
    """
    area = grid.window(row=tile.row, column=tile.column, height=tile.height, width=tile.width)
    outline = shapely.box(*area.bounds)
    west, south, east, north = shapely.intersection(_near_parts(parts, outline), outline).bounds
    if math.isnan(west):
        return tile
    rows = _cells_between(area.top - north, area.top - south, tile.height, area, multiple)
    columns = _cells_between(west - area.left, east - area.left, tile.width, area, multiple)
    return replace(
        tile,
        row=tile.row + rows.start,
        column=tile.column + columns.start,
        height=len(rows),
        width=len(columns),
    )


def _cells_between(first: float, last: float, count: int, area: Grid, multiple: int) -> range:
    """Return the cells of a row between two distances in metres, and one more on either side."""
    step = area.resolution * multiple
    start = max(math.floor(first / step - 1) * multiple, 0)
    # ^ one more, as the coordinates of intersections are rounded
    return range(start, min(math.ceil(last / step + 1) * multiple, count))


def resolve_epsg_codes(crs_name: str, region: BaseGeometry) -> tuple[int, ...]:
    """Return the EPSG codes of a job's grids: the one it names, or all UTM zones it touches.

    Args:
        crs_name: a code such as ``EPSG:3035``, or ``utm``: every UTM zone that contains part of
            the region and, beyond 84° N and 80° S, the polar stereographic grids (UPS).
        region: an area in longitude and latitude.

    Raises:
        InvalidInputError: the code is unknown, or no raster in metres can be stored in the CRS.
    """
    if crs_name.lower() == "utm":
        return utm.find_zones(region)
    try:
        code = CRS.from_user_input(crs_name).to_epsg()
    except CRSError as error:
        raise InvalidInputError(
            f"grid.crs {crs_name!r} is not a known coordinate system. {crs.ADVICE}"
        ) from error
    if code is None:
        raise InvalidInputError(f"grid.crs {crs_name!r} has no EPSG code. {crs.ADVICE}")
    crs.check_crs(code)
    return (int(code),)


def common_alignment(scenes: Sequence[Scene], epsg: int, resolution: float) -> tuple[float, float]:
    """Return the alignment that all scenes share: (x, y) in metres, see :attr:`Grid.alignment`.

    (0, 0), multiples of the resolution, where they do not share one.
    """
    alignments = find_alignments(scenes, epsg, resolution)
    return min(alignments) if len(alignments) == 1 else (0.0, 0.0)


def find_alignments(
    scenes: Sequence[Scene], epsg: int, resolution: float
) -> frozenset[tuple[float, float]]:
    """Return the distinct alignments of the scenes' rasters: (x, y) in metres.

    Optical scenes decide where there are any, else radar scenes; only rasters in the given CRS
    count, because all others are warped anyway.
    """
    corners: list[tuple[float, float]] = []
    for scene in _grid_defining_scenes(scenes):
        finest = min(
            (a.transform for a in scene.assets.values() if a.transform and a.epsg == epsg),
            key=lambda transform: abs(transform[0]),
            default=None,
        )
        if finest is None:
            continue
        x, y = _alignment(finest[2], resolution), _alignment(finest[5], resolution)
        if not any(_is_close(x, u, resolution) and _is_close(y, v, resolution) for u, v in corners):
            corners.append((x, y))
    return frozenset(corners)


def find_grid_defining_inputs(inputs: Iterable[str]) -> tuple[str, ...]:
    """Return the inputs whose grids a product takes over: optical ones, else radar ones."""
    by_group = {
        group: tuple(name for name in inputs if get_sensor(name).group == group)
        for group in ("optical", "radar")
    }
    return by_group["optical"] or by_group["radar"]


def _grid_defining_scenes(scenes: Sequence[Scene]) -> Sequence[Scene]:
    inputs = find_grid_defining_inputs({scene.modality for scene in scenes})
    return [scene for scene in scenes if scene.modality in inputs]


def find_scene_zones(scenes: Sequence[Scene], region: BaseGeometry) -> frozenset[int | None]:
    """Return the EPSG codes of the rasters of all scenes that intersect a region.

    Optical scenes decide where there are any, else radar scenes. None stands for scenes of which
    the catalog states no code.

    Args:
        scenes: scenes, whether they are used or not.
        region: an area in longitude and latitude.
    """
    return frozenset(
        asset.epsg
        for scene in _grid_defining_scenes(scenes)
        if shape(scene.footprint).intersects(region)
        for asset in scene.assets.values()
    )


def _is_close(first: float, second: float, resolution: float) -> bool:
    return abs(first - second) < ALIGNMENT_TOLERANCE * resolution


def _alignment(coordinate: float, resolution: float) -> float:
    offset = math.fmod(coordinate, resolution)
    if offset < 0:
        offset += resolution
    return 0.0 if resolution - offset < ALIGNMENT_TOLERANCE * resolution else offset


def project(region: BaseGeometry, epsg: int) -> BaseGeometry:
    """Project a region from longitude and latitude; edges stay straight in degrees."""
    transformer = lonlat_geometry.get_transformer(epsg)
    dense = shapely.segmentize(region, max_segment_length=0.01)
    # ^ 0.01° is about 1 km: the sagitta of such a piece of a parallel is under a metre in UTM
    projected = shapely.transform(dense, transformer.transform, interleaved=False)
    if projected.is_valid:
        return projected
    return shapely.make_valid(projected, method="structure", keep_collapsed=False)
    # ^ a cap around a pole has two edges along 180 degrees, which coincide on a polar grid


def build_covering_grid(
    region: BaseGeometry, epsg: int, resolution: float, alignment: tuple[float, float]
) -> Grid:
    """Return the smallest grid with a given alignment that covers a region.

    Args:
        region: an area in longitude and latitude.
        epsg: EPSG code of the grid.
        resolution: metres per pixel.
        alignment: offset of the pixel corners from multiples of the resolution, (x, y) metres.

    Raises:
        InvalidInputError: the region lies too far outside of the area of use of the CRS.
    """
    crs.check_area_of_use(region, epsg)
    west, south, east, north = project(region, epsg).bounds
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        raise InvalidInputError(
            f"The region cannot be projected to EPSG:{epsg}. Set another grid.crs in the job."
        )
    x, y = alignment
    left = math.floor((west - x) / resolution)
    right = math.ceil((east - x) / resolution)
    top = math.ceil((north - y) / resolution)
    bottom = math.floor((south - y) / resolution)
    return Grid(
        epsg=epsg,
        resolution=resolution,
        left=left * resolution + x,
        top=top * resolution + y,
        height=max(top - bottom, 1),
        width=max(right - left, 1),
    )


def rasterize_region(region: BaseGeometry, grid: Grid) -> NDArray[np.bool_]:
    """Return a mask (height, width) of the pixel centres that lie in a projected region."""
    xs, ys = _cell_centres(grid)
    shapely.prepare(region)
    left, bottom, right, top = grid.bounds
    if shapely.contains_properly(region, shapely.box(left, bottom, right, top)):
        return np.ones(grid.shape, dtype=np.bool_)
    return np.stack([shapely.contains_xy(region, xs, np.full_like(xs, y)) for y in ys])


def has_pixel(region: BaseGeometry, grid: Grid) -> bool:
    """Return whether the centre of any pixel of a grid lies in a projected region."""
    (whole,) = split_into_tiles(grid, max(grid.shape))
    part = clip_tile(whole, grid, shapely.STRtree(shapely.get_parts(region)))
    area = grid.window(row=part.row, column=part.column, height=part.height, width=part.width)
    if max(area.shape) <= SCANNED_ROW_STEP:
        return _contains_centre(area, region)
    blocks = split_into_tiles(area, _SEARCH_BLOCK)
    return any(select_tiles((block,), area, region) for block in blocks)


def _cell_centres(grid: Grid) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Return x of the columns and y of the rows."""
    xs = grid.left + (np.arange(grid.width) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(grid.height) + 0.5) * grid.resolution
    return xs, ys
