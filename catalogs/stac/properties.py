"""Time, platform, tile, orbit and baseline of an item, as STAC 0.8 to 1.1 names them."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from catalogs import providers
from catalogs.scene import ORBIT_STATES
from catalogs.stac.parsing import UnusableItemError, format_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Item = Mapping[str, Any]
    TimeRange = tuple[dt.datetime, dt.datetime]

VALID_YEARS = range(1970, 2200)
"""Years of acquisition that are accepted."""

MAX_ACQUISITION_TIME = dt.timedelta(days=1)
"""Longest time range of an item that describes one acquisition rather than a mosaic of several."""

_MGRS_CODE = re.compile(r"(?:MGRS-|T)?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})", re.ASCII)
_MGRS_CODE_IN_NAME = re.compile(
    r"(?:^|_)T?(\d{2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})(?:_|\.|$)", re.ASCII
)
# ^ two digits are required here: 1SDV in the name of a Sentinel-1 product is no MGRS tile
_BASELINE_IN_NAME = re.compile(r"_N(\d{4})_|_N(\d\d\.\d\d)$", re.ASCII)
_ORBIT_IN_NAME = re.compile(r"_R(\d{3})_", re.ASCII)
_PLATFORM = re.compile(r"(?:SENTINEL-?|S)([12])-?([A-D])(?:_.*)?", re.ASCII | re.IGNORECASE)
_TIME_IN_NAME = re.compile(
    r"(?:S2[A-D]_MSIL\d[A-Z]|S1[A-D]_\w\w_\w{4}_\w{4})_(\d{8}T\d{6})_"
    r"|(?:S2[A-D]_T?\d{1,2}[A-Z]{3}|S1[A-D])_(\d{8})[T_]",
    re.ASCII,
)
# ^ names of ESA; of Earth Search and of Indigo. The first time in older names, S2A_OPER_..., is
# that of processing
_LEAP_SECOND = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d):60(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)", re.ASCII
)


def read_datetime(item: Item) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else the start of the range, else None.

    Raises:
        UnusableItemError: It is stated, but is no time with a zone.
    """
    if item["properties"].get("datetime") is not None:
        return parse_timestamp(item["properties"]["datetime"])
    return min(_read_time_range(item), default=None)


def describe_time_range(item: Item) -> str | None:
    """Return a caveat where the time is that of a range which is reversed or no acquisition's."""
    if item["properties"].get("datetime") is not None:
        return None
    times = _read_time_range(item)
    if times != sorted(times):
        return "start_datetime is after end_datetime: the earlier one is taken as the time"
    if times and times[-1] - times[0] > MAX_ACQUISITION_TIME:
        return f"covers {times[0]:%Y-%m-%d} to {times[-1]:%Y-%m-%d}: counts on its first day"
    return None


def _read_time_range(item: Item) -> list[dt.datetime]:
    """Return start_datetime and end_datetime, as far as they are stated.

    An end that is no time is ignored where there is a start.
    """
    start, end = (item["properties"].get(key) for key in ("start_datetime", "end_datetime"))
    times = [] if start is None else [parse_timestamp(start)]
    if end is not None:
        try:
            times.append(parse_timestamp(end))
        except UnusableItemError:
            if not times:
                raise
    return times


def parse_timestamp(timestamp: object) -> dt.datetime:
    """Return an RFC 3339 timestamp as a time in UTC.

    A leap second (23:59:60 UTC) becomes the first moment of the next day, as Python, numpy and
    GDAL cannot represent it. A timestamp without a zone is refused: STAC requires RFC 3339, and a
    catalog that leaves the zone out may mean local time.

    Raises:
        UnusableItemError: It is no such timestamp.
    """
    text = timestamp.upper() if isinstance(timestamp, str) else ""
    leap = _LEAP_SECOND.fullmatch(text)
    try:
        time = dt.datetime.fromisoformat(f"{leap[1]}:59{leap[2]}" if leap else text)
        if time.tzinfo is not None:
            time = time.astimezone(dt.UTC) + dt.timedelta(seconds=1 if leap else 0)
    except (ValueError, OverflowError) as error:
        raise UnusableItemError(f"its time {format_value(timestamp)} is no time") from error
    if time.tzinfo is None:
        raise UnusableItemError(f"its time {format_value(timestamp)} has no time zone")
    if leap and time.time() != dt.time.min:
        raise UnusableItemError(
            f"its time {format_value(timestamp)} is no time: a leap second ends a UTC day"
        )
    if time.year not in VALID_YEARS:
        raise UnusableItemError(
            f"its time {format_value(timestamp)} is not within the years "
            f"{VALID_YEARS.start} to {VALID_YEARS.stop - 1}"
        )
    return time


def read_product_days(item: Item) -> TimeRange | None:
    """Return the first and last moment of sensing that the name of the product allows, UTC.

    The name holds the time at which the datatake began, or its day only; a day on either side
    allows for the length of a datatake and for days of another time zone.
    """
    for name in _product_names(item):
        match = _TIME_IN_NAME.search(name)
        if match is None:
            continue
        try:
            start = dt.datetime.strptime((match[1] or match[2])[:8], "%Y%m%d").replace(
                tzinfo=dt.UTC
            )
        except ValueError:
            continue
        return start - dt.timedelta(days=1), start + dt.timedelta(days=2)
    return None


