"""Checks of units: wrong units are recognised, and no real scene is refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.terramind import input_validation, modalities

PLACES = ("282D_485L_3_3", "433D_629L_3_1", "637U_59R_1_3")
FILES = {"S2L2A": "S2L2A", "S2L1C": "S2L1C", "S1RTC": "S1RTC", "DEM": "DEM", "RGB": "S2RGB"}


def window(name, size=48, seed=0, batch=1):
    modality = modalities.get_raster_modality(name)
    scale = modality.statistics
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0, 0.4, (batch, len(modality.bands), size, size))
    values = drawn * np.array(scale.std)[:, None, None] + np.array(scale.mean)[:, None, None]
    return values.clip(1, None) if modality.unit == "DN" else values


def check(name, values):
    input_validation.check_window_units(
        modalities.get_raster_modality(name), np.asarray(values, np.float32)
    )


def power(values):
    return 10 ** (values / 10)


def standardised(name, values):
    scale = modalities.get_raster_modality(name).statistics
    return (values - np.array(scale.mean)[:, None, None]) / np.array(scale.std)[:, None, None]


def picture(values):
    """Stretch each band to 0..255 between its 2nd and 98th percentile, as a viewer does."""
    low, high = np.percentile(values, (2, 98), axis=(0, 2, 3), keepdims=True)
    return np.rint(((values - low) / (high - low)).clip(0, 1) * 255)


WRONG = {
    "linear S1": ("S1RTC", power, "linear power"),
    "linear S1, GRD": ("S1GRD", power, "10 \\* log10"),
    "amplitudes": ("S1GRD", lambda v: 1e3 * power(v) ** 0.5, "decibel"),
    "nothing seen, said as 0 dB": ("S1RTC", np.zeros_like, "linear power"),
    "reflectance": ("S2L2A", lambda v: v / 1e4, "multiply reflectance by 10 000"),
    "reflectance of L1C": ("S2L1C", lambda v: v / 1e4, "multiply reflectance"),
    "a picture": ("S2L2A", picture, "8-bit picture"),
    "brightness": ("RGB", lambda v: v.clip(0, 255) / 255, "brightness of 0 to 1"),
    "DN for RGB": ("RGB", lambda v: 30 * v.clip(1, 255), "0 to 255"),
    "fill values in S2": ("S2L2A", lambda v: np.where(v < 1000, -9999, v), "NaN for fill"),
    "fill values in S1": ("S1RTC", lambda v: np.where(v < -12, -9999, v), "NaN for fill"),
    "fill values in DEM": ("DEM", lambda v: np.where(v < 500, -32768, v), "metres"),
    "other fill values in DEM": ("DEM", lambda v: np.where(v < 500, -9999, v), "metres"),
    "heights off the Earth": ("DEM", lambda v: v * 1e3, "metres"),
    "infinite": ("S1RTC", lambda v: np.where(v < -12, -np.inf, v), "set a floor"),
    "infinite DN": ("S2L2A", lambda v: np.where(v < 1000, np.inf, v), "infinite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_unit_is_told_with_the_right_one(case):
    name, spoil, says = WRONG[case]
    right = window(name)
    check(name, right)
    with pytest.raises(ModelError, match=says) as refusal:
        check(name, spoil(right))
    assert name in str(refusal.value)
    assert "expected is" in str(refusal.value)


def test_the_window_at_fault_is_named_and_judged_by_itself():
    values = window("S1RTC", batch=5)
    values[3] = power(values[3])
    with pytest.raises(ModelError, match="window 3"):
        check("S1RTC", values)


@pytest.mark.parametrize("kind", [np.uint8, bool, complex, object])
def test_what_is_no_measurement_is_refused(kind):
    with pytest.raises(ModelError, match="float32"):
        input_validation.check_window_units(
            modalities.get_raster_modality("S2L2A"), window("S2L2A").astype(kind)
        )


def test_a_picture_is_what_rgb_wants():
    rgb = window("RGB").clip(0, 255)
    input_validation.check_window_units(modalities.get_raster_modality("RGB"), rgb.astype(np.uint8))
    input_validation.check_window_units(
        modalities.get_raster_modality("S2L2A"), window("S2L2A").astype(np.int16)
    )


TRUE = {
    "dark water": ("S2L2A", lambda rng, shape: rng.integers(0, 61, shape)),
    "darkest water": ("S2L2A", lambda rng, shape: rng.integers(0, 3, shape)),
    "water of two dates": ("S2L2A", lambda rng, shape: rng.integers(-40, 40, shape) / 2),
    "dim water, resampled": ("S2L2A", lambda rng, shape: rng.uniform(-20, 60, shape)),
    "nothing but no data": ("S2L2A", lambda _, shape: np.zeros(shape)),
    "snow": ("S2L2A", lambda rng, shape: rng.normal(12_000, 3_000, shape)),
    "saturated": ("S2L2A", lambda _, shape: np.full(shape, 65_535.0)),
    "offset taken off nothing": ("S2L2A", lambda _, shape: np.full(shape, -1_000.0)),
    "calm sea": ("S1RTC", lambda rng, shape: rng.normal(-27, 2, shape)),
    "a town": ("S1RTC", lambda rng, shape: rng.normal(0, 5, shape)),
    "the floor of decibel": ("S1RTC", lambda _, shape: np.full(shape, -60.0)),
    "sea level": ("DEM", lambda _, shape: np.zeros(shape)),
    "below the sea": ("DEM", lambda rng, shape: rng.normal(-420, 5, shape)),
    "the highest": ("DEM", lambda rng, shape: rng.uniform(6_000, 8_850, shape)),
    "night": ("RGB", lambda rng, shape: rng.integers(0, 3, shape)),
}


@pytest.mark.parametrize("case", TRUE)
def test_land_and_sea_at_their_extremes_are_taken(case):
    name, draw = TRUE[case]
    shape = (2, len(modalities.get_raster_modality(name).bands), 32, 32)
    check(name, draw(np.random.default_rng(0), shape))


@settings(max_examples=60)
@given(
    name=st.sampled_from(["S2L2A", "S1RTC", "DEM"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_clouds_do_not_make_a_window_wrong(name, share, seed):
    values = window(name, size=32, seed=seed)
    values[np.random.default_rng(seed).random(values.shape) < share] = np.nan
    check(name, values)


@pytest.mark.parametrize("name", ["S2L2A", "S1RTC", "DEM", "RGB"])
def test_nothing_at_all_is_no_wrong_unit(name):
    check(name, np.full((2, len(modalities.get_raster_modality(name).bands), 32, 32), np.nan))
    check(name, np.zeros((0, len(modalities.get_raster_modality(name).bands), 32, 32)))


def _real(realdata, place, name):
    with rasterio.open(realdata / "terramesh" / place / f"{FILES[name]}.tif") as file:
        return file.read()[None]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_real_places_are_taken_and_their_spoilt_copies_are_not(realdata, place, name):
    real = _real(realdata, place, name)
    input_validation.check_window_units(modalities.get_raster_modality(name), real)
    check(name, real)
    spoilt = {
        "DN": [lambda v: v / 1e4, picture],
        "dB": [power, lambda v: power(v) ** 0.5],
        "m": [lambda v: np.where(v == v.min(), -9999, v), lambda v: v + 2e4],
        "count": [lambda v: v / 255, lambda v: v * 30.0],
    }[modalities.get_raster_modality(name).unit]
    for spoil in spoilt:
        with pytest.raises(ModelError, match="expected is"):
            check(name, spoil(real))


@pytest.mark.parametrize("place", PLACES)
def test_every_corner_of_a_real_place_is_taken(realdata, place):
    for name in FILES:
        real = _real(realdata, place, name)
        for row in range(0, 224, 32):
            for column in range(0, 224, 32):
                check(name, real[..., row : row + 32, column : column + 32])
