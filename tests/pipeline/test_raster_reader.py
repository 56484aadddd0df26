"""Pixels read on a grid equal those of rasterio, or the read is an error."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.windows import Window

from catalogs import href_policy, providers
from catalogs.errors import AssetReadError, InvalidInputError
from pipeline.grid.grid import Grid
from pipeline.reading import asset_opener, raster_reader
from tests.faults.range_server import serving
from tests.support import small_worlds

SOURCE = asset_opener.AssetInfo(scene_id="S", provider="planetary-computer", nodata=0.0)


def _read(path, grid, **options):
    return raster_reader.read(
        str(path),
        options.pop("source", SOURCE),
        grid,
        **{"resampling": Resampling.nearest, "dtype": "uint16", "fill_value": 0, **options},
    )


@pytest.fixture(scope="module")
def noise_path(tmp_path_factory):
    values = np.random.default_rng(1).integers(1, 60_000, (200, 180)).astype(np.uint16)
    return small_worlds.raster(tmp_path_factory.mktemp("noise") / "B02.tif", values)


@settings(max_examples=40)
@given(
    row=st.integers(-50, 220),
    column=st.integers(-50, 200),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_the_native_grid_is_read_pixel_for_pixel(noise_path, row, column, height, width):
    with rasterio.open(noise_path) as file:
        expected = file.read(
            1, window=Window(column, row, width, height), boundless=True, fill_value=0
        )
    native = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT + 10 * column,
        top=small_worlds.TOP - 10 * row,
        height=height,
        width=width,
    )
    assert np.array_equal(_read(noise_path, native), expected)
    assert np.array_equal(_read(noise_path, native, resampling=Resampling.bilinear), expected)


def test_coarse_pixels_are_picked_at_the_centre(tmp_path):
    values = np.arange(1, 26, dtype=np.uint16).reshape(5, 5)
    path = small_worlds.raster(
        tmp_path / "c.tif", values, resolution=60.0, left=small_worlds.LEFT - 20
    )
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=30,
        width=28,
    )
    expected = np.kron(values, np.ones((6, 6), np.uint16))[:30, 2:30]
    assert np.array_equal(_read(path, grid), expected)


def test_warped_pixels_are_the_same_in_every_window(noise_path):
    grid = Grid(epsg=32632, resolution=10.0, left=953_000.0, top=5_216_000.0, height=700, width=700)
    expected = _read(noise_path, grid, resampling=Resampling.bilinear)
    assert (expected > 0).sum() > 5_000
    window = grid.window(row=333, column=222, height=101, width=77)
    actual = _read(noise_path, window, resampling=Resampling.bilinear)
    assert np.array_equal(actual, expected[333:434, 222:299])


def test_interpolation_excludes_nodata(tmp_path):
    values = np.full((60, 60), 1000, np.uint16)
    values[:, 30:] = 0
    path = small_worlds.raster(tmp_path / "half.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT + 3,
        top=small_worlds.TOP - 4,
        height=58,
        width=58,
    )
    actual = _read(path, grid, resampling=Resampling.bilinear)
    assert set(np.unique(actual)) == {0, 1000}


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_pixels_outside_a_raster_without_nodata_are_missing(tmp_path, dtype):
    values = np.full((50, 50), 9, dtype)
    path = small_worlds.raster(
        tmp_path / "DEM.tif", values, epsg=4326, left=15.0, top=46.95, resolution=1e-4
    )
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=499_900.0,
        top=5_199_700.0,
        height=90,
        width=80,
    )
    source = asset_opener.AssetInfo(scene_id="S", provider="planetary-computer", nodata=None)
    actual = _read(
        path,
        grid,
        source=source,
        resampling=Resampling.bilinear,
        dtype="float32",
        fill_value=np.nan,
    )
    assert set(np.unique(actual[np.isfinite(actual)])) == {9.0}
    assert np.isnan(actual).any()
    assert np.isfinite(actual).sum() > 1000


def test_nan_and_nodata_of_the_catalog_are_missing(tmp_path):
    values = np.array([[1.0, np.nan], [-32768.0, 2.0]], np.float32)
    path = small_worlds.raster(tmp_path / "vv.tif", values)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=2,
        width=2,
    )
    source = asset_opener.AssetInfo(scene_id="S", provider="planetary-computer", nodata=-32768.0)
    actual = _read(path, grid, source=source, dtype="float32", fill_value=np.nan)
    assert actual[0, 0] == 1
    assert actual[1, 1] == 2
    assert np.isnan(actual).sum() == 2


def test_negative_values_of_signed_rasters_do_not_wrap(tmp_path):
    path = small_worlds.raster(tmp_path / "s.tif", np.array([[5, -9999]], np.int16))
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=1,
        width=2,
    )
    with pytest.raises(InvalidInputError, match=r"such as -9999 \(int16\), which do not fit"):
        _read(path, grid)
    assert _read(path, grid, dtype=np.float32, fill_value=np.nan).tolist() == [[5, -9999]]
    assert _read(path, grid, dtype=np.uint8, fill_value=0).tolist() == [[5, 0]]


@pytest.mark.parametrize("damage", ["gone", "cut", "text"])
def test_a_failed_read_is_an_error_and_never_nodata(tmp_path, damage):
    values = np.random.default_rng(2).integers(1, 9000, (256, 256)).astype(np.uint16)
    path = small_worlds.raster(tmp_path / "B02.tif", values)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(b"<VRTDataset/>")
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=256,
        width=256,
    )
    with pytest.raises(AssetReadError, match=r"S: .*B02\.tif cannot be read"):
        _read(path, grid)


def test_a_virtual_raster_is_not_opened(tmp_path, noise_path):
    path = tmp_path / "B02.tif"
    path.write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="UInt16" band="1">'
        f"<SimpleSource><SourceFilename>{noise_path}</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=2,
        width=2,
    )
    with pytest.raises(AssetReadError):
        _read(path, grid)


@pytest.mark.parametrize(
    "name", ["B02.jp2", "B02.tif", "B02 10 m.TIFF", "B02(1)#?&+ü.jp2", "$value"]
)
@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
def test_the_format_is_that_of_the_bytes_not_of_the_name(tmp_path, noise_path, name, driver):
    path = tmp_path / name
    path.write_bytes(_convert(noise_path, driver, tmp_path))
    with rasterio.open(noise_path) as file:
        expected = file.read(1)
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=200,
        width=180,
    )
    assert np.array_equal(_read(path, grid), expected)
    thumbnail = raster_reader.read_thumbnail(str(path), SOURCE, size=200)
    assert np.array_equal(thumbnail, expected.astype(np.float32))


def _convert(path, driver, folder):
    """Return the bytes of a raster in another format."""
    target = folder / "converted.jp2"
    options = {"QUALITY": 100, "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    copy(path, target, driver=driver, **options)
    return target.read_bytes()


def test_an_odata_url_of_a_jpeg_2000_file_is_read(tmp_path, noise_path):
    folder = tmp_path / "odata/v1/Products(1)/Nodes(a.SAFE)/Nodes(B02_10m.jp2)"
    folder.mkdir(parents=True)
    (folder / "$value").write_bytes(_convert(noise_path, "JP2OpenJPEG", tmp_path))
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=20,
        width=20,
    )
    with rasterio.open(noise_path) as file:
        expected = file.read(1, window=Window(0, 0, 20, 20))
    with serving(tmp_path) as server:
        url = f"{server.address}/odata/v1/Products(1)/Nodes(a.SAFE)/Nodes(B02_10m.jp2)/$value"
        assert np.array_equal(_read(url, grid), expected)


@pytest.mark.parametrize("href", ["./B02 10 m (grün)+&.tif", "./B02%2010%20m%20(gr%C3%BCn)+&.tif"])
def test_a_name_with_blanks_is_read_over_http(tmp_path, noise_path, href):
    folder = tmp_path / "my scenes"
    folder.mkdir()
    shutil.copy(noise_path, folder / "B02 10 m (grün)+&.tif")
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=20,
        width=20,
    )
    with rasterio.open(noise_path) as file:
        expected = file.read(1, window=Window(0, 0, 20, 20))
    with serving(tmp_path) as server:
        origin = f"{server.address}/my scenes/catalog.json"
        policy = href_policy.HrefPolicy(provider=providers.get("demo"), origin=origin)
        resolved = policy.resolve_raster(href, origin)
        assert resolved.isascii()
        assert np.array_equal(_read(resolved, grid), expected)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_in_radar_geometry_is_refused(tmp_path):
    path = tmp_path / "vv.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=1, dtype="float32"
    ) as file:
        file.write(np.ones((1, 4, 4), np.float32))
    grid = Grid(
        epsg=small_worlds.EPSG,
        resolution=10.0,
        left=small_worlds.LEFT,
        top=small_worlds.TOP,
        height=2,
        width=2,
    )
    with pytest.raises(InvalidInputError, match="coordinate system"):
        _read(path, grid)
