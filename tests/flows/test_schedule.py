"""When a period is due, and how long to wait for more scenes."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.config.schedule import Schedule
from flows.series import due_periods

JOB = {
    "name": "here",
    "region": {"bbox": [12.0, 46.0, 12.1, 46.1]},
    "catalog": "planetary-computer",
}


def _parse_schedule(**keys):
    return Schedule.model_validate(keys)


def _parse_day(text):
    return dt.date.fromisoformat(text)


@pytest.mark.parametrize(
    ("today", "last"),
    [
        ("2024-03-05", "2024-01-31"),
        ("2024-03-06", "2024-02-29"),  # the leap day and five days of latency
        ("2025-01-05", "2024-11-30"),
        ("2025-01-06", "2024-12-31"),
    ],
)
def test_a_month_is_due_when_its_latency_is_over(today, last):
    schedule = _parse_schedule(**{"from": "2023-06", "latency_days": 5})
    assert due_periods.list_due(schedule, _parse_day(today))[-1].end == _parse_day(last)


@given(
    st.dates(dt.date(2015, 1, 1), dt.date(2030, 1, 1)),
    st.integers(-40, 4000),
    st.integers(0, 60),
    st.sampled_from(["P1M", "P1W", "P10D", "P1Y", "season", "P3M"]),
)
def test_periods_are_due_after_their_latency(since, days, latency, cadence):
    schedule = _parse_schedule(
        **{"from": str(since), "latency_days": latency, "cadence": cadence, "catch_up": 5000}
    )
    today = since + dt.timedelta(days=days)
    due = due_periods.list_due(schedule, today)
    assert all(period.end + dt.timedelta(days=latency) < today for period in due)
    starts = [since, *(period.end + dt.timedelta(days=1) for period in due)]
    assert [period.start for period in due] == starts[:-1]
    due_next_day = due_periods.list_due(schedule, today + dt.timedelta(days=1))
    assert due_next_day[: len(due)] == due
    assert len(due_next_day) <= len(due) + 1


def test_missed_periods_are_limited_by_catch_up():
    schedule = _parse_schedule(**{"from": "2020-01", "catch_up": 3})
    assert [
        str(period.start) for period in due_periods.list_due(schedule, _parse_day("2024-03-20"))
    ] == [
        "2023-12-01",
        "2024-01-01",
        "2024-02-01",
    ]


def test_scenes_are_awaited_until_max_wait_days():
    schedule = _parse_schedule(**{"from": "2024-01", "latency_days": 5, "max_wait_days": 30})
    (january,) = due_periods.list_due(schedule, _parse_day("2024-02-06"))
    assert due_periods.is_awaiting_scenes(schedule, january, _parse_day("2024-03-06"))
    assert not due_periods.is_awaiting_scenes(schedule, january, _parse_day("2024-03-07"))


def test_a_schedule_without_a_start_is_refused():
    with pytest.raises(InvalidInputError, match=r"neither a period .*schedule: \{from: 2024-01\}"):
        due_periods.list_due(_parse_schedule(), _parse_day("2024-02-06"))


def test_a_job_needs_no_period_of_its_own(tmp_path):
    """The schedule, a range or --period may state it."""
    for keys in ({}, {"schedule": {"from": "2024-01"}}):
        job = jobs.parse({**JOB, **keys}, folder=tmp_path)
        assert job.period is None
        with pytest.raises(InvalidInputError, match="latest"):
            _ = job.resolved_period
    job_of_latest = jobs.parse(
        {**JOB, "period": "latest", "schedule": {"from": 2024}}, folder=tmp_path
    )
    assert job_of_latest.schedule.since == _parse_day("2024-01-01")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cadence": "monthly"}, "schedule.cadence: The cadence 'monthly' cannot be read"),
        ({"from": "soon"}, "schedule.from: 'soon' is not a day"),
        ({"since": "2024"}, "unknown key 'since' in schedule"),
        ({"cron": "daily"}, "schedule.cron: 'daily' does not have the five fields"),
        ({"timezone": "Mars/Olympus"}, "schedule.timezone: there is no time zone 'Mars/Olympus'"),
        ({"latency_days": -1}, "schedule.latency_days is -1; expected: days, 0 to 366"),
        ({"min_coverage": 90}, "schedule.min_coverage is 90"),
    ],
)
def test_an_invalid_schedule_is_refused(tmp_path, keys, message):
    with pytest.raises(InvalidInputError, match=message.replace("(", r"\(")):
        jobs.parse({**JOB, "period": "2024", "schedule": keys}, folder=tmp_path)
