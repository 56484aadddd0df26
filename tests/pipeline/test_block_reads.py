"""The estimated reads of a grid agree with those that a server receives."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.enums import Resampling
from rasterio.shutil import copy

from pipeline.grid.grid import Grid
from pipeline.reading import asset_opener, block_reads, raster_reader
from pipeline.reading.block_reads import RasterLayout
from tests.faults.range_server import serving
from tests.support import small_worlds

HEIGHT, WIDTH = 1536, 2560
SOURCE = asset_opener.AssetInfo(scene_id="S", provider="demo", nodata=0.0)


@pytest.fixture(scope="module")
def raster_server(tmp_path_factory):
    """Serve a raster without compression, in blocks of the usual side."""
    folder = tmp_path_factory.mktemp("blocks")
    values = np.random.default_rng(1).integers(1, 60_000, (HEIGHT, WIDTH)).astype(np.uint16)
    source = small_worlds.raster(folder / "first.tif", values)
    options = {"compress": "none", "blocksize": block_reads.BLOCK_SIZE, "overviews": "none"}
    copy(source, folder / "cog.tif", driver="COG", **options)
    with serving(folder) as server:
        yield server


def _read(raster_server, grid, resampling):
    """Read a grid; return the bytes sent and the requests received by the server."""
    raster_server.reset_counts()
    options = {"resampling": resampling, "dtype": np.uint16, "fill_value": 0}
    raster_reader.read(f"{raster_server.address}/cog.tif", SOURCE, grid, **options)
    return raster_server.sent, raster_server.requests


def _grid(row, column, height, width, *, size=10.0, epsg=small_worlds.EPSG):
    left, top = small_worlds.LEFT + 10 * column, small_worlds.TOP - 10 * row
    return Grid(epsg=epsg, resolution=size, left=left, top=top, height=height, width=width)


RASTER = RasterLayout(
    epsg=small_worlds.EPSG,
    transform=(10.0, 0.0, small_worlds.LEFT, 0.0, -10.0, small_worlds.TOP),
    shape=(HEIGHT, WIDTH),
    is_picked=True,
)


@pytest.mark.parametrize(
    "grid",
    [
        _grid(0, 0, 100, 100),
        _grid(500, 500, 600, 600),
        _grid(512, 1024, 512, 512),
        _grid(-300, -300, 700, 700),
        _grid(600, 0, 512, WIDTH),
        _grid(1000, 2000, 2000, 2000),
        _grid(500, 500, 50, 50, size=100.0),
    ],
    ids=["corner", "across", "one", "outside", "whole-rows", "end", "coarse"],
)
def test_blocks_in_the_crs_of_the_grid_are_exact(raster_server, grid):
    pixels, requests = block_reads.estimate_block_reads(RASTER, grid)
    sent, received = _read(raster_server, grid, Resampling.nearest)
    assert received == requests
    assert sent == pytest.approx(2 * pixels + block_reads.HEADER_BYTES, rel=0.01)
    assert pixels >= min(grid.height * grid.width, 100 * 100)


def test_only_the_header_is_read_outside_a_raster(raster_server):
    grid = _grid(5000, 5000, 100, 100)
    assert block_reads.estimate_block_reads(RASTER, grid) == (0, 1)
    assert _read(raster_server, grid, Resampling.nearest)[1] == 1


@pytest.mark.parametrize("kernel", [Resampling.average, Resampling.bilinear])
@pytest.mark.parametrize("side", [200, 700, 1200])
def test_resampled_blocks_are_estimated_roughly(raster_server, side, kernel):
    """The first block is not known exactly, so one block more is assumed on each side."""
    size = 20.0 if kernel == Resampling.average else 5.0
    grid = _grid(300.5, 300.5, int(side * 10 / size), int(side * 10 / size), size=size)
    warped = RasterLayout(
        epsg=RASTER.epsg, transform=RASTER.transform, shape=RASTER.shape, is_picked=False
    )
    pixels, requests = block_reads.estimate_block_reads(warped, grid)
    sent, received = _read(raster_server, grid, kernel)
    assert received / 2 <= requests <= 2 * received
    assert sent / 2 <= 2 * pixels + block_reads.HEADER_BYTES <= 2.5 * sent


def test_a_raster_without_a_transform_has_the_resolution_of_the_grid():
    grid = _grid(0, 0, 512, 1024)
    pixels, requests = block_reads.estimate_block_reads(
        RasterLayout(epsg=None, transform=None, shape=None, is_picked=True), grid
    )
    assert (pixels, requests) == (1024 * 1536, 3)


def test_pixels_of_a_geographic_crs_are_converted_to_metres():
    step = 1 / 3600
    heights = RasterLayout(
        epsg=4326,
        transform=(step, 0.0, 12.0, 0.0, -step, 37.0),
        shape=(3600, 3600),
        is_picked=False,
    )
    grid = _grid(0, 0, 1024, 1024)
    pixels, requests = block_reads.estimate_block_reads(heights, grid)
    side = 1024 * 10 / 30.9 + 512
    assert pixels == pytest.approx(side**2, rel=0.25)
    assert requests == 1 + 2
