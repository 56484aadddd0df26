"""Masks and alpha bands count on every path of reading."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from catalogs.errors import InvalidInputError
from pipeline.grid.grid import Grid
from pipeline.reading import asset_opener, cube, raster_reader
from tests.support import small_worlds
from tests.support.small_worlds import EPSG, LEFT, TOP

SOURCE = asset_opener.AssetInfo(scene_id="S", provider="planetary-computer", nodata=None)
SIZE = 64
VOID = np.s_[10:20, 10:20]


def _write(path, *, dtype="int16", mask=False, alpha=False, nodata=None, overviews=()):
    """Write heights of 320 whose void is 0, valid by value, but not by mask or alpha band."""
    values = np.full((SIZE, SIZE), 320, dtype)
    values[VOID] = 0
    validity = np.full((SIZE, SIZE), 255, np.uint8)
    validity[VOID] = 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=SIZE,
            width=SIZE,
            count=2 if alpha else 1,
            dtype=dtype,
            crs=f"EPSG:{EPSG}",
            transform=from_origin(LEFT, TOP, 10, 10),
            nodata=nodata,
            **({"alpha": "yes"} if alpha else {}),
        ) as file,
    ):
        file.write(values, 1)
        if alpha:
            file.write(validity.astype(dtype), 2)
        if mask:
            file.write_mask(validity)
    if overviews:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.build_overviews(list(overviews), Resampling.nearest)
    return path


VALIDITIES = (
    {"mask": True},
    {"mask": True, "nodata": -9999},
    {"alpha": True},
)


@pytest.mark.parametrize("validity", VALIDITIES, ids=str)
@pytest.mark.parametrize(
    ("shift", "resampling"),
    [(0, Resampling.bilinear), (0, Resampling.nearest), (3, Resampling.nearest)],
)
def test_masked_pixels_are_no_values_on_the_grid_of_the_file(tmp_path, validity, shift, resampling):
    path = _write(tmp_path / "dem.tif", **validity)
    grid = Grid(epsg=EPSG, resolution=10, left=LEFT + shift, top=TOP, height=SIZE, width=SIZE - 1)
    values = raster_reader.read(
        str(path), SOURCE, grid, resampling=resampling, dtype=np.float32, fill_value=np.nan
    )
    assert np.isnan(values[VOID]).all()
    values[VOID] = 320
    assert (values == 320).all()


@pytest.mark.parametrize("validity", VALIDITIES, ids=str)
@pytest.mark.parametrize("resampling", [Resampling.bilinear, Resampling.average])
def test_masked_pixels_are_not_mixed_into_others_by_a_warp(tmp_path, validity, resampling):
    path = _write(tmp_path / "dem.tif", **validity)
    grid = Grid(epsg=EPSG, resolution=20, left=LEFT + 3, top=TOP - 3, height=28, width=28)
    values = raster_reader.read(
        str(path), SOURCE, grid, resampling=resampling, dtype=np.float32, fill_value=np.nan
    )
    assert set(np.unique(values[np.isfinite(values)])) == {320}
    assert 9 <= np.isnan(values).sum() <= 36


@pytest.mark.parametrize("validity", VALIDITIES, ids=str)
@pytest.mark.parametrize("overviews", [(), (2,)])
def test_masked_pixels_are_no_values_of_thumbnails(tmp_path, validity, overviews):
    path = _write(tmp_path / "dem.tif", overviews=overviews, **validity)
    for size in (12, 20, SIZE):
        values = raster_reader.read_thumbnail(str(path), SOURCE, size=size)
        assert set(np.unique(values[np.isfinite(values)])) == {320}
        assert np.isnan(values).any()


def test_masked_reflectances_of_unsigned_integers_are_missing(tmp_path):
    path = _write(tmp_path / "B02.tif", dtype="uint16", mask=True)
    asset = small_worlds.asset(path, "B02", small_worlds.REFLECTANCE, 0.0)
    scene = small_worlds.scene("S", "S2L2A", {"B02": asset})
    grid = Grid(epsg=EPSG, resolution=10, left=LEFT, top=TOP, height=SIZE, width=SIZE)
    stored = cube.load([scene], ["B02"], grid, stored=True).values[0, 0]
    assert stored.dtype == np.uint16
    assert (stored[VOID] == 0).all()


def test_an_asset_with_several_bands_is_refused(tmp_path):
    path = tmp_path / "two.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=2, dtype="uint16", crs="EPSG:32633",
        transform=from_origin(LEFT, TOP, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.ones((2, 4, 4), np.uint16))
    with pytest.raises(InvalidInputError, match=r"2 band"):
        raster_reader.read_thumbnail(str(path), SOURCE, size=10)
