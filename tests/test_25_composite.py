"""Many observations to one."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import composite, radiometry
from pipeline.grid import Grid
from tests import worlds

GRID = Grid(
    epsg=worlds.EPSG, resolution=10.0, left=worlds.LEFT, top=worlds.TOP, height=20, width=20
)
CLEAR = (2, 4, 5, 6, 7, 11)


def _of(modality, scenes, bands, grid=GRID, dilate=0.0):
    made = composite.of(modality, scenes, bands, grid, clear_scl=CLEAR, dilate_m=dilate)
    return (
        made.values.compute(scheduler="synchronous"),
        made.observations.compute(scheduler="synchronous").values,
        made.last.compute(scheduler="synchronous").values,
    )


def _full(value):
    return np.full((20, 20), value, np.uint16)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(3), st.just(3)),
        elements=st.one_of(st.integers(-1000, 9000).map(float), st.just(float("nan"))),
    )
)
def test_the_median_is_numpys(values):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.nanmedian(values, axis=0)
    assert np.array_equal(composite.median(values), expected, equal_nan=True)


def test_offset_and_offset_free_scenes_agree(tmp_path):
    plain = worlds.optical(tmp_path, "a", {"B02": _full(700)}, when="2024-06-01T10:00:00+00:00")
    shifted = worlds.optical(
        tmp_path,
        "b",
        {"B02": _full(1700)},
        radiometry=worlds.SHIFTED,
        when="2024-06-11T10:00:00+00:00",
    )
    values, count, last = _of("S2L2A", [plain, shifted], ["B02"])
    assert (values == 700).all()
    assert values.attrs["units"] == radiometry.DN
    assert (count == 2).all()
    assert (last == (dt.date(2024, 6, 11) - dt.date(1970, 1, 1)).days).all()


def test_dark_pixels_with_an_offset_become_negative_and_stay_data(tmp_path):
    scene = worlds.optical(tmp_path, "a", {"B02": _full(400)}, radiometry=worlds.SHIFTED)
    values, count, _ = _of("S2L2A", [scene], ["B02"])
    assert (values == -600).all()
    assert (count == 1).all()


def test_granules_of_one_pass_count_once(tmp_path):
    left, right = _full(500), _full(500)
    left[:, 12:] = 0
    right[:, :8] = 0
    scl_left, scl_right = np.where(left, 4, 0), np.where(right, 4, 0)
    scenes = [
        worlds.optical(tmp_path, "a", {"B02": left}, scl_left.astype(np.uint8)),
        worlds.optical(
            tmp_path,
            "b",
            {"B02": right},
            scl_right.astype(np.uint8),
            when="2024-06-01T10:00:14+00:00",
        ),
    ]
    values, count, _ = _of("S2L2A", scenes, ["B02"])
    assert (count == 1).all()
    assert (values == 500).all()


def test_clouds_are_left_out_and_an_unseen_pixel_is_not_observed(tmp_path):
    scl = np.full((20, 20), 4, np.uint8)
    scl[:5] = 9
    cloudy = worlds.optical(tmp_path, "a", {"B02": _full(8000)}, scl)
    values, count, last = _of("S2L2A", [cloudy], ["B02"])
    assert np.isnan(values.values[0, :5]).all()
    assert (count[:5] == 0).all()
    assert (last[:5] == 0).all()
    assert (count[5:] == 1).all()


def test_a_cloud_outside_the_grid_throws_its_margin_into_it(tmp_path):
    scl = np.full((40, 40), 4, np.uint8)
    scl[:, 21] = 9
    scene = worlds.optical(tmp_path, "a", {"B02": np.full((40, 40), 500, np.uint16)}, scl)
    _, count, _ = _of("S2L2A", [scene], ["B02"], dilate=40.0)
    assert (count[:, 17:] == 0).all()
    assert (count[:, :17] == 1).all()


def test_a_scene_without_classification_counts_where_it_has_data(tmp_path):
    values = _full(500)
    values[:3] = 0
    _, count, _ = _of("S2L2A", [worlds.optical(tmp_path, "a", {"B02": values})], ["B02"])
    assert (count[:3] == 0).all()
    assert (count[3:] == 1).all()


def _radar(folder, name, value, *, orbit, when="2024-06-01T05:00:00+00:00", number=1):
    path = worlds.raster(folder / f"{name}.tif", np.full((20, 20), value, np.float32))
    assets = {"VV": worlds.asset(path, "VV", worlds.POWER, None)}
    return worlds.scene(name, "S1RTC", assets, when=when, orbit_state=orbit, relative_orbit=number)


def test_radar_is_averaged_in_power_and_orbits_weigh_alike(tmp_path):
    scenes = [
        _radar(tmp_path, "a", 0.1, orbit="ascending"),
        _radar(tmp_path, "b", 0.3, orbit="ascending", when="2024-06-13T05:00:00+00:00"),
        _radar(tmp_path, "c", 1.0, orbit="descending", when="2024-06-05T17:00:00+00:00"),
    ]
    values, count, _ = _of("S1RTC", scenes, ["VV"])
    assert values.values == pytest.approx((0.2 + 1.0) / 2)
    assert values.attrs["units"] == radiometry.POWER
    assert (count == 3).all()


def test_one_radar_scene_passes_unchanged(tmp_path):
    values, _, _ = _of("S1RTC", [_radar(tmp_path, "a", 0.123456, orbit=None)], ["VV"])
    assert (values.values == np.float32(0.123456)).all()


def test_heights_come_from_the_first_that_has_one(tmp_path):
    low = np.full((20, 20), 5.0, np.float32)
    low[0] = np.nan
    scenes = []
    for name, heights in (("a", low), ("b", np.full((20, 20), 9.0, np.float32))):
        path = worlds.raster(tmp_path / f"{name}.tif", heights)
        scenes.append(
            worlds.scene(name, "DEM", {"DEM": worlds.asset(path, "DEM", worlds.METRE, None)})
        )
    values, _, _ = _of("DEM", scenes, ["DEM"])
    assert (values.values[0, 0] == 9).all()
    assert (values.values[0, 1:] == 5).all()
