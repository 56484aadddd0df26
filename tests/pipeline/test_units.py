"""Conversion of units and offsets."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError
from catalogs.scene import Radiometry
from catalogs.sensors import DN, METRE, POWER, SENSORS
from pipeline.reading import units
from tests.support import small_worlds


@given(st.integers(1, 65535))
def test_the_offset_is_subtracted_exactly_and_never_wraps(stored):
    values = np.array([stored], np.uint16)
    assert units.to_dn(values, small_worlds.SHIFTED)[0] == stored - 1000
    assert units.to_dn(values, small_worlds.REFLECTANCE)[0] == stored


@given(st.floats(-60, 20))
def test_decibel_and_power_are_inverse(decibel):
    power = units.from_decibel(np.array([decibel], np.float32))
    assert units.to_decibel(power)[0] == pytest.approx(decibel, abs=1e-3)


def test_decibel_is_finite_unless_power_is_nan():
    result = units.to_decibel(np.array([0.0, -1.0, 1.0, np.nan], np.float32))
    assert result[:3].tolist() == pytest.approx([-60, -60, 0], abs=1e-4)
    assert np.isnan(result[3])


def test_averages_are_computed_in_power():
    stored = np.array([[-10.0], [-20.0]], np.float32)
    decibel = Radiometry(scale=1.0, offset=0.0, unit="dB")
    power = units.convert(stored, [decibel, decibel], SENSORS["S1RTC"].unit)
    assert power.mean() == pytest.approx((0.1 + 0.01) / 2)


def test_a_missing_asset_is_missing_everywhere():
    assert np.isnan(
        units.convert(np.ones((1, 2, 2), np.uint16), [None], SENSORS["S2L2A"].unit)
    ).all()


def test_another_unit_is_refused():
    array = xr.DataArray([1.0], attrs={"units": "dB"}, name="VV")
    with pytest.raises(InvalidInputError, match="'dB', but 'm2 m-2' is needed"):
        units.check_unit(array, POWER)
    units.check_unit(array.assign_attrs(units="m2 m-2"), POWER)


@given(st.sampled_from([np.int16, np.uint16, np.int32, np.float32]), st.integers(-2000, 32767))
def test_a_count_is_a_measurement_between_nodata_and_saturation(dtype, count):
    stored = np.array([max(count, 0) if dtype is np.uint16 else count], dtype)
    actual = units.convert(stored[None], [small_worlds.SHIFTED], SENSORS["S2L1C"].unit)[0, 0]
    is_nodata = stored[0] <= 0 if np.issubdtype(dtype, np.integer) else stored[0] <= -1000
    # ^ integers are unsigned ones, as ESA stores them; in floating point nodata is NaN, and values
    #   below a reflectance of -0.2 are none
    if is_nodata:
        assert np.isnan(actual)
    else:
        assert actual == stored[0] - 1000.0


def test_a_saturated_count_is_missing():
    stored = np.array([[65535, 65534]], np.uint16)
    actual = units.convert(stored, [small_worlds.SHIFTED], SENSORS["S2L2A"].unit)[0]
    assert np.isnan(actual[0])
    assert actual[1] == 64534


def test_reflectance_stored_unscaled_may_be_negative_and_nan_is_missing():
    radiometry = Radiometry(scale=1.0, offset=0.0, unit="reflectance")
    stored = np.array([[-0.0125, 0.0, 0.5, np.nan]], np.float32)
    actual = units.convert(stored, [radiometry], SENSORS["S2L2A"].unit)[0]
    assert actual[:3].tolist() == [-125.0, 0.0, 5000.0]
    assert np.isnan(actual[3])


@pytest.mark.parametrize("height", [-32768, -9999, -500.5, 9000.5, np.nan])
def test_an_impossible_height_is_missing(height):
    stored = np.array([[height, -430.0, 0.0, 8849.0]], np.float32)
    actual = units.convert(stored, [small_worlds.METRE], SENSORS["DEM"].unit)[0]
    assert np.isnan(actual[0])
    assert actual[1:].tolist() == [-430.0, 0.0, 8849.0]


def test_zero_power_is_missing_and_zero_decibel_is_not():
    stored = np.array([[0.0, -1.0, 0.25]], np.float32)
    actual = units.convert(stored, [small_worlds.POWER], SENSORS["S1RTC"].unit)[0]
    assert np.isnan(actual[:2]).all()
    assert actual[2] == 0.25
    decibel = Radiometry(scale=1.0, offset=0.0, unit="dB")
    assert units.convert(stored, [decibel], SENSORS["S1GRD"].unit)[0, 0] == 1.0


@pytest.mark.parametrize("target", [DN, POWER, METRE])
@pytest.mark.parametrize("unit", ["reflectance", "power", "dB", "m", "class", "probability"])
def test_other_units_are_refused(target, unit):
    radiometry = Radiometry(scale=1.0, offset=0.0, unit=unit)
    if unit in units.CONVERTIBLE_UNITS[target]:
        units.convert(np.ones((1, 2)), [radiometry], target)
    else:
        with pytest.raises(
            InvalidInputError, match=f"'{unit}', but a composite in '{target}' needs"
        ):
            units.convert(np.ones((1, 2)), [radiometry], target)


def test_inputs_of_the_model_are_converted_from_power_to_decibel_once():
    power = xr.DataArray(np.array([0.1, np.nan], np.float32), attrs={"units": POWER})
    decibel = units.to_model_unit(power, "S1RTC")
    assert decibel.values[0] == pytest.approx(-10)
    assert np.isnan(decibel.values[1])
    assert decibel.attrs["units"] == "dB"
    with pytest.raises(InvalidInputError, match="'dB', but"):
        units.to_model_unit(decibel, "S1RTC")
    optical = power.assign_attrs(units=DN)
    assert units.to_model_unit(optical, "S2L1C") is optical
    with pytest.raises(InvalidInputError):
        units.to_model_unit(power, "S2L2A")
