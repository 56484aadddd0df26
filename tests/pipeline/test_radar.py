"""Border noise of Sentinel-1: dark pixels beside the edge of a swath, and no other dark pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.compositing import radar


def _make_power(values):
    power = np.full((60, 60), 0.1, np.float32)
    power[:, :10] = np.nan
    power[:, 10:14] = values
    return power


def test_a_dark_fringe_beside_the_edge_is_border_noise():
    noise = radar.detect_border_noise(_make_power(1e-4), 20.0)
    assert noise[:, 10:14].all()
    assert noise.sum() == 4 * 60


def test_water_at_the_edge_and_dark_pixels_away_from_it_are_not_border_noise():
    assert not radar.detect_border_noise(_make_power(10**-3.0), 20.0).any()
    power = _make_power(0.1)
    power[20:30, 45:] = 1e-5
    # ^ 35 pixels of 20 m from the edge
    assert not radar.detect_border_noise(power, 20.0).any()


def test_small_holes_of_nodata_are_not_an_edge():
    power = np.full((60, 60), 1e-4, np.float32)
    power[::7, ::7] = np.nan
    power[30:34, 30:34] = np.nan
    assert not radar.detect_border_noise(power, 20.0).any()
    power[30:35, 30:35] = np.nan
    assert radar.detect_border_noise(power, 20.0).any()


@given(hnp.arrays(np.int8, (40, 40), elements=st.integers(0, 3)), st.integers(0, 12), st.data())
def test_border_noise_depends_on_pixels_within_its_reach(power_indices, size, data):
    power = np.array([0.1, 1e-4, 1e-2, 1e-5], np.float32)[power_indices]
    row, column = (data.draw(st.integers(0, 40 - size)) for _ in range(2))
    power[row : row + size, column : column + size] = np.nan
    spacing = 250.0
    reach = radar.border_noise_reach(spacing)
    inner_slice = slice(reach + 3, 40 - reach - 5)
    outer_slice = slice(inner_slice.start - reach, inner_slice.stop + reach)
    expected = radar.detect_border_noise(power, spacing)[inner_slice, inner_slice]
    actual = radar.detect_border_noise(power[outer_slice, outer_slice], spacing)[
        reach:-reach, reach:-reach
    ]
    assert np.array_equal(expected, actual)
