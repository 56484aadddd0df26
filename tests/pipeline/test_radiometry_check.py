"""Radiometry is checked against pixels of synthetic scenes whose offset and scale are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling

from catalogs.demo import cog
from catalogs.errors import AssetReadError
from catalogs.scene import Radiometry
from pipeline.quality import radiometry_check
from pipeline.reading import asset_opener, raster_reader
from tests.faults import range_server
from tests.support import small_worlds

SIDE = 160
LAND = {"B02": (250, 90), "B04": (300, 130), "B8A": (2900, 700), "B12": (1000, 300)}
LAKE = {"B02": 220, "B04": 150, "B8A": 40, "B12": 15}
BRIGHT = {
    "cloud": {"B02": 6500, "B04": 6000, "B8A": 6500, "B12": 3500},
    "snow": {"B02": 8500, "B04": 8000, "B8A": 7500, "B12": 1500},
    "desert": {"B02": 1150, "B04": 2600, "B8A": 3600, "B12": 4800},
    "gravel": {"B02": 1080, "B04": 1250, "B8A": 1450, "B12": 1900},
}


def _make_radiometries(offset, bands=LAND, scale=1e-4):
    return {band: Radiometry(scale=scale, offset=offset, unit="reflectance") for band in bands}


def _make_pixels(seed, *, has_offset, lake=0.1, cloud=0.0):
    """Return land beside a lake and below a cloud, with or without 1000 added to the counts."""
    rng = np.random.default_rng(seed)
    bands = {}
    for band, (mean, spread) in LAND.items():
        pixels = rng.normal(mean, spread, (SIDE, SIDE))
        pixels[: round(lake * SIDE)] = rng.normal(LAKE[band], 12, (round(lake * SIDE), SIDE))
        rows = round(cloud * SIDE)
        if rows:
            cloud_pixels = rng.normal(BRIGHT["cloud"][band], 900, (rows, SIDE))
            pixels[-rows:] = np.maximum(cloud_pixels, 2000)
        min_count = 1.0
        # ^ 0 means nodata, so products begin at 1
        bands[band] = np.maximum(np.rint(pixels + (1000 if has_offset else 0)), min_count)
    return {band: pixels.astype(np.float32) for band, pixels in bands.items()}


def _evaluate(bands, offset, modality="S2L2A", km=12_000.0):
    return radiometry_check.evaluate_radiometry(
        modality, bands, _make_radiometries(offset, bands), square_km=km
    )


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    has_offset=st.booleans(),
    lake=st.sampled_from([0.0, 0.05, 0.5]),
    cloud=st.sampled_from([0.0, 0.4, 0.7]),
)
def test_a_wrong_offset_is_detected_in_an_ordinary_scene(seed, has_offset, lake, cloud):
    bands = _make_pixels(seed, has_offset=has_offset, lake=lake, cloud=cloud)
    true_offset = -0.1 if has_offset else 0.0
    assert _evaluate(bands, true_offset).status == "agrees"
    wrong_result = _evaluate(bands, -0.1 - true_offset)
    assert wrong_result.status == "contradicts"
    assert f"the stated offset is {-0.1 - true_offset:g}" in wrong_result.reason
    assert "proof: warn" in wrong_result.reason


@pytest.mark.parametrize("kind", BRIGHT)
@pytest.mark.parametrize("has_offset", [True, False])
@pytest.mark.parametrize("stated_offset", [-0.1, 0.0])
def test_scenes_without_dark_ground_are_undecided(kind, has_offset, stated_offset):
    rng = np.random.default_rng(5)
    shift = 1000 if has_offset else 0
    bands = {
        band: (rng.normal(mean, 60, (SIDE, SIDE)) + shift).astype(np.float32)
        for band, mean in BRIGHT[kind].items()
    }
    assert _evaluate(bands, stated_offset).status == "cannot tell"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    haze=st.integers(300, 2500),
    haze_spread=st.sampled_from([600, 900]),
    stated_offset=st.sampled_from([0.0, -0.1]),
)
def test_an_uneven_haze_is_never_taken_for_an_offset(seed, haze, haze_spread, stated_offset):
    clear = _make_pixels(seed, has_offset=False, lake=0.0)
    haze_pixels = np.random.default_rng(seed).gamma(9, haze_spread / 3, (SIDE, SIDE)) + haze
    bands = {band: (pixels + haze_pixels).astype(np.float32) for band, pixels in clear.items()}
    status = _evaluate(bands, stated_offset).status
    assert status in (
        ("agrees", "cannot tell") if stated_offset == 0 else ("contradicts", "cannot tell")
    )


@pytest.mark.parametrize("has_offset", [True, False])
def test_a_uniform_haze_over_a_small_area_is_undecided(has_offset):
    bands = _make_pixels(3, has_offset=has_offset)
    assert (_evaluate(bands, 0.0, km=0.4).status == "cannot tell") is has_offset


def test_overcorrected_shadows_do_not_contradict():
    bands = _make_pixels(1, has_offset=True)
    is_shadow = np.random.default_rng(2).random((SIDE, SIDE)) < 0.02
    bands["B02"][is_shadow] = 850
    bands["B04"][is_shadow & np.roll(is_shadow, 1)] = 500
    assert _evaluate(bands, -0.1).status == "agrees"


@pytest.mark.parametrize("has_offset", [True, False])
def test_a_narrow_strip_between_nodata_is_evaluated_by_its_inside(has_offset):
    true_offset = -0.1 if has_offset else 0.0
    bands = _make_pixels(4, has_offset=has_offset)
    for band, pixels in bands.items():
        pixels[:, 40:] = np.nan
        pixels[:, 39] /= 3
        # ^ as in overviews that average zeros in at the edge of the swath
        bands[band] = pixels
    assert _evaluate(bands, true_offset).status == "agrees"
    narrower_strip = {
        band: np.where(np.arange(SIDE) < 8, pixels, np.nan) for band, pixels in bands.items()
    }
    narrower_strip = {band: pixels[:100] for band, pixels in narrower_strip.items()}
    assert (
        _evaluate(narrower_strip, true_offset).status
        == _evaluate(narrower_strip, -0.1 - true_offset).status
        == "cannot tell"
    )


def test_saturated_pixels_are_ignored():
    bands = {band: np.full((SIDE, SIDE), 65_535, np.float32) for band in LAND}
    assert _evaluate(bands, 0.0).status == "cannot tell"
    assert _evaluate({}, 0.0).status == "cannot tell"


@pytest.mark.parametrize(("scale", "message"), [(1.0, "whitest"), (1e-8, "less than")])
def test_a_wrong_scale_is_detected(scale, message):
    bands = _make_pixels(6, has_offset=False)
    result = radiometry_check.evaluate_radiometry(
        "S2L2A", bands, _make_radiometries(0.0, scale=scale), square_km=100.0
    )
    assert result.status == "contradicts"
    assert message in result.reason


def test_a_scale_ten_times_too_small_is_undecided():
    bands = _make_pixels(6, has_offset=False)
    result = radiometry_check.evaluate_radiometry(
        "S2L2A", bands, _make_radiometries(0.0, scale=1e-5), square_km=100.0
    )
    assert result.status == "cannot tell"


def test_reflectance_stored_without_scale_is_evaluated_equally():
    bands = {band: pixels / 1e4 for band, pixels in _make_pixels(8, has_offset=True).items()}
    for offset, status in ((-0.1, "agrees"), (0.0, "contradicts")):
        result = radiometry_check.evaluate_radiometry(
            "S2L2A", bands, _make_radiometries(offset, scale=1.0), square_km=100.0
        )
        assert result.status == status


def test_different_offsets_of_bands_contradict():
    radiometries = _make_radiometries(-0.1) | _make_radiometries(0.0, ["B8A"])
    result = radiometry_check.evaluate_radiometry(
        "S2L2A", _make_pixels(9, has_offset=True), radiometries, square_km=100.0
    )
    assert result.status == "contradicts"
    assert "B8A 0" in result.reason


@pytest.mark.parametrize("has_offset", [True, False])
def test_l1c_offsets_are_decided_by_the_cirrus_band(has_offset):
    rng = np.random.default_rng(11)
    shift = 1000 if has_offset else 0
    bands = {
        "B10": rng.normal(12 + shift, 2, (SIDE, SIDE)).astype(np.float32),
        "B12": rng.normal(60 + shift, 15, (SIDE, SIDE)).astype(np.float32),
    }
    bands["B12"][SIDE // 2 :] += 900
    true_offset = -0.1 if has_offset else 0.0
    assert _evaluate(bands, true_offset, "S2L1C").status == "agrees"
    assert _evaluate(bands, -0.1 - true_offset, "S2L1C").status == "contradicts"


RADAR = {
    "power": np.random.default_rng(0).gamma(4, 0.02, (SIDE, SIDE)),
    "amplitude": np.random.default_rng(0).gamma(4, 60, (SIDE, SIDE)),
}
RADAR["dB"] = 10 * np.log10(RADAR["power"])


@pytest.mark.parametrize(
    ("true_unit", "stated_unit", "status"),
    [
        ("power", "power", "agrees"),
        ("dB", "dB", "agrees"),
        ("dB", "power", "contradicts"),
        ("power", "dB", "contradicts"),
        ("amplitude", "power", "contradicts"),
        ("amplitude", "dB", "contradicts"),
    ],
)
def test_radar_is_compared_with_its_stated_unit(true_unit, stated_unit, status):
    radiometries = {"VV": Radiometry(scale=1, offset=0, unit=stated_unit)}
    result = radiometry_check.evaluate_radiometry(
        "S1RTC", {"VV": RADAR[true_unit]}, radiometries, square_km=100.0
    )
    assert result.status == status


@pytest.mark.parametrize(("height", "status"), [(-3.0, "agrees"), (32_000.0, "contradicts")])
def test_heights_are_compared_with_those_of_the_earth(height, status):
    radiometries = {"DEM": Radiometry(scale=1, offset=0, unit="m")}
    bands = {"DEM": np.full((SIDE, SIDE), height)}
    assert (
        radiometry_check.evaluate_radiometry("DEM", bands, radiometries, square_km=100.0).status
        == status
    )


def _scene(folder, name, *, has_offset, stated_offset):
    bands = _make_pixels(12, has_offset=has_offset).items()
    radiometry = Radiometry(scale=1e-4, offset=stated_offset, unit="reflectance")
    pixels = {band: np.kron(values, np.ones((2, 2))).astype(np.uint16) for band, values in bands}
    return small_worlds.optical(folder, name, pixels, radiometry=radiometry)


def test_scenes_are_evaluated_in_order_from_four_thumbnails_each(tmp_path):
    cases = [(True, -0.1), (False, -0.1), (True, 0.0), (False, 0.0)]
    scenes = [
        _scene(tmp_path, f"S{number}", has_offset=has_offset, stated_offset=stated_offset)
        for number, (has_offset, stated_offset) in enumerate(cases)
    ]
    requested = []

    def read(href, asset, *, size):
        requested.append((asset.scene_id, href))
        return raster_reader.read_thumbnail(href, asset, size=size)

    results = radiometry_check.check_scenes(scenes, threads=3, read_thumbnail=read)
    assert [result.status for result in results] == [
        "agrees",
        "contradicts",
        "contradicts",
        "agrees",
    ]
    assert len(requested) == len(set(requested)) == 16
    assert results == [radiometry_check.check_scene(scene) for scene in scenes]


def test_a_band_that_cannot_be_read_is_an_error(tmp_path):
    scene = _scene(tmp_path, "S", has_offset=True, stated_offset=-0.1)
    (tmp_path / "S" / "B12.tif").unlink()
    with pytest.raises(AssetReadError, match=r"B12\.tif cannot be read"):
        radiometry_check.check_scenes([scene], threads=1)


SOURCE = asset_opener.AssetInfo(scene_id="S", provider="planetary-computer", nodata=0.0)


@pytest.mark.parametrize("is_averaged", [True, False])
def test_a_thumbnail_is_an_overview(tmp_path, is_averaged):
    values = np.random.default_rng(0).integers(0, 3000, (500, 420)).astype(np.uint16)
    path = small_worlds.raster(tmp_path / "B02.tif", values, nodata=0)
    kernel = Resampling.average if is_averaged else Resampling.nearest
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], kernel)
    with rasterio.open(path, overview_level=1) as file:
        expected = file.read(1).astype(np.float32)
    expected[expected == 0] = np.nan
    assert np.array_equal(
        raster_reader.read_thumbnail(str(path), SOURCE, size=100), expected, equal_nan=True
    )


def test_an_empty_overview_is_not_believed(tmp_path):
    values = np.arange(1, 500 * 420 + 1, dtype=np.uint32).reshape(500, 420)
    path = small_worlds.raster(tmp_path / "B02.tif", np.zeros_like(values), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.nearest)
    empty = raster_reader.read_thumbnail(str(path), SOURCE, size=100)
    assert empty.shape == (125, 105)
    assert np.isnan(empty).all()
    with rasterio.open(path, "r+") as file:
        file.write(values, 1)
    with rasterio.open(path, overview_level=1) as file:
        assert not file.read(1).any()
    windows = raster_reader.read_thumbnail(str(path), SOURCE, size=100).reshape(9, 50, 50)
    assert np.array_equal(windows[0], values[75:125, 62:112])


def test_without_overviews_a_thumbnail_is_nine_windows_or_the_whole_raster(tmp_path):
    values = np.arange(1, 500 * 420 + 1, dtype=np.uint32).reshape(500, 420)
    path = small_worlds.raster(tmp_path / "B02.tif", values)
    actual = raster_reader.read_thumbnail(str(path), SOURCE, size=100).reshape(9, 50, 50)
    origins = [(row, column) for row in (75, 225, 375) for column in (62, 185, 308)]
    for window, (row, column) in zip(actual, origins, strict=True):
        assert np.array_equal(window, values[row : row + 50, column : column + 50])
    whole_raster = raster_reader.read_thumbnail(str(path), SOURCE, size=125)
    assert np.array_equal(whole_raster, values)


def test_a_remote_scene_takes_eight_requests(tmp_path):
    georeference = {
        "epsg": 32632,
        "transform": Affine(10, 0, 500_000, 0, -10, 5_200_000),
        "nodata": 0,
    }
    radiometry = Radiometry(scale=1e-4, offset=0.0, unit="reflectance")
    assets = {}
    for band, pixels in _make_pixels(13, has_offset=False).items():
        cog.write(
            tmp_path / f"{band}.tif",
            np.kron(pixels, np.ones((32, 32))).astype(np.uint16),
            **georeference,
        )
        assets[band] = small_worlds.asset(tmp_path / f"{band}.tif", band, radiometry, 0.0)
    scene = small_worlds.scene("S", "S2L2A", assets)
    with range_server.serving(tmp_path) as file_server:
        remote_assets = {
            band: replace(asset, href=f"{file_server.address}/{band}.tif")
            for band, asset in assets.items()
        }
        assert radiometry_check.check_scene(
            replace(scene, assets=remote_assets)
        ) == radiometry_check.check_scene(scene)
        assert file_server.requests == 8
