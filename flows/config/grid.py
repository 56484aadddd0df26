"""Section ``grid`` of a job."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from catalogs.errors import InvalidInputError
from flows.config.base import ConfigModel, LaxTuple, check_unique


class GridConfig(ConfigModel):
    """CRS, resolution and alignment of the output grid."""

    crs: str = Field(
        title="Coordinate system of the output",
        default="utm",
        description="utm (the UTM zones of the region, or the one zone that all scenes over it "
        "share, if they reach so far), or a code as in EPSG:32632: projected, in metres",
    )
    resolution: float = Field(
        title="Side of a pixel", default=10.0, ge=1, description="metres per pixel, 1 or more"
    )
    align: Literal["auto", "multiples"] = Field(
        title="Where the corners of pixels lie",
        default="auto",
        description="auto (the scenes' grid if all share one) or multiples (of the resolution)",
    )
    mosaic: Annotated[tuple[str, ...], LaxTuple] = Field(
        title="Coordinate systems of mosaics that merge the UTM zones",
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
        _check_crs_code(int(match[1]))
        return f"EPSG:{int(match[1])}"

    @property
    def epsg(self) -> int | None:
        """Return the EPSG code; ``None`` = the UTM zones that the region intersects."""
        return None if self.crs == "utm" else int(self.crs.removeprefix("EPSG:"))


def _check_crs_code(epsg: int) -> None:
    from pipeline.grid import crs  # noqa: PLC0415

    # ^ pyproj is slow to import, and only jobs with a code need it

    try:
        crs.check_crs(epsg)
    except InvalidInputError as error:
        raise ValueError(str(error)) from error
