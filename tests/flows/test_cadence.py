"""Periods of a cadence hold every day once, and agree with dateutil and pandas."""

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


def _split(first, last, text, max_parts=20_000):
    return cadence.split_period(Period(start=first, end=last), text, max_parts=max_parts)


@given(DAYS, st.integers(0, 1500), st.integers(1, 40), st.sampled_from([*"DWMY", "season"]))
def test_every_day_lies_in_exactly_one_period(first, days, count, unit):
    text = unit if unit == "season" else f"P{count}{unit}"
    last = first + dt.timedelta(days=days)
    periods = _split(first, last, text)
    assert periods[0].start == first
    assert periods[-1].end == last
    for current, following in itertools.pairwise(periods):
        assert following.start == current.end + dt.timedelta(days=1)
        assert current.start <= current.end


@given(DAYS, st.integers(0, 1500), st.integers(1, 30), st.sampled_from("DWMY"))
def test_periods_begin_at_the_dates_of_dateutil(first, days, count, unit):
    periods = _split(first, first + dt.timedelta(days=days), f"P{count}{unit}")
    starts = [first + relativedelta(**{UNITS[unit]: n * count}) for n in range(len(periods))]
    assert [current.start for current in periods] == starts


@given(st.integers(1999, 2030), st.integers(1, 12), st.integers(0, 60))
def test_months_and_seasons_equal_those_of_pandas(year, month, months):
    first = pd.Period(year=year, month=month, freq="M")
    last = first + months
    split_months = _split(first.start_time.date(), last.end_time.date(), "P1M")
    expected = pd.period_range(first, last, freq="M")
    assert [(current.start, current.end) for current in split_months] == [
        (month.start_time.date(), month.end_time.date()) for month in expected
    ]
    seasons = _split(first.start_time.date(), last.end_time.date(), "season")
    quarters = pd.period_range(first.start_time, last.end_time, freq="Q-NOV")
    # ^ quarters of a year that ends with November: the seasons of meteorology
    assert len(seasons) == len(quarters)
    assert [current.start for current in seasons[1:]] == [
        quarter.start_time.date() for quarter in quarters[1:]
    ]
    assert [current.end for current in seasons[:-1]] == [
        quarter.end_time.date() for quarter in quarters[:-1]
    ]


@given(DAYS, st.integers(0, 1500), st.integers(1, 30), st.sampled_from([*"DWMY", "season"]))
def test_only_the_ends_of_a_range_are_cut(first, days, count, unit):
    text = unit if unit == "season" else f"P{count}{unit}"
    periods = _split(first, first + dt.timedelta(days=days), text)
    full_periods = [cadence.restore_full_period(current, first, text) for current in periods]
    assert full_periods[1:-1] == list(periods[1:-1])
    for current, full in zip(periods, full_periods, strict=True):
        assert full.start <= current.start <= current.end <= full.end
    if unit == "season":
        for full in full_periods:
            quarter = pd.Period(full.start, freq="Q-NOV")
            assert (full.start, full.end) == (
                quarter.start_time.date(),
                quarter.end_time.date(),
            )
    else:
        end = first + relativedelta(**{UNITS[unit]: len(periods) * count})
        assert full_periods[-1].end == end - dt.timedelta(days=1)
        assert full_periods[0].start == first


@given(st.integers(1999, 2030), st.integers(0, 9))
def test_a_wider_range_holds_the_same_periods(year, years):
    small = _split(dt.date(year, 1, 1), dt.date(year, 12, 31), "P1M")
    wide = _split(dt.date(year - years, 1, 1), dt.date(year + years, 12, 31), "P1M")
    assert set(small) <= set(wide)


def test_months_from_a_31st_end_with_the_shorter_month():
    full = period.parse("2024-01-31/2024-04-30")
    assert [str(current) for current in cadence.split_period(full, "P1M", max_parts=10)] == [
        "2024-01-31/2024-02-28",
        "2024-02-29/2024-03-30",
        "2024-03-31/2024-04-29",
        "2024-04-30/2024-04-30",
    ]


def test_seasons_begin_with_december():
    seasons = cadence.split_period(period.parse("2023-12/2024-11"), "season", max_parts=10)
    assert [str(season) for season in seasons] == [
        "2023-12-01/2024-02-29",
        "2024-03-01/2024-05-31",
        "2024-06-01/2024-08-31",
        "2024-09-01/2024-11-30",
    ]
    (winter_rest, *_) = cadence.split_period(period.parse("2024"), "season", max_parts=10)
    assert str(winter_rest) == "2024-01-01/2024-02-29"


def test_the_last_months_of_the_calendar_are_split():
    months = cadence.split_period(period.parse("9999-11/9999-12"), "P1M", max_parts=10)
    assert [str(month) for month in months] == ["9999-11-01/9999-11-30", "9999-12-01/9999-12-31"]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_the_time_zone_of_the_host_does_not_matter(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        weeks = cadence.split_period(period.parse("2024-02/2024-04"), "P1W", max_parts=20)
        assert str(weeks[-1]) == "2024-04-25/2024-04-30"
        assert weeks[0].interval[0] == dt.datetime(2024, 2, 1, tzinfo=dt.UTC)
    finally:
        monkeypatch.undo()
        os.environ.setdefault("TZ", "UTC")
        time.tzset()
        os.environ.pop("TZ")


@pytest.mark.parametrize("text", ["monthly", "P1", "P0M", "P1M10D", "1M", "PT1H", "P-1M", ""])
def test_an_invalid_cadence_is_refused(text):
    with pytest.raises(InvalidInputError, match="cannot be read: write P1M"):
        cadence.parse(text)


def test_too_many_periods_are_refused():
    with pytest.raises(InvalidInputError, match="more than 400 parts"):
        cadence.split_period(period.parse("2020/2024"), "P1D", max_parts=400)
