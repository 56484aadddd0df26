"""Due periods: those of a schedule or a range that have ended, and those that wait for scenes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from catalogs.errors import InvalidInputError
from flows.config import cadence
from flows.config import period as periods
from flows.config.cadence import PeriodRange
from flows.config.job import Job
from flows.config.period import Period
from flows.config.schedule import MAX_PERIODS, Schedule
from flows.observe.progress import Progress
from flows.series import period_status
from flows.series.period_status import PeriodSummary


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


def inspect_range(job: Job, period_range: PeriodRange, progress: Progress) -> list[PeriodSummary]:
    """Inspect the periods of a range, oldest first.

    Raises:
        InvalidInputError: an end of the range cannot be read, or no period lies in the range.
    """
    entries = period_status.inspect_periods(job, list_periods(job, period_range), progress)
    entries = _mark_cut_periods(entries, period_range.length or job.schedule.cadence)
    if period_range.last is None:
        entries = mark_waiting(job, entries)
    return entries


def _mark_cut_periods(entries: Sequence[PeriodSummary], period_length: str) -> list[PeriodSummary]:
    """Add a reason to the first and the last period, oldest first, if the range cuts them."""
    since = entries[0].period.start
    marked = list(entries)
    for index in {0, len(entries) - 1}:
        entry = entries[index]
        full_period = cadence.restore_full_period(entry.period, since, period_length)
        if full_period != entry.period:
            reasons = (entry.reason, f"a part of {full_period}, which the range cuts")
            marked[index] = replace(entry, reason="; ".join(filter(None, reasons)))
    return marked


def is_awaiting_scenes(schedule: Schedule, period: Period, day: dt.date) -> bool:
    """Return whether more scenes of a period may still arrive."""
    return day <= period.end + dt.timedelta(days=schedule.latency_days + schedule.max_wait_days)


def mark_waiting(job: Job, entries: Sequence[PeriodSummary]) -> list[PeriodSummary]:
    """Set the status of thin periods and gaps to waiting while the schedule expects more scenes."""
    day = today()
    return [
        replace(entry, status="waiting")
        if entry.status in {"thin", "gap"} and is_awaiting_scenes(job.schedule, entry.period, day)
        else entry
        for entry in entries
    ]


def inspect_due(job: Job, progress: Progress) -> list[PeriodSummary]:
    """Inspect the latest periods of the schedule that have ended.

    Raises:
        InvalidInputError: the job does not say from which day periods are counted.
    """
    return mark_waiting(
        job, period_status.inspect_periods(job, list_due(job.schedule, today()), progress)
    )
