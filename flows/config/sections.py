"""The groups of keys of a job, each checked for itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from shapely import MultiPolygon, Polygon

from catalogs import href_policy, providers
from catalogs.errors import Wrong
from flows.config import region as regions
from flows.config.base import File, Listed, Part, file_of, known, path_of, unique
from flows.execution import executors

FORMATS = ("cog", "zarr")
"""The files that a product can hold."""

PATCH = 16
"""Side of a model's patch, pixels: tiles are whole patches."""


class Region(Part):
    """What is mapped."""

    bbox: Annotated[tuple[float, float, float, float], Listed] | None = Field(
        default=None, description="four numbers, [west, south, east, north] in degrees"
    )
    file: File | None = Field(default=None, description="the path of a GeoJSON file")

    @model_validator(mode="after")
    def _one(self) -> Region:
        if (self.bbox is None) == (self.file is None):
            raise ValueError(
                "give one of two: {bbox: [west, south, east, north]} or {file: region.geojson}."
            )
        return self

    def geometry(self) -> Polygon | MultiPolygon:
        """Read the region in longitude and latitude.

        Raises:
            Wrong: It is not one valid area on Earth.
        """
        if self.bbox is not None:
            return regions.from_bbox(self.bbox)
        return regions.from_file(self.file or Path())


class Catalog(Part):
    """Where scenes are looked for."""

    provider: str = Field(
        description="a provider's name, or the path of a YAML file that describes one"
    )
    path: File | None = Field(default=None, description="the path of a static catalog's JSON file")
    url: str | None = Field(default=None, description="an https:// address", pattern=r"^https?://")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if providers.is_file(value):
            return {"provider": value}
        if "/" in value or value.endswith(".json"):
            key = "url" if "://" in value else "path"
            raise ValueError(
                f"say whose conventions {value!r} follows: {{{key}: {value}, provider: NAME}}, "
                f"NAME one of {', '.join(providers.names())}, or the path of a table of your own "
                "(docs/providers.md)."
            )
        return {"provider": value}

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str, info: ValidationInfo) -> str:
        if not providers.is_file(value):
            return known(value, providers.names(), "catalog provider", also=", or a .yaml file")
        table = str(file_of(value, info))
        try:
            providers.get(table)
        except Wrong as error:
            raise ValueError(str(error)) from error
        return table

    @model_validator(mode="after")
    def _one(self) -> Catalog:
        if self.path is not None and self.url is not None:
            raise ValueError("give path or url, not both.")
        if self.location is None and providers.get(self.provider).api is None:
            raise ValueError(
                f"{self.provider!r} has no address of its own: "
                f"write {{path: catalog.json, provider: {self.provider}}}."
            )
        return self

    @property
    def location(self) -> str | None:
        """Return where the catalog lies; ``None`` stands for the provider's own."""
        return str(self.path) if self.path is not None else self.url


class GridChoice(Part):
    """The raster that the product lies on."""

    crs: str = Field(default="utm", description="utm, or a code as in EPSG:32632")
    resolution: float = Field(default=10.0, ge=1, description="metres per pixel, 1 or more")
    align: Literal["auto", "multiples"] = Field(
        default="auto",
        description="auto (the scenes' own grid where all share one) or multiples (of the "
        "resolution)",
    )
    mosaic: Annotated[tuple[str, ...], Listed] = Field(
        default=(),
        description="a list of codes as in EPSG:3035, each a map that joins the UTM zones; "
        "without it, the zone that holds most of the region",
    )

    @field_validator("mosaic")
    @classmethod
    def _projected_too(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return unique(tuple(cls._projected(code, also=False) for code in value))

    @field_validator("crs")
    @classmethod
    def _projected_or_utm(cls, value: str) -> str:
        return cls._projected(value, also=True)

    @classmethod
    def _projected(cls, value: str, *, also: bool) -> str:
        if also and value.lower() == "utm":
            return "utm"
        found = re.fullmatch(r"(?i)epsg:([0-9]{4,6})", value)
        if found is None:
            what = "neither utm nor a code" if also else "no code"
            raise ValueError(f"{value!r} is {what} as in EPSG:32632.")
        _check_metres(int(found[1]))
        return f"EPSG:{int(found[1])}"

    @property
    def epsg(self) -> int | None:
        """Return the code asked for; ``None`` stands for the UTM zones that the region touches."""
        return None if self.crs == "utm" else int(self.crs.removeprefix("EPSG:"))


def _check_metres(epsg: int) -> None:
    import pyproj  # noqa: PLC0415

    # ^ slow to import, and few jobs name a code

    try:
        crs = pyproj.CRS.from_epsg(epsg)
    except pyproj.exceptions.CRSError as error:
        raise ValueError(f"EPSG:{epsg} does not exist.") from error
    if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info[:2]):
        raise ValueError(
            f"EPSG:{epsg} ({crs.name}) is not projected in metres: use utm or a projected code."
        )


