"""What a catalog calls things and what its numbers mean: the form of a provider's YAML."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from catalogs.scene import BANDS

AssetNames = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""Asset names, the best first; one name may stand without brackets."""

_HOST = re.compile(r"(?:[a-z0-9-]+\.)*[a-z0-9-]+(?::\d+)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(_FrozenModel):
    """How the objects of an S3 bucket are reached."""

    access: Literal["keys", "requester-pays", "public"] = "keys"
    """With the worker's own credentials, with those and at its own cost, or by anybody."""

    endpoint: str | None = None
    """Host of an object store that is not Amazon's, addressed by path."""

    region: str | None = None

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else _normalise_host(value)


class ProviderCollection(_FrozenModel):
    """One collection: what it holds and by which names."""

    modality: str
    """A key of scene.BANDS."""

    names: dict[str, AssetNames]
    """Our band -> asset names."""

    offset: Literal["stated-or-baseline", "baseline", "removed"] | float = "stated-or-baseline"
    """Sentinel-2's reflectance offset: as the asset states it, else as the processing baseline
    implies; by the baseline alone; already taken out of the pixels whatever is stated; or a
    number that holds for every scene."""

    unit: Literal["power", "dB"] | None = None
    """Of Sentinel-1 where the item states none."""

    nodata: float | None = None
    """Stored value for "not seen" of Sentinel-1 and elevation where the item states none."""

    @field_validator("modality")
    @classmethod
    def _check_modality(cls, value: str) -> str:
        if value not in BANDS:
            raise ValueError(f"unknown modality {value!r}; it is one of {', '.join(BANDS)}")
        return value

    @field_validator("offset", mode="before")
    @classmethod
    def _check_offset(cls, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{value!r} is no offset")
            # ^ pydantic gathers ValueErrors only
        return value

    def model_post_init(self, _context: Any) -> None:
        """Refuse bands that the modality does not have."""
        strangers = [band for band in self.names if band not in BANDS[self.modality]]
        if strangers or not self.names:
            raise ValueError(
                f"{', '.join(strangers) or 'no name'} among the names of {self.modality}; its "
                f"bands are {', '.join(BANDS[self.modality])}"
            )


class Provider(_FrozenModel):
    """One catalog and its conventions."""

    name: str = Field(min_length=1)
    """What it is called; of a user's own table, the file's name without its ending."""

    file: str | None = None
    """Path of the user's table; None for those that come with terramosaic."""

    api: str | None = Field(default=None, pattern=r"^https?://")
    """Address of its STAC API; None where the catalog is always a file."""

    collections_by_id: dict[str, ProviderCollection] = Field(alias="collections", min_length=1)
    """By collection id."""

    hosts: tuple[str, ...] = ()
    """Hosts that its assets may lie on, https only."""

    buckets: dict[str, Bucket] = {}
    """S3 buckets that its assets may lie in."""

    mirrors: dict[str, str] = {}
    """Start of an s3 href -> start of the public https address of the same object."""

    hrefs: Literal["stated", "s3", "https"] = "stated"
    """Which address of an asset is taken where it has alternates: its own, or the one so begun."""

    signing: Literal["none", "planetary-computer", "bearer"] = "none"
    """How an https href becomes readable: as it is, by a SAS token, or by a bearer token that
    GDAL takes from the worker's GDAL_HTTP_BEARER."""

    connections: int = Field(default=8, ge=1, le=256)
    """Requests that may be under way at once, all workers together."""

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_normalise_host, value))

    @field_validator("buckets")
    @classmethod
    def _check_buckets(cls, value: dict[str, Bucket]) -> dict[str, Bucket]:
        for name in value:
            if not _BUCKET.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an S3 bucket")
        return value

    @field_validator("mirrors")
    @classmethod
    def _check_mirrors(cls, value: dict[str, str]) -> dict[str, str]:
        for start, mirror in value.items():
            if not (start.startswith("s3://") and mirror.startswith("https://")):
                raise ValueError(f"{start!r}: {mirror!r} does not lead from s3:// to https://")
            if not (start.endswith("/") and mirror.endswith("/")):
                raise ValueError(f"{start!r}: {mirror!r} must both end with a slash")
        return value

    @property
    def key(self) -> str:
        """Return what providers.get takes for this provider again, on a worker too."""
        return self.file or self.name

    @property
    def collections_by_modality(self) -> dict[str, tuple[str, ...]]:
        """Return the collection ids by modality."""
        grouped: dict[str, tuple[str, ...]] = {}
        for name, holding in self.collections_by_id.items():
            grouped[holding.modality] = (*grouped.get(holding.modality, ()), name)
        return grouped

    def modality_of(self, collection: str) -> str | None:
        """Return the modality that a collection serves, or None."""
        holding = self.collections_by_id.get(collection)
        return None if holding is None else holding.modality


def _normalise_host(value: str) -> str:
    host = value.lower()
    if not _HOST.fullmatch(host):
        raise ValueError(f"{value!r} is no host: write it bare, as in data.example.org")
    return host
