"""Schema of a provider table: asset names, radiometry and hosts of one catalog."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from catalogs.sensors import SENSORS, describe_unknown_sensor

AssetNames = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""Asset names in order of preference; a single name may be a plain string."""

_HOST = re.compile(r"(?:[a-z0-9-]+\.)*[a-z0-9-]+(?::\d+)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class _FrozenModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(_FrozenModel):
    """Access to the objects of an S3 bucket."""

    access: Literal["keys", "requester-pays", "public"] = "keys"
    """keys: the worker's credentials; requester-pays: the same, billed to the reader; public."""

    endpoint: str | None = None
    """Host of an object store other than Amazon's, with path-style URLs."""

    region: str | None = None

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else _normalise_host(value)


class ProviderCollection(_FrozenModel):
    """One collection: its modality, asset names and radiometry."""

    modality: str
    """Name of its sensor, a key of sensors.SENSORS."""

    names: dict[str, AssetNames]
    """Band -> asset names."""

    offset: Literal["stated-or-baseline", "baseline", "removed"] | float = "stated-or-baseline"
    """Reflectance offset of Sentinel-2. stated-or-baseline: as the asset states, else as the
    processing baseline implies; baseline: as the baseline implies; removed: none, whatever is
    stated; or a number for every scene."""

    scale: float | None = None
    """Scale of the stored values, whatever item and file state."""

    unit: Literal["power", "dB"] | None = None
    """Unit of Sentinel-1 where the item states none."""

    nodata: float | None = None
    """Stored value of pixels without data, in files without a nodata tag."""

    @field_validator("modality")
    @classmethod
    def _check_modality(cls, value: str) -> str:
        if value not in SENSORS:
            raise ValueError(describe_unknown_sensor(value).rstrip("."))
        return value

    @field_validator("offset", mode="before")
    @classmethod
    def _check_offset(cls, value: Any) -> Any:
        if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{value!r} is no offset")
            # ^ pydantic collects ValueErrors only
        return value

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: float | None) -> float | None:
        if value is not None and (value == 0 or not math.isfinite(value)):
            raise ValueError(f"{value!r} is no scale: it is a number other than 0")
        return value

    def model_post_init(self, _context: Any) -> None:
        """Refuse bands that the modality does not have."""
        bands = SENSORS[self.modality].bands
        unknown = [band for band in self.names if band not in bands]
        if unknown or not self.names:
            raise ValueError(
                f"{', '.join(unknown) or 'no name'} among the names of {self.modality}; its "
                f"bands are {', '.join(bands)}"
            )


class Provider(_FrozenModel):
    """One catalog and its conventions."""

    name: str = Field(min_length=1)
    """Name of the provider; that of the file without its suffix."""

    file: str | None = None
    """Path of a user's own table; None for a built-in one."""

    api: str | None = Field(default=None, pattern=r"^https?://")
    """URL of its STAC API; None where the job always names the catalog."""

    collections_by_id: dict[str, ProviderCollection] = Field(alias="collections", min_length=1)
    """By collection id."""

    hosts: tuple[str, ...] = ()
    """Hosts that its assets may be read from, https only."""

    buckets: dict[str, Bucket] = {}
    """S3 buckets that its assets may be read from."""

    mirrors: dict[str, str] = {}
    """Prefix of s3 hrefs -> prefix of the public https URLs of the same objects."""

    hrefs: Literal["stated", "s3", "https"] = "stated"
    """Which href is used of an asset with alternates: its own, or that of the scheme."""

    signing: Literal["none", "planetary-computer", "bearer"] = "none"
    """How an https href is signed: not at all, with a SAS token of the Planetary Computer, or
    with the bearer token in the worker's GDAL_HTTP_BEARER."""

    connections: int = Field(default=8, ge=1, le=256)
    """Most concurrent requests, of all workers together."""

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_normalise_host, value))

    @field_validator("buckets")
    @classmethod
    def _check_buckets(cls, value: dict[str, Bucket]) -> dict[str, Bucket]:
        for name in value:
            if not _BUCKET.fullmatch(name):
                raise ValueError(f"{name!r} is no valid name of an S3 bucket")
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
        """Return the argument with which providers.get returns this provider, on a worker too."""
        return self.file or self.name

    @property
    def collections_by_modality(self) -> dict[str, tuple[str, ...]]:
        """Return the collection ids by modality."""
        grouped: dict[str, tuple[str, ...]] = {}
        for name, collection in self.collections_by_id.items():
            grouped[collection.modality] = (*grouped.get(collection.modality, ()), name)
        return grouped


def _normalise_host(value: str) -> str:
    host = value.lower()
    if not _HOST.fullmatch(host):
        raise ValueError(f"{value!r} is no host: write the name alone, as in data.example.org")
    return host
