"""What reading a part of a raster fetches: its file's header, and whole blocks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from affine import Affine
from pyproj import CRS

from pipeline.grid.grid import Grid
from pipeline.reading import http_ranges, reprojection

BLOCK_SIZE = 512
"""Of a block, pixels: the usual one of a COG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterLayout:
    """A file as the catalog describes it; None where it does not."""

    epsg: int | None
    transform: tuple[float, float, float, float, float, float] | None
    shape: tuple[int, int] | None
    is_picked: bool
    """Whether its pixels are picked on a grid of its own system, and never interpolated."""


def estimate_block_reads(raster: RasterLayout, area: Grid) -> tuple[int, int]:
    """Return pixels that are fetched for a grid, in whole blocks, and the requests for them.

    The header is one request, and what lies in it is not counted among the pixels; of the blocks
    each row is one, as they follow each other in the file, or all of them where they are whole
    rows. A warped raster is asked block by block of the lattice. Where the catalog does not say how
    a raster lies it is taken for one of the grid's own pixels that begins anywhere.
    """
    if raster.transform is None or raster.epsg is None:
        rows, columns = (_blocks_anywhere(count, None) for count in area.shape)
        return rows[0] * columns[0], 1 + rows[1]
    a, _, c, _, e, f = raster.transform
    height, width = raster.shape or (None, None)
    near = raster.epsg == area.epsg and a > 0 > e
    same = near and math.isclose(a, area.resolution)
    if not same and not (near and raster.is_picked):
        area = _warp_block_grid(area)
    if near:
        left, bottom, right, top = area.bounds
        columns = _blocks_between((left - c) / a, (right - c) / a, width)
        rows = _blocks_between((top - f) / e, (bottom - f) / e, height)
    else:
        ratio = area.resolution / _pixel_size_metres(raster.epsg, raster.transform)
        rows = _blocks_anywhere(math.ceil(area.height * ratio), height)
        columns = _blocks_anywhere(math.ceil(area.width * ratio), width)
    asked = rows[1] if same or raster.is_picked else rows[1] * columns[1]
    if near and columns[0] == width:
        asked = min(asked, 1)
    return rows[0] * columns[0], 1 + (asked if rows[0] and columns[0] else 0)


HEADER_BYTES = http_ranges.HEADER_BYTES
"""Bytes of the first request."""


@functools.lru_cache(maxsize=4096)
def _pixel_size_metres(epsg: int, transform: tuple[float, ...]) -> float:
    return reprojection.pixel_size_metres(_crs_from_epsg(epsg), Affine(*transform))


@functools.lru_cache(maxsize=64)
def _crs_from_epsg(epsg: int) -> CRS:
    return CRS.from_epsg(epsg)


def _warp_block_grid(area: Grid) -> Grid:
    """Return the blocks of the lattice that a grid meets, as a grid."""
    side = reprojection.WARP_BLOCK_SIZE
    row, column = area.origin_index()
    up, aside = row % side, column % side
    return area.window(
        row=-up,
        column=-aside,
        height=-(-(area.height + up) // side) * side,
        width=-(-(area.width + aside) // side) * side,
    )


def _blocks_between(start: float, stop: float, count: int | None) -> tuple[int, int]:
    """Return pixels and blocks along one side, between two places of the raster."""
    first = max(math.floor(round(start, 6)), 0)
    last = min(math.ceil(round(stop, 6)), math.inf if count is None else count)
    if last <= first:
        return 0, 0
    block, blocks = first // BLOCK_SIZE, math.ceil(last / BLOCK_SIZE)
    end = blocks * BLOCK_SIZE
    return round(min(end, count or end)) - block * BLOCK_SIZE, blocks - block


def _blocks_anywhere(pixels: int, count: int | None) -> tuple[int, int]:
    """Return pixels and blocks along one side that begins anywhere within a block."""
    most = min(pixels + BLOCK_SIZE, count or math.inf)
    return round(most), math.ceil(min(pixels / BLOCK_SIZE + 1, (count or math.inf) / BLOCK_SIZE))
