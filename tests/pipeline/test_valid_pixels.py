"""Samples of pixels in a region: which share is valid, and which bands are empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds

from catalogs.scene import Radiometry
from pipeline.quality import valid_pixels
from pipeline.reading import raster_reader
from pipeline.reading.asset_opener import AssetInfo
from tests.support import small_worlds
from tests.support.small_worlds import EPSG, LEFT, TOP

SOURCE = AssetInfo(scene_id="S", provider="planetary-computer", nodata=0.0)


def to_region(left, bottom, right, top):
    """Return a box of metres from the upper left corner as a region, a bit smaller."""
    bounds = (LEFT + left + 1, TOP + bottom + 1, LEFT + right - 1, TOP + top - 1)
    return shapely.box(*transform_bounds(EPSG, 4326, *bounds))


def make_scene(folder, values, **options):
    return small_worlds.optical(folder, "S", {"B02": values}, **options)


def sample_share(scene, band, region):
    return valid_pixels.sample_scene(scene, region).assets[band].valid_share


def test_the_share_of_valid_pixels_is_that_in_the_region(tmp_path):
    values = np.full((64, 64), 500, np.uint16)
    values[:, :20] = 0
    scene = make_scene(tmp_path, values)
    assert sample_share(scene, "B02", to_region(0, -640, 200, 0)) < 0.06
    assert sample_share(scene, "B02", to_region(210, -640, 640, 0)) == 1
    assert sample_share(scene, "B02", to_region(0, -640, 640, 0)) == pytest.approx(
        44 / 64, abs=0.02
    )
    assert sample_share(scene, "B02", to_region(2000, -640, 3000, 0)) is None


@pytest.mark.parametrize(
    ("value", "is_valid"), [(0, False), (1, True), (11, True)], ids=["nodata", "defect", "snow"]
)
def test_a_class_of_zero_is_none(tmp_path, value, is_valid):
    ones = np.ones((64, 64), np.uint16)
    scene = make_scene(tmp_path, ones * 500, scl=ones.astype(np.uint8) * value)
    assert sample_share(scene, "SCL", to_region(0, -640, 640, 0)) == is_valid


@pytest.mark.parametrize(
    ("modality", "band", "radiometry", "value", "is_valid"),
    [
        ("S2L2A", "CLD", Radiometry(scale=1, offset=0, unit="probability"), 0, True),
        ("S1RTC", "VV", small_worlds.POWER, 0.0, False),
        ("S1RTC", "VV", small_worlds.POWER, 0.1, True),
        ("DEM", "DEM", small_worlds.METRE, 0.0, True),
        ("DEM", "DEM", small_worlds.METRE, -9999.0, False),
        ("S2L2A", "B02", small_worlds.REFLECTANCE, 65535, False),
    ],
)
def test_a_value_is_valid_by_its_unit(tmp_path, modality, band, radiometry, value, is_valid):
    dtype = np.float32 if isinstance(value, float) else np.uint16
    path = small_worlds.raster(tmp_path / f"{band}.tif", np.full((16, 16), value, dtype))
    asset = small_worlds.asset(path, band, radiometry, None)
    scene = small_worlds.scene("S", modality, {band: asset})
    assert sample_share(scene, band, to_region(0, -160, 160, 0)) == is_valid


def test_thumbnails_show_empty_bands_in_the_region_only(tmp_path):
    values = np.full((64, 64), 500, np.uint16)
    values[:32] = 0
    scene = make_scene(tmp_path, values)
    thumbnail = raster_reader.read_thumbnail(scene.assets["B02"].href, SOURCE, size=64)

    def find(region, pixels=thumbnail):
        return valid_pixels.find_empty_bands(scene, {"B02": pixels}, region)

    assert find(to_region(0, -300, 640, 0)) == ("B02",)
    assert find(to_region(0, -640, 640, 0)) == ()
    assert find(to_region(2000, -640, 3000, 0)) == ()
    assert find(to_region(0, -300, 640, 0), np.full((288, 32), np.nan, np.float32)) == ()
    # ^ nine windows of a large raster, of which nobody knows where they lie


def test_a_sample_is_a_part_of_the_raster_at_reduced_resolution(tmp_path):
    values = np.arange(1, 500 * 420 + 1, dtype=np.uint32).reshape(500, 420)
    path = small_worlds.raster(tmp_path / "B02.tif", values)

    def read(left, bottom, right, top, size):
        bounds = (LEFT + left, TOP + bottom, LEFT + right, TOP + top)
        return raster_reader.read_sample(str(path), SOURCE, bounds, size=size)

    assert np.array_equal(read(105, -295, 200, -200, 50), values[20:30, 10:20])
    assert np.array_equal(read(-500, -295, 50, 5000, 50), values[:30, :5])
    assert read(5000, -295, 6000, -200, 50).size == 0
    windows = read(1000, -4000, 4000, -1000, 60).reshape(9, 30, 30)
    assert np.array_equal(windows[0], values[145:175, 145:175])
    assert np.array_equal(windows[8], values[325:355, 325:355])
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    assert read(1000, -4000, 4000, -1000, 60).shape == (75, 75)


def test_the_window_of_a_raster_that_begins_in_the_south_is_found(tmp_path):
    scene = make_scene(tmp_path, np.full((64, 64), 500, np.uint16))
    transform = rasterio.Affine(10, 0, LEFT, 0, 10, TOP - 640)
    bounds = (LEFT + 100, TOP - 200, LEFT + 150, TOP - 100)
    window = raster_reader.find_window(transform, (64, 64), bounds)
    assert window.toslices() == (slice(44, 54), slice(10, 15))
    unknown = {"B02": replace(scene.assets["B02"], epsg=None)}
    sampled = valid_pixels.sample_scene(replace(scene, assets=unknown), to_region(0, -640, 640, 0))
    assert sampled.assets["B02"].valid_share is None
