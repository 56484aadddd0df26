"""Section ``schedule`` of a job: the periods of a series, and when they are looked for."""

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

MAX_PERIODS = 5000
"""Largest number of periods in a series."""

_FORMATS_OF_FROM = "YYYY-MM-DD, YYYY-MM or YYYY"

CRON_PATTERN = r"\s*(\S+(\s+\S+){4}|@(hourly|daily|weekly|monthly|yearly))\s*"
"""Regular expression of the five fields of cron, or of a word that stands for them."""


class Schedule(ConfigModel):
    """One product per period, and when a period is ready to be processed."""

    cadence: str = Field(
        title="Length of the periods", default="P1M", description=f"{cadence.ACCEPTED_FORMATS}"
    )
    since: InstanceOf[dt.date] | None = Field(
        title="Begin of the series",
        default=None,
        alias="from",
        description=f"the day that periods are counted from: {_FORMATS_OF_FROM}",
    )
    cron: str = Field(
        title="When due periods are looked for",
        default="0 6 * * *",
        description='when due periods are looked for, as in "0 6 * * *" (daily at six)',
    )
    timezone: str = Field(
        title="Time zone of cron",
        default="UTC",
        description="the time zone of cron, as in Europe/Copenhagen",
    )
    latency_days: int = Field(
        title="Time until scenes are in the catalog",
        default=5,
        ge=0,
        le=366,
        description="days, 0 to 366, until the scenes of a day are in the catalog",
    )
    min_coverage: float = Field(
        title="Coverage with which a period is complete",
        default=0.9,
        ge=0,
        le=1,
        description="the share of the region, 0 to 1, that the first input's scenes must cover",
    )
    max_wait_days: int = Field(
        title="Limit of the time that an incomplete period waits",
        default=30,
        ge=0,
        le=3660,
        description="days, 0 to 3660, to wait for more scenes of a period below min_coverage "
        "before it is processed as it is",
    )
    catch_up: int = Field(
        title="Number of periods that are looked back on",
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
        if value is None:
            return value
        try:
            first = periods.parse(value)
        except InvalidInputError as error:
            raise ValueError(f"{value!r} is not a day: write {_FORMATS_OF_FROM}.") from error
        if "/" in str(value):
            raise ValueError(
                f"{value!r} is a period, and the series begins on a day: write {_FORMATS_OF_FROM}."
            )
        return first.start

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        if not re.fullmatch(CRON_PATTERN, value):
            raise ValueError(f"{value!r} does not have the five fields of cron, as in '0 6 * * *'.")
        return " ".join(value.split())

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}: write UTC or Area/City.") from error
        return value
