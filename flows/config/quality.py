"""Sections ``radiometry`` and ``qc`` of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from flows.config.base import ConfigModel

_FALSE_AS_OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML 1.1 reads a bare ``off`` as false."""


class Radiometry(ConfigModel):
    """Check of a catalog's scale and offset against the pixels."""

    proof: Annotated[Literal["refuse", "warn", "off"], _FALSE_AS_OFF] = Field(
        title="What happens to scenes whose pixels contradict their catalog",
        default="refuse",
        description="refuse (leave out scenes whose pixels contradict the catalog), warn or off",
    )


class QualityGate(ConfigModel):
    """Quality a map must have to be published."""

    gate: Annotated[Literal["refuse", "warn", "off"], _FALSE_AS_OFF] = Field(
        title="What happens to a map beyond a limit",
        default="warn",
        description="refuse (publish nothing), warn or off",
    )
    max_seam_z: float = Field(
        title="Limit of visible seams",
        default=3.0,
        gt=0,
        description="a number above 0: the largest z score of class changes along window, tile and "
        "zone lines compared with those beside them; without seams, one map in 700 exceeds 3",
    )
    max_disagreement: float = Field(
        title="Limit of pixels whose class depends on the position of windows",
        default=0.1,
        ge=0,
        le=1,
        description="the largest share of pixels, 0 to 1, whose class changes when windows are "
        "shifted",
    )
    min_agreement: float = Field(
        title="Limit of pixels whose class depends on the precision",
        default=0.995,
        ge=0,
        le=1,
        description="the smallest share of pixels, 0 to 1, whose class is the same in fp32, "
        "where a GPU computes in bf16",
    )
    min_observed: float = Field(
        title="Limit of holes: what a product must hold at least",
        default=0.01,
        ge=0,
        le=1,
        description="the smallest share of the region's pixels, 0 to 1, that are observed and that "
        "every input, band and output has values at; below it nothing is published, whatever the "
        "gate is; 0 publishes all",
    )
