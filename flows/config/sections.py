"""Sections ``region``, ``catalog``, ``grid``, ``output`` and ``execution`` of a job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from shapely import MultiPolygon, Polygon

from catalogs import href_policy, providers
from catalogs.errors import InvalidInputError
from flows.config import region as regions
from flows.config.base import (
    ConfigModel,
    ExistingFile,
    LaxTuple,
    check_choice,
    check_unique,
    resolve_existing_file,
    resolve_path,
)
from flows.execution import executors

OUTPUT_FORMATS = ("cog", "zarr")
"""File formats of a product."""

PATCH_SIZE = 16
"""Side of a model's patch, pixels: tiles consist of whole patches."""


class Region(ConfigModel):
    """The area to map."""

    bbox: Annotated[tuple[float, float, float, float], LaxTuple] | None = Field(
        default=None, description="four numbers, [west, south, east, north] in degrees"
    )
    file: ExistingFile | None = Field(default=None, description="the path of a GeoJSON file")

    @model_validator(mode="after")
    def _check_one_source(self) -> Region:
        if (self.bbox is None) == (self.file is None):
            raise ValueError(
                "give one of two: {bbox: [west, south, east, north]} or {file: region.geojson}."
            )
        return self

    def read_geometry(self) -> Polygon | MultiPolygon:
        """Return the region in longitude and latitude.

        Raises:
            InvalidInputError: The region is not a valid area on Earth.
        """
        if self.bbox is not None:
            return regions.from_bbox(self.bbox)
        return regions.from_file(self.file or Path())


class Catalog(ConfigModel):
    """The STAC catalog that is searched."""

    provider: str = Field(
        description="a provider's name, or the path of a YAML file that describes one"
    )
    path: ExistingFile | None = Field(
        default=None, description="the path of a static catalog's JSON file"
    )
    url: str | None = Field(default=None, description="an https:// address", pattern=r"^https?://")

    @model_validator(mode="before")
    @classmethod
    def _expand_provider_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if providers.is_yaml_path(value):
            return {"provider": value}
        if "/" in value or value.endswith(".json"):
            key = "url" if "://" in value else "path"
            raise ValueError(
                f"name the provider whose conventions {value!r} follows: "
                f"{{{key}: {value}, provider: NAME}}, NAME one of "
                f"{', '.join(providers.list_names())}, or the path of your own provider file "
                "(docs/providers.md)."
            )
        return {"provider": value}

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, value: str, info: ValidationInfo) -> str:
        if not providers.is_yaml_path(value):
            return check_choice(
                value, providers.list_names(), "catalog provider", extra_choices=", or a .yaml file"
            )
        path = str(resolve_existing_file(value, info))
        try:
            providers.get(path)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
        return path

    @model_validator(mode="after")
    def _check_location(self) -> Catalog:
        if self.path is not None and self.url is not None:
            raise ValueError("give path or url, not both.")
        if self.location is None and providers.get(self.provider).api is None:
            raise ValueError(
                f"{self.provider!r} has no API address: "
                f"write {{path: catalog.json, provider: {self.provider}}}."
            )
        return self

    @property
    def location(self) -> str | None:
        """Return the catalog's path or URL; ``None`` = the provider's own API."""
        return str(self.path) if self.path is not None else self.url


class GridConfig(ConfigModel):
    """CRS, resolution and alignment of the output grid."""

    crs: str = Field(default="utm", description="utm, or a code as in EPSG:32632")
    resolution: float = Field(default=10.0, ge=1, description="metres per pixel, 1 or more")
    align: Literal["auto", "multiples"] = Field(
        default="auto",
        description="auto (the scenes' grid if all share one) or multiples (of the resolution)",
    )
    mosaic: Annotated[tuple[str, ...], LaxTuple] = Field(
        default=(),
        description="a list of codes as in EPSG:3035, each a map that merges the UTM zones; "
        "by default, the zone that contains most of the region",
    )

    @field_validator("mosaic")
    @classmethod
    def _check_mosaic_crs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(tuple(cls._parse_crs(code, allow_utm=False) for code in value))

    @field_validator("crs")
    @classmethod
    def _check_crs(cls, value: str) -> str:
        return cls._parse_crs(value, allow_utm=True)

    @classmethod
    def _parse_crs(cls, value: str, *, allow_utm: bool) -> str:
        if allow_utm and value.lower() == "utm":
            return "utm"
        match = re.fullmatch(r"(?i)epsg:([0-9]{4,6})", value)
        if match is None:
            problem = "neither utm nor a code" if allow_utm else "not a code"
            raise ValueError(f"{value!r} is {problem} as in EPSG:32632.")
        _check_metric_crs(int(match[1]))
        return f"EPSG:{int(match[1])}"

    @property
    def epsg(self) -> int | None:
        """Return the EPSG code; ``None`` = the UTM zones that the region intersects."""
        return None if self.crs == "utm" else int(self.crs.removeprefix("EPSG:"))


