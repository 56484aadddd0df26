"""Radiometry proved on pixels: invented scenes whose truth is known, and what must never happen."""

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
from pipeline.reading import raster_reader
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


def _claims(offset, bands=LAND, scale=1e-4):
    return {band: Radiometry(scale=scale, offset=offset, unit="reflectance") for band in bands}


def _country(seed, *, stored, lake=0.1, cloud=0.0):
    """Return fields beside a lake below a cloud, as numbers with or without the 1000."""
    rng = np.random.default_rng(seed)
    bands = {}
    for band, (mean, spread) in LAND.items():
        pixels = rng.normal(mean, spread, (SIDE, SIDE))
        pixels[: round(lake * SIDE)] = rng.normal(LAKE[band], 12, (round(lake * SIDE), SIDE))
        rows = round(cloud * SIDE)
        if rows:
            white = rng.normal(BRIGHT["cloud"][band], 900, (rows, SIDE))
            pixels[-rows:] = np.maximum(white, 2000)
        lowest = 1.0
        # ^ 0 means nodata, so products begin at 1
        bands[band] = np.maximum(np.rint(pixels + (1000 if stored else 0)), lowest)
    return {band: pixels.astype(np.float32) for band, pixels in bands.items()}


def _ask(bands, offset, modality="S2L2A", km=12_000.0):
    return radiometry_check.evaluate_radiometry(
        modality, bands, _claims(offset, bands), square_km=km
    )


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    stored=st.booleans(),
    lake=st.sampled_from([0.0, 0.05, 0.5]),
    cloud=st.sampled_from([0.0, 0.4, 0.7]),
)
def test_an_ordinary_scene_tells_truth_from_lie(seed, stored, lake, cloud):
    bands = _country(seed, stored=stored, lake=lake, cloud=cloud)
    true = -0.1 if stored else 0.0
    assert _ask(bands, true).status == "agrees"
    lie = _ask(bands, -0.1 - true)
    assert lie.status == "contradicts"
    assert f"the stated offset is {-0.1 - true:g}" in lie.reason
    assert "proof: warn" in lie.reason


@pytest.mark.parametrize("kind", BRIGHT)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("claim", [-0.1, 0.0])
def test_of_scenes_without_dark_ground_nothing_can_be_told(kind, stored, claim):
    rng = np.random.default_rng(5)
    shift = 1000 if stored else 0
    bands = {
        band: (rng.normal(mean, 60, (SIDE, SIDE)) + shift).astype(np.float32)
        for band, mean in BRIGHT[kind].items()
    }
    assert _ask(bands, claim).status == "cannot tell"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    veil=st.integers(300, 2500),
    uneven=st.sampled_from([600, 900]),
    claim=st.sampled_from([0.0, -0.1]),
)
def test_an_uneven_veil_is_never_taken_for_an_offset(seed, veil, uneven, claim):
    clear = _country(seed, stored=False, lake=0.0)
    thick = np.random.default_rng(seed).gamma(9, uneven / 3, (SIDE, SIDE)) + veil
    bands = {band: (pixels + thick).astype(np.float32) for band, pixels in clear.items()}
    answer = _ask(bands, claim).status
    assert answer in (("agrees", "cannot tell") if claim == 0 else ("contradicts", "cannot tell"))


@pytest.mark.parametrize("stored", [True, False])
def test_a_flat_veil_over_a_small_place_tells_nothing(stored):
    bands = _country(3, stored=stored)
    assert (_ask(bands, 0.0, km=0.4).status == "cannot tell") is stored


def test_shadows_darkened_too_far_do_not_convict():
    bands = _country(1, stored=True)
    dark = np.random.default_rng(2).random((SIDE, SIDE)) < 0.02
    bands["B02"][dark] = 850
    bands["B04"][dark & np.roll(dark, 1)] = 500
    assert _ask(bands, -0.1).status == "agrees"


