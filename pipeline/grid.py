"""Output grids and the pixels on them: pure geometry, no raster is opened here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from affine import Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A north-up raster grid in a projected coordinate system."""

    epsg: int
    """EPSG code of the coordinate system; its unit is the metre."""

    resolution: float
    """Side of a square pixel, metres."""

    left: float
    """x of the western edge of the first column, metres."""

    top: float
    """y of the northern edge of the first row, metres."""

    height: int
    """Rows."""

    width: int
    """Columns."""

    def __post_init__(self) -> None:
        if not self.resolution > 0 or not math.isfinite(self.resolution):
            raise ValueError(f"A grid needs a positive resolution, not {self.resolution!r}.")
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"A grid needs at least one row and one column, not {self.height} x {self.width}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return (self.height, self.width)

    @property
    def transform(self) -> Affine:
        """Return the affine transform from (column, row) to the (x, y) of a pixel's corner."""
        return Affine(self.resolution, 0.0, self.left, 0.0, -self.resolution, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return (left, bottom, right, top) of the outer edges, metres."""
        return (
            self.left,
            self.top - self.height * self.resolution,
            self.left + self.width * self.resolution,
            self.top,
        )

    def window(self, *, row: int, column: int, height: int, width: int) -> Grid:
        """Return the grid of a window given in this grid's pixels; it may reach outside."""
        return Grid(
            epsg=self.epsg,
            resolution=self.resolution,
            left=self.left + column * self.resolution,
            top=self.top - row * self.resolution,
            height=height,
            width=width,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as JSON-ready values."""
        return {
            "epsg": self.epsg,
            "resolution": self.resolution,
            "left": self.left,
            "top": self.top,
            "height": self.height,
            "width": self.width,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Build a grid from :meth:`to_dict`'s values."""
        return cls(**values)
