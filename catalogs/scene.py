"""Scenes and their assets: footprint, time, orbit, hrefs and radiometry."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from catalogs.sensors import SENSORS, describe_unknown_sensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNITS = ("reflectance", "power", "dB", "m", "class", "probability")

ORBIT_STATES = ("ascending", "descending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """Conversion of stored to physical values: stored * scale + offset, in a unit."""

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
        """Return the radiometry as JSON values."""
        return {"scale": self.scale, "offset": self.offset, "unit": self.unit}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Radiometry:
        """Build a radiometry from the values of :meth:`to_dict`."""
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedValues:
    """What a catalog itself states about the stored values of an asset; None = nothing."""

    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None

    dtype: str | None = None
    """Data type, such as uint16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReference:
    """The STAC item that describes an asset."""

    collection: str
    id: str

    href: str | None = None
    """Its path or URL, as in :attr:`Scene.item_href`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One band of a scene: a raster file with one band."""

    band: str
    """Name of the band, one of its sensor's."""

    href: str
    """Absolute path or URL, without a signature."""

    radiometry: Radiometry

    epsg: int | None = None
    """EPSG code that the catalog states, or None where only the file has it."""

    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine a, b, c, d, e, f from (column, row) to (x, y) of a pixel's outer corner."""

    shape: tuple[int, int] | None = None
    """(rows, columns)."""

    nodata: float | None = None
    """Stored value of pixels without data; may be NaN."""

    checksum: str | None = None
    """Digest of the file as the catalog states it (multihash, hexadecimal)."""

    second_nodata: float | None = None
    """Another stored value of pixels without data, where a file without a nodata tag has two."""

    dtype: str | None = None
    """Data type of the file, where its values may not fit into the sensor's unsigned integers."""

    stated: StatedValues | None = field(default=None, compare=False)
    """Statements of the catalog, until they have been compared with the file; not serialised."""

    item: ItemReference | None = None
    """The item that it is from, where that is another than its scene's: an acquisition may have
    several items (catalogs.search.duplicates)."""

    valid_share: float | None = field(default=None, compare=False)
    """Share of a sample of pixels in the region that are valid, 0 to 1; None where none was read.
    Not serialised."""

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
            # ^ always the same NaN object, so that equal records compare equal
        if self.second_nodata is not None:
            object.__setattr__(self, "second_nodata", float(self.second_nodata))

    def identity(self) -> dict[str, Any]:
        """Return the asset as JSON values, without hrefs."""
        values = self.to_dict()
        del values["href"]
        if self.item is not None:
            values["item"] = {"collection": self.item.collection, "id": self.item.id}
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the asset as JSON values; NaN becomes the string "nan"."""
        values = {
            "band": self.band,
            "href": self.href,
            "radiometry": self.radiometry.to_dict(),
            "epsg": self.epsg,
            "transform": None if self.transform is None else list(self.transform),
            "shape": None if self.shape is None else list(self.shape),
            "nodata": _encode_float(self.nodata),
            "checksum": self.checksum,
        }
        optional = {
            "second_nodata": _encode_float(self.second_nodata),
            "dtype": self.dtype,
            "item": None if self.item is None else asdict(self.item),
        }
        return values | {key: value for key, value in optional.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Asset:
        """Build an asset from the values of :meth:`to_dict`."""
        arguments = dict(values)
        arguments["item"] = ItemReference(**values["item"]) if values.get("item") else None
        arguments["radiometry"] = Radiometry.from_dict(values["radiometry"])
        for key in ("nodata", "second_nodata"):
            arguments[key] = _decode_float(values.get(key))
        return cls(**arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One acquisition: ids, time, footprint, orbit and assets."""

    id: str
    collection: str

    provider: str
    """Argument of providers.get: a built-in provider's name, or the path of a user's table."""

    modality: str
    """Name of its sensor, a key of sensors.SENSORS."""

    datetime: dt.datetime | None
    """Time of sensing, UTC. None only of modalities without a time."""

    footprint: Mapping[str, Any]
    """GeoJSON Polygon or MultiPolygon, longitude and latitude in degrees."""

    bbox: tuple[float, float, float, float]
    """(west, south, east, north) in degrees; west > east where it crosses 180 degrees."""

    platform: str | None = None
    datatake: str | None = None

    tile: str | None = None
    """MGRS tile of the granule, such as 33TWM."""

    baseline: str | None = None
    """Processing baseline, such as 05.10."""

    processed: dt.datetime | None = None
    """Time of processing, UTC."""

    orbit_state: str | None = None
    """ascending or descending."""

    relative_orbit: int | None = None

    cloud_cover: float | None = None
    """Percent of the scene that is cloudy; None where the catalog does not state it."""

    day: dt.date | None = None
    """Solar day of the pass, where it differs from that of the scene alone."""

    catalog_digest: str | None = None
    """Digest of the scene as the catalog states it, where its files say otherwise."""

    other_footprint: Mapping[str, Any] | None = field(default=None, compare=False)
    """Where the pixels may lie besides, as the catalog contradicts itself; not serialised."""

    item_href: str | None = None
    """Path or URL of its STAC item, without a signature; None where it is not known."""

    assets: Mapping[str, Asset]
    """Assets by band, in the order of the sensor's bands."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("A scene has no id.")
        if self.modality not in SENSORS:
            raise ValueError(f"Scene {self.id}: {describe_unknown_sensor(self.modality)}")
        self._normalise_times()
        object.__setattr__(self, "footprint", _check_polygon(self.id, self.footprint))
        object.__setattr__(self, "bbox", _check_bbox(self.id, self.bbox))
        object.__setattr__(self, "assets", self._sort_assets())
        if self.orbit_state not in (None, *ORBIT_STATES):
            raise ValueError(f"Scene {self.id}: unknown orbit state {self.orbit_state!r}.")
        if self.cloud_cover is not None and not 0 <= self.cloud_cover <= 100:
            raise ValueError(f"Scene {self.id}: a cloud cover of {self.cloud_cover} percent.")

    def _normalise_times(self) -> None:
        """Convert both times to UTC; raise for naive ones and for a missing time of sensing."""
        for name in ("datetime", "processed"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _to_utc(self.id, value))
        if self.datetime is None and SENSORS[self.modality].is_temporal:
            raise ValueError(f"Scene {self.id}: a {self.modality} scene without a time of sensing.")

    def _sort_assets(self) -> dict[str, Asset]:
        """Return the assets in the order of the sensor's bands; raise for unknown bands."""
        sensor_bands = SENSORS[self.modality].bands
        for band, asset in self.assets.items():
            if band not in sensor_bands or asset.band != band:
                raise ValueError(
                    f"Scene {self.id}: asset {asset.band!r} under the key {band!r}; "
                    f"the bands of {self.modality} are {', '.join(sensor_bands)}."
                )
        return {band: self.assets[band] for band in sensor_bands if band in self.assets}

    @property
    def solar_day(self) -> dt.date:
        """Return the solar day (UTC + longitude / 15 hours) of the pass, or else of the scene.

        Raises:
            ValueError: The scene has no time.
        """
        if self.day is not None:
            return self.day
        if self.datetime is None:
            raise ValueError(f"Scene {self.id} has no time, so it has no solar day.")
        hours = _mean_longitude(self.footprint["coordinates"]) / 15
        return (self.datetime + dt.timedelta(hours=hours)).date()

    @property
    def is_empty(self) -> bool:
        """Return whether samples of pixels show that no pixel in the region can be used.

        None can where no measured band of which pixels were read has a valid one, or where all
        pixels are masked, as the scene classification has none.
        """
        if self.has_empty_classification:
            return True
        masks = SENSORS[self.modality].mask_bands
        shares = [asset.valid_share for band, asset in self.assets.items() if band not in masks]
        sampled = [share for share in shares if share is not None]
        return bool(sampled) and not any(sampled)

    @property
    def has_empty_classification(self) -> bool:
        """Return whether a sample of the scene classification (SCL) has no class in the region."""
        return "SCL" in self.assets and self.assets["SCL"].valid_share == 0

    def select_bands(self, bands: Sequence[str]) -> Scene:
        """Return the scene with the assets of these bands only."""
        assets = {band: asset for band, asset in self.assets.items() if band in bands}
        return replace(self, assets=assets)

    def split_by_item(self) -> tuple[Scene, ...]:
        """Return one scene for each item that its assets are from, its own item first.

        Each has the id and the collection of the item, and those assets alone. A scene whose
        assets are all from its own item is returned as it is.
        """
        own = ItemReference(collection=self.collection, id=self.id, href=self.item_href)
        items = dict.fromkeys((own, *(asset.item or own for asset in self.assets.values())))
        if len(items) == 1:
            return (self,)
        return tuple(
            replace(
                self,
                collection=item.collection,
                id=item.id,
                item_href=item.href,
                assets={
                    band: replace(asset, item=None)
                    for band, asset in self.assets.items()
                    if (asset.item or own) == item
                },
            )
            for item in items
        )

    def identity(self) -> dict[str, Any]:
        """Return the scene as JSON values, without hrefs and paths; digests are made of it."""
        values = self.to_dict()
        for name in ("item_href", "catalog_digest"):
            values.pop(name, None)
        values["provider"] = PurePath(self.provider).stem
        values["assets"] = {band: asset.identity() for band, asset in self.assets.items()}
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del values["other_footprint"]
        for name in ("datetime", "processed"):
            time = values[name]
            values[name] = None if time is None else format_time(time)
        values["footprint"] = dict(self.footprint)
        values["bbox"] = list(self.bbox)
        values["assets"] = {band: asset.to_dict() for band, asset in self.assets.items()}
        values["day"] = None if self.day is None else self.day.isoformat()
        optional = ("day", "item_href", "catalog_digest")
        unset = {name for name in optional if values[name] is None}
        return {name: value for name, value in values.items() if name not in unset}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """Build a scene from the values of :meth:`to_dict`."""
        arguments = dict(values)
        arguments["datetime"] = _parse_time(values["datetime"])
        arguments["processed"] = _parse_time(values["processed"])
        arguments["bbox"] = tuple(values["bbox"])
        arguments["day"] = dt.date.fromisoformat(values["day"]) if values.get("day") else None
        arguments["assets"] = {
            band: Asset.from_dict(asset) for band, asset in values["assets"].items()
        }
        return cls(**arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedScene:
    """A scene that is left out, with the reason."""

    id: str
    reason: str

    collection: str = ""

    modality: str = ""
    """Name of its sensor; empty where the item could not be read that far."""

    day: str | None = None
    """Solar day, YYYY-MM-DD."""

    share: float | None = None
    """Share of the searched region that its footprint covers, 0 to 1."""

    replaced_by: str | None = None
    """The scene of the same acquisition that is used in its place: its id, or ``collection/id``
    where another scene has the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """What is missing or unclear about a scene, collection or input, or why one is left out."""

    id: str
    """Id of the scene or collection, or name of the input."""

    text: str


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
        # ^ pandas' NaT is a datetime without a zone, too
        raise ValueError(f"Scene {scene}: {value} is no time with a time zone.")
    return value.astimezone(dt.UTC)


def _check_polygon(scene: str, geometry: Mapping[str, Any]) -> dict[str, Any]:
    geometry_type = geometry.get("type")
    if geometry_type not in ("Polygon", "MultiPolygon") or not geometry.get("coordinates"):
        raise ValueError(f"Scene {scene}: the footprint is no polygon, but {geometry_type!r}.")
    polygon = {"type": geometry_type, "coordinates": geometry["coordinates"]}
    copied: dict[str, Any] = json.loads(json.dumps(polygon, allow_nan=False))
    # ^ a copy that no caller can change, with lists and numbers as JSON returns them
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
    """Return the circular mean of all longitudes, so that 179 and -179 give 180."""
    angles = [math.radians(longitude) for longitude in _longitudes(coordinates)]
    east = math.fsum(math.sin(angle) for angle in angles)
    north = math.fsum(math.cos(angle) for angle in angles)
    return math.degrees(math.atan2(east, north))


def _longitudes(coordinates: Any) -> list[float]:
    if isinstance(coordinates[0], int | float):
        return [float(coordinates[0])]
    return [longitude for part in coordinates for longitude in _longitudes(part)]


def format_time(value: dt.datetime) -> str:
    """Return a time in UTC as RFC 3339 with ``Z``, the form that STAC and jq read."""
    return value.isoformat().replace("+00:00", "Z")


def _parse_time(value: str | None) -> dt.datetime | None:
    return None if value is None else dt.datetime.fromisoformat(value)


def _encode_float(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return str(value)


def _decode_float(value: float | str | None) -> float | None:
    return None if value is None else float(value)
