"""Masks of scenes hold scene classes and percentages, or the scene is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.quality.mask_check import MaskVerdict, examine_mask

CLASSES = np.tile(np.arange(12.0, dtype=np.float32), (12, 1))


def examine(values, unit="class"):
    return examine_mask(np.asarray(values, dtype=np.float32), unit, "its SCL (a.tif)")


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (CLASSES, "class"),
        (np.where(CLASSES == 3, np.nan, CLASSES), "class"),
        (np.where(CLASSES == 3, 255, CLASSES), "class"),
        (np.full((4, 4), np.nan), "class"),
        (CLASSES * 9, "probability"),
        (np.zeros((9, 9)), "probability"),
        (np.where(np.arange(400) == 7, 1.0, 0.0).reshape(20, 20), "probability"),
        (np.where(np.arange(400) == 7, 99.0, 4.0).reshape(20, 20), "class"),
    ],
    ids=["all", "nodata", "fill", "empty", "percent", "clear", "nearly-clear", "one-pixel"],
)
def test_masks_are_accepted(values, unit):
    assert examine(values, unit) == MaskVerdict()


@pytest.mark.parametrize(
    ("values", "unit", "example"),
    [
        (CLASSES * 10, "class", "20"),
        (CLASSES + 0.5, "class", "0.5"),
        (-CLASSES, "class", "-1"),
        (CLASSES / 11, "probability", "0.09"),
        (CLASSES * 20, "probability", "120"),
    ],
    ids=["tenfold", "interpolated", "negative", "fraction", "bytes"],
)
def test_other_values_are_named(values, unit, example):
    reason = examine(values, unit).reason
    assert reason is not None
    assert reason.startswith(f"its SCL (a.tif) holds values such as {example}")


def test_a_mask_of_clouds_in_place_of_percentages_is_told():
    verdict = examine(CLASSES > 7, "probability")
    assert verdict.reason is None
    assert "holds 0 and 1 only" in verdict.caveat
