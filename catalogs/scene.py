"""One acquisition as the rest of the house sees it: where, when, and what its numbers mean."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNITS = ("reflectance", "power", "dB", "m", "class", "probability")

MASK_BANDS = ("SCL", "CLD")
"""Bands that say what was seen rather than measure it: scene classes, probability of cloud."""

DEFAULT_BANDS: Mapping[str, tuple[str, ...]] = {
    "S2L2A": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "S2L1C": (
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10"),
        *("B11", "B12"),
    ),
    "S1RTC": ("VV", "VH"),
    "S1GRD": ("VV", "VH"),
    "DEM": ("DEM",),
}
"""Bands by modality that are wanted where nobody says which."""

BANDS: Mapping[str, tuple[str, ...]] = {
    **DEFAULT_BANDS,
    "S2L2A": (*DEFAULT_BANDS["S2L2A"], *MASK_BANDS),
    "S1RTC": ("VV", "VH", "HH", "HV"),
    "S1GRD": ("VV", "VH", "HH", "HV"),
}
"""Our band names by modality. Every catalog's own names are translated to these."""

TIMELESS_MODALITIES = ("DEM",)
"""Modalities whose scenes may lack a time."""

ORBIT_STATES = ("ascending", "descending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """How stored numbers become physical ones: stored * scale + offset, in unit."""

    scale: float
    offset: float
    unit: str
    """One of UNITS."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"Unknown unit {self.unit!r}; it is one of {', '.join(UNITS)}.")
        if not math.isfinite(self.scale) or self.scale == 0 or not math.isfinite(self.offset):
            raise ValueError(
                f"Scale {self.scale!r} and offset {self.offset!r} must be finite, "
                "and the scale not zero."
            )
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "offset", float(self.offset))

    def to_dict(self) -> dict[str, Any]:
        """Return the radiometry as JSON-ready values."""
        return {"scale": self.scale, "offset": self.offset, "unit": self.unit}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Radiometry:
        """Build a radiometry from :meth:`to_dict`'s values."""
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One band of a scene, one raster file."""

    band: str
    """Our name of the band, see BANDS."""

    href: str
    """Absolute path or URL, never signed."""

    radiometry: Radiometry

    epsg: int | None = None
    """EPSG code the catalog states, or None where only the file knows."""

    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine a, b, c, d, e, f from (column, row) to (x, y) of a pixel's outer corner."""

    shape: tuple[int, int] | None = None
    """(rows, columns)."""

    nodata: float | None = None
    """Stored value that means nothing was seen; NaN is allowed."""

    checksum: str | None = None
    """Digest of the file as the catalog states it (multihash, hexadecimal)."""

    def __post_init__(self) -> None:
        if not self.href:
            raise ValueError(f"Band {self.band} has an empty href.")
        if self.transform is not None:
            object.__setattr__(self, "transform", _check_transform(self.band, self.transform))
        if self.shape is not None:
            object.__setattr__(self, "shape", _check_shape(self.band, self.shape))
        if self.nodata is not None:
            nodata = float(self.nodata)
            object.__setattr__(self, "nodata", math.nan if math.isnan(nodata) else nodata)
            # ^ one NaN object, so that equal records compare equal inside one process

    def identity(self) -> dict[str, Any]:
        """Return what the pixels are, without where they lie."""
        values = self.to_dict()
        del values["href"]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the asset as JSON-ready values; a NaN becomes the word "nan"."""
        return {
            "band": self.band,
            "href": self.href,
            "radiometry": self.radiometry.to_dict(),
            "epsg": self.epsg,
            "transform": None if self.transform is None else list(self.transform),
            "shape": None if self.shape is None else list(self.shape),
            "nodata": _encode_float(self.nodata),
            "checksum": self.checksum,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Asset:
        """Build an asset from :meth:`to_dict`'s values."""
        changed = dict(values)
        changed["radiometry"] = Radiometry.from_dict(values["radiometry"])
        changed["nodata"] = _decode_float(values["nodata"])
        return cls(**changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One acquisition: ids, time, footprint, and its assets by our band names."""

    id: str
    collection: str

    provider: str
    """What providers.get takes: the name of a catalog we know, or the path of a user's table."""

    modality: str
    """A key of BANDS."""

    datetime: dt.datetime | None
    """Time of sensing, UTC. None only where the modality is timeless."""

    footprint: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, longitude and latitude in degrees."""

    bbox: tuple[float, float, float, float]
    """(west, south, east, north) in degrees; west > east where it crosses 180 degrees."""

    platform: str | None = None
    datatake: str | None = None

    tile: str | None = None
    """Name of the granule's cell, such as 33TWM."""

    baseline: str | None = None
    """Processing baseline, such as 05.10."""

    processed: dt.datetime | None = None
    """Time of processing, UTC."""

    orbit_state: str | None = None
    """ascending or descending."""

    relative_orbit: int | None = None

    cloud_cover: float | None = None
    """Percent of the scene that is cloudy; None where the catalog does not say."""

    day: dt.date | None = None
    """Solar day of the whole pass, where it is not that of the scene alone."""

    assets: Mapping[str, Asset]
    """By our band names, in the order of BANDS."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("A scene needs an id.")
        if self.modality not in BANDS:
            raise ValueError(
                f"Scene {self.id}: unknown modality {self.modality!r}; "
                f"it is one of {', '.join(BANDS)}."
            )
        self._normalise_times()
        object.__setattr__(self, "footprint", _check_polygon(self.id, self.footprint))
        object.__setattr__(self, "bbox", _check_bbox(self.id, self.bbox))
        object.__setattr__(self, "assets", self._sort_assets())
        if self.orbit_state not in (None, *ORBIT_STATES):
            raise ValueError(f"Scene {self.id}: unknown orbit state {self.orbit_state!r}.")
        if self.cloud_cover is not None and not 0 <= self.cloud_cover <= 100:
            raise ValueError(f"Scene {self.id}: a cloud cover of {self.cloud_cover} percent.")

    def _normalise_times(self) -> None:
        """Bring both times to UTC; refuse naive ones and a missing time of sensing."""
        for name in ("datetime", "processed"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _to_utc(self.id, value))
        if self.datetime is None and self.modality not in TIMELESS_MODALITIES:
            raise ValueError(f"Scene {self.id}: a {self.modality} scene needs a time of sensing.")

    def _sort_assets(self) -> dict[str, Asset]:
        """Return the assets in the order of BANDS; refuse strangers and wrong keys."""
        known = BANDS[self.modality]
        for band, asset in self.assets.items():
            if band not in known or asset.band != band:
                raise ValueError(
                    f"Scene {self.id}: asset {asset.band!r} under the key {band!r}; "
                    f"the bands of {self.modality} are {', '.join(known)}."
                )
        return {band: self.assets[band] for band in known if band in self.assets}

    @property
    def solar_day(self) -> dt.date:
        """Return the day by the sun (UTC + longitude / 15 hours): the pass's, or the scene's own.

        Raises:
            ValueError: The scene has no time.
        """
        if self.day is not None:
            return self.day
        if self.datetime is None:
            raise ValueError(f"Scene {self.id} has no time, so it has no day.")
        hours = _mean_longitude(self.footprint["coordinates"]) / 15
        return (self.datetime + dt.timedelta(hours=hours)).date()

    def select_bands(self, bands: Sequence[str]) -> Scene:
        """Return the scene with no other assets than those of bands."""
        kept = {band: asset for band, asset in self.assets.items() if band in bands}
        return replace(self, assets=kept)

    def identity(self) -> dict[str, Any]:
        """Return what the scene is, without hrefs or anything else that depends on a path."""
        values = self.to_dict()
        values["provider"] = PurePath(self.provider).stem
        values["assets"] = {band: asset.identity() for band, asset in self.assets.items()}
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as JSON-ready values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["datetime"] = _format_time(self.datetime)
        values["processed"] = _format_time(self.processed)
        values["footprint"] = dict(self.footprint)
        values["bbox"] = list(self.bbox)
        values["assets"] = {band: asset.to_dict() for band, asset in self.assets.items()}
        day = values.pop("day")
        return values if day is None else values | {"day": day.isoformat()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """Build a scene from :meth:`to_dict`'s values."""
        changed = dict(values)
        changed["datetime"] = _parse_time(values["datetime"])
        changed["processed"] = _parse_time(values["processed"])
        changed["bbox"] = tuple(values["bbox"])
        changed["day"] = dt.date.fromisoformat(values["day"]) if values.get("day") else None
        changed["assets"] = {
            band: Asset.from_dict(asset) for band, asset in values["assets"].items()
        }
        return cls(**changed)


def _check_transform(band: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 6 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"Band {band}: a transform has six finite numbers, not {values!r}.")
    return numbers


def _check_shape(band: str, values: Sequence[int]) -> tuple[int, int]:
    counts = tuple(int(value) for value in values)
    if len(counts) != 2 or min(counts) < 1:
        raise ValueError(f"Band {band}: a shape is (rows, columns), not {values!r}.")
    return (counts[0], counts[1])


def _to_utc(scene: str, value: dt.datetime) -> dt.datetime:
    if value.tzinfo is None:
        # ^ pandas' NaT has none either, though it is a datetime
        raise ValueError(f"Scene {scene}: {value} is no time with a zone.")
    return value.astimezone(dt.UTC)


def _check_polygon(scene: str, geometry: Mapping[str, Any]) -> dict[str, Any]:
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon") or not geometry.get("coordinates"):
        raise ValueError(f"Scene {scene}: the footprint is no polygon but {kind!r}.")
    copied: dict[str, Any] = json.loads(
        json.dumps({"type": kind, "coordinates": geometry["coordinates"]}, allow_nan=False)
    )
    # ^ a copy that nobody else can change, with the lists and numbers that JSON would give back
    return copied


def _check_bbox(scene: str, values: Sequence[float]) -> tuple[float, float, float, float]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"Scene {scene}: a bbox has four finite numbers, not {values!r}.")
    west, south, east, north = numbers
    if south > north:
        raise ValueError(f"Scene {scene}: the bbox {values!r} is upside down.")
    return (west, south, east, north)


def _mean_longitude(coordinates: Any) -> float:
    """Return the mean direction of all corners, so that 179 and -179 meet at 180."""
    angles = [math.radians(longitude) for longitude in _longitudes(coordinates)]
    east = math.fsum(math.sin(angle) for angle in angles)
    north = math.fsum(math.cos(angle) for angle in angles)
    return math.degrees(math.atan2(east, north))


def _longitudes(coordinates: Any) -> list[float]:
    if isinstance(coordinates[0], int | float):
        return [float(coordinates[0])]
    return [longitude for part in coordinates for longitude in _longitudes(part)]


def _format_time(value: dt.datetime | None) -> str | None:
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def _parse_time(value: str | None) -> dt.datetime | None:
    return None if value is None else dt.datetime.fromisoformat(value)


def _encode_float(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return str(value)


def _decode_float(value: float | str | None) -> float | None:
    return None if value is None else float(value)
