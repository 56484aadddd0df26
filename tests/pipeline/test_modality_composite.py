"""Compositing of many observations to one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from catalogs.errors import InvalidInputError
from catalogs.scene import Radiometry
from catalogs.sensors import DN, POWER
from pipeline.compositing import modality_composite, optical
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import COMPOSITE_METHODS, Recipe
from tests.support import small_worlds

GRID = Grid(
    epsg=small_worlds.EPSG,
    resolution=10.0,
    left=small_worlds.LEFT,
    top=small_worlds.TOP,
    height=20,
    width=20,
)
CLEAR = (2, 4, 5, 6, 7, 11)


def _recipe(**changes):
    values = {"clear_scl": CLEAR, "dilate_m": 0.0, "method": "median"} | changes
    return Recipe(inputs=(), stride=1, margin=0, probabilities=False, composites=True, **values)


def _compose(modality, scenes, bands, grid=GRID, dilate=0.0, **changes):
    recipe = _recipe(dilate_m=dilate, **changes)
    composite = modality_composite.compose_modality(modality, scenes, bands, grid, recipe=recipe)
    return (
        composite.values.compute(scheduler="synchronous"),
        composite.observations.compute(scheduler="synchronous").values,
        composite.last_day.compute(scheduler="synchronous").values,
    )


def _count_epoch_days(number):
    return (dt.date(2024, 6, number) - dt.date(1970, 1, 1)).days


def _full_band(value):
    return np.full((20, 20), value, np.uint16)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(3), st.just(3)),
        elements=st.one_of(st.integers(-1000, 9000).map(float), st.just(float("nan"))),
    )
)
def test_the_median_equals_that_of_numpy(values):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.nanmedian(values, axis=0)
    assert np.array_equal(optical.nanmedian(values), expected, equal_nan=True)


def test_scenes_with_and_without_an_offset_agree(tmp_path):
    unshifted = small_worlds.optical(
        tmp_path, "a", {"B02": _full_band(700)}, when="2024-06-01T10:00:00+00:00"
    )
    shifted = small_worlds.optical(
        tmp_path,
        "b",
        {"B02": _full_band(1700)},
        radiometry=small_worlds.SHIFTED,
        when="2024-06-11T10:00:00+00:00",
    )
    values, count, last = _compose("S2L2A", [unshifted, shifted], ["B02"])
    assert (values == 700).all()
    assert values.attrs["units"] == DN
    assert (count == 2).all()
    assert (last == (dt.date(2024, 6, 11) - dt.date(1970, 1, 1)).days).all()


def test_dark_pixels_with_an_offset_become_negative_and_stay_valid(tmp_path):
    scene = small_worlds.optical(
        tmp_path, "a", {"B02": _full_band(400)}, radiometry=small_worlds.SHIFTED
    )
    values, count, _ = _compose("S2L2A", [scene], ["B02"])
    assert (values == -600).all()
    assert (count == 1).all()


def test_granules_of_one_pass_are_counted_once(tmp_path):
    left, right = _full_band(500), _full_band(500)
    left[:, 12:] = 0
    right[:, :8] = 0
    scl_left, scl_right = np.where(left, 4, 0), np.where(right, 4, 0)
    scenes = [
        small_worlds.optical(tmp_path, "a", {"B02": left}, scl_left.astype(np.uint8)),
        small_worlds.optical(
            tmp_path,
            "b",
            {"B02": right},
            scl_right.astype(np.uint8),
            when="2024-06-01T10:00:14+00:00",
        ),
    ]
    values, count, _ = _compose("S2L2A", scenes, ["B02"])
    assert (count == 1).all()
    assert (values == 500).all()


def test_clouds_are_excluded_and_pixels_without_clear_data_are_not_observed(tmp_path):
    scl = np.full((20, 20), 4, np.uint8)
    scl[:5] = 9
    cloudy = small_worlds.optical(tmp_path, "a", {"B02": _full_band(8000)}, scl)
    values, count, last = _compose("S2L2A", [cloudy], ["B02"])
    assert np.isnan(values.values[0, :5]).all()
    assert (count[:5] == 0).all()
    assert (last[:5] == 0).all()
    assert (count[5:] == 1).all()


def test_a_cloud_outside_the_grid_is_dilated_into_it(tmp_path):
    scl = np.full((40, 40), 4, np.uint8)
    scl[:, 21] = 9
    scene = small_worlds.optical(tmp_path, "a", {"B02": np.full((40, 40), 500, np.uint16)}, scl)
    _, count, _ = _compose("S2L2A", [scene], ["B02"], dilate=40.0)
    assert (count[:, 17:] == 0).all()
    assert (count[:, :17] == 1).all()


def test_a_scene_without_classification_counts_where_it_has_data(tmp_path):
    values = _full_band(500)
    values[:3] = 0
    _, count, _ = _compose("S2L2A", [small_worlds.optical(tmp_path, "a", {"B02": values})], ["B02"])
    assert (count[:3] == 0).all()
    assert (count[3:] == 1).all()


def _radar_scene(folder, name, value, *, orbit, when="2024-06-01T05:00:00+00:00", number=1):
    path = small_worlds.raster(folder / f"{name}.tif", np.full((20, 20), value, np.float32))
    assets = {"VV": small_worlds.asset(path, "VV", small_worlds.POWER, None)}
    return small_worlds.scene(
        name, "S1RTC", assets, when=when, orbit_state=orbit, relative_orbit=number
    )


def test_radar_is_averaged_in_power_with_equal_weights_of_orbits(tmp_path):
    scenes = [
        _radar_scene(tmp_path, "a", 0.1, orbit="ascending"),
        _radar_scene(tmp_path, "b", 0.3, orbit="ascending", when="2024-06-13T05:00:00+00:00"),
        _radar_scene(tmp_path, "c", 1.0, orbit="descending", when="2024-06-05T17:00:00+00:00"),
    ]
    values, count, _ = _compose("S1RTC", scenes, ["VV"])
    assert values.values == pytest.approx((0.2 + 1.0) / 2)
    assert values.attrs["units"] == POWER
    assert (count == 3).all()


def test_one_radar_scene_passes_unchanged(tmp_path):
    values, _, _ = _compose("S1RTC", [_radar_scene(tmp_path, "a", 0.123456, orbit=None)], ["VV"])
    assert (values.values == np.float32(0.123456)).all()


def test_heights_come_from_the_first_scene_with_data(tmp_path):
    low = np.full((20, 20), 5.0, np.float32)
    low[0] = np.nan
    scenes = []
    for name, heights in (("a", low), ("b", np.full((20, 20), 9.0, np.float32))):
        path = small_worlds.raster(tmp_path / f"{name}.tif", heights)
        scenes.append(
            small_worlds.scene(
                name, "DEM", {"DEM": small_worlds.asset(path, "DEM", small_worlds.METRE, None)}
            )
        )
    values, _, _ = _compose("DEM", scenes, ["DEM"])
    assert (values.values[0, 0] == 9).all()
    assert (values.values[0, 1:] == 5).all()


def _optical_scenes(folder, brightness, covers=(), **options):
    scenes = []
    for number, value in enumerate(brightness, start=1):
        scene = small_worlds.optical(
            folder,
            f"d{number}",
            {"B02": _full_band(value[0]), "B03": _full_band(value[1])},
            when=f"2024-06-{number:02}T10:00:00+00:00",
            **options,
        )
        cover = covers[number - 1] if covers else None
        scenes.append(dataclasses.replace(scene, cloud_cover=cover))
    return scenes


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("median", (300, 900)),
        ("medoid", (300, 950)),
        ("least_cloudy", (100, 900)),
        ("latest", (800, 100)),
    ],
)
def test_each_method_follows_its_definition(tmp_path, method, expected):
    brightness = [(100, 900), (300, 950), (800, 100)]
    scenes = _optical_scenes(tmp_path, brightness, covers=(5.0, 50.0, None))
    values, count, last = _compose("S2L2A", scenes[::-1], ["B02", "B03"], method=method)
    assert values.values[:, 7, 7].tolist() == list(expected)
    assert (count == 3).all()
    assert (last == _count_epoch_days(3)).all()


def test_the_medoid_takes_the_earliest_of_equally_near_days(tmp_path):
    scenes = _optical_scenes(tmp_path, [(100, 500), (300, 500)])
    values, _, _ = _compose("S2L2A", scenes[::-1], ["B02", "B03"], method="medoid")
    assert (values.values[0] == 100).all()


@pytest.mark.parametrize("method", COMPOSITE_METHODS[1:])
def test_all_bands_are_of_one_day_and_the_day_with_more_bands_is_preferred(tmp_path, method):
    scenes = _optical_scenes(tmp_path, [(100, 110), (120, 0)], covers=(9.0, 1.0))
    values, _, last = _compose("S2L2A", scenes, ["B02", "B03"], method=method)
    assert (values.values[0] == 100).all()
    assert (values.values[1] == 110).all()
    assert (last == _count_epoch_days(2)).all()


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="unknown composite method 'mean'"):
        _recipe(method="mean")


def test_first_and_last_days_are_those_of_the_clear_observations(tmp_path):
    scl = [np.full((20, 20), 4, np.uint8) for _ in range(3)]
    scl[0][:5] = 9
    scl[2][10:] = 8
    scenes = [
        small_worlds.optical(
            tmp_path,
            f"d{n}",
            {"B02": _full_band(500)},
            scl[n],
            when=f"2024-06-0{n + 1}T10:00:00+00:00",
        )
        for n in range(3)
    ]
    composite = modality_composite.compose_modality(
        "S2L2A", scenes, ["B02"], GRID, recipe=_recipe()
    )
    first, last = composite.first_day.values, composite.last_day.values
    assert (first[:5] == _count_epoch_days(2)).all()
    assert (first[5:] == _count_epoch_days(1)).all()
    assert (last[:10] == _count_epoch_days(3)).all()
    assert (last[10:] == _count_epoch_days(2)).all()


def _scene_with_cloud_probability(folder, percent, scl):
    scene = small_worlds.optical(folder, "a", {"B02": np.full((40, 40), 500, np.uint16)}, scl)
    path = small_worlds.raster(folder / "CLD.tif", percent)
    radiometry = Radiometry(scale=1.0, offset=0.0, unit="probability")
    cloud = small_worlds.asset(path, "CLD", radiometry, None)
    return dataclasses.replace(scene, assets=scene.assets | {"CLD": cloud})


@pytest.mark.parametrize("has_classification", [True, False])
def test_a_probable_cloud_is_masked_and_dilated(tmp_path, has_classification):
    percent = np.zeros((40, 40), np.uint8)
    percent[:, 21], percent[:, 2] = 61, 60
    scl = np.full((40, 40), 4, np.uint8) if has_classification else None
    scene = _scene_with_cloud_probability(tmp_path, percent, scl)
    _, count, _ = _compose("S2L2A", [scene], ["B02"], dilate=40.0, max_cloud_probability=60.0)
    assert (count[:, 17:] == 0).all()
    assert (count[:, :17] == 1).all()
    _, count, _ = _compose("S2L2A", [scene], ["B02"], dilate=40.0)
    assert (count == 1).all()


def test_reflectance_in_floating_point_and_counts_are_composited_together(tmp_path):
    radiometry = Radiometry(scale=1.0, offset=0.0, unit="reflectance")
    floats = np.full((20, 20), -0.02, np.float32)
    floats[0] = np.nan
    path = small_worlds.raster(tmp_path / "f.tif", floats)
    scenes = [
        small_worlds.scene(
            "f", "S2L2A", {"B02": small_worlds.asset(path, "B02", radiometry, None)}
        ),
        *_optical_scenes(tmp_path, [(400, 400)]),
    ]
    scenes[1] = dataclasses.replace(scenes[1], datetime=scenes[0].datetime + dt.timedelta(days=3))
    values, count, _ = _compose("S2L2A", scenes, ["B02"])
    assert (values.values[0, 0] == 400).all()
    assert (values.values[0, 1:] == 100).all()
    assert (count[0] == 1).all()


@st.composite
def _random_scenes(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count = draw(st.integers(1, 5))
    pixels = rng.integers(0, 5, (count, 2, 20, 20)).astype(np.uint16) * 300
    codes = rng.choice([4, 4, 4, 5, 9, 3, 0, 12], (count, 20, 20)).astype(np.uint8)
    days = rng.integers(1, 4, count)
    covers = rng.choice([None, 5.0, 40.0], count)
    split = int(rng.integers(1, 19))
    return pixels, codes, days, covers, split


@settings(max_examples=15)
@given(_random_scenes(), st.sampled_from(COMPOSITE_METHODS), st.booleans())
def test_composites_of_two_halves_equal_the_composite_of_the_whole(
    random_scenes, method, along_columns
):
    pixels, codes, days, covers, split = random_scenes
    with tempfile.TemporaryDirectory() as folder:
        scenes = [
            dataclasses.replace(
                small_worlds.optical(
                    Path(folder),
                    f"s{index}",
                    {"B02": bands[0], "B03": bands[1]},
                    scl,
                    when=f"2024-06-{day:02}T10:00:{index:02}+00:00",
                ),
                cloud_cover=cover,
            )
            for index, (bands, scl, day, cover) in enumerate(
                zip(pixels, codes, days, covers, strict=True)
            )
        ]
        parts = []
        for first, size in ((0, split), (split, 20 - split)):
            window = {"row": first, "column": 0, "height": size, "width": 20}
            if along_columns:
                window = {"row": 0, "column": first, "height": 20, "width": size}
            part = GRID.window(**window)
            parts.append(_compose("S2L2A", scenes[::-1], ["B02", "B03"], part, 20.0, method=method))
        whole = _compose("S2L2A", scenes, ["B02", "B03"], GRID, 20.0, method=method)
    for expected, (left, right) in zip(whole, zip(*parts, strict=True), strict=True):
        actual = np.concatenate([left, right], axis=-1 if along_columns else -2)
        assert np.array_equal(expected, actual, equal_nan=True)


def test_border_noise_of_radar_is_never_observed_whatever_the_tile_origin(tmp_path):
    power = np.full((20, 40), 0.1, np.float32)
    power[:, :8] = 0
    power[:, 8:12] = 1e-4
    path = small_worlds.raster(tmp_path / "a.tif", power)
    asset = small_worlds.asset(path, "VV", small_worlds.POWER, None)
    scene = small_worlds.scene(
        "a", "S1RTC", {"VV": asset}, orbit_state="ascending", relative_orbit=1
    )
    for column in (0, 10, 11):
        grid = GRID.window(row=0, column=column, height=20, width=20)
        values, count, last = _compose("S1RTC", [scene], ["VV", "VH"], grid)
        assert np.isnan(values.values[0, :, : 12 - column]).all()
        assert (values.values[0, :, 12 - column :] == np.float32(0.1)).all()
        assert np.isnan(values.values[1]).all()
        assert np.array_equal(count > 0, np.isfinite(values.values[0]))
        assert np.array_equal(last > 0, count > 0)


def test_mixed_satellites_are_described_in_a_note(tmp_path):
    unknown = _radar_scene(tmp_path, "a", 0.1, orbit="ascending")
    sentinel_1a = dataclasses.replace(unknown, platform="sentinel-1a")
    assert modality_composite.describe_mixed_satellites([sentinel_1a, sentinel_1a, unknown]) is None
    sentinel_1c = dataclasses.replace(unknown, platform="sentinel-1c")
    assert "sentinel-1a, sentinel-1c" in modality_composite.describe_mixed_satellites(
        [sentinel_1c, sentinel_1a]
    )


def test_a_step_holds_the_scenes_of_its_solar_days_and_those_without_a_day(tmp_path):
    days = _optical_scenes(tmp_path, [(1, 1)] * 3)
    path = small_worlds.raster(tmp_path / "dem.tif", np.ones((20, 20), np.float32))
    dem = small_worlds.scene(
        "dem", "DEM", {"DEM": small_worlds.asset(path, "DEM", small_worlds.METRE, None)}
    )
    scenes = [*days, dem]
    assert modality_composite.select_scenes_in_step(scenes, ("2024-06-01", "2024-06-02")) == (
        *days[:2],
        dem,
    )
    assert modality_composite.select_scenes_in_step(scenes, ("2024-06-03", "2024-06-03")) == (
        days[2],
        dem,
    )
    assert modality_composite.select_scenes_in_step(scenes, ("2023-01-01", "2023-12-31")) == (dem,)


def test_another_unit_than_that_of_the_modality_is_refused(tmp_path):
    path = small_worlds.raster(tmp_path / "a.tif", np.ones((20, 20), np.float32))
    asset = small_worlds.asset(path, "VV", small_worlds.REFLECTANCE, None)
    with pytest.raises(InvalidInputError, match="'reflectance', but a composite in 'm2 m-2' needs"):
        _compose("S1RTC", [small_worlds.scene("a", "S1RTC", {"VV": asset})], ["VV"])


def test_composites_are_lazy_whatever_the_method(tmp_path):
    scenes = _optical_scenes(tmp_path, [(1, 1)])
    for asset in scenes[0].assets.values():
        Path(asset.href).unlink()
    for method in COMPOSITE_METHODS:
        composite = modality_composite.compose_modality(
            "S2L2A", scenes, ["B02", "B03"], GRID, recipe=_recipe(method=method)
        )
        assert composite.values.shape == (2, 20, 20)
