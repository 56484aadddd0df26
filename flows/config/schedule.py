"""The group of keys that says in which rhythm a job's products follow one another."""

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
"""Periods of a series at most."""

_CRON_PATTERN = re.compile(r"\S+( \S+){4}|@(hourly|daily|weekly|monthly|yearly)")


class Schedule(ConfigModel):
    """One product per period, and when a period is ready to be made."""

    cadence: str = Field(default="P1M", description=f"{cadence.ACCEPTED_FORMATS}")
    since: InstanceOf[dt.date] | None = Field(
        default=None,
        alias="from",
        description="the day that periods are counted from: YYYY, YYYY-MM or YYYY-MM-DD",
    )
    cron: str = Field(
        default="0 6 * * *",
        description='when it is looked for periods to make, as in "0 6 * * *" (daily at six)',
    )
    timezone: str = Field(default="UTC", description="of cron, as in Europe/Copenhagen")
    latency_days: int = Field(
        default=5,
        ge=0,
        le=366,
        description="days, 0 to 366, after which the scenes of a day are in the catalog",
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
        description="days that a thin period is waited for before it is made as it is, 0 to 3660",
    )
    catch_up: int = Field(
        default=12,
        ge=1,
        le=MAX_PERIODS,
        description="how many of the latest periods are looked at, so that missed ones are made",
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
            raise ValueError(f"{value!r} is no day: write YYYY-MM-DD, YYYY-MM or YYYY.") from error

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        plain = " ".join(value.split())
        if not _CRON_PATTERN.fullmatch(plain):
            raise ValueError(f"{value!r} has not the five fields of cron, as in '0 6 * * *'.")
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
        """Return the latest whole periods whose scenes should all be in the catalog by a day.

        Args:
            today: the day in UTC.

        Raises:
            InvalidInputError: the job does not say from which day periods are counted.
        """
        if self.since is None:
            raise InvalidInputError(
                "The job names no period, nor the day from which periods are counted: write "
                "period: 2024-05-01/2024-09-30 or --period, or add schedule: {from: 2024-01} "
                "(with the cadence, if it is not P1M)."
            )
        found = self.complete_periods(self.since, self.cadence, today)
        return found[-self.catch_up :]

    def complete_periods(
        self, since: dt.date, cadence_text: str, today: dt.date
    ) -> tuple[Period, ...]:
        """Return the whole periods from a day on whose scenes should all be in the catalog.

        Args:
            since: the first day of the first one.
            cadence_text: their cadence.
            today: the day in UTC.

        Raises:
            InvalidInputError: the cadence cannot be read, or makes too many periods.
        """
        last = today - dt.timedelta(days=self.latency_days + 1)
        if last < since:
            return ()
        over = last + dt.timedelta(days=1)
        parts = cadence.split_period(
            Period(start=since, end=over), cadence_text, max_parts=MAX_PERIODS
        )
        return tuple(part for part in parts if part.end <= last)
        # ^ of those that have ended by then only whole ones: the day after cuts what has not

    def is_awaiting_scenes(self, period: Period, today: dt.date) -> bool:
        """Tell whether more scenes of a period are still waited for."""
        return today <= period.end + dt.timedelta(days=self.latency_days + self.max_wait_days)
