"""The catalogs we know: where they are, what they call things, and what their numbers mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalogs.errors import Wrong
from catalogs.scene import BANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIRST_OFFSET_BASELINE = (4, 0)
"""Baseline from which ESA adds 1000 to every Sentinel-2 digital number.

source: Sentinel-2 processing baseline 04.00, products of 25 January 2022 and later.
"""

BASELINE_OFFSET = -0.1
"""Reflectance to add where that 1000 is still in the pixels."""

SIGNINGS = ("none", "planetary-computer", "environment")
"""How an href becomes readable: as it is, by a SAS token, by the worker's own credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """The reflectance offset of one asset, and how sure we are of it."""

    value: float

    doubt: str | None = None
    """What the catalog left open or contradicts, in words for the report."""


if TYPE_CHECKING:
    OffsetRule = Callable[[Mapping[str, Any], float | None, str | None], Offset]
    # ^ (item, offset stated for the asset, processing baseline) -> offset that holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One catalog and its conventions."""

    name: str

    api: str | None
    """Address of the STAC API; None where the catalog is always a file."""

    hosts: tuple[str, ...]
    """Hosts that its assets may lie on, https only."""

    buckets: tuple[str, ...] = ()
    """S3 buckets that its assets may lie in, read with the worker's credentials."""

    mirrors: Mapping[str, str] = field(default_factory=dict)
    """Start of an s3 href -> start of the public https address of the same object."""

    collections: Mapping[str, tuple[str, ...]]
    """Modality -> collection ids."""

    names: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Modality -> our band -> asset names, the best first."""

    offset: OffsetRule

    radar_nodata: float | None = None
    """Stored value for "not seen" in Sentinel-1 where the item does not say."""

    signing: str = "none"
    """One of SIGNINGS."""

    connections: int
    """Requests that may be under way at once, all workers together."""

    def __post_init__(self) -> None:
        if self.signing not in SIGNINGS:
            raise ValueError(f"Provider {self.name}: unknown signing {self.signing!r}.")
        if self.connections < 1:
            raise ValueError(f"Provider {self.name}: {self.connections} connections.")
        for modality, names in self.names.items():
            if not set(names) <= set(BANDS[modality]):
                raise ValueError(f"Provider {self.name}: unknown bands among {sorted(names)}.")

    def modality_of(self, collection: str) -> str | None:
        """Return the modality that a collection serves, or None."""
        for modality, ids in self.collections.items():
            if collection in ids:
                return modality
        return None


def number_of(baseline: str | None) -> tuple[int, int] | None:
    """Return a baseline such as "05.10", "N0510" or "4.0" as numbers; None where it is none."""
    found = re.fullmatch(r"N?(\d{1,2})\.?(\d{1,2})", baseline or "")
    return None if found is None else (int(found[1]), int(found[2]))


def stated_or_baseline(
    item: Mapping[str, Any], stated: float | None, baseline: str | None
) -> Offset:
    """Take what the asset states, else what the processing baseline implies."""
    del item
    number = number_of(baseline)
    if stated is not None:
        return Offset(value=stated)
    if number is None:
        return Offset(value=0.0, doubt="states neither an offset nor a baseline: taken as 0")
    return Offset(value=BASELINE_OFFSET if number >= FIRST_OFFSET_BASELINE else 0.0)


def removed_by_earth_search(
    item: Mapping[str, Any], stated: float | None, baseline: str | None
) -> Offset:
    """Ignore the stated offset where Earth Search has already taken it out of the pixels.

    Its sentinel-2-l2a pixels are free of the offset although raster:bands still states it;
    its sentinel-2-c1-l2a pixels are as ESA made them.
    """
    if item.get("collection") == "sentinel-2-c1-l2a":
        return stated_or_baseline(item, stated, baseline)
    applied = item.get("properties", {}).get("earthsearch:boa_offset_applied")
    if applied is True or not stated:
        return Offset(value=0.0)
    # ^ the flag is known to be false on items whose pixels are free of it all the same
    return Offset(
        value=0.0,
        doubt=f"earthsearch:boa_offset_applied is {applied} beside an offset of {stated:g}: "
        "taken as removed, as in the rest of the collection",
    )


def _itself(bands: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {band: (band,) for band in bands}


def _at_resolutions(resolutions: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Return names such as B02_10m, the finest first."""
    return {
        band: tuple(f"{band}_{metres}m" for metres in sizes) for band, sizes in resolutions.items()
    }


