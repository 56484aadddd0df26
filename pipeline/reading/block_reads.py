"""Estimate what a windowed read of a raster fetches: the file's header and whole blocks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from affine import Affine
from pyproj import CRS

from pipeline.grid.crs import pixel_size_metres
from pipeline.grid.grid import Grid
from pipeline.reading import http_ranges, resampling, warp_blocks

BLOCK_SIZE = 512
"""Side of a block, pixels: the default of GDAL's COG driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterLayout:
    """A raster file as the catalog describes it; None where the catalog states nothing."""

    epsg: int | None
    transform: tuple[float, float, float, float, float, float] | None
    shape: tuple[int, int] | None
    is_picked: bool
    """Whether it is resampled by nearest neighbour on grids of its own CRS."""


def estimate_block_reads(raster: RasterLayout, area: Grid) -> tuple[int, int]:
    """Estimate the pixels and requests of reading a raster onto a grid.

    The header is one request; its bytes are not counted among the pixels. Each row of blocks is
    one request, because its blocks are adjacent in the file; whole rows are a single one. A raster
    that is averaged is read warp block by warp block. Where the catalog does not state a transform,
    the raster is assumed to have the resolution of the grid and an unknown origin.

    Args:
        raster: the raster.
        area: the output grid.

    Returns:
        Pixels fetched, in whole blocks, and the number of requests.
    """
    if raster.transform is None or raster.epsg is None:
        rows, columns = (_blocks_anywhere(count, None) for count in area.shape)
        return rows[0] * columns[0], 1 + rows[1]
    a, _, c, _, e, f = raster.transform
    height, width = raster.shape or (None, None)
    same_crs = raster.epsg == area.epsg and a > 0 > e
    pixel_size = a if same_crs else _pixel_size_metres(raster.epsg, raster.transform)
    is_averaged = pixel_size < resampling.MIN_BILINEAR_RATIO * area.resolution and not (
        same_crs and raster.is_picked
    )
    if is_averaged:
        area = _warp_block_grid(area)
    if same_crs:
        left, bottom, right, top = area.bounds
        columns = _blocks_between((left - c) / a, (right - c) / a, width)
        rows = _blocks_between((top - f) / e, (bottom - f) / e, height)
    else:
        ratio = area.resolution / pixel_size
        rows = _blocks_anywhere(math.ceil(area.height * ratio), height)
        columns = _blocks_anywhere(math.ceil(area.width * ratio), width)
    requests = rows[1] * columns[1] if is_averaged else rows[1]
    if same_crs and columns[0] == width:
        requests = min(requests, 1)
    return rows[0] * columns[0], 1 + (requests if rows[0] and columns[0] else 0)


HEADER_BYTES = http_ranges.HEADER_BYTES
"""Bytes of the first request, which reads the header."""


@functools.lru_cache(maxsize=4096)
def _pixel_size_metres(epsg: int, transform: tuple[float, ...]) -> float:
    return pixel_size_metres(_crs_from_epsg(epsg), Affine(*transform))


@functools.lru_cache(maxsize=64)
def _crs_from_epsg(epsg: int) -> CRS:
    return CRS.from_epsg(epsg)


def _warp_block_grid(area: Grid) -> Grid:
    """Return the grid of all warp blocks that intersect a grid."""
    side = warp_blocks.WARP_BLOCK_SIZE
    row, column = area.origin_index()
    above, left = row % side, column % side
    return area.window(
        row=-above,
        column=-left,
        height=-(-(area.height + above) // side) * side,
        width=-(-(area.width + left) // side) * side,
    )


def _blocks_between(start: float, stop: float, count: int | None) -> tuple[int, int]:
    """Return pixels and blocks along one axis, between two pixel coordinates of a raster.

    Args:
        start: first pixel coordinate; may lie outside of the raster.
        stop: last pixel coordinate.
        count: pixels of the raster along the axis; None = unknown.
    """
    first = max(math.floor(round(start, 6)), 0)
    last = min(math.ceil(round(stop, 6)), math.inf if count is None else count)
    if last <= first:
        return 0, 0
    first_block, stop_block = first // BLOCK_SIZE, math.ceil(last / BLOCK_SIZE)
    end = stop_block * BLOCK_SIZE
    pixels = round(min(end, count or end)) - first_block * BLOCK_SIZE
    return pixels, stop_block - first_block


def _blocks_anywhere(pixels: int, count: int | None) -> tuple[int, int]:
    """Return pixels and blocks of a read along one axis that begins anywhere within a block.

    Args:
        pixels: pixels that are read.
        count: pixels of the raster along the axis; None = unknown.
    """
    fetched = min(pixels + BLOCK_SIZE, count or math.inf)
    return round(fetched), math.ceil(min(pixels / BLOCK_SIZE + 1, (count or math.inf) / BLOCK_SIZE))
