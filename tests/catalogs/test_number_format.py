"""Numbers in messages show in which digits they differ."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import number_format

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS)
def test_different_numbers_look_different(first, second):
    texts = number_format.format_apart(first, second)
    assert (texts[0] == texts[1]) == (first == second)
    assert [float(text) for text in texts] == pytest.approx([first, second], rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "texts"),
    [
        (10.1234567, 10.1234567, ("10.1235", "10.1235")),
        (10.12341, 10.12342, ("10.12341", "10.12342")),
        (1.0, 2.0, ("1", "2")),
        (math.nan, math.nan, ("nan", "nan")),
    ],
)
def test_no_more_digits_are_written_than_differ(first, second, texts):
    assert number_format.format_apart(first, second) == texts


def test_lists_are_written_with_the_same_digits():
    first, second = (9.1234, 56.0, 9.5, 57.0), (9.1234, 56.0, 9.5, 57.00001)
    assert number_format.format_lists_apart(first, second, digits=3) == (
        "[9.1234, 56, 9.5, 57]",
        "[9.1234, 56, 9.5, 57.00001]",
    )
    assert number_format.format_lists_apart(first, first, digits=3)[0] == "[9.12, 56, 9.5, 57]"


@pytest.mark.parametrize(
    ("length", "text"), [(0.123456, "0.123"), (9.87, "9.87"), (123.4, "123"), (109_800.0, "109800")]
)
def test_a_length_has_no_exponent(length, text):
    assert number_format.format_length(length) == text
