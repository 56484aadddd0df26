"""Checks of units: wrong units are recognised, and no valid window is refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.terramind import input_validation, modalities

LOCATIONS = ("282D_485L_3_3", "433D_629L_3_1", "637U_59R_1_3")
FILES = {"S2L2A": "S2L2A", "S2L1C": "S2L1C", "S1RTC": "S1RTC", "DEM": "DEM", "RGB": "S2RGB"}


def make_window(name, size=48, seed=0, batch=1):
    modality = modalities.get_raster_modality(name)
    statistics = modality.statistics
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.4, (batch, len(modality.bands), size, size))
    values = (
        noise * np.array(statistics.std)[:, None, None] + np.array(statistics.mean)[:, None, None]
    )
    return values.clip(1, None) if modality.unit == "DN" else values


def check_window(name, values):
    input_validation.check_window_units(
        modalities.get_raster_modality(name), np.asarray(values, np.float32)
    )


def to_power(values):
    return 10 ** (values / 10)


def standardise(name, values):
    statistics = modalities.get_raster_modality(name).statistics
    return (values - np.array(statistics.mean)[:, None, None]) / np.array(statistics.std)[
        :, None, None
    ]


def stretch_to_8_bit(values):
    """Stretch each band to 0..255 between its 2nd and 98th percentile, as a viewer does."""
    low, high = np.percentile(values, (2, 98), axis=(0, 2, 3), keepdims=True)
    return np.rint(((values - low) / (high - low)).clip(0, 1) * 255)


WRONG_UNITS = {
    "linear S1": ("S1RTC", to_power, "linear power"),
    "linear S1, GRD": ("S1GRD", to_power, "10 \\* log10"),
    "amplitudes": ("S1GRD", lambda v: 1e3 * to_power(v) ** 0.5, "decibel"),
    "nothing seen, said as 0 dB": ("S1RTC", np.zeros_like, "linear power"),
    "reflectance": ("S2L2A", lambda v: v / 1e4, "multiply reflectance by 10 000"),
    "reflectance of L1C": ("S2L1C", lambda v: v / 1e4, "multiply reflectance"),
    "a picture": ("S2L2A", stretch_to_8_bit, "8-bit picture"),
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


@pytest.mark.parametrize("case", WRONG_UNITS)
def test_a_wrong_unit_is_named_with_the_expected_one(case):
    name, convert, message = WRONG_UNITS[case]
    values = make_window(name)
    check_window(name, values)
    with pytest.raises(ModelError, match=message) as error:
        check_window(name, convert(values))
    assert name in str(error.value)
    assert "expected is" in str(error.value)


def test_the_invalid_window_is_named():
    values = make_window("S1RTC", batch=5)
    values[3] = to_power(values[3])
    with pytest.raises(ModelError, match="window 3"):
        check_window("S1RTC", values)


@pytest.mark.parametrize("dtype", [np.uint8, bool, complex, object])
def test_values_that_are_not_real_numbers_are_refused(dtype):
    with pytest.raises(ModelError, match="float32"):
        input_validation.check_window_units(
            modalities.get_raster_modality("S2L2A"), make_window("S2L2A").astype(dtype)
        )


def test_integer_pixels_are_accepted():
    pixels = make_window("RGB").clip(0, 255)
    input_validation.check_window_units(
        modalities.get_raster_modality("RGB"), pixels.astype(np.uint8)
    )
    input_validation.check_window_units(
        modalities.get_raster_modality("S2L2A"), make_window("S2L2A").astype(np.int16)
    )


VALID_WINDOWS = {
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


@pytest.mark.parametrize("case", VALID_WINDOWS)
def test_extremes_of_land_and_sea_are_accepted(case):
    name, draw = VALID_WINDOWS[case]
    shape = (2, len(modalities.get_raster_modality(name).bands), 32, 32)
    check_window(name, draw(np.random.default_rng(0), shape))


@settings(max_examples=60)
@given(
    name=st.sampled_from(["S2L2A", "S1RTC", "DEM"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_missing_pixels_are_accepted(name, share, seed):
    values = make_window(name, size=32, seed=seed)
    values[np.random.default_rng(seed).random(values.shape) < share] = np.nan
    check_window(name, values)


@pytest.mark.parametrize("name", ["S2L2A", "S1RTC", "DEM", "RGB"])
def test_empty_windows_are_accepted(name):
    check_window(
        name, np.full((2, len(modalities.get_raster_modality(name).bands), 32, 32), np.nan)
    )
    check_window(name, np.zeros((0, len(modalities.get_raster_modality(name).bands), 32, 32)))


def _read_real(realdata, location, name):
    with rasterio.open(realdata / "terramesh" / location / f"{FILES[name]}.tif") as file:
        return file.read()[None]


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("name", FILES)
def test_real_windows_are_accepted_and_refused_in_wrong_units(realdata, location, name):
    values = _read_real(realdata, location, name)
    input_validation.check_window_units(modalities.get_raster_modality(name), values)
    check_window(name, values)
    conversions = {
        "DN": [lambda pixels: pixels / 1e4, stretch_to_8_bit],
        "dB": [to_power, lambda pixels: to_power(pixels) ** 0.5],
        "m": [
            lambda pixels: np.where(pixels == pixels.min(), -9999, pixels),
            lambda pixels: pixels + 2e4,
        ],
        "count": [lambda pixels: pixels / 255, lambda pixels: pixels * 30.0],
    }[modalities.get_raster_modality(name).unit]
    for convert in conversions:
        with pytest.raises(ModelError, match="expected is"):
            check_window(name, convert(values))


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_corner_of_a_real_image_is_accepted(realdata, location):
    for name in FILES:
        values = _read_real(realdata, location, name)
        for row in range(0, 224, 32):
            for column in range(0, 224, 32):
                check_window(name, values[..., row : row + 32, column : column + 32])
