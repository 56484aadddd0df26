"""Agreement with a truth, against scikit-learn's published definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.quality import accuracy

CODES = np.array([1, 2, 4, 5, 7, 8, 9, 11], np.uint8)
maps = hnp.arrays(np.uint8, (20, 20), elements=st.sampled_from(CODES.tolist()))


@given(maps, maps)
def test_overall_and_f1_by_hand(mapped, truth):
    found = accuracy.compare_maps(mapped, truth)
    assert found.overall == pytest.approx(np.mean(mapped == truth))
    scores = []
    for code in np.unique(truth):
        hit = np.sum((truth == code) & (mapped == code))
        if np.mean(truth == code) < 0.005:
            continue
        scores.append(2 * hit / (np.sum(truth == code) + np.sum(mapped == code)))
    assert found.macro_f1 == pytest.approx(np.mean(scores))


def test_nodata_and_clouds_are_not_compared():
    mapped = np.array([1, 0, 1, 1], np.uint8)
    truth = np.array([1, 1, 0, 10], np.uint8)
    found = accuracy.compare_maps(mapped, truth)
    assert (found.n, found.overall) == (1, 1.0)


def test_rare_classes_do_not_decide():
    truth = np.full(1000, 1, np.uint8)
    truth[:4] = 9
    assert set(accuracy.compare_maps(truth, truth).f1) == {"water"}


def test_nothing_to_compare_is_said():
    found = accuracy.compare_maps(np.zeros(3, np.uint8), np.ones(3, np.uint8))
    assert found.n == 0
    assert np.isnan(found.overall)
