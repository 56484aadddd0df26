"""Masks of clear pixels, and dilation around clouds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.compositing import masks

CLEAR = (2, 4, 5, 6, 7, 11)
CLOUDY = (3, 8, 9, 10)


@given(hnp.arrays(np.uint8, (12, 12), elements=st.integers(0, 11)), st.floats(1, 4))
def test_dilation_is_by_euclidean_distance(scl, radius):
    clear = masks.clear_mask(scl, classes=CLEAR, dilated_classes=CLOUDY, dilation_radius=radius)
    cloudy = np.isin(scl, CLOUDY)
    distance = (
        ndimage.distance_transform_edt(~cloudy) if cloudy.any() else np.full(scl.shape, np.inf)
    )
    assert np.array_equal(clear, np.isin(scl, CLEAR) & (distance > radius))


def test_without_dilation_classes_alone_decide():
    scl = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(
        masks.clear_mask(scl, classes=CLEAR, dilated_classes=CLOUDY, dilation_radius=0),
        np.isin(scl, CLEAR),
    )


def test_the_swath_edge_is_not_dilated():
    scl = np.full((9, 9), 4, np.uint8)
    scl[:, :3] = 0
    clear = masks.clear_mask(scl, classes=CLEAR, dilated_classes=CLOUDY, dilation_radius=3)
    assert clear[:, 3:].all()


def test_no_data_is_never_clear():
    scl = np.zeros((2, 2), np.uint8)
    assert not masks.clear_mask(
        scl, classes=(0, 4), dilated_classes=CLOUDY, dilation_radius=0
    ).any()


def test_scenes_are_dilated_separately():
    scl = np.full((2, 9, 9), 4, np.uint8)
    scl[0, 4, 4] = 9
    clear = masks.clear_mask(scl, classes=CLEAR, dilated_classes=CLOUDY, dilation_radius=2)
    assert clear[1].all()
    assert clear[0].sum() == 81 - 13


@given(st.integers(12, 255))
def test_unknown_codes_are_never_clear(code):
    assert not masks.clear_mask(
        np.full((2, 2), code, np.uint8),
        classes=range(256),
        dilated_classes=CLOUDY,
        dilation_radius=0,
    ).any()


def test_dilated_classes_are_dilated_unless_they_are_clear():
    scl = np.full((9, 9), 4, np.uint8)
    scl[4, 4] = 11
    scl[0, 0] = 9
    clear = masks.clear_mask(scl, classes=(4,), dilation_radius=2, dilated_classes=(11,))
    assert clear.sum() == 81 - 13 - 1
    assert (
        masks.clear_mask(scl, classes=(4, 11), dilation_radius=2, dilated_classes=(11,)).sum() == 80
    )
