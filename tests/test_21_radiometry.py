"""Units and offsets."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import Wrong
from catalogs.scene import Radiometry
from pipeline import radiometry
from tests import worlds


@given(st.integers(1, 65535))
def test_the_offset_is_subtracted_exactly_and_never_wraps(stored):
    values = np.array([stored], np.uint16)
    assert radiometry.to_dn(values, worlds.SHIFTED)[0] == stored - 1000
    assert radiometry.to_dn(values, worlds.REFLECTANCE)[0] == stored


@given(st.floats(-60, 20))
def test_decibel_and_power_are_inverse(decibel):
    power = radiometry.from_decibel(np.array([decibel], np.float32))
    assert radiometry.to_decibel(power)[0] == pytest.approx(decibel, abs=1e-3)


def test_decibel_is_finite_where_power_is_known():
    result = radiometry.to_decibel(np.array([0.0, -1.0, 1.0, np.nan], np.float32))
    assert result[:3].tolist() == pytest.approx([-60, -60, 0], abs=1e-4)
    assert np.isnan(result[3])


def test_averages_are_made_in_power():
    stored = np.array([[-10.0], [-20.0]], np.float32)
    decibel = Radiometry(scale=1.0, offset=0.0, unit="dB")
    power = radiometry.convert(stored, [decibel, decibel], "S1RTC")
    assert power.mean() == pytest.approx((0.1 + 0.01) / 2)


def test_a_missing_asset_is_missing_everywhere():
    assert np.isnan(radiometry.convert(np.ones((1, 2, 2), np.uint16), [None], "S2L2A")).all()


def test_another_unit_is_refused():
    array = xr.DataArray([1.0], attrs={"units": "dB"}, name="VV")
    with pytest.raises(Wrong, match="'dB' where 'm2 m-2'"):
        radiometry.expect(array, radiometry.POWER)
    radiometry.expect(array.assign_attrs(units="m2 m-2"), radiometry.POWER)
