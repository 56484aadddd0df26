"""The job file: one product or a series of them, validated before anything is searched or read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    InstanceOf,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from shapely import MultiPolygon, Polygon

from catalogs.errors import InvalidInputError
from catalogs.sensors import SENSORS, get_sensor
from flows.config import period as periods
from flows.config import validation_messages, yaml_file
from flows.config.base import ConfigModel, LaxTuple, check_choice, check_unique
from flows.config.catalog import Catalog, resolve_location
from flows.config.compositing import Composite, Mask, Radar
from flows.config.execution import Execution
from flows.config.grid import GridConfig
from flows.config.model import ModelConfig
from flows.config.output import Output
from flows.config.prices import Prices
from flows.config.quality import QualityGate, Radiometry
from flows.config.region import Region, RegionPart, join_parts
from flows.config.schedule import Schedule

SceneId = Annotated[str, Field(min_length=1)]

LATEST = "latest"
"""Period value: the schedule's latest period with complete scenes, resolved when the job runs."""


class Job(ConfigModel):
    """One product, or one for each period of a schedule."""

    name: str = Field(
        title="Name of the product and of its folder; by default that of the job file",
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?$",
        description="letters, digits, dot, dash and underscore, as it names a folder",
        examples=["jutland-2024"],
    )
    region: Region = Field(
        title="Area to map",
        description="{bbox: [west, south, east, north]} or {file: region.geojson}",
        examples=["{bbox: [9.0, 56.5, 10.5, 57.5]}"],
    )
    period: InstanceOf[periods.Period] | None = Field(
        title="Days that a product describes",
        default=None,
        description=f"{periods.ACCEPTED_FORMATS}, days in UTC, both ends inclusive; or {LATEST} "
        "(the default)",
        examples=["2024-05-01/2024-09-30"],
    )
    catalog: Catalog = Field(
        title="STAC catalog that is searched",
        description="a provider's name, {path: …, provider: …} or {url: …, provider: …}",
        examples=["planetary-computer"],
    )
    allow: Annotated[tuple[str, ...], LaxTuple] = Field(
        title="Where files may be read from, beside the catalog's and its provider's places",
        default=(),
        description="a list of folders or host names",
    )
    inputs: Annotated[tuple[str, ...], LaxTuple] = Field(
        title="What is composited, and given to the model",
        default=("S2L2A", "S1RTC", "DEM"),
        min_length=1,
        description=f"a list out of {', '.join(SENSORS)}",
    )
    include: Annotated[tuple[SceneId, ...], LaxTuple] = Field(
        title="The only scenes that may be used",
        default=(),
        min_length=1,
        description="a list of one or more scene ids, or collection/id: only these scenes are "
        "used (elevation is restricted only if the list names one of its scenes)",
        examples=["[S2B_33TWM_20230813_0_L2A]"],
    )
    exclude: Annotated[tuple[SceneId, ...], LaxTuple] = Field(
        title="Scenes that must not be used",
        default=(),
        description="a list of scene ids, or collection/id: these scenes are not used",
        examples=["[S2A_33TWM_20230818_0_L2A]"],
    )
    grid: GridConfig = Field(
        default=GridConfig(),
        title="Coordinate system, resolution and alignment of the output",
        examples=["{crs: EPSG:3035, resolution: 20}"],
    )
    bands: dict[str, Annotated[tuple[str, ...], LaxTuple]] = Field(
        title="Bands that are composited, instead of the default ones",
        default={},
        description="bands of an input that the model does not take, as in {S1RTC: [HH, HV]}; an "
        "input of the model has the model's bands",
    )
    mask: Mask = Field(
        default=Mask(),
        title="Which pixels of Sentinel-2 are clear",
        examples=["{dilate_m: 60, max_cloud_probability: 40}"],
    )
    composite: Composite = Field(
        default=Composite(),
        title="How the days of a period become one image",
        examples=["{method: medoid, max_cloud_cover: 40, max_passes: 12}"],
    )
    radar: Radar = Field(
        default=Radar(),
        title="Which passes of Sentinel-1 are used",
        examples=["{orbit: ascending, relative_orbits: [44, 117]}"],
    )
    radiometry: Radiometry = Field(
        default=Radiometry(),
        title="What happens to scenes whose pixels contradict their catalog",
        examples=["{proof: warn}"],
    )
    model: ModelConfig = Field(
        default=ModelConfig(),
        title="Model, its task and its weights",
        examples=["{name: terramind_v1_base, task: [land_cover, embedding]}"],
    )
    output: Output = Field(
        default=Output(),
        title="Where products are written, and what they contain",
        examples=["{path: maps, formats: [cog], composites: true}"],
    )
    execution: Execution = Field(
        default=Execution(),
        title="How tiles are computed",
        examples=["{tile: 1024, engine: distributed, workers: 4}"],
    )
    qc: QualityGate = Field(
        default=QualityGate(),
        title="What a map must fulfil to be published",
        examples=["{gate: refuse, max_seam_z: 4}"],
    )
    schedule: Schedule = Field(
        default=Schedule(),
        title="The periods of a series, and when each is processed",
        examples=["{from: 2024-01, cadence: P1M, latency_days: 5}"],
    )
    prices: Prices | None = Field(
        title="Prices, for an estimate of the cost",
        default=None,
        description="prices, as in {currency: EUR, cpu_hour: 0.04}",
    )

    _region_parts: tuple[RegionPart, ...] = PrivateAttr()
    _geometry: Polygon | MultiPolygon = PrivateAttr()

    @field_validator("period", mode="before")
    @classmethod
    def _parse_period(cls, value: Any) -> periods.Period | None:
        if value is None or isinstance(value, periods.Period):
            return value
        if value == LATEST:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | dt.date):
            raise ValueError(  # noqa: TRY004
                # ^ pydantic reports ValueError only
                f"the period {value!r} is not a date: write {periods.ACCEPTED_FORMATS}."
            )
        try:
            return periods.parse(value)
        except InvalidInputError as error:
            raise ValueError(str(error)) from error

    @field_validator("allow")
    @classmethod
    def _check_allowed_locations(
        cls, value: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        return check_unique(tuple(resolve_location(text, info) for text in value))

    _check_unique_ids = field_validator("include", "exclude")(check_unique)

    @field_validator("inputs")
    @classmethod
    def _check_inputs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_unique(tuple(check_choice(name, tuple(SENSORS), "input") for name in value))

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, bands in value.items():
            check_choice(name, tuple(SENSORS), "input")
            choices = get_sensor(name).measured_bands
            check_unique(tuple(check_choice(band, choices, f"band of {name}") for band in bands))
            if not bands:
                raise ValueError(f"{name} has no band: name one of {', '.join(choices)}.")
        return value

    @model_validator(mode="after")
    def _check_consistency(self) -> Job:
        unused = [name for name in self.bands if name not in self.inputs]
        if unused:
            raise ValueError(f"bands names {unused[0]}, which is not among the inputs.")
        contradicting = [name for name in self.include if name in self.exclude]
        if contradicting:
            raise ValueError(
                f"{contradicting[0]!r} is in both include and exclude: remove it from one of them."
            )
        if self.radar != Radar() and not any(
            get_sensor(name).group == "radar" for name in self.inputs
        ):
            raise ValueError(
                "radar selects Sentinel-1 passes, but no Sentinel-1 input is among the inputs."
            )
        if self.composite.every and not self.output.composites:
            raise ValueError(
                "composite.every needs composites in the output: add output: {composites: true}, "
                "or remove composite.every."
            )
        if self.output.probabilities and "land_cover" not in self.model.tasks:
            tasks = ", ".join(self.model.tasks)
            raise ValueError(f"the task {tasks} has no probabilities: remove output.probabilities.")
        return self

    @property
    def resolved_period(self) -> periods.Period:
        """Return the period that is mapped.

        Raises:
            InvalidInputError: The period is the latest one, and has not been resolved yet.
        """
        if self.period is None:
            raise InvalidInputError(
                f"The period is {LATEST}: name one with --period, or run the job to find it."
            )
        return self.period

    def with_period(self, period: periods.Period) -> Job:
        """Return a copy of the job with another period."""
        return self.model_copy(update={"period": period})

    @property
    def geometry(self) -> Polygon | MultiPolygon:
        """Return the region in longitude and latitude."""
        return self._geometry

    @property
    def region_parts(self) -> tuple[RegionPart, ...]:
        """Return the polygons of the region as they are drawn."""
        return self._region_parts

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """Return the inputs less the modalities that the model generates."""
        return tuple(name for name in self.inputs if name not in self.model.modalities)


def load(path: Path) -> Job:
    """Read and validate a job file; paths in it are relative to its folder.

    Raises:
        InvalidInputError: The file is missing or invalid; the message says how to correct it.
    """
    values = yaml_file.read(path)
    if values.get("name") is None:
        values["name"] = path.stem
    return parse(values, folder=path.resolve().parent, label=str(path))


def parse(values: Mapping[str, Any], *, folder: Path, label: str = "The job") -> Job:
    """Validate the keys and values of a job.

    Args:
        values: Content of the job file.
        folder: Folder that relative paths start at.
        label: What the job is called in messages.

    Raises:
        InvalidInputError: Keys are invalid; the message lists all of them.
    """
    document = {key: value for key, value in values.items() if value is not None}
    # ^ a section whose keys are all commented out counts as absent
    output = document.get("output", {})
    if isinstance(output, dict):
        document["output"] = {"path": "out", **output}
        # ^ validated as if it were written, so that the default too is relative to the job file
    try:
        job = Job.model_validate(document, context={"folder": folder})
    except ValidationError as error:
        raise InvalidInputError(
            validation_messages.explain_validation_error(error, Job, label)
        ) from error
    try:
        parts = job.region.read_parts()
        job._region_parts, job._geometry = parts, join_parts(parts)  # noqa: SLF001
        # ^ not fields: read from the file that a field names, here, so that the error has the label
    except InvalidInputError as error:
        raise InvalidInputError(f"{label}: region: {error}") from error
    return job