def _check_metric_crs(epsg: int) -> None:
    import pyproj  # noqa: PLC0415

    # ^ slow to import, and only jobs with a code need it

    try:
        crs = pyproj.CRS.from_epsg(epsg)
    except pyproj.exceptions.CRSError as error:
        raise ValueError(f"EPSG:{epsg} does not exist.") from error
    if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info[:2]):
        raise ValueError(
            f"EPSG:{epsg} ({crs.name}) is not projected in metres: use utm or a projected CRS."
        )


class Output(ConfigModel):
    """Destination and content of the product."""

    path: str = Field(default="out", description="a folder")
    formats: Annotated[tuple[str, ...], LaxTuple] = Field(
        default=OUTPUT_FORMATS, min_length=1, description="a list out of cog and zarr"
    )
    probabilities: bool = Field(default=False, description="true or false")
    composites: bool = Field(default=False, description="true or false")

    @field_validator("path", mode="before")
    @classmethod
    def _resolve_output_path(cls, value: Any, info: ValidationInfo) -> str:
        if isinstance(value, str) and "://" in value:
            raise ValueError(
                f"{value!r} is a URL; output can only be written to a local folder. Give the path "
                "of one, for example of a mounted bucket."
            )
        path = resolve_path(value, info)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; the output must be a folder.")
        return str(path)

    @field_validator("formats")
    @classmethod
    def _check_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(tuple(check_choice(name, OUTPUT_FORMATS, "format") for name in value))

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.path)


class WorkerRange(ConfigModel):
    """Smallest and largest number of workers of an adaptive cluster."""

    min: int
    max: int


MAX_WORKERS = 4096


class Execution(ConfigModel):
    """How tiles are computed; these keys do not change the meaning of a tile."""

    tile: int = Field(
        default=2048,
        ge=PATCH_SIZE,
        le=65_536,
        description=f"pixels on a side, a multiple of {PATCH_SIZE} from {PATCH_SIZE} to 65536",
    )
    engine: str = Field(default="threads", description="threads, distributed or tcp://HOST:PORT")
    workers: Literal["auto"] | int | WorkerRange = Field(
        default="auto",
        description=f"auto, a whole number from 1 to {MAX_WORKERS}, or {{min: 1, max: 8}} to "
        "scale with the work",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto, fp32 or bf16"
    )
    batch: Literal["auto"] | int = Field(default="auto", description="auto or a whole number >= 1")
    slot: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$",
        description="a name in lower case: deployed runs with the same slot take turns, as on one "
        "GPU; by default gpu if the model runs on a GPU",
    )
    max_hours: float | None = Field(
        default=None,
        gt=0,
        le=8760,
        description="hours after which a run stops making tiles; the next run resumes",
    )

    @field_validator("tile")
    @classmethod
    def _check_tile_size(cls, value: int) -> int:
        if value % PATCH_SIZE:
            below = value - value % PATCH_SIZE
            raise ValueError(
                f"{value} is not a multiple of {PATCH_SIZE}: use {below} or {below + PATCH_SIZE}."
            )
        return value

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, value: Any) -> Any:
        limits = list(value.values()) if isinstance(value, dict) else [value]
        valid = all(type(limit) is int and 1 <= limit <= MAX_WORKERS for limit in limits)
        if (
            isinstance(value, WorkerRange)
            or value == "auto"
            or (valid and not isinstance(value, dict))
        ):
            return value
        if isinstance(value, dict) and set(value) == {"min", "max"} and valid:
            if value["min"] <= value["max"]:
                return value
            raise ValueError(f"min {value['min']} is more than max {value['max']}.")
        raise ValueError(
            f"{value!r} is neither auto, nor a whole number from 1 to {MAX_WORKERS}, nor a "
            "range of them as in {min: 1, max: 8}."
        )

    @property
    def max_parallel_tiles(self) -> int:
        """Return the largest number of tiles in parallel that ``workers`` allows."""
        return executors.worker_range(
            self.workers.model_dump() if isinstance(self.workers, WorkerRange) else self.workers
        )[1]

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str) -> str:
        address = re.fullmatch(r"(tcp|tls)://[^\s/:]+:([0-9]{1,5})", value)
        if address and 0 < int(address[2]) < 2**16:
            return value
        return check_choice(
            value, ("threads", "distributed"), "engine", extra_choices=", tcp://HOST:PORT"
        )

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if re.fullmatch(r"cuda:[0-9]{1,3}", value):
            return value
        return check_choice(value, ("auto", "cpu", "cuda"), "device", extra_choices=", cuda:N")

    @field_validator("batch", mode="before")
    @classmethod
    def _check_batch(cls, value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and value is not True and value >= 1):
            return value
        raise ValueError(f"{value!r} is neither auto nor a whole number >= 1.")


def resolve_location(text: str, info: ValidationInfo) -> str:
    """Return an absolute folder, a host or a bucket of the ``allow`` list.

    Raises:
        ValueError: The text is neither an existing folder nor a host.
    """
    if href_policy.is_remote(text):
        return text.rstrip("/")
    folder = resolve_path(text, info)
    if folder.is_dir():
        return str(folder)
    host = href_policy.parse_host(text)
    if host is not None and "." in host.strip("."):
        return host
    raise ValueError(f"{text!r} is neither a host nor a folder that exists ({folder}).")