def check_datetime(item: Item, time: dt.datetime | None) -> None:
    """Raise where the time of sensing contradicts the name of the product.

    Raises:
        UnusableItemError: They differ by more than a day.
    """
    days = read_product_days(item)
    if days is None or time is None or days[0] <= time <= days[1]:
        return
    day = (days[0] + dt.timedelta(days=1)).date()
    raise UnusableItemError(
        f"its datetime is {time.isoformat().replace('+00:00', 'Z')}, but its product is of {day} "
        "by its name"
    )


def read_processing_time(item: Item) -> tuple[dt.datetime | None, str | None]:
    """Return the time of processing in UTC, and a caveat where the stated one is invalid."""
    keys = ("s2:generation_time", "processing:datetime", "s1:processing_datetime")
    stated = (item["properties"].get(key) for key in keys)
    timestamp = next((value for value in stated if value is not None), None)
    try:
        return (None if timestamp is None else parse_timestamp(timestamp)), None
    except UnusableItemError as error:
        return None, f"time of processing ignored: {error}"


def read_platform(item: Item) -> str | None:
    """Return the satellite in the form sentinel-2a, from the properties or the product's name."""
    properties = item["properties"]
    stated = _first_text(properties, "platform", "eo:platform")
    match = _PLATFORM.fullmatch(stated or next(_product_names(item), ""))
    return f"sentinel-{match[1]}{match[2]}".lower() if match else stated and stated.lower()


def read_datatake(item: Item) -> str | None:
    """Return the id of the datatake."""
    return _first_text(item["properties"], "s2:datatake_id", "eopf:datatake_id", "s1:datatake_id")


def read_mgrs_code(item: Item) -> str | None:
    """Return the MGRS tile with two digits (01CCV); else whatever grid:code states."""
    properties = item["properties"]
    parts = (
        [properties.get(key) for key in keys]
        for keys in (
            ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square"),
            ("sentinel:utm_zone", "sentinel:latitude_band", "sentinel:grid_square"),
        )
    )
    stated = [
        *(properties.get(key) for key in ("s2:mgrs_tile", "s2:tile", "sentinel:mgrs", "grid:code")),
        *("".join(map(str, part)) for part in parts if None not in part),
    ]
    matches = [
        match for code in stated if isinstance(code, str) and (match := _MGRS_CODE.fullmatch(code))
    ]
    matches += [
        match for name in _product_names(item) if (match := _MGRS_CODE_IN_NAME.search(name))
    ]
    if matches:
        zone, band, square = matches[0].groups()
        return f"{int(zone):02d}{band}{square}"
    return _first_text(properties, "grid:code")


def read_baseline(item: Item) -> str | None:
    """Return Sentinel-2's processing baseline in the form 05.10."""
    properties = item["properties"]
    keys = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
    stated = [str(properties[key]) for key in keys if properties.get(key) is not None]
    names = (*_product_names(item), read_datatake(item) or "")
    stated += [match[1] or match[2] for name in names if (match := _BASELINE_IN_NAME.search(name))]
    numbers = [pair for text in stated if (pair := providers.parse_baseline(text)) is not None]
    return f"{numbers[0][0]:02d}.{numbers[0][1]:02d}" if numbers else None


def read_orbit_state(item: Item) -> str | None:
    """Return ascending or descending."""
    state = (_first_text(item["properties"], "sat:orbit_state") or "").lower()
    return state if state in ORBIT_STATES else None


def read_relative_orbit(item: Item) -> int | None:
    """Return the relative orbit: 1 to 143 of Sentinel-2, 1 to 175 of Sentinel-1."""
    stated = str(item["properties"].get("sat:relative_orbit"))
    match = re.fullmatch(r"(\d{1,3})(?:\.0)?", stated, re.ASCII) or next(
        filter(None, map(_ORBIT_IN_NAME.search, _product_names(item))), None
    )
    return int(match[1]) if match and 1 <= int(match[1]) <= 175 else None


def read_cloud_cover(item: Item) -> float | None:
    """Return the cloud cover in percent; None where it is missing or invalid."""
    properties = item["properties"]
    value = properties.get("eo:cloud_cover")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or properties.get("sentinel:valid_cloud_cover") is False:
        return None
    return float(value) if 0 <= value <= 100 else None


def _product_names(item: Item) -> Iterator[str]:
    """Yield the names of the product: ESA's before the catalog's."""
    properties = item["properties"]
    for name in (
        properties.get("s2:product_uri"),
        properties.get("sentinel:product_id"),
        item["id"],
    ):
        if isinstance(name, str):
            yield name


def _first_text(properties: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first property that holds printable text."""
    stated = (properties.get(key) for key in keys)
    texts = (str(value) for value in stated if isinstance(value, str | int) and value != "")
    return next((text for text in texts if text.isprintable() and len(text) <= 200), None)