class Output(Part):
    """Where the product goes, and what it holds."""

    path: str = Field(default="out", description="a folder or an s3:// address")
    formats: Annotated[tuple[str, ...], Listed] = Field(
        default=FORMATS, min_length=1, description="a list out of cog and zarr"
    )
    probabilities: bool = Field(default=False, description="true or false")
    composites: bool = Field(default=False, description="true or false")

    @field_validator("path", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> str:
        if isinstance(value, str) and re.match(r"[a-z0-9]+://", value):
            if not re.fullmatch(r"s3://[^/]+(/.*)?", value):
                raise ValueError(f"{value!r} is neither a folder nor an s3://bucket/… address.")
            return value
        path = path_of(value, info)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; the output wants a folder.")
        return str(path)

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return unique(tuple(known(name, FORMATS, "format") for name in value))

    @property
    def folder(self) -> Path:
        """Return the output folder.

        Raises:
            Wrong: The output is an object store.
        """
        if "://" in self.path:
            raise Wrong(f"The output {self.path} is no local folder; give a folder for this.")
        return Path(self.path)


class Span(Part):
    """How many workers there may be, at least and at most."""

    min: int
    max: int


MOST_WORKERS = 4096


class Execution(Part):
    """How it is computed; nothing here changes what a tile means."""

    tile: int = Field(
        default=2048,
        ge=PATCH,
        le=65_536,
        description=f"pixels on a side, a multiple of {PATCH} from {PATCH} to 65536",
    )
    engine: str = Field(default="threads", description="threads, distributed or tcp://HOST:PORT")
    workers: Literal["auto"] | int | Span = Field(
        default="auto",
        description=f"auto, a whole number from 1 to {MOST_WORKERS}, or {{min: 1, max: 8}} to grow "
        "and shrink with the work",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto, fp32 or bf16"
    )
    batch: Literal["auto"] | int = Field(default="auto", description="auto or a whole number >= 1")
    slot: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$",
        description="a name in small letters, as of a GPU: deployed runs with the same one take "
        "turns; by default gpu where the model runs on one",
    )
    max_hours: float | None = Field(
        default=None,
        gt=0,
        le=8760,
        description="hours that making the tiles of a product may take before the run is stopped; "
        "the next one goes on",
    )

    @field_validator("tile")
    @classmethod
    def _whole_patches(cls, value: int) -> int:
        if value % PATCH:
            below = value - value % PATCH
            raise ValueError(
                f"{value} is not a multiple of {PATCH}: use {below} or {below + PATCH}."
            )
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _some_workers(cls, value: Any) -> Any:
        limits = list(value.values()) if isinstance(value, dict) else [value]
        counted = all(type(one) is int and 1 <= one <= MOST_WORKERS for one in limits)
        if isinstance(value, Span) or value == "auto" or (counted and not isinstance(value, dict)):
            return value
        if isinstance(value, dict) and set(value) == {"min", "max"} and counted:
            if value["min"] <= value["max"]:
                return value
            raise ValueError(f"min {value['min']} is more than max {value['max']}.")
        raise ValueError(
            f"{value!r} is neither auto, nor a whole number from 1 to {MOST_WORKERS}, nor two of "
            "them as in {min: 1, max: 8}."
        )

    @property
    def most(self) -> int:
        """Return how many tiles may be made at a time, as far as the job says."""
        return executors.span(
            self.workers.model_dump() if isinstance(self.workers, Span) else self.workers
        )[1]

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        address = re.fullmatch(r"(tcp|tls)://[^\s/:]+:([0-9]{1,5})", value)
        if address and 0 < int(address[2]) < 2**16:
            return value
        return known(value, ("threads", "distributed"), "engine", also=", tcp://HOST:PORT")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if re.fullmatch(r"cuda:[0-9]{1,3}", value):
            return value
        return known(value, ("auto", "cpu", "cuda"), "device", also=", cuda:N")

    @field_validator("batch", mode="before")
    @classmethod
    def _whole_batch(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and value is not True and value >= 1):
            return value
        raise ValueError(f"{value!r} is neither auto nor a whole number from 1.")


def place(text: str, info: ValidationInfo) -> str:
    """Return a folder, absolute, or a host or bucket; anything else is a ValueError."""
    if href_policy.is_remote(text):
        return text.rstrip("/")
    folder = path_of(text, info)
    if folder.is_dir():
        return str(folder)
    host = href_policy.host_of(text)
    if host is not None and "." in host.strip("."):
        return host
    raise ValueError(f"{text!r} is neither a host nor a folder that exists ({folder}).")
