"""Sections ``mask``, ``composite`` and ``radar`` of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from catalogs.errors import InvalidInputError
from flows.config import cadence
from flows.config.base import ConfigModel, LaxTuple, check_unique

SclCode = Annotated[int, Field(ge=0, le=11)]


class Mask(ConfigModel):
    """Rules for clear Sentinel-2 pixels."""

    clear_scl: Annotated[tuple[SclCode, ...], LaxTuple] = Field(
        title="Classes of the scene classification (SCL) whose pixels are clear",
        default=(2, 4, 5, 6, 7, 11),
        min_length=1,
        description="a list of scene-classification codes, 0 to 11",
    )
    dilate_m: float = Field(
        title="Width of the surroundings of clouds that are masked too",
        default=40.0,
        ge=0,
        le=10_000,
        description="metres around clouds, 0 to 10000",
    )
    dilate_scl: Annotated[tuple[SclCode, ...], LaxTuple] = Field(
        title="Classes whose surroundings are masked too, unless they are clear",
        default=(3, 8, 9, 10),
        description="a list of the scene-classification codes that dilate_m dilates",
    )
    max_cloud_probability: float | None = Field(
        title="Limit of the cloud probability of a clear pixel",
        default=None,
        ge=0,
        le=100,
        description="per cent above which a pixel is cloud, in scenes with a cloud probability",
    )

    _check_unique_codes = field_validator("clear_scl", "dilate_scl")(check_unique)


class Composite(ConfigModel):
    """Method and limits of compositing dates into one image."""

    method: Literal["median", "medoid", "least_cloudy", "latest"] = Field(
        title="How the clear days of a pixel become one value",
        default="median",
        description="median, medoid, least_cloudy or latest",
    )
    max_cloud_cover: float = Field(
        title="Limit of the cloud cover that a scene states",
        default=60.0,
        ge=0,
        le=100,
        description="per cent of a scene, 0 to 100",
    )
    max_passes: int | None = Field(
        title="Limit of the passes over a pixel",
        default=None,
        ge=1,
        description="a whole number: the most passes over a pixel; the least cloudy ones are used",
    )
    every: str | None = Field(
        title="Length of parts of the period with composites of their own",
        default=None,
        description="P1M, P10D, P1W or the like: adds a composite for each such part of the period",
    )

    @field_validator("every")
    @classmethod
    def _check_every(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                cadence.parse(value)
            except InvalidInputError as error:
                raise ValueError(str(error)) from error
        return value


class Radar(ConfigModel):
    """Selection of Sentinel-1 passes."""

    orbit: Literal["both", "ascending", "descending"] = Field(
        title="Directions of flight", default="both", description="both, ascending or descending"
    )
    relative_orbits: Annotated[tuple[Annotated[int, Field(ge=1, le=175)], ...], LaxTuple] = Field(
        title="Tracks; by default all",
        default=(),
        description="a list of relative orbit numbers, 1 to 175",
    )

    _check_unique_orbits = field_validator("relative_orbits")(check_unique)

    @property
    def orbit_states(self) -> tuple[str, ...]:
        """Return the selected orbit states; empty = all."""
        return () if self.orbit == "both" else (self.orbit,)