@pytest.mark.parametrize("stored", [True, False])
def test_a_sliver_between_nodata_is_judged_by_its_inside(stored):
    true = -0.1 if stored else 0.0
    bands = _country(4, stored=stored)
    for band, pixels in bands.items():
        pixels[:, 40:] = np.nan
        pixels[:, 39] /= 3
        # ^ overviews that average zeros in at the edge of the swath
        bands[band] = pixels
    assert _ask(bands, true).status == "agrees"
    few = {band: np.where(np.arange(SIDE) < 8, pixels, np.nan) for band, pixels in bands.items()}
    few = {band: pixels[:100] for band, pixels in few.items()}
    assert _ask(few, true).status == _ask(few, -0.1 - true).status == "cannot tell"


def test_saturated_pixels_are_not_looked_at():
    bands = {band: np.full((SIDE, SIDE), 65_535, np.float32) for band in LAND}
    assert _ask(bands, 0.0).status == "cannot tell"
    assert _ask({}, 0.0).status == "cannot tell"


@pytest.mark.parametrize(("scale", "says"), [(1.0, "whitest"), (1e-8, "less than")])
def test_a_wrong_scale_is_seen(scale, says):
    bands = _country(6, stored=False)
    found = radiometry_check.evaluate_radiometry(
        "S2L2A", bands, _claims(0.0, scale=scale), square_km=100.0
    )
    assert found.status == "contradicts"
    assert says in found.reason


def test_a_scale_ten_times_too_small_is_not_believed():
    bands = _country(6, stored=False)
    found = radiometry_check.evaluate_radiometry(
        "S2L2A", bands, _claims(0.0, scale=1e-5), square_km=100.0
    )
    assert found.status == "cannot tell"


def test_reflectance_stored_as_such_is_judged_alike():
    bands = {band: pixels / 1e4 for band, pixels in _country(8, stored=True).items()}
    for offset, answer in ((-0.1, "agrees"), (0.0, "contradicts")):
        found = radiometry_check.evaluate_radiometry(
            "S2L2A", bands, _claims(offset, scale=1.0), square_km=100.0
        )
        assert found.status == answer


def test_bands_that_claim_different_offsets_contradict_each_other():
    claims = _claims(-0.1) | _claims(0.0, ["B8A"])
    found = radiometry_check.evaluate_radiometry(
        "S2L2A", _country(9, stored=True), claims, square_km=100.0
    )
    assert found.status == "contradicts"
    assert "B8A 0" in found.reason


