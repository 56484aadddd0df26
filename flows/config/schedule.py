"""Section ``schedule`` of a job: the periods of a series, and when each one is due."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field, InstanceOf, field_validator

from catalogs.errors import InvalidInputError
from flows.config import cadence
from flows.config import period as periods
from flows.config.base import ConfigModel
from flows.config.period import Period

MAX_PERIODS = 5000
"""Largest number of periods in a series."""

_CRON_PATTERN = re.compile(r"\S+( \S+){4}|@(hourly|daily|weekly|monthly|yearly)")


class Schedule(ConfigModel):
    """One product per period, and when a period is ready to be processed."""

    cadence: str = Field(default="P1M", description=f"{cadence.ACCEPTED_FORMATS}")
    since: InstanceOf[dt.date] | None = Field(
        default=None,
        alias="from",
        description="the day that periods are counted from: YYYY, YYYY-MM or YYYY-MM-DD",
    )
    cron: str = Field(
        default="0 6 * * *",
        description='when due periods are looked for, as in "0 6 * * *" (daily at six)',
    )
    timezone: str = Field(
        default="UTC", description="the time zone of cron, as in Europe/Copenhagen"
    )
    latency_days: int = Field(
        default=5,
        ge=0,
        le=366,
        description="days, 0 to 366, until the scenes of a day are in the catalog",
    )
    min_coverage: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="the share of the region, 0 to 1, that the first input's scenes must cover",
    )
    max_wait_days: int = Field(
        default=30,
        ge=0,
        le=3660,
        description="days, 0 to 3660, to wait for more scenes of a period below min_coverage "
        "before it is processed as it is",
    )
    catch_up: int = Field(
        default=12,
        ge=1,
        le=MAX_PERIODS,
        description="how many of the latest periods are checked for missing products",
    )

    @field_validator("cadence")
    @classmethod
    def _check_cadence(cls, value: str) -> str:
        try:
            cadence.parse(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("since", mode="before")
    @classmethod
    def _parse_since(cls, value: Any) -> dt.date | None:
        if value is None or isinstance(value, dt.date):
            return value
        try:
            return periods.parse(str(value)).start
        except InvalidInputError as error:
            raise ValueError(
                f"{value!r} is not a day: write YYYY-MM-DD, YYYY-MM or YYYY."
            ) from error

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        plain = " ".join(value.split())
        if not _CRON_PATTERN.fullmatch(plain):
            raise ValueError(f"{value!r} does not have the five fields of cron, as in '0 6 * * *'.")
        return plain

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}: write UTC or Area/City.") from error
        return value

    def due_periods(self, today: dt.date) -> tuple[Period, ...]:
        """Return the latest complete periods, at most ``catch_up`` of them.

        Args:
            today: The current day in UTC.

        Raises:
            InvalidInputError: The schedule has no ``from``.
        """
        if self.since is None:
            raise InvalidInputError(
                "The job has neither a period nor a day that periods are counted from: write "
                "period: 2024-05-01/2024-09-30 or --period, or add schedule: {from: 2024-01} "
                "(with the cadence, if it is not P1M)."
            )
        return self.complete_periods(self.since, self.cadence, today)[-self.catch_up :]

    def complete_periods(
        self, since: dt.date, cadence_text: str, today: dt.date
    ) -> tuple[Period, ...]:
        """Return the periods that ended at least ``latency_days`` ago.

        Args:
            since: First day of the first period.
            cadence_text: Cadence of the periods.
            today: The current day in UTC.

        Raises:
            InvalidInputError: The cadence cannot be read, or gives too many periods.
        """
        last = today - dt.timedelta(days=self.latency_days + 1)
        if last < since:
            return ()
        day_after = last + dt.timedelta(days=1)
        parts = cadence.split_period(
            Period(start=since, end=day_after), cadence_text, max_parts=MAX_PERIODS
        )
        return tuple(part for part in parts if part.end <= last)
        # ^ an unfinished period is cut at the day after, and thus left out

    def is_awaiting_scenes(self, period: Period, today: dt.date) -> bool:
        """Return whether more scenes of a period may still arrive."""
        return today <= period.end + dt.timedelta(days=self.latency_days + self.max_wait_days)
