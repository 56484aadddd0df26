"""Positions between any two coordinate systems, and the pixels that are read at them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from pipeline.grid.crs import pixel_size_metres
from pipeline.grid.grid import Grid
from pipeline.reading import grid_positions, reprojection, resampling
from pipeline.reading.interpolation_loops import interpolate_block

SIDE = 96
"""Pixels along each side of a grid."""

PAIRS = 200


def _utm(longitude, latitude):
    zone = int((longitude + 180) // 6) % 60 + 1
    return (32600 if latitude >= 0 else 32700) + zone


def _random_pair(seed):
    """Return a grid, and the EPSG code and the pixel size of a raster around its middle."""
    rng = np.random.default_rng(seed)
    kind = ("zones", "hemispheres", "europe", "degrees", "polar", "south")[seed % 6]
    longitude = rng.uniform(-180, 180)
    edge = round(longitude / 6) * 6
    # ^ the edge of two zones
    latitude = rng.uniform(-75, 80)
    source_size, resolution = rng.choice([10.0, 20.0, 60.0], 2)
    if kind == "zones":
        longitude = edge + rng.uniform(-0.5, 0.5)
        source, target = _utm(edge - 1, latitude), _utm(edge + 1, latitude)
    elif kind == "hemispheres":
        latitude = rng.uniform(-1, 1)
        source, target = _utm(longitude, 1), _utm(longitude, -1)
    elif kind == "europe":
        longitude, latitude = rng.uniform(-5, 28), rng.uniform(36, 66)
        source, target = rng.permutation([3035, _utm(longitude, latitude)]).tolist()
    elif kind == "degrees":
        source, target = rng.permutation([4326, _utm(longitude, latitude)]).tolist()
    else:
        latitude = rng.uniform(62, 83) if kind == "polar" else rng.uniform(-79, -62)
        polar = 3413 if kind == "polar" else 3031
        source, target = rng.permutation([polar, _utm(longitude, latitude)]).tolist()
    metres = 111_320.0
    x, y = Transformer.from_crs(4326, target, always_xy=True).transform(longitude, latitude)
    if target == 4326:
        resolution /= metres
    if source == 4326:
        source_size /= metres
    left = (round(x / resolution) - SIDE // 2 + rng.choice([0, 0.25])) * resolution
    top = (round(y / resolution) + SIDE // 2 + rng.choice([0, 0.5])) * resolution
    grid = Grid(epsg=target, resolution=resolution, left=left, top=top, height=SIDE, width=SIDE)
    return grid, source, float(source_size)


def _exact_positions(grid, source):
    columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    return Transformer.from_crs(grid.epsg, source, always_xy=True).transform(
        grid.left + columns * grid.resolution, grid.top - rows * grid.resolution
    )


def _around(values, centre):
    """Return longitudes within half a turn of another one."""
    return values - 360 * np.round((values - centre) / 360)


@pytest.mark.parametrize("group", range(4))
def test_positions_agree_with_proj(group):
    for seed in range(group * PAIRS // 4, (group + 1) * PAIRS // 4):
        grid, source, _ = _random_pair(seed)
        positions = grid_positions.locate_block(CRS.from_epsg(source).to_wkt(), grid)
        assert positions.is_polynomial, seed
        xs, ys = _exact_positions(grid, source)
        fractions = (2 * np.arange(SIDE) + 1) / SIDE - 1
        powers = np.vander(fractions, len(positions.x), increasing=True)
        x, y = (powers @ values @ powers.T for values in (positions.x, positions.y))
        if source == 4326:
            xs = _around(xs, x[0, 0])
        pixel = max(np.ptp(xs), np.ptp(ys)) / SIDE
        error = max(np.abs(x - xs).max(), np.abs(y - ys).max()) / pixel
        assert error < 2e-6, (seed, error)
        bounds = positions.bounds(slice(0, SIDE), slice(0, SIDE))
        assert bounds[0] <= xs.min() < xs.max() <= bounds[2]
        assert bounds[1] <= ys.min() < ys.max() <= bounds[3]
        assert bounds[2] - bounds[0] < np.ptp(xs) + 3 * pixel


def _interpolate(stored, columns, rows):
    """Return the bilinear means of the valid pixels, and 0 where the central one is not."""
    weighted, weights = np.zeros(columns.shape), np.zeros(columns.shape)
    left, top = np.floor(columns - 0.5), np.floor(rows - 0.5)
    for i in range(2):
        for j in range(2):
            weight = (1 - np.abs(columns - 0.5 - left - j)) * (1 - np.abs(rows - 0.5 - top - i))
            values = _take(stored, left + j, top + i)
            weighted += weight * values
            weights += weight * (values > 0)
    valid = _take(stored, np.floor(columns), np.floor(rows)) > 0
    return np.where(valid, np.floor(weighted / np.maximum(weights, 1e-9) + 0.5), 0)


def _take(stored, columns, rows):
    inside = (columns >= 0) & (rows >= 0) & (columns < stored.shape[1]) & (rows < stored.shape[0])
    clipped = np.where(inside, rows, 0).astype(int), np.where(inside, columns, 0).astype(int)
    return np.where(inside, stored[clipped], 0)


@pytest.mark.parametrize("group", range(4))
def test_pixels_agree_with_exact_positions(group):
    """Noise with holes, so that each pixel differs from its neighbours."""
    differing = compared = 0
    for seed in range(group * PAIRS // 4, (group + 1) * PAIRS // 4):
        grid, source, size = _random_pair(seed)
        xs, ys = _exact_positions(grid, source)
        if source == 4326:
            xs = _around(xs, xs[0, 0])
        rng = np.random.default_rng(seed)
        shape = [min(math.ceil(np.ptp(values) / size), 900) for values in (ys, xs)]
        stored = rng.integers(1, 10_000, shape).astype(np.uint16)
        stored[rng.random(shape) < 0.1] = 0
        # ^ the raster begins in the middle of the first row and column: edges, too
        transform = from_origin(xs.min() + 2.3 * size, ys.max() - 1.7 * size, size, size)
        columns, rows = ~transform * (xs, ys)
        with MemoryFile() as memory:
            options = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "uint16"}
            with memory.open(
                driver="GTiff", crs=f"EPSG:{source}", transform=transform, nodata=0, **options
            ) as dataset:
                dataset.write(stored, 1)
            with memory.open() as dataset:
                ratio = pixel_size_metres(CRS.from_epsg(source), transform) / grid.resolution
                kernels = [Resampling.nearest]
                if ratio > resampling.MIN_BILINEAR_RATIO and grid.epsg != 4326:
                    kernels.append(Resampling.bilinear)
                for kernel in kernels:
                    actual = reprojection.read_on_grid(
                        dataset,
                        grid,
                        nodata=0,
                        resampling=kernel,
                        dtype=np.dtype("uint16"),
                        fill_value=0,
                        keeps_integers=True,
                    )
                    expected = (
                        _take(stored, np.floor(columns), np.floor(rows))
                        if kernel == Resampling.nearest
                        else _interpolate(stored, columns, rows)
                    )
                    differing += np.sum(np.abs(actual - expected.astype(int)) > 1)
                    compared += actual.size
                    valid = _take(stored, np.floor(columns), np.floor(rows)) > 0
                    assert np.sum((actual > 0) & ~valid) <= 1e-3 * actual.size, seed
    assert compared > 40 * SIDE**2
    assert differing <= 1e-3 * compared


def test_a_part_of_a_block_has_the_pixels_of_the_whole():
    """To the bit: the position of a pixel does not depend on what else is asked for."""
    grid, source, size = _random_pair(0)
    positions = grid_positions.locate_block(CRS.from_epsg(source).to_wkt(), grid)
    left, bottom, right, top = positions.bounds(slice(0, SIDE), slice(0, SIDE))
    pixels = positions.to_pixels(from_origin(left, top, size, size))
    shape = (math.ceil((top - bottom) / size) + 1, math.ceil((right - left) / size) + 1)
    stored = np.random.default_rng(0).random(shape).astype(np.float32)
    valid = np.random.default_rng(1).random(shape) < 0.9

    def read(first_row, first_column, height, width):
        values = np.zeros((height, width), np.float32)
        written = np.zeros((height, width), np.bool_)
        interpolate_block(
            (pixels.x, pixels.y, pixels.is_polynomial),
            SIDE,
            (first_row, first_column),
            (stored, valid),
            True,
            False,
            math.nan,
            values,
            written,
        )
        return values, written

    values, written = read(0, 0, SIDE, SIDE)
    assert 0.5 < written.mean() < 1
    for part in ((0, 0, 1, 1), (5, 40, 17, 31), (SIDE - 3, 1, 3, SIDE - 1)):
        area = slice(part[0], part[0] + part[2]), slice(part[1], part[1] + part[3])
        part_values, part_written = read(*part)
        assert np.array_equal(part_values, values[area])
        assert np.array_equal(part_written, written[area])


def test_the_pole_and_systems_without_smooth_positions_are_exact():
    """Longitudes around a pole are no polynomial: PROJ is asked for every pixel."""
    grid = Grid(epsg=3413, resolution=1000.0, left=-48e3, top=48e3, height=SIDE, width=SIDE)
    positions = grid_positions.locate_block(CRS.from_epsg(4326).to_wkt(), grid)
    assert not positions.is_polynomial
    xs, ys = _exact_positions(grid, 4326)
    assert np.allclose(positions.y, ys, atol=1e-9)
    turns = (positions.x - xs) / 360
    assert np.allclose(turns, np.round(turns), atol=1e-9)


def test_longitudes_are_continuous_across_180_degrees():
    grid = Grid(epsg=32601, resolution=60.0, left=340_000.0, top=6.9e6, height=96, width=96)
    positions = grid_positions.locate_block(CRS.from_epsg(4326).to_wkt(), grid)
    xs, _ = _exact_positions(grid, 4326)
    assert xs.min() < -179 < 179 < xs.max()
    assert positions.is_polynomial
    least, _, greatest, _ = positions.bounds(slice(0, 96), slice(0, 96))
    assert greatest - least < 0.3
