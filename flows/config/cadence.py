"""How a stretch of time is cut into periods: every day in one of them, and in no other."""

from __future__ import annotations

import calendar
import datetime as dt
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from catalogs.errors import InvalidInputError
from flows.config.period import Period

ACCEPTED_FORMATS = "P1M, P10D, P1W or P1Y, with any whole number, or season"
"""How the length of a period can be written: ISO 8601 durations of one unit, or a word."""

SEASON = "season"
"""The seasons of meteorology, which begin with December, March, June and September."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodRange:
    """The periods that a backfill is asked for; what is left open, a job's schedule says."""

    first: str | None = None
    """First day, as YYYY, YYYY-MM or YYYY-MM-DD; None = where the schedule begins."""

    last: str | None = None
    """Likewise, through its last day; None = the latest period whose scenes are there."""

    length: str | None = None
    """Of a period, in one of :data:`ACCEPTED_FORMATS`; None = the schedule's."""

    newest_first: bool = False


_DURATION_PATTERN = re.compile(r"P([1-9][0-9]{0,3})([DWMY])")


def parse(text: str) -> tuple[int, str]:
    """Read the length of a period: a number and a unit, one of D, W, M, Y or season.

    Raises:
        InvalidInputError: The text has another form.
    """
    plain = text.strip()
    if plain.lower() in {SEASON, "seasons"}:
        return 1, SEASON
    found = _DURATION_PATTERN.fullmatch(plain.upper())
    if found is None:
        raise InvalidInputError(f"The cadence {text!r} cannot be read: write {ACCEPTED_FORMATS}.")
    return int(found[1]), found[2]


def split_period(period: Period, cadence: str, *, max_parts: int) -> tuple[Period, ...]:
    """Cut a period into parts, counted from its first day; seasons lie where they always do.

    The last part, and the first of seasons, may be shorter.

    Args:
        period: what is cut.
        cadence: the length of a part.
        max_parts: the largest number of parts.

    Raises:
        InvalidInputError: The cadence cannot be read, or makes more parts.
    """
    found: list[Period] = []
    for start, last in _iterate_parts(period.start, cadence):
        if start > period.end:
            break
        if len(found) == max_parts:
            raise InvalidInputError(
                f"{cadence} cuts {period} into more than {max_parts} parts: write a longer one."
            )
        found.append(Period(start=start, end=min(last, period.end)))
    return tuple(found)


def restore_full_period(part: Period, since: dt.date, cadence: str) -> Period:
    """Return the whole of what a range that begins with a day has cut at its start or end.

    Args:
        part: one of those that :func:`split_period` has returned.
        since: the first day of the range.
        cadence: the length of a part.
    """
    _, unit = parse(cadence)
    first = part.start
    if unit == SEASON and first == since and first.year > dt.MINYEAR:
        first = _add_months(since.replace(day=1), -(since.month % 3))
    last = next(last for start, last in _iterate_parts(since, cadence) if start == part.start)
    return Period(start=first, end=last)


def _iterate_parts(first: dt.date, text: str) -> Iterator[tuple[dt.date, dt.date]]:
    """Yield first and last day of one part after the other, from a day on, without end."""
    count, unit = parse(text)
    start = first
    for number in itertools.count(1):
        try:
            following = _add_cadence(first, number * count, unit)
        except (ValueError, OverflowError):
            # ^ the calendar ends with the year 9999
            yield start, dt.date.max
            return
        yield start, following - dt.timedelta(days=1)
        start = following


def _add_cadence(first: dt.date, count: int, unit: str) -> dt.date:
    """Return the day so many units later; the last of a month where that has no such day."""
    if unit in "DW":
        return first + dt.timedelta(days=count * (7 if unit == "W" else 1))
    if unit == SEASON:
        within = first.month % 3
        # ^ months since the season of the first day began
        return _add_months(first.replace(day=1), 3 * count - within)
    return _add_months(first, count * (12 if unit == "Y" else 1))


def _add_months(first: dt.date, count: int) -> dt.date:
    """Return the same day so many months later, or the last one of that month."""
    months = first.month - 1 + count
    year, month = first.year + months // 12, months % 12 + 1
    return dt.date(year, month, min(first.day, calendar.monthrange(year, month)[1]))
