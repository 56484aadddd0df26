"""Clear or not, and how far from a cloud."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline import masks

CLEAR = (2, 4, 5, 6, 7, 11)


@given(hnp.arrays(np.uint8, (12, 12), elements=st.integers(0, 11)), st.floats(1, 4))
def test_dilation_is_a_distance(scl, radius):
    found = masks.clear(scl, classes=CLEAR, dilate=radius)
    cloudy = np.isin(scl, masks.CLOUDY)
    distance = (
        ndimage.distance_transform_edt(~cloudy) if cloudy.any() else np.full(scl.shape, np.inf)
    )
    assert np.array_equal(found, np.isin(scl, CLEAR) & (distance > radius))


def test_without_dilation_the_classes_decide():
    scl = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(masks.clear(scl, classes=CLEAR, dilate=0), np.isin(scl, CLEAR))


def test_the_swath_edge_is_not_widened():
    scl = np.full((9, 9), 4, np.uint8)
    scl[:, :3] = 0
    assert masks.clear(scl, classes=CLEAR, dilate=3)[:, 3:].all()


def test_no_data_is_never_clear():
    assert not masks.clear(np.zeros((2, 2), np.uint8), classes=(0, 4), dilate=0).any()


def test_scenes_do_not_widen_into_each_other():
    scl = np.full((2, 9, 9), 4, np.uint8)
    scl[0, 4, 4] = 9
    found = masks.clear(scl, classes=CLEAR, dilate=2)
    assert found[1].all()
    assert found[0].sum() == 81 - 13
