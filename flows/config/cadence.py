"""Cadences: splitting a date range into consecutive periods without gaps or overlaps."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dateutil.relativedelta import relativedelta

from catalogs.errors import InvalidInputError
from flows.config.period import Period

ACCEPTED_FORMATS = "P1M, P10D, P1W or P1Y, with any whole number, or season"
"""Accepted lengths of a period: ISO 8601 durations of one unit, or ``season``."""

SEASON = "season"
"""Meteorological seasons, which begin with December, March, June and September."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodRange:
    """The periods that a backfill covers; the job's schedule supplies what is None."""

    first: str | None = None
    """First day, as YYYY, YYYY-MM or YYYY-MM-DD; None = ``schedule.from``."""

    last: str | None = None
    """Last day, inclusive, in the same forms; None = the latest period with complete scenes."""

    length: str | None = None
    """Length of a period, in one of :data:`ACCEPTED_FORMATS`; None = ``schedule.cadence``."""

    newest_first: bool = False


_DURATION_PATTERN = re.compile(r"P([1-9][0-9]{0,3})([DWMY])")


def parse(text: str) -> tuple[int, str]:
    """Parse the length of a period into a count and a unit: D, W, M, Y or season.

    Raises:
        InvalidInputError: The text is not in one of :data:`ACCEPTED_FORMATS`.
    """
    plain = text.strip()
    if plain.lower() in {SEASON, "seasons"}:
        return 1, SEASON
    match = _DURATION_PATTERN.fullmatch(plain.upper())
    if match is None:
        raise InvalidInputError(f"The cadence {text!r} cannot be read: write {ACCEPTED_FORMATS}.")
    return int(match[1]), match[2]


def split_period(period: Period, cadence: str, *, max_parts: int) -> tuple[Period, ...]:
    """Split a period into parts of one cadence, counted from its first day.

    Seasons keep their calendar position, whatever the first day. The last part may be shorter than
    the cadence, and with seasons the first part too.

    Args:
        period: The period to split.
        cadence: Length of a part, in one of :data:`ACCEPTED_FORMATS`.
        max_parts: Largest number of parts.

    Raises:
        InvalidInputError: The cadence cannot be read, or gives more parts.
    """
    parts: list[Period] = []
    for start, last in _iterate_parts(period.start, cadence):
        if start > period.end:
            break
        if len(parts) == max_parts:
            raise InvalidInputError(
                f"The cadence {cadence} splits {period} into more than {max_parts} parts: "
                "choose a longer one."
            )
        parts.append(Period(start=start, end=min(last, period.end)))
    return tuple(parts)


def restore_full_period(part: Period, since: dt.date, cadence: str) -> Period:
    """Return the full period of a part that the ends of a range have shortened.

    Args:
        part: One of the periods that :func:`split_period` returned.
        since: First day of the range that was split.
        cadence: Length of a part, as it was given to :func:`split_period`.
    """
    _, unit = parse(cadence)
    first = part.start
    if unit == SEASON and first == since and first.year > dt.MINYEAR:
        first = since.replace(day=1) - relativedelta(months=since.month % 3)
    last = next(last for start, last in _iterate_parts(since, cadence) if start == part.start)
    return Period(start=first, end=last)


def _iterate_parts(first: dt.date, cadence: str) -> Iterator[tuple[dt.date, dt.date]]:
    """Yield the first and last day of consecutive parts, until the end of the calendar."""
    count, unit = parse(cadence)
    start = first
    for number in itertools.count(1):
        try:
            following = _add_cadence(first, number * count, unit)
        except (ValueError, OverflowError):
            # ^ datetime ends with the year 9999
            yield start, dt.date.max
            return
        yield start, following - dt.timedelta(days=1)
        start = following


def _add_cadence(first: dt.date, count: int, unit: str) -> dt.date:
    """Return the day ``count`` units later; a day that the month lacks becomes its last one."""
    months_into_season = first.month % 3
    step = {
        "D": relativedelta(days=count),
        "W": relativedelta(weeks=count),
        "M": relativedelta(months=count),
        "Y": relativedelta(years=count),
        SEASON: relativedelta(day=1, months=3 * count - months_into_season),
        # ^ day=1 sets the day of the month
    }
    day: dt.date = first + step[unit]
    return day