_RADAR: dict[str, tuple[str, ...]] = {"VV": ("vv",), "VH": ("vh",)}

_PLANETARY_COMPUTER_COLLECTIONS = {
    "S2L2A": ("sentinel-2-l2a",),
    "S1RTC": ("sentinel-1-rtc",),
    "S1GRD": ("sentinel-1-grd",),
    "DEM": ("cop-dem-glo-30",),
}

_PLANETARY_COMPUTER_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "S2L2A": _itself(BANDS["S2L2A"]),
    "S1RTC": _RADAR,
    "S1GRD": _RADAR,
    "DEM": {"DEM": ("data",)},
}

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            name="planetary-computer",
            api="https://planetarycomputer.microsoft.com/api/stac/v1",
            hosts=(
                "sentinel2l2a01.blob.core.windows.net",
                "sentinel1euwest.blob.core.windows.net",
                "sentinel1euwestrtc.blob.core.windows.net",
                "elevationeuwest.blob.core.windows.net",
            ),
            collections=_PLANETARY_COMPUTER_COLLECTIONS,
            names=_PLANETARY_COMPUTER_NAMES,
            offset=stated_or_baseline,
            radar_nodata=-32768.0,
            signing="planetary-computer",
            connections=32,
        ),
        Provider(
            name="earth-search",
            api="https://earth-search.aws.element84.com/v1",
            hosts=(
                "sentinel-cogs.s3.us-west-2.amazonaws.com",
                "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
                "copernicus-dem-30m.s3.eu-central-1.amazonaws.com",
            ),
            mirrors={
                "s3://copernicus-dem-30m/": (
                    "https://copernicus-dem-30m.s3.eu-central-1.amazonaws.com/"
                ),
            },
            # ^ public over https, so nobody needs an account for it
            collections={
                "S2L2A": ("sentinel-2-l2a", "sentinel-2-c1-l2a"),
                # ^ neither is complete; select counts a scene that is in both once
                "S1GRD": ("sentinel-1-grd",),
                "DEM": ("cop-dem-glo-30",),
            },
            names={
                "S2L2A": {
                    "B01": ("coastal",),
                    "B02": ("blue",),
                    "B03": ("green",),
                    "B04": ("red",),
                    "B05": ("rededge1",),
                    "B06": ("rededge2",),
                    "B07": ("rededge3",),
                    "B08": ("nir",),
                    "B8A": ("nir08",),
                    "B09": ("nir09",),
                    "B11": ("swir16",),
                    "B12": ("swir22",),
                    "SCL": ("scl",),
                },
                "S1GRD": _RADAR,
                "DEM": {"DEM": ("data",)},
            },
            offset=removed_by_earth_search,
            connections=32,
        ),
        Provider(
            name="cdse",
            api="https://stac.dataspace.copernicus.eu/v1",
            hosts=(),
            buckets=("eodata",),
            collections={"S2L2A": ("sentinel-2-l2a",), "S1GRD": ("sentinel-1-grd",)},
            names={
                "S2L2A": _at_resolutions(
                    {
                        "B01": (20, 60),
                        "B02": (10, 20, 60),
                        "B03": (10, 20, 60),
                        "B04": (10, 20, 60),
                        "B05": (20, 60),
                        "B06": (20, 60),
                        "B07": (20, 60),
                        "B08": (10,),
                        "B8A": (20, 60),
                        "B09": (60,),
                        "B11": (20, 60),
                        "B12": (20, 60),
                        "SCL": (20, 60),
                    }
                ),
                "S1GRD": _RADAR,
            },
            offset=stated_or_baseline,
            signing="environment",
            connections=4,
            # ^ source: CDSE quotas, at most 4 connections at a time for one user
        ),
        Provider(
            name="demo",
            api=None,
            hosts=(),
            collections=_PLANETARY_COMPUTER_COLLECTIONS,
            names=_PLANETARY_COMPUTER_NAMES,
            offset=stated_or_baseline,
            radar_nodata=-32768.0,
            connections=32,
        ),
    )
}
"""Every known catalog by name. The demo catalog follows Planetary Computer's conventions."""


def get(name: str) -> Provider:
    """Return the provider of that name.

    Raises:
        Wrong: There is none.
    """
    if name not in PROVIDERS:
        raise Wrong(
            f"Unknown catalog {name!r}: use one of {', '.join(PROVIDERS)}, or name a catalog file "
            "as {path: catalog.json, provider: planetary-computer}."
        )
    return PROVIDERS[name]
