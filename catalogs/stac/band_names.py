"""The bands that assets, their descriptions and their files name; they must not contradict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catalogs.stac.parsing import UnusableItemError, format_value, get_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_COMMON_NAMES = {
    "coastal": ("B01",),
    "blue": ("B02",),
    "green": ("B03",),
    "red": ("B04",),
    "rededge": ("B05", "B06", "B07", "B8A"),
    "rededge1": ("B05",),
    "rededge2": ("B06",),
    "rededge3": ("B07",),
    "rededge071": ("B05",),
    "rededge075": ("B06",),
    "rededge078": ("B07",),
    "nir": ("B08", "B8A"),
    "nir08": ("B08", "B8A"),
    "nir09": ("B09",),
    "cirrus": ("B10",),
    "swir16": ("B11",),
    "swir22": ("B12",),
}
"""Common names of STAC's eo extension -> bands of Sentinel-2 that catalogs give them to."""

_BAND = re.compile(r"B(0?[1-9]|1[0-2]|8A)|SCL|VV|VH|HH|HV", re.ASCII | re.IGNORECASE)
_RESOLUTION = re.compile(r"_\d{2}m", re.ASCII)
_BAND_IN_FILE_NAME = re.compile(
    r"(?:^|[_.(-])(B(?:0[1-9]|1[0-2]|8A)|SCL|VV|VH|HH|HV)(?=[_.-]|$)", re.ASCII | re.IGNORECASE
)
# ^ after a bracket, too: OData names files Nodes(B04.jp2)


def find_bands(name: object) -> frozenset[str]:
    """Return the bands that a name may denote; an empty set where it is no band's name."""
    text = _RESOLUTION.sub("", str(name).strip())
    if not _BAND.fullmatch(text):
        return frozenset(_COMMON_NAMES.get(text.lower(), ()))
    code = text.upper()
    return frozenset({code if code.startswith("B8A") or code[0] != "B" else f"B{code[1:]:0>2}"})


def check_asset(item: Mapping[str, Any], asset: Mapping[str, Any], band: str) -> None:
    """Raise where an asset describes another band than the one that it is named for.

    What its key in the item denotes counts, as a provider table may map an asset to another band
    on purpose.

    Args:
        item: A STAC item.
        asset: One of its assets.
        band: The band of terramosaic that it is used for.

    Raises:
        UnusableItemError: Its ``eo:bands`` or ``bands``, or the name of its file, is clearly
            another band's.
    """
    if not find_bands(band):
        return
    name = next(key for key, entry in item["assets"].items() if entry is asset)
    expected = find_bands(name) or {band}
    stated = [label for label in _iterate_names(asset) if find_bands(label)]
    if stated and not any(find_bands(label) & expected for label in stated):
        raise UnusableItemError(
            f"the bands of its asset {format_value(name)} name {format_value(stated[0])}, which "
            f"is not {band}"
        )
    path = urlsplit(str(asset.get("href"))).path.removesuffix("/$value")
    file_name = path.rpartition("/")[2]
    in_file = {match.upper() for match in _BAND_IN_FILE_NAME.findall(file_name)}
    if len(in_file) == 1 and not in_file & expected:
        raise UnusableItemError(
            f"its asset {format_value(name)} refers to {format_value(file_name)}, a file of "
            f"{in_file.pop()} and not of {band}"
        )


def _iterate_names(asset: Mapping[str, Any]) -> Iterator[object]:
    for key in ("bands", "eo:bands"):
        for entry in get_list(asset, key)[:1]:
            if hasattr(entry, "get"):
                yield from filter(
                    None, (entry.get(k) for k in ("name", "common_name", "eo:common_name"))
                )
