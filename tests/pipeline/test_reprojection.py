"""Rasters on other grids: as gdalwarp computes them, and equal in every tile."""

from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject

from catalogs.errors import InvalidInputError
from pipeline.grid.crs import is_same_crs, pixel_size_metres
from pipeline.grid.grid import Grid
from pipeline.reading import gdal_warp, interpolated_read, reprojection, warp_blocks
from tests.support import small_worlds

RESOLUTIONS = (
    *(4.9, 5.0, 7.5, 9.9, 10.0, 10.1, 12.5, 15.0, 19.9),
    *(20.0, 20.1, 30.0, 39.9, 40.0, 40.1, 79.9, 80.0, 80.1),
)
"""Metres, for a raster of 10 m: its resolution, those of its overviews, and values nearby."""

OFFSETS = (0.0, 5.0, 2.5, 3.3)
"""Metres: none, half a pixel, a quarter, and an arbitrary one."""

KERNELS = (Resampling.nearest, Resampling.bilinear, Resampling.cubic, Resampling.average)
SHAPE = (410, 430)


def _read(path, grid, resampling, *, nodata=0.0, dtype="uint16", fill_value=0):
    with rasterio.open(path) as dataset:
        return reprojection.read_on_grid(
            dataset,
            grid,
            nodata=nodata,
            resampling=resampling,
            dtype=np.dtype(dtype),
            fill_value=fill_value,
        )


def _run_gdalwarp(source, grid, kernel, folder, *options):
    """Return the result of gdalwarp for the whole grid."""
    if shutil.which("gdalwarp") is None:
        pytest.skip("gdalwarp is not installed (Debian's gdal-bin)")
    output = folder / "gdalwarp.tif"
    left, bottom, right, top = map(repr, grid.bounds)
    extent = ["-t_srs", f"EPSG:{grid.epsg}", "-te", left, bottom, right, top]
    size = ["-ts", str(grid.width), str(grid.height)]
    nodata = ["-srcnodata", "0", "-dstnodata", "0"]
    warp_options = ["-r", kernel.name, "-et", "0", "-ovr", "NONE", "-wm", "1000", *options]
    subprocess.run(
        ["gdalwarp", "-q", "-overwrite", *extent, *size, *nodata, *warp_options, source, output],
        check=True,
    )
    with rasterio.open(output) as file:
        return file.read(1)


def _run_rasterio(source, grid, kernel, scale):
    """Return the result of rasterio for the whole grid."""
    output = np.zeros(grid.shape, np.uint16)
    with rasterio.open(source) as dataset:
        reproject(
            rasterio.band(dataset, 1),
            output,
            dst_transform=grid.transform,
            dst_crs=f"EPSG:{grid.epsg}",
            src_nodata=0,
            dst_nodata=0,
            resampling=kernel,
            warp_mem_limit=1000,
            XSCALE=scale,
            YSCALE=scale,
        )
    return output


def _compute_max_difference(actual, expected):
    is_valid_in_both = (actual > 0) & (expected > 0)
    return int(np.abs(actual.astype(int) - expected)[is_valid_in_both].max())


def _mask_unaffected_pixels(valid, grid):
    """Return a mask of the pixels at least one source pixel away from holes and edges."""
    sums = np.pad(np.cumsum(np.cumsum(~np.pad(valid, 1), 0), 1), ((1, 0), (1, 0)))

    def find_source_range(start, count, limit):
        low = start + np.arange(count) * grid.resolution / 10
        high = low + grid.resolution / 10
        return (
            np.clip(np.floor(low - 1).astype(int), -1, limit) + 1,
            np.clip(np.ceil(high + 1).astype(int), -1, limit) + 1,
        )

    first_row, last_row = find_source_range(
        (small_worlds.TOP - grid.top) / 10, grid.height, valid.shape[0] + 1
    )
    first_column, last_column = find_source_range(
        (grid.left - small_worlds.LEFT) / 10, grid.width, valid.shape[1] + 1
    )
    holes = (
        sums[np.ix_(last_row, last_column)]
        - sums[np.ix_(first_row, last_column)]
        - sums[np.ix_(last_row, first_column)]
    )
    inside = (first_row > 0)[:, None] & (first_column > 0)
    inside &= (last_row < valid.shape[0] + 1)[:, None] & (last_column < valid.shape[1] + 1)
    return inside & (holes + sums[np.ix_(first_row, first_column)] == 0)


