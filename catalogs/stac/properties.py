"""The names of an acquisition, in every dialect of STAC that catalogs have written since 0.8."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from catalogs import providers
from catalogs.scene import ORBIT_STATES
from catalogs.stac.radiometry import UnusableItemError, format_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Item = Mapping[str, Any]

VALID_YEARS = range(1970, 2200)
"""Years in which Earth can have been seen, by any clock that is right."""

_MGRS_CODE = re.compile(r"(?:MGRS-|T)?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})", re.ASCII)
_MGRS_CODE_IN_NAME = re.compile(
    r"(?:^|_)T?(\d{2})([C-HJ-NP-X])([A-HJ-NP-Z]{2})(?:_|\.|$)", re.ASCII
)
# ^ two digits here: 1SDV in the name of a Sentinel-1 product is no cell
_BASELINE_IN_NAME = re.compile(r"_N(\d{4})_|_N(\d\d\.\d\d)$", re.ASCII)
_ORBIT_IN_NAME = re.compile(r"_R(\d{3})_", re.ASCII)
_PLATFORM = re.compile(r"(?:SENTINEL-?|S)([12])-?([A-D])(?:_.*)?", re.ASCII | re.IGNORECASE)
_LEAP_SECOND = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d):60(?:\.\d+)?(Z|[+-]\d\d:?\d\d)", re.ASCII
)


def read_datetime(item: Item) -> dt.datetime | None:
    """Return the time of sensing in UTC: datetime, else start_datetime, else None.

    Raises:
        Unusable: It is stated but is no time with a zone.
    """
    properties = item["properties"]
    for key in ("datetime", "start_datetime"):
        if properties.get(key) is not None:
            return parse_timestamp(properties[key])
    return None


def parse_timestamp(timestamp: object) -> dt.datetime:
    """Return an RFC 3339 time stamp in UTC.

    A leap second (23:59:60 UTC) is the first moment of the next day: the clocks of Python, numpy
    and GDAL have no other place for it. A stamp without a zone is refused, because STAC wants
    RFC 3339 and no catalog at hand writes one: whoever does may mean local time.

    Raises:
        Unusable: It is no such stamp.
    """
    text = timestamp.upper() if isinstance(timestamp, str) else ""
    leap = _LEAP_SECOND.fullmatch(text)
    try:
        found = dt.datetime.fromisoformat(f"{leap[1]}:59{leap[2]}" if leap else text)
        if found.tzinfo is not None:
            found = found.astimezone(dt.UTC) + dt.timedelta(seconds=1 if leap else 0)
    except (ValueError, OverflowError) as error:
        raise UnusableItemError(f"its time {format_value(timestamp)} is no time") from error
    if found.tzinfo is None:
        raise UnusableItemError(
            f"its time {format_value(timestamp)} has no zone, so it could be any of 26 hours"
        )
    if leap and found.time() != dt.time.min:
        raise UnusableItemError(
            f"its time {format_value(timestamp)} is no time: leap seconds end a day of UTC"
        )
    if found.year not in VALID_YEARS:
        raise UnusableItemError(
            f"its time {format_value(timestamp)} is of no year in which satellites flew"
        )
    return found


def read_processing_time(item: Item) -> tuple[dt.datetime | None, str | None]:
    """Return the time of processing in UTC, and a doubt where it is stated but is none."""
    keys = ("s2:generation_time", "processing:datetime", "s1:processing_datetime")
    stamp = next((one for key in keys if (one := item["properties"].get(key)) is not None), None)
    try:
        return (None if stamp is None else parse_timestamp(stamp)), None
    except UnusableItemError as error:
        return None, f"time of processing ignored: {error}"


def read_platform(item: Item) -> str | None:
    """Return the satellite as sentinel-2a, however it is written, or from the product's name."""
    properties = item["properties"]
    stated = _first_text(properties, "platform", "eo:platform")
    short = _PLATFORM.fullmatch(stated or next(_product_names(item), ""))
    return f"sentinel-{short[1]}{short[2]}".lower() if short else stated and stated.lower()


def read_datatake(item: Item) -> str | None:
    """Return the id of the datatake."""
    return _first_text(item["properties"], "s2:datatake_id", "eopf:datatake_id", "s1:datatake_id")


def read_mgrs_code(item: Item) -> str | None:
    """Return the MGRS cell as 01CCV, two digits always; else the cell that the item names."""
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
    cells = [
        found for one in stated if isinstance(one, str) and (found := _MGRS_CODE.fullmatch(one))
    ]
    cells += [found for name in _product_names(item) if (found := _MGRS_CODE_IN_NAME.search(name))]
    if cells:
        zone, band, square = cells[0].groups()
        return f"{int(zone):02d}{band}{square}"
    return _first_text(properties, "grid:code")


def read_baseline(item: Item) -> str | None:
    """Return Sentinel-2's processing baseline as 05.10."""
    properties = item["properties"]
    keys = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
    stated = [str(properties[key]) for key in keys if properties.get(key) is not None]
    names = (*_product_names(item), read_datatake(item) or "")
    stated += [found[1] or found[2] for name in names if (found := _BASELINE_IN_NAME.search(name))]
    numbers = [known for one in stated if (known := providers.parse_baseline(one)) is not None]
    return f"{numbers[0][0]:02d}.{numbers[0][1]:02d}" if numbers else None


def read_orbit_state(item: Item) -> str | None:
    """Return ascending or descending."""
    state = (_first_text(item["properties"], "sat:orbit_state") or "").lower()
    return state if state in ORBIT_STATES else None


def read_relative_orbit(item: Item) -> int | None:
    """Return the relative orbit, 1 to 175; 143 is Sentinel-2's last one and 175 Sentinel-1's."""
    stated = str(item["properties"].get("sat:relative_orbit"))
    found = re.fullmatch(r"(\d{1,3})(?:\.0)?", stated, re.ASCII) or next(
        filter(None, map(_ORBIT_IN_NAME.search, _product_names(item))), None
    )
    return int(found[1]) if found and 1 <= int(found[1]) <= 175 else None


def read_cloud_cover(item: Item) -> float | None:
    """Return percent, or None where it is not stated, is no percentage, or is said to be wrong."""
    properties = item["properties"]
    value = properties.get("eo:cloud_cover")
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or properties.get("sentinel:valid_cloud_cover") is False:
        return None
    return float(value) if 0 <= value <= 100 else None


def _product_names(item: Item) -> Iterator[str]:
    """Yield the product's names, ESA's own before the catalog's."""
    properties = item["properties"]
    for name in (
        properties.get("s2:product_uri"),
        properties.get("sentinel:product_id"),
        item["id"],
    ):
        if isinstance(name, str):
            yield name


def _first_text(properties: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first that is stated, as text that can be printed."""
    stated = (properties.get(key) for key in keys)
    texts = (str(one) for one in stated if isinstance(one, str | int) and one != "")
    return next((text for text in texts if text.isprintable() and len(text) <= 200), None)
