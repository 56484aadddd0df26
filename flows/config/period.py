"""Period: the range of days that one product describes."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from dataclasses import dataclass

from catalogs.errors import InvalidInputError

ACCEPTED_FORMATS = "YYYY-MM-DD/YYYY-MM-DD, YYYY-MM/YYYY-MM, YYYY-MM-DD, YYYY-MM or YYYY"
"""Accepted forms of a period."""

_TIMESTAMP_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt\s].*")

_DATE_PATTERN = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Range of whole days in UTC, both ends inclusive."""

    start: dt.date
    """First day."""

    end: dt.date
    """Last day, inclusive."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise InvalidInputError(
                f"The period ends ({self.end}) before it starts ({self.start}): "
                f"swap the two dates, as in {self.end}/{self.start}."
            )

    def __str__(self) -> str:
        return f"{self.start}/{self.end}"

    @property
    def interval(self) -> tuple[dt.datetime, dt.datetime]:
        """Return the first and the last instant as aware datetimes in UTC."""
        return (
            dt.datetime.combine(self.start, dt.time.min, dt.UTC),
            dt.datetime.combine(self.end, dt.time(23, 59, 59), dt.UTC),
            # ^ whole seconds: STAC APIs differ in the fractions that they accept
        )


def parse(value: str | int | dt.date) -> Period:
    """Parse a period; a month or a year stands for all of its days.

    A date, and a time as YAML reads it from 2024-05-01T12:00:00Z, stand for their day in UTC; a
    time without a zone is in UTC.

    Raises:
        InvalidInputError: The value has another form, a date does not exist, or the end precedes
            the start.
    """
    text = str(value)
    day = _parse_time(text.strip())
    if day is not None:
        return Period(start=day, end=day)
    sides = [side.strip() for side in text.strip().split("/")]
    if len(sides) > 2:
        raise InvalidInputError(
            f"The period {text!r} has {len(sides)} parts: write {ACCEPTED_FORMATS}."
        )
    start, _ = _parse_side(sides[0], text)
    _, end = _parse_side(sides[-1], text)
    return Period(start=start, end=end)


def _parse_time(text: str) -> dt.date | None:
    """Return the day in UTC of a date with a time; None for other texts."""
    if not _TIMESTAMP_PATTERN.fullmatch(text):
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return time.astimezone(dt.UTC).date() if time.tzinfo else time.date()
    except OverflowError:
        return None


def _parse_side(side: str, text: str) -> tuple[dt.date, dt.date]:
    match = _DATE_PATTERN.fullmatch(side)
    if match is None:
        raise InvalidInputError(
            f"The period {text!r} cannot be read at {side!r}: write {ACCEPTED_FORMATS}."
        )
    year, month, day = (int(part) if part else None for part in match.groups())
    try:
        return _first_and_last_day(year or 0, month, day)
    except ValueError as error:
        raise InvalidInputError(
            f"The period {text!r} names {side!r}, a date that does not exist: "
            f"write {ACCEPTED_FORMATS}."
        ) from error


def _first_and_last_day(year: int, month: int | None, day: int | None) -> tuple[dt.date, dt.date]:
    if month is None:
        return dt.date(year, 1, 1), dt.date(year, 12, 31)
    first = dt.date(year, month, day or 1)
    if day is not None:
        return dt.date(year, month, day), dt.date(year, month, day)
    return first, first.replace(day=calendar.monthrange(year, month)[1])