@pytest.mark.parametrize("stored", [True, False])
def test_at_the_top_of_the_atmosphere_the_cirrus_band_tells(stored):
    rng = np.random.default_rng(11)
    shift = 1000 if stored else 0
    bands = {
        "B10": rng.normal(12 + shift, 2, (SIDE, SIDE)).astype(np.float32),
        "B12": rng.normal(60 + shift, 15, (SIDE, SIDE)).astype(np.float32),
    }
    bands["B12"][SIDE // 2 :] += 900
    true = -0.1 if stored else 0.0
    assert _ask(bands, true, "S2L1C").status == "agrees"
    assert _ask(bands, -0.1 - true, "S2L1C").status == "contradicts"


RADAR = {
    "power": np.random.default_rng(0).gamma(4, 0.02, (SIDE, SIDE)),
    "amplitude": np.random.default_rng(0).gamma(4, 60, (SIDE, SIDE)),
}
RADAR["dB"] = 10 * np.log10(RADAR["power"])


@pytest.mark.parametrize(
    ("is_", "claimed", "answer"),
    [
        ("power", "power", "agrees"),
        ("dB", "dB", "agrees"),
        ("dB", "power", "contradicts"),
        ("power", "dB", "contradicts"),
        ("amplitude", "power", "contradicts"),
        ("amplitude", "dB", "contradicts"),
    ],
)
def test_radar_is_what_it_claims(is_, claimed, answer):
    claims = {"VV": Radiometry(scale=1, offset=0, unit=claimed)}
    found = radiometry_check.evaluate_radiometry(
        "S1RTC", {"VV": RADAR[is_]}, claims, square_km=100.0
    )
    assert found.status == answer


@pytest.mark.parametrize(("height", "answer"), [(-3.0, "agrees"), (32_000.0, "contradicts")])
def test_heights_are_those_of_the_earth(height, answer):
    claims = {"DEM": Radiometry(scale=1, offset=0, unit="m")}
    bands = {"DEM": np.full((SIDE, SIDE), height)}
    assert (
        radiometry_check.evaluate_radiometry("DEM", bands, claims, square_km=100.0).status == answer
    )


def _scene(folder, name, *, stored, claimed):
    bands = _country(12, stored=stored).items()
    radiometry = Radiometry(scale=1e-4, offset=claimed, unit="reflectance")
    pixels = {band: np.kron(values, np.ones((2, 2))).astype(np.uint16) for band, values in bands}
    return small_worlds.optical(folder, name, pixels, radiometry=radiometry)


def test_scenes_are_judged_in_their_order_by_four_thumbnails_each(tmp_path):
    truths = [(True, -0.1), (False, -0.1), (True, 0.0), (False, 0.0)]
    scenes = [
        _scene(tmp_path, f"S{number}", stored=stored, claimed=claimed)
        for number, (stored, claimed) in enumerate(truths)
    ]
    requested = []

    def read(href, asset, *, size):
        requested.append((asset.scene_id, href))
        return raster_reader.read_thumbnail(href, asset, size=size)

    found = radiometry_check.check_scenes(scenes, threads=3, read_thumbnail=read)
    assert [one.status for one in found] == ["agrees", "contradicts", "contradicts", "agrees"]
    assert len(requested) == len(set(requested)) == 16
    assert found == [radiometry_check.check_scene(scene) for scene in scenes]


def test_a_band_that_cannot_be_read_is_no_answer(tmp_path):
    scene = _scene(tmp_path, "S", stored=True, claimed=-0.1)
    (tmp_path / "S" / "B12.tif").unlink()
    with pytest.raises(AssetReadError, match=r"B12\.tif cannot be read"):
        radiometry_check.check_scenes([scene], threads=1)


SOURCE = raster_reader.AssetInfo(scene_id="S", provider="planetary-computer", nodata=0.0)


@pytest.mark.parametrize("average", [True, False])
def test_a_thumbnail_is_an_overview(tmp_path, average):
    values = np.random.default_rng(0).integers(0, 3000, (500, 420)).astype(np.uint16)
    path = small_worlds.raster(tmp_path / "B02.tif", values, nodata=0)
    kernel = Resampling.average if average else Resampling.nearest
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], kernel)
    with rasterio.open(path, overview_level=1) as file:
        expected = file.read(1).astype(np.float32)
    expected[expected == 0] = np.nan
    assert np.array_equal(
        raster_reader.read_thumbnail(str(path), SOURCE, size=100), expected, equal_nan=True
    )


def test_without_overviews_a_thumbnail_is_nine_windows_or_all(tmp_path):
    values = np.arange(1, 500 * 420 + 1, dtype=np.uint32).reshape(500, 420)
    path = small_worlds.raster(tmp_path / "B02.tif", values)
    found = raster_reader.read_thumbnail(str(path), SOURCE, size=100).reshape(9, 50, 50)
    places = [(row, column) for row in (75, 225, 375) for column in (62, 185, 308)]
    for part, (row, column) in zip(found, places, strict=True):
        assert np.array_equal(part, values[row : row + 50, column : column + 50])
    whole = raster_reader.read_thumbnail(str(path), SOURCE, size=125)
    assert np.array_equal(whole, values)


def test_a_remote_scene_costs_eight_requests(tmp_path):
    frame = {"epsg": 32632, "transform": Affine(10, 0, 500_000, 0, -10, 5_200_000), "nodata": 0}
    claim = Radiometry(scale=1e-4, offset=0.0, unit="reflectance")
    assets = {}
    for band, pixels in _country(13, stored=False).items():
        cog.write(
            tmp_path / f"{band}.tif", np.kron(pixels, np.ones((32, 32))).astype(np.uint16), **frame
        )
        assets[band] = small_worlds.asset(tmp_path / f"{band}.tif", band, claim, 0.0)
    scene = small_worlds.scene("S", "S2L2A", assets)
    with range_server.serving(tmp_path) as running:
        there = {
            band: replace(asset, href=f"{running.address}/{band}.tif")
            for band, asset in assets.items()
        }
        assert radiometry_check.check_scene(
            replace(scene, assets=there)
        ) == radiometry_check.check_scene(scene)
        assert running.requests == 8
