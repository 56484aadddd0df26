"""Sections ``mask``, ``composite``, ``radar``, ``radiometry`` and ``qc`` of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from catalogs.errors import InvalidInputError
from flows.config import cadence
from flows.config.base import ConfigModel, LaxTuple, check_unique

SclCode = Annotated[int, Field(ge=0, le=11)]


class Mask(ConfigModel):
    """Rules for clear Sentinel-2 pixels."""

    clear_scl: Annotated[tuple[SclCode, ...], LaxTuple] = Field(
        default=(2, 4, 5, 6, 7, 11),
        min_length=1,
        description="a list of scene-classification codes, 0 to 11",
    )
    dilate_m: float = Field(
        default=40.0, ge=0, le=10_000, description="metres around clouds, 0 to 10000"
    )
    dilate_scl: Annotated[tuple[SclCode, ...], LaxTuple] = Field(
        default=(3, 8, 9, 10),
        description="a list of the scene-classification codes that dilate_m dilates",
    )
    max_cloud_probability: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="per cent above which a pixel is cloud, in scenes with a cloud probability",
    )

    _check_unique_codes = field_validator("clear_scl", "dilate_scl")(check_unique)


class Composite(ConfigModel):
    """Method and limits of compositing dates into one image."""

    method: Literal["median", "medoid", "least_cloudy", "latest"] = Field(
        default="median", description="median, medoid, least_cloudy or latest"
    )
    max_cloud_cover: float = Field(
        default=60.0, ge=0, le=100, description="per cent of a scene, 0 to 100"
    )
    max_passes: int | None = Field(
        default=None,
        ge=1,
        description="a whole number: the most passes over a pixel; the least cloudy ones are used",
    )
    every: str | None = Field(
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
        default="both", description="both, ascending or descending"
    )
    relative_orbits: Annotated[tuple[Annotated[int, Field(ge=1, le=175)], ...], LaxTuple] = Field(
        default=(), description="a list of relative orbit numbers, 1 to 175"
    )

    _check_unique_orbits = field_validator("relative_orbits")(check_unique)

    @property
    def orbit_states(self) -> tuple[str, ...]:
        """Return the selected orbit states; empty = all."""
        return () if self.orbit == "both" else (self.orbit,)


_FALSE_AS_OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML 1.1 reads a bare ``off`` as false."""


class Radiometry(ConfigModel):
    """Check of a catalog's scale and offset against the pixels."""

    proof: Annotated[Literal["refuse", "warn", "off"], _FALSE_AS_OFF] = Field(
        default="refuse",
        description="refuse (leave out scenes whose pixels contradict the catalog), warn or off",
    )


class QualityGate(ConfigModel):
    """Quality a map must have to be published."""

    gate: Annotated[Literal["refuse", "warn", "off"], _FALSE_AS_OFF] = Field(
        default="warn", description="refuse (publish nothing), warn or off"
    )
    max_seam_z: float = Field(
        default=3.0,
        gt=0,
        description="a number above 0: the largest z score of class changes along window, tile and "
        "zone lines compared with those beside them; without seams, one map in 700 exceeds 3",
    )
    max_disagreement: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="the largest share of pixels, 0 to 1, whose class changes when windows are "
        "shifted",
    )
    min_agreement: float = Field(
        default=0.995,
        ge=0,
        le=1,
        description="the smallest share of pixels, 0 to 1, whose class is the same in fp32, "
        "where a GPU computes in bf16",
    )
