"""Due periods: those that a schedule or a range names and that have ended."""

from __future__ import annotations

import datetime as dt

from catalogs.errors import InvalidInputError
from flows.config import cadence
from flows.config import period as periods
from flows.config.cadence import PeriodRange
from flows.config.job import Job
from flows.config.period import Period
from flows.config.schedule import MAX_PERIODS, Schedule


def today() -> dt.date:
    """Return the current day in UTC."""
    return dt.datetime.now(dt.UTC).date()


def list_periods(job: Job, period_range: PeriodRange) -> list[Period]:
    """Return the periods of a range, oldest first.

    Raises:
        InvalidInputError: an end of the range cannot be read, or no period lies in the range.
    """
    length = period_range.length or job.schedule.cadence
    start = (
        job.schedule.since
        if period_range.first is None
        else periods.parse(period_range.first).start
    )
    if start is None:
        raise InvalidInputError(
            "The range has no first day. Write --from 2023-01, or schedule: {from: 2023-01}."
        )
    if period_range.last is not None:
        whole_range = Period(start=start, end=periods.parse(period_range.last).end)
        return list(cadence.split_period(whole_range, length, max_parts=MAX_PERIODS))
    complete = list(list_complete(job.schedule, start, length, today()))
    if not complete:
        raise InvalidInputError(
            f"No {length} that begins with {start} is over by {job.schedule.latency_days} days "
            "(schedule.latency_days). Write --from with an earlier day, or --to."
        )
    return complete


def list_due(schedule: Schedule, day: dt.date) -> tuple[Period, ...]:
    """Return the latest complete periods, at most ``catch_up`` of them.

    Args:
        schedule: the job's schedule.
        day: the current day in UTC.

    Raises:
        InvalidInputError: the schedule has no ``from``.
    """
    if schedule.since is None:
        raise InvalidInputError(
            "The job has neither a period nor a day that periods are counted from: write "
            "period: 2024-05-01/2024-09-30 or --period, or add schedule: {from: 2024-01} "
            "(with the cadence, if it is not P1M)."
        )
    return list_complete(schedule, schedule.since, schedule.cadence, day)[-schedule.catch_up :]


def list_complete(
    schedule: Schedule, since: dt.date, length: str, day: dt.date
) -> tuple[Period, ...]:
    """Return the periods that ended at least ``latency_days`` ago.

    Args:
        schedule: the job's schedule.
        since: first day of the first period.
        length: cadence of the periods.
        day: the current day in UTC.

    Raises:
        InvalidInputError: the cadence cannot be read, or gives too many periods.
    """
    last = day - dt.timedelta(days=schedule.latency_days + 1)
    if last < since:
        return ()
    day_after = last + dt.timedelta(days=1)
    parts = cadence.split_period(Period(start=since, end=day_after), length, max_parts=MAX_PERIODS)
    return tuple(part for part in parts if part.end <= last)
    # ^ an unfinished period is cut at the day after, and thus left out
