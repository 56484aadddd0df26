"""Periods of a cadence: every day once, and the same as another calendar says."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import time

import pandas as pd
import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError
from flows.config import cadence, period
from flows.config.period import Period

DAYS = st.dates(dt.date(1999, 1, 1), dt.date(2031, 1, 1))
UNITS = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}


def _cut(first, last, text, most=20_000):
    return cadence.split_period(Period(start=first, end=last), text, max_parts=most)


@given(DAYS, st.integers(0, 1500), st.integers(1, 40), st.sampled_from([*"DWMY", "season"]))
def test_no_day_is_lost_and_none_is_there_twice(first, days, count, unit):
    text = unit if unit == "season" else f"P{count}{unit}"
    last = first + dt.timedelta(days=days)
    parts = _cut(first, last, text)
    assert parts[0].start == first
    assert parts[-1].end == last
    for part, following in itertools.pairwise(parts):
        assert following.start == part.end + dt.timedelta(days=1)
        assert part.start <= part.end


@given(DAYS, st.integers(0, 1500), st.integers(1, 30), st.sampled_from("DWMY"))
def test_parts_begin_where_another_calendar_says(first, days, count, unit):
    parts = _cut(first, first + dt.timedelta(days=days), f"P{count}{unit}")
    starts = [first + relativedelta(**{UNITS[unit]: n * count}) for n in range(len(parts))]
    assert [part.start for part in parts] == starts


@given(st.integers(1999, 2030), st.integers(1, 12), st.integers(0, 60))
def test_months_and_seasons_are_those_of_pandas(year, month, months):
    first = pd.Period(year=year, month=month, freq="M")
    last = first + months
    parts = _cut(first.start_time.date(), last.end_time.date(), "P1M")
    expected = pd.period_range(first, last, freq="M")
    assert [(part.start, part.end) for part in parts] == [
        (month.start_time.date(), month.end_time.date()) for month in expected
    ]
    seasons = _cut(first.start_time.date(), last.end_time.date(), "season")
    quarters = pd.period_range(first.start_time, last.end_time, freq="Q-NOV")
    # ^ quarters of a year that ends with November: the seasons of meteorology
    assert len(seasons) == len(quarters)
    assert [part.start for part in seasons[1:]] == [
        quarter.start_time.date() for quarter in quarters[1:]
    ]
    assert [part.end for part in seasons[:-1]] == [
        quarter.end_time.date() for quarter in quarters[:-1]
    ]


@given(DAYS, st.integers(0, 1500), st.integers(1, 30), st.sampled_from([*"DWMY", "season"]))
def test_only_the_ends_of_a_range_are_cut(first, days, count, unit):
    text = unit if unit == "season" else f"P{count}{unit}"
    parts = _cut(first, first + dt.timedelta(days=days), text)
    wholes = [cadence.restore_full_period(part, first, text) for part in parts]
    assert wholes[1:-1] == list(parts[1:-1])
    for part, whole in zip(parts, wholes, strict=True):
        assert whole.start <= part.start <= part.end <= whole.end
    if unit == "season":
        for whole in wholes:
            quarter = pd.Period(whole.start, freq="Q-NOV")
            assert (whole.start, whole.end) == (
                quarter.start_time.date(),
                quarter.end_time.date(),
            )
    else:
        ends = first + relativedelta(**{UNITS[unit]: len(parts) * count})
        assert wholes[-1].end == ends - dt.timedelta(days=1)
        assert wholes[0].start == first


@given(st.integers(1999, 2030), st.integers(0, 9))
def test_a_range_that_is_widened_keeps_its_periods(year, years):
    small = _cut(dt.date(year, 1, 1), dt.date(year, 12, 31), "P1M")
    wide = _cut(dt.date(year - years, 1, 1), dt.date(year + years, 12, 31), "P1M")
    assert set(small) <= set(wide)


def test_months_are_cut_where_they_end():
    whole = period.parse("2024-01-31/2024-04-30")
    assert [str(part) for part in cadence.split_period(whole, "P1M", max_parts=10)] == [
        "2024-01-31/2024-02-28",
        "2024-02-29/2024-03-30",
        "2024-03-31/2024-04-29",
        "2024-04-30/2024-04-30",
    ]


def test_seasons_begin_with_december():
    parts = cadence.split_period(period.parse("2023-12/2024-11"), "season", max_parts=10)
    assert [str(part) for part in parts] == [
        "2023-12-01/2024-02-29",
        "2024-03-01/2024-05-31",
        "2024-06-01/2024-08-31",
        "2024-09-01/2024-11-30",
    ]
    (rest, *_) = cadence.split_period(period.parse("2024"), "season", max_parts=10)
    assert str(rest) == "2024-01-01/2024-02-29"


def test_the_calendar_ends_without_an_error():
    parts = cadence.split_period(period.parse("9999-11/9999-12"), "P1M", max_parts=10)
    assert [str(part) for part in parts] == ["9999-11-01/9999-11-30", "9999-12-01/9999-12-31"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_the_zone_of_the_host_changes_nothing(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        parts = cadence.split_period(period.parse("2024-02/2024-04"), "P1W", max_parts=20)
        assert str(parts[-1]) == "2024-04-25/2024-04-30"
        assert parts[0].interval[0] == dt.datetime(2024, 2, 1, tzinfo=dt.UTC)
    finally:
        monkeypatch.undo()
        os.environ.setdefault("TZ", "UTC")
        time.tzset()
        os.environ.pop("TZ")


@pytest.mark.parametrize("text", ["monthly", "P1", "P0M", "P1M10D", "1M", "PT1H", "P-1M", ""])
def test_what_is_no_cadence_is_said_so(text):
    with pytest.raises(InvalidInputError, match="cannot be read: write P1M"):
        cadence.parse(text)


def test_too_many_parts_are_refused():
    with pytest.raises(InvalidInputError, match="more than 400 parts"):
        cadence.split_period(period.parse("2020/2024"), "P1D", max_parts=400)
