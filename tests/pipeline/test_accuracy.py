"""Accuracy of a map against its reference, by the definitions of the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.quality import accuracy

CODES = np.array([1, 2, 4, 5, 7, 8, 9, 11], np.uint8)
maps = hnp.arrays(np.uint8, (20, 20), elements=st.sampled_from(CODES.tolist()))


def _compare(predicted, reference):
    return accuracy.compute_accuracy(accuracy.confusion_matrix(predicted, reference))


@given(maps, maps)
def test_overall_accuracy_and_f1_follow_their_definitions(predicted, reference):
    metrics = _compare(predicted, reference)
    assert metrics.overall == pytest.approx(np.mean(predicted == reference))
    scores = []
    for code in np.unique(reference):
        correct = np.sum((reference == code) & (predicted == code))
        if np.mean(reference == code) < 0.005:
            continue
        scores.append(2 * correct / (np.sum(reference == code) + np.sum(predicted == code)))
    assert metrics.macro_f1 == pytest.approx(np.mean(scores))


@given(maps, maps)
def test_confusion_matrices_of_parts_add_up(predicted, reference):
    whole = accuracy.confusion_matrix(predicted, reference)
    upper = accuracy.confusion_matrix(predicted[:7], reference[:7])
    lower = accuracy.confusion_matrix(predicted[7:], reference[7:])
    assert np.array_equal(whole, upper + lower)


def test_nodata_and_clouds_are_not_compared():
    predicted = np.array([1, 0, 1, 1], np.uint8)
    reference = np.array([1, 1, 0, 10], np.uint8)
    metrics = _compare(predicted, reference)
    assert (metrics.n, metrics.overall) == (1, 1.0)


def test_rare_classes_are_left_out_of_f1():
    reference = np.full(1000, 1, np.uint8)
    reference[:4] = 9
    assert set(_compare(reference, reference).f1) == {"water"}


def test_without_common_pixels_the_accuracy_is_nan():
    metrics = _compare(np.zeros(3, np.uint8), np.ones(3, np.uint8))
    assert metrics.n == 0
    assert np.isnan(metrics.overall)