@pytest.fixture(scope="module")
def noise_path(tmp_path_factory):
    """Return the path of a raster of noise with holes and an empty side."""
    rng = np.random.default_rng(3)
    values = rng.integers(1, 60_001, SHAPE).astype(np.uint16)
    values[:, 370:] = 0
    values[rng.random(SHAPE) < 0.01] = 0
    path = small_worlds.raster(tmp_path_factory.mktemp("noise") / "B.tif", values, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
        # ^ these must not be used
    return path


def _make_covering_grid(resolution, offset):
    return Grid(
        epsg=small_worlds.EPSG,
        resolution=resolution,
        left=small_worlds.LEFT - 3 * resolution + offset,
        top=small_worlds.TOP + 2 * resolution - offset,
        height=math.ceil(10 * SHAPE[0] / resolution) + 6,
        width=math.ceil(10 * SHAPE[1] / resolution) + 6,
    )


@pytest.mark.parametrize("index", range(len(RESOLUTIONS)))
def test_every_resolution_agrees_with_gdalwarp(noise_path, tmp_path, index):
    resolution = RESOLUTIONS[index]
    grid = _make_covering_grid(resolution, OFFSETS[index % len(OFFSETS)])
    with rasterio.open(noise_path) as file:
        is_unaffected = _mask_unaffected_pixels(file.read(1) > 0, grid)
    assert is_unaffected.any()
    interpolating_kernel = Resampling.average if resolution > 10 else Resampling.bilinear
    for kernel in (Resampling.nearest, interpolating_kernel):
        actual = _read(noise_path, grid, kernel)
        expected = _run_gdalwarp(noise_path, grid, kernel, tmp_path)
        # ^ gdalwarp chooses the width of the kernel itself
        assert _compute_max_difference(actual, expected) <= 1
        assert (actual[is_unaffected] > 0).all()
        assert (expected[is_unaffected] > 0).all()
        if kernel is not Resampling.average or resolution > 12:
            assert np.array_equal(actual > 0, expected > 0)
            # ^ GDAL 3.6 yields fewer averages along the edge of a raster of nearly equal pixel size


@pytest.mark.parametrize("resolution", [7.5, 10.0, 10.1, 20.1, 40.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_agrees_with_rasterio(noise_path, kernel, resolution):
    grid = _make_covering_grid(resolution, 5.0)
    actual = _read(noise_path, grid, kernel)
    expected = _run_rasterio(noise_path, grid, kernel, min(10 / resolution, 1.0))
    assert np.array_equal(actual > 0, expected > 0)
    assert _compute_max_difference(actual, expected) <= 1


@pytest.mark.parametrize("resolution", [5.0, 10.0, 23.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_another_zone_agrees_with_gdalwarp(noise_path, tmp_path, kernel, resolution):
    grid = Grid(
        epsg=32632,
        resolution=resolution,
        left=955_000.0,
        top=5_216_000.0,
        height=math.ceil(4_500 / resolution),
        width=math.ceil(4_500 / resolution),
    )
    if kernel is Resampling.average and resolution < 10:
        pytest.skip("pixels coarser than the grid's are not averaged")
    scale = min(10 / resolution, 1.0)
    actual = _read(noise_path, grid, kernel)
    assert (actual > 0).mean() > 0.3
    scale_options = ["-wo", f"XSCALE={scale}", "-wo", f"YSCALE={scale}"]
    # ^ gdalwarp would widen the kernel for a rotated raster
    expected = _run_gdalwarp(noise_path, grid, kernel, tmp_path, *scale_options)
    assert np.mean((actual > 0) != (expected > 0)) < 5e-3
    assert _compute_max_difference(actual, expected) <= 1


@pytest.mark.parametrize("resolution", [6.0, 10.0])
def test_another_zone_agrees_with_plain_arithmetic(noise_path, resolution):
    """By pyproj and numpy only: the four neighbours weighted by distance, without invalid ones."""
    size = math.ceil(3_000 / resolution)
    grid = Grid(
        epsg=32632, resolution=resolution, left=956_000.0, top=5_215_000.0, height=size, width=size
    )
    nearest = _pick_pixels(noise_path, grid)
    actual = _read(noise_path, grid, Resampling.nearest)
    assert np.mean(actual != nearest) < 1e-5
    column, row, values = _locate_pixel_centres(noise_path, grid)
    left_column, upper_row = np.floor(column - 0.5).astype(int), np.floor(row - 0.5).astype(int)
    total, weights = np.zeros(grid.shape), np.zeros(grid.shape)
    padded = np.pad(values, 2000).astype(float)
    for row_step in (0, 1):
        for column_step in (0, 1):
            neighbour = padded[upper_row + row_step + 2000, left_column + column_step + 2000]
            weight = (1 - np.abs(row - 0.5 - upper_row - row_step)) * (
                1 - np.abs(column - 0.5 - left_column - column_step)
            )
            total += neighbour * weight
            weights += weight * (neighbour > 0)
    expected = np.where(nearest > 0, total / np.maximum(weights, 1e-9), 0)
    interpolated = _read(noise_path, grid, Resampling.bilinear)
    assert np.mean((interpolated > 0) != (nearest > 0)) < 1e-5
    is_valid_in_both = (interpolated > 0) & (nearest > 0)
    assert is_valid_in_both.mean() > 0.3
    assert np.abs(interpolated - expected)[is_valid_in_both].max() <= 1


def test_interpolation_at_equal_pixel_size_keeps_contrast(noise_path):
    grid = Grid(epsg=32632, resolution=10.0, left=956_000.0, top=5_214_000.0, height=300, width=300)
    with rasterio.open(noise_path) as file:
        contrast = file.read(1)[:, :350].std()
    actual = _read(noise_path, grid, Resampling.bilinear)
    assert actual[actual > 0].std() > 0.6 * contrast
    # ^ interpolation at random positions leaves 2/3 of the contrast of noise


SYSTEMS = (32633, 32632, 3035, 4326)


@pytest.fixture(scope="module")
def source_paths(tmp_path_factory):
    """Return the paths of rasters of one location in several systems, by EPSG code."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("sources")
    paths = {}
    for epsg in SYSTEMS:
        transformer = Transformer.from_crs(32633, epsg, always_xy=True)
        x, y = transformer.transform(small_worlds.LEFT + 3_000, small_worlds.TOP - 3_000)
        size = 1e-4 if epsg == 4326 else 10.0
        values = rng.integers(1, 60_001, (300, 320)).astype(np.uint16)
        values[rng.random(values.shape) < 0.05] = 0
        paths[epsg] = small_worlds.raster(
            folder / f"{epsg}.tif",
            values,
            epsg=epsg,
            resolution=size,
            left=x - 160 * size,
            top=y + 150 * size,
        )
    return paths


@settings(max_examples=25)
@given(
    epsg=st.sampled_from(SYSTEMS),
    kernel=st.sampled_from(KERNELS),
    resolution=st.floats(1, 500).map(lambda size: round(size, 3)),
    east=st.floats(-3_000, 3_000),
    north=st.floats(-3_000, 3_000),
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    data=st.data(),
)
def test_a_window_of_a_grid_has_the_same_pixels_as_the_whole(
    source_paths, epsg, kernel, resolution, east, north, size, data
):
    height, width = size
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=resolution,
        left=small_worlds.LEFT + 3_000 + east - width * resolution / 2,
        top=small_worlds.TOP - 3_000 + north + height * resolution / 2,
        height=height,
        width=width,
    )
    row = data.draw(st.integers(0, height - 1))
    column = data.draw(st.integers(0, width - 1))
    window = grid.window(
        row=row,
        column=column,
        height=data.draw(st.integers(1, height - row)),
        width=data.draw(st.integers(1, width - column)),
    )
    whole_values = _read(source_paths[epsg], grid, kernel)
    actual = _read(source_paths[epsg], window, kernel)
    assert np.array_equal(
        actual, whole_values[row : row + window.height, column : column + window.width]
    )


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        *(("uint16", 0.0), ("int16", -32768.0), ("float32", math.nan), ("float32", -99.0)),
        *(("uint16", None), ("float32", None), ("uint8", -9999.0)),
    ],
)
def test_half_a_pixel_off_four_neighbours_have_equal_weights(tmp_path, dtype, nodata):
    """The expected value is the mean of the valid neighbours where the central pixel is valid."""
    rng = np.random.default_rng(6)
    values = rng.integers(1, 250, (60, 70)).astype(dtype)
    holes = np.zeros(values.shape, np.bool_)
    if nodata not in (None, -9999.0):
        holes = rng.random(values.shape) < 0.2
        values[holes] = nodata
    path = small_worlds.raster(tmp_path / "a.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT - 15,
        top=small_worlds.TOP + 15,
        height=63,
        width=73,
    )
    actual = _read(
        path, grid, Resampling.bilinear, nodata=nodata, dtype="float32", fill_value=np.nan
    )
    valid = np.pad(~holes, 2)
    valid_values = np.where(valid, np.pad(values, 2).astype(float), 0)
    corners = [
        (slice(row, row + 63), slice(column, column + 73)) for row in (0, 1) for column in (0, 1)
    ]
    count = sum(valid[corner].astype(int) for corner in corners)
    total = sum(valid_values[corner] for corner in corners)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(valid[corners[3]], total / count, np.nan)
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    assert np.nanmax(np.abs(actual - expected)) <= 1e-4
    # ^ integers, too, are not rounded before the conversion to floating point


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_spreads_no_further_than_the_kernel(tmp_path, kernel):
    values = np.full((90, 90), 5, np.float32)
    values[45, 45] = np.nan
    path = small_worlds.raster(tmp_path / "a.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT + 3,
        top=small_worlds.TOP - 3,
        height=88,
        width=88,
    )
    actual = _read(path, grid, kernel, nodata=-32768.0, dtype="float32", fill_value=np.nan)
    assert set(actual[np.isfinite(actual)]) == {5.0}
    rows, columns = np.nonzero(np.isnan(actual))
    reach = 2 if kernel is Resampling.cubic else 1
    assert 0 < rows.size <= (2 * reach) ** 2
    assert np.abs(rows - 45).max() <= reach
    assert np.abs(columns - 45).max() <= reach


def test_averages_exclude_nodata(tmp_path):
    values = np.arange(1, 65, dtype=np.uint16).reshape(8, 8)
    values[0, :4] = 0
    values[4:, 4:] = 0
    path = small_worlds.raster(tmp_path / "a.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=40.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=2,
        width=2,
    )
    actual = _read(path, grid, Resampling.average)
    first_cell = values[:4, :4]
    assert actual[0, 0] == round(first_cell[first_cell > 0].mean() + 1e-9)
    assert actual[1, 1] == 0


def _write_raster(path, values, crs, transform):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = values.shape
    with rasterio.open(
        *(path, "w", "GTiff", columns, rows, 1, crs, transform, values.dtype)
    ) as file:
        file.write(values, 1)
    return path


def _locate_pixel_centres(path, grid):
    """Return (columns, rows) of the centres of a grid in a raster, and the values of the raster."""
    columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform * (columns, rows)
    with rasterio.open(path) as file:
        transformer = Transformer.from_crs(
            grid.epsg, CRS.from_wkt(file.crs.to_wkt()), always_xy=True
        )
        x, y = transformer.transform(x, y)
        if file.crs.is_geographic:
            x = file.bounds.left + (x - file.bounds.left) % 360
        column, row = ~file.transform * (x, y)
        return column, row, file.read(1)


def _pick_pixels(path, grid):
    """Return the pixel that contains each centre, by pyproj and arithmetic only."""
    column, row, values = _locate_pixel_centres(path, grid)
    column, row = np.floor(column), np.floor(row)
    inside = (row >= 0) & (column >= 0) & (row < values.shape[0]) & (column < values.shape[1])
    picked = np.zeros(grid.shape, values.dtype)
    picked[inside] = values[row[inside].astype(int), column[inside].astype(int)]
    return picked


def _make_random_values(shape, seed=7):
    return np.random.default_rng(seed).integers(1, 60_001, shape).astype(np.uint16)


ZONE = CRS.from_epsg(small_worlds.EPSG)
NAMELESS = CRS.from_proj4("+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500000 +datum=WGS84 +units=m")


@pytest.mark.parametrize(
    "crs", [NAMELESS, CRS("EPSG:32633+3855"), ZONE.to_3d()], ids=["nameless", "compound", "3d"]
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_system_of_the_grid_is_recognized_in_other_forms(tmp_path, crs, kernel, monkeypatch):
    monkeypatch.setattr(gdal_warp, "warp", None)
    monkeypatch.setattr(interpolated_read, "interpolate", None)
    # ^ must not be called
    values = _make_random_values((40, 50))
    transform = from_origin(small_worlds.LEFT, small_worlds.TOP, 10, 10)
    path = _write_raster(tmp_path / "a.tif", values, crs.to_wkt(), transform)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT + 50,
        top=small_worlds.TOP - 70,
        height=30,
        width=40,
    )
    assert np.array_equal(_read(path, grid, kernel), values[7:37, 5:45])


UPRIGHT = Affine.translation(small_worlds.LEFT, small_worlds.TOP) * Affine.scale(10, -10)


@pytest.mark.parametrize(
    "transform",
    [
        UPRIGHT * Affine.translation(0, 200) * Affine.scale(1, -1),
        UPRIGHT * Affine.translation(220, 0) * Affine.scale(-1, 1),
        UPRIGHT * Affine.translation(200, 0) * Affine.rotation(90),
        UPRIGHT * Affine.translation(60, 10) * Affine.rotation(17),
        UPRIGHT * Affine.shear(20, 0),
    ],
    ids=["south up", "mirrored", "on its side", "rotated", "sheared"],
)
@pytest.mark.parametrize("resolution", [10.0, 7.0, 33.0])
def test_flipped_and_rotated_rasters_are_read(tmp_path, transform, resolution):
    path = _write_raster(
        tmp_path / "a.tif", _make_random_values((200, 220)), "EPSG:32633", transform
    )
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=resolution,
        left=small_worlds.LEFT - 20 * resolution,
        top=small_worlds.TOP + 20 * resolution,
        height=math.ceil(3_000 / resolution),
        width=math.ceil(3_000 / resolution),
    )
    expected = _pick_pixels(path, grid)
    assert (expected > 0).mean() > 0.1
    actual = _read(path, grid, Resampling.nearest)
    assert np.mean(actual != expected) < 2e-3
    # ^ a centre may lie on the edge between two pixels
    interpolated = _read(path, grid, Resampling.bilinear)
    assert np.mean((interpolated > 0) != (expected > 0)) < 0.02


def _write_lonlat_box(path, west, south, east, north, epsg=4326, size=(300, 400)):
    transform = from_origin(west, north, (east - west) / size[1], (north - south) / size[0])
    return _write_raster(path, _make_random_values(size), f"EPSG:{epsg}", transform)


CASES = {
    # name: raster (system, west, south, east, north), grid (system, longitude, latitude)
    "north pole": ((4326, -180, 85, 180, 90), (3413, 0, 90)),
    "south pole": ((4326, -180, -90, 180, -85), (3031, 0, -90)),
    "ups north": ((3413, -200_000, -200_000, 200_000, 200_000), (32661, 10, 89.9)),
    "ups south": ((3031, -200_000, -200_000, 200_000, 200_000), (32761, 10, -89.9)),
    "end of utm": ((3413, -900_000, -900_000, 900_000, 900_000), (32633, 15, 83.9)),
    "east of 180": ((4326, -180, -18, -179, -17), (32760, 180, -17.5)),
    "west of 180": ((4326, 179, -18, 180, -17), (32701, 180, -17.5)),
    "across 180": ((4326, 179.5, -18, 180.5, -17), (32701, -179.9, -17.5)),
    "across -180": ((4326, -180.5, -18, -179.5, -17), (32760, 179.9, -17.5)),
    "zone 1 from 60": ((32760, 780_000, 8_020_000, 860_000, 8_110_000), (32701, 180, -17.5)),
    "zone edge": ((32632, 940_000, 5_170_000, 990_000, 5_230_000), (32633, 15, 46.95)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("resolution", [100.0, 700.0])
def test_poles_antimeridian_and_zone_edges_are_complete(tmp_path, name, resolution):
    (epsg, *bounds), (target, longitude, latitude) = CASES[name]
    path = _write_lonlat_box(tmp_path / "a.tif", *bounds, epsg=epsg)
    x, y = Transformer.from_crs(4326, target, always_xy=True).transform(longitude, latitude)
    grid = Grid(
        epsg=target,
        resolution=resolution,
        left=round(x) - 200 * resolution,
        top=round(y) + 190 * resolution,
        height=400,
        width=380,
    )
    expected = _pick_pixels(path, grid)
    actual = _read(path, grid, Resampling.nearest)
    assert (expected > 0).any()
    assert np.mean(actual != expected) < 1e-3


@settings(max_examples=25)
@given(
    longitude=st.floats(-180, 180),
    latitude=st.floats(-89.9, 89.9),
    east=st.floats(-2, 2),
    north=st.floats(-2, 2),
    resolution=st.sampled_from([30.0, 250.0]),
)
def test_any_location_on_earth_is_read(
    tmp_path_factory, longitude, latitude, east, north, resolution
):
    path = tmp_path_factory.mktemp("anywhere") / "a.tif"
    west, south = min(max(longitude, -180), 179), min(max(latitude, -90), 89)
    _write_lonlat_box(path, west, south, west + 1, south + 1)
    polar_code = 3413 if latitude > 84 else 3031
    zone = int((longitude + 180 + east) // 6) % 60 + 1
    target = (32600 if latitude >= 0 else 32700) + zone if abs(latitude) <= 84 else polar_code
    location = longitude + east, min(max(latitude + north, -90), 90)
    x, y = Transformer.from_crs(4326, target, always_xy=True).transform(*location)
    grid = Grid(
        epsg=target,
        resolution=resolution,
        left=round(x) - 150 * resolution,
        top=round(y) + 150 * resolution,
        height=300,
        width=300,
    )
    assert np.mean(_read(path, grid, Resampling.nearest) != _pick_pixels(path, grid)) < 2e-3


def test_a_raster_is_read_if_its_bounds_cannot_be_computed(noise_path, monkeypatch):
    def raise_crs_error(*_args, **_keywords):
        raise rasterio.errors.CRSError("no")

    grid = _make_covering_grid(10.0, 3.3)
    expected = _read(noise_path, grid, Resampling.bilinear)
    for transform_bounds in (
        raise_crs_error,
        lambda *_: (math.inf,) * 4,
        lambda *_: (179.0, 1.0, -179.0, 2.0),
    ):
        monkeypatch.setattr(gdal_warp.rasterio.warp, "transform_bounds", transform_bounds)
        assert np.array_equal(_read(noise_path, grid, Resampling.bilinear), expected)


@pytest.mark.parametrize("kernel", [Resampling.nearest, Resampling.average])
def test_a_coarse_grid_reads_a_fine_raster_in_blocks(noise_path, monkeypatch, kernel):
    grid = _make_covering_grid(150.0, 3.3)
    expected = _read(noise_path, grid, kernel)
    monkeypatch.setattr(warp_blocks, "MAX_SOURCE_PIXELS", 2**12)
    max_pixels = 0
    original_read = rasterio.DatasetReader.read

    class RecordingDataset:
        """A dataset that records the largest number of pixels read at once."""

        def __init__(self, dataset):
            self._dataset = dataset

        def __getattr__(self, name):
            return getattr(self._dataset, name)

        def read(self, *args, **keywords):
            nonlocal max_pixels
            values = original_read(self._dataset, *args, **keywords)
            max_pixels = max(max_pixels, values.size)
            return values

    with rasterio.open(noise_path) as dataset:
        source = RecordingDataset(dataset) if kernel is Resampling.nearest else dataset
        actual = reprojection.read_on_grid(
            source, grid, nodata=0, resampling=kernel, dtype=np.dtype("uint16"), fill_value=0
        )
    assert np.array_equal(actual, expected)
    assert max_pixels <= 4 * 2**12 or max_pixels <= 15 * SHAPE[1]
    # ^ never less than one row of the output
    assert warp_blocks.block_size(1 / 15) <= 4


@pytest.mark.parametrize(
    ("values", "dtype", "example"),
    [
        (np.array([[5, 70_000]], np.int32), "uint16", "70000"),
        (np.array([[5, 0.25]], np.float32), "uint16", "0.25"),
        (np.array([[5, 300]], np.uint16), "uint8", "300"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path, values, dtype, example):
    path = small_worlds.raster(tmp_path / "a.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=1,
        width=2,
    )
    with pytest.raises(InvalidInputError, match=f"such as {example} .*do not fit into {dtype}"):
        _read(path, grid, Resampling.nearest, dtype=dtype)


def test_nodata_outside_the_range_of_the_type_is_ignored(tmp_path):
    values = (_make_random_values((50, 50)) % 9 + 1).astype(np.uint8)
    path = small_worlds.raster(tmp_path / "a.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT - 103,
        top=small_worlds.TOP + 3,
        height=40,
        width=40,
    )
    for nodata in (-9999.0, 300.0, 0.5, math.nan):
        actual = _read(
            path, grid, Resampling.bilinear, nodata=nodata, dtype="uint8", fill_value=255
        )
        assert set(np.unique(actual)) == {*range(1, 10), 255}, nodata
        assert (actual[:, :9] == 255).all()


def test_a_vertical_axis_does_not_hide_a_geographic_system():
    step = Affine.scale(1 / 3600, -1 / 3600)
    for code in (4326, 9707, 4258):
        assert pixel_size_metres(CRS.from_epsg(code), step) == pytest.approx(30.9, abs=0.05)
    assert pixel_size_metres(ZONE, Affine.scale(20, -20)) == 20
    assert pixel_size_metres(ZONE, Affine.rotation(30) * Affine.scale(20, -20)) == pytest.approx(20)
    feet = CRS.from_epsg(2263)
    assert pixel_size_metres(feet, Affine.scale(100, -100)) == pytest.approx(30.48, abs=0.001)


@pytest.mark.parametrize(
    ("stored", "stated", "is_same"),
    [
        (9707, 9707, True),
        (9707, 4326, True),
        (4326, 9707, True),
        (4979, 4326, True),
        (32633, 9707, False),
        (32633, 32634, False),
        (9707, 4258, False),
    ],
)
def test_heights_do_not_matter_for_positions(stored, stated, is_same):
    wkt = CRS.from_epsg(stored).to_wkt()
    assert is_same_crs(wkt, stated) is is_same
