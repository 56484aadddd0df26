"""Where the country lies: three granules on either side of a zone edge, and the canvas under them.

The landscape is drawn once, on a canvas in the main UTM zone. Two granules are cut out of it; the
third belongs to the neighbouring zone and samples the canvas through the map projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import shapely
from pyproj import Transformer
from rasterio.transform import Affine
from shapely.geometry import Polygon, box

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL = 10
MAIN, NEIGHBOUR = 32632, 32633
EDGE_LONGITUDE = 12.0
MIDDLE_NORTHING = 5_300_000
# ^ the line between two rows of MGRS squares, at 47.8 degrees north: no whole degree of latitude
#   (an edge of the elevation model's tiles) is near
OVERLAP = 0.12
# ^ share of a granule's side that it has in common with the next one (9.8 of 110 km in reality)
MARGIN = 24
LATTICE = 60
# ^ origins are multiples of 60 m, so that the 10, 20 and 60 m bands of a granule begin together


@dataclass(frozen=True, slots=True, kw_only=True)
class Granule:
    """One tile of the Sentinel-2 grid, cut down to the country's size."""

    tile: str
    epsg: int
    left: float
    top: float
    size: int

    def transform(self, resolution: int = PIXEL) -> Affine:
        """Return the map from pixels of a resolution in metres to coordinates."""
        return Affine(resolution, 0.0, self.left, 0.0, -resolution, self.top)

    def side(self, resolution: int) -> int:
        """Return the number of pixels of a resolution along a side; the last may stick out."""
        return -(-self.size * PIXEL // resolution)

    def outline(self) -> Polygon:
        """Return the granule's square in its own zone."""
        side = self.size * PIXEL
        return box(self.left, self.top - side, self.left + side, self.top)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The canvas and the granules on it."""

    size: int
    left: float
    top: float
    height: int
    width: int
    granules: tuple[Granule, Granule, Granule]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the canvas' rows and columns of 10 m."""
        return self.height, self.width

    @property
    def transform(self) -> Affine:
        """Return the map from canvas pixels to coordinates of the main zone."""
        return Affine(PIXEL, 0.0, self.left, 0.0, -PIXEL, self.top)

    def offset(self, granule: Granule) -> tuple[int, int]:
        """Return the canvas row and column of a main-zone granule's first pixel."""
        return round((self.top - granule.top) / PIXEL), round((granule.left - self.left) / PIXEL)

    def positions(
        self, epsg: int, transform: Affine, shape: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the canvas rows and columns (of pixel centres) of another grid's pixel centres."""
        to_canvas = Transformer.from_crs(epsg, MAIN, always_xy=True)
        there = _Lattice.over(shape)
        x, y = transform @ (there.columns + 0.5, there.rows + 0.5)
        east, north = to_canvas.transform(x, y)
        rows = (self.top - north) / PIXEL - 0.5
        columns = (east - self.left) / PIXEL - 0.5
        return there.spread(rows), there.spread(columns)

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """Tell which canvas pixels some granule covers."""
        mask = np.zeros(self.shape, np.bool_)
        for granule in self.granules[:2]:
            row, column = self.offset(granule)
            mask[row : row + granule.size, column : column + granule.size] = True
        return mask | self._under(self.granules[2])

    def _under(self, granule: Granule) -> NDArray[np.bool_]:
        to_granule = Transformer.from_crs(MAIN, granule.epsg, always_xy=True)
        there = _Lattice.over(self.shape)
        x, y = self.transform @ (there.columns + 0.5, there.rows + 0.5)
        east, north = to_granule.transform(x, y)
        column = there.spread((east - granule.left) / PIXEL)
        row = there.spread((granule.top - north) / PIXEL)
        return (row >= 0) & (row < granule.size) & (column >= 0) & (column < granule.size)

    def outline(self) -> Polygon:
        """Return the union of the granules in longitude and latitude."""
        shapes = [turn(g.outline(), inverse(g.epsg)) for g in self.granules]
        return shapely.unary_union(shapes)


@dataclass(frozen=True, slots=True)
class _Lattice:
    """A sparse sample of a grid, from which a smooth map is spread to every pixel."""

    shape: tuple[int, int]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @classmethod
    def over(cls, shape: tuple[int, int]) -> _Lattice:
        rows, columns = np.meshgrid(
            np.linspace(0, shape[0] - 1, 9), np.linspace(0, shape[1] - 1, 9), indexing="ij"
        )
        return cls(shape, rows, columns)

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fit a polynomial of third degree and evaluate it at every pixel.

        Between neighbouring UTM zones and over some 20 km it errs by less than a millimetre.
        """
        height, width = self.shape
        u, v = self.rows / height, self.columns / width
        powers = [(i, j) for i in range(4) for j in range(4) if i + j <= 3]
        design = np.stack([(u**i * v**j).ravel() for i, j in powers], axis=1)
        weights = np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
        table = np.zeros((4, 4))
        for (i, j), weight in zip(powers, weights, strict=True):
            table[i, j] = weight
        row = np.stack([(np.arange(height) / height) ** i for i in range(4)], axis=1)
        column = np.stack([(np.arange(width) / width) ** j for j in range(4)])
        return np.asarray((row @ table) @ column)


def inverse(epsg: int) -> Transformer:
    """Return the map from a zone to longitude and latitude."""
    return Transformer.from_crs(epsg, 4326, always_xy=True)


def turn(outline: Polygon, transformer: Transformer) -> Polygon:
    """Map a polygon's corners."""
    return shapely.transform(outline, transformer.transform, interleaved=False)


def rectangle(plan: Frame) -> Polygon:
    """Return the canvas' outline in the main zone."""
    right, bottom = plan.transform @ (plan.width, plan.height)
    return box(plan.left, bottom, right, plan.top)


def outline_lonlat(outline: Polygon) -> Polygon:
    """Return a polygon of the main zone in longitude and latitude."""
    return turn(outline, inverse(MAIN))


def _snap(value: float) -> int:
    return round(value / LATTICE) * LATTICE


def lay_out(size: int) -> Frame:
    """Place the granules around the edge of two UTM zones."""
    side = size * PIXEL
    middle = inverse(MAIN).transform(720_000.0, float(MIDDLE_NORTHING))[1]
    edge_main = Transformer.from_crs(4326, MAIN, always_xy=True).transform(EDGE_LONGITUDE, middle)
    edge_next = Transformer.from_crs(4326, NEIGHBOUR, always_xy=True).transform(
        EDGE_LONGITUDE, middle
    )
    left = _snap(edge_main[0] - (1 - OVERLAP) * side)
    half = _snap(OVERLAP / 2 * side)
    upper = Granule(
        tile="32UQU",
        epsg=MAIN,
        left=left,
        size=size,
        top=MIDDLE_NORTHING + side - (side % LATTICE) - half + 40,
    )
    lower = Granule(tile="32TQT", epsg=MAIN, left=left, size=size, top=MIDDLE_NORTHING + half + 40)
    third = Granule(
        tile="33TTN",
        epsg=NEIGHBOUR,
        size=size,
        left=_snap(edge_next[0] - OVERLAP * side),
        top=_snap(edge_next[1] + side / 2),
    )
    # ^ + 40: northings that are multiples of 60 m, like those of the real tiles (5 300 040)
    return _canvas(size, (upper, lower, third))


def _canvas(size: int, granules: tuple[Granule, Granule, Granule]) -> Frame:
    third = granules[2]
    to_main = Transformer.from_crs(third.epsg, MAIN, always_xy=True)
    west, south, east, north = shapely.unary_union(
        [*(g.outline() for g in granules[:2]), turn(third.outline(), to_main)]
    ).bounds
    left = _snap(west) - MARGIN * PIXEL
    top = granules[0].top + (_snap(max(0.0, north - granules[0].top)) + MARGIN * PIXEL)
    height, width = (
        (-(-round(span) // (PIXEL * 24)) + 2) * 24 for span in (top - south, east - left)
    )
    return Frame(size=size, left=left, top=top, height=height, width=width, granules=granules)
