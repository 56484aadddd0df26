"""The shape of the land: a lake, plains, hills, mountains, and rivers that follow the drainage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from catalogs.demo import drainage, noise
from catalogs.demo.frame import PIXEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.frame import Frame
    from catalogs.demo.noise import Field

CELL = 8
# ^ side in pixels of the cells on which drainage is computed
THRESHOLD = 160
# ^ cells that a stream needs: about one square kilometre
LAKE_SHARE = 0.095
CHANNEL = 0.75
# ^ radius in pixels from which a stream is a river, that is, water at 10 m


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """The land without cover; fields are (rows, columns) of the canvas.

    ``height`` in metres; ``rank`` is the share of the country that lies lower; ``distance`` counts
    pixels to the nearest stream or lake, ``above`` metres above it; ``stream`` is the width in
    pixels of that stream (0 for a lake); ``slope_y`` and ``slope_x`` are metres per metre to the
    south and to the east.
    """

    height: Field
    rank: Field
    water: NDArray[np.bool_]
    lake: NDArray[np.bool_]
    distance: Field
    above: Field
    stream: Field
    slope_y: Field
    slope_x: Field
    reaches: drainage.Reaches

    @property
    def slope(self) -> Field:
        """Return the steepest slope, metres per metre."""
        return np.hypot(self.slope_y, self.slope_x)


def shape_land(frame: Frame, seed: int) -> Relief:
    """Make the relief of a seed."""
    height, rank, level = _land(frame, seed)
    lake = _lakes(rank)
    height = np.where(lake, level, np.maximum(height, level + np.float32(0.3)))
    coarse = noise.block_mean(height, CELL)
    outlet = noise.block_mean(lake.astype(np.float32), CELL) > 0.5
    basin = drainage.drain(coarse, outlet, CELL * PIXEL)
    cut = basin.bed.reshape(coarse.shape).astype(np.float32) - coarse
    height = np.where(lake, level, np.maximum(height + noise.refine(cut, CELL), level))
    reaches = drainage.trace(
        basin, noise.stream(seed, "meander"), cell=CELL, threshold=THRESHOLD, wander=0.6
    )
    return _incise(height, rank, lake, level, reaches)


def _land(frame: Frame, seed: int) -> tuple[Field, Field, np.float32]:
    """Return the height and its rank before any river, and the level of the lake."""
    rng = noise.stream(seed, "land")
    level = np.float32(rng.uniform(20, 1800))
    scale = np.float32(rng.uniform(0.65, 1.25))
    direction = rng.uniform(0, 2 * np.pi)
    y = (np.arange(frame.height, dtype=np.float32)[:, None] / frame.size) - 0.95
    x = (np.arange(frame.width, dtype=np.float32)[None] / frame.size) - 0.85
    tilt = (np.cos(direction) * y + np.sin(direction) * x).astype(np.float32)
    base = 1.5 * tilt + 0.75 * noise.fractal(rng, frame.shape, wavelength=512, roughness=0.45)
    sample = base[frame.covered][::37]
    rank = np.interp(base, np.quantile(sample, np.linspace(0, 1, 513)), np.linspace(0, 1, 513))
    rank = rank.astype(np.float32)
    r = np.clip((rank - LAKE_SHARE) / (1 - LAKE_SHARE), 0, None)
    hills = noise.fractal(rng, frame.shape, wavelength=128, roughness=0.45)
    ridges = 1 - 1.6 * np.abs(noise.fractal(rng, frame.shape, wavelength=128, roughness=0.5))
    rise = 55 * r + 230 * r**3 + 800 * r**7 + 9 * r * hills
    rise += 170 * noise.smoothstep(r, 0.55, 1.0) * ridges
    rise += np.maximum(base - np.quantile(sample, 1.0), 0) * 60
    return (level + scale * rise).astype(np.float32), rank, level


def _lakes(rank: Field) -> NDArray[np.bool_]:
    """Return the lowest ground, without puddles."""
    low = rank < LAKE_SHARE
    label, _ = ndimage.label(low)
    big = np.bincount(label.ravel()) > 150
    big[0] = False
    return np.asarray(big[label])


def _incise(
    height: Field,
    rank: Field,
    lake: NDArray[np.bool_],
    level: np.float32,
    reaches: drainage.Reaches,
) -> Relief:
    """Cut the valleys: near a stream the land falls to its bed, and rises away from it."""
    bed, width = _channels(height.shape, lake, level, reaches)
    away, nearest = ndimage.distance_transform_edt(np.isnan(bed), return_indices=True)
    distance = away.astype(np.float32)
    bed, width = (field[nearest[0], nearest[1]] for field in (bed, width))
    river = ~lake & (width / 2 >= CHANNEL) & (distance <= width / 2)
    reach = 6 + 9 * width
    weight = np.exp(-((distance / reach) ** 2))
    bank = np.maximum(distance - width / 2, 0)
    floor = bed + 0.3 + 0.05 * bank + 0.002 * bank**2
    height = weight * floor + (1 - weight) * height
    height = np.where(weight > 0.1, np.maximum(height, bed + np.float32(0.2)), height)
    height = np.where(river, bed, np.where(lake, level, height)).astype(np.float32)
    soft = _soft(height)
    return Relief(
        height=height,
        rank=rank,
        water=river | lake,
        lake=lake,
        distance=np.maximum(distance - width / 2, 0),
        above=height - bed,
        stream=width,
        slope_y=np.asarray(np.gradient(soft, PIXEL, axis=0), np.float32),
        slope_x=np.asarray(np.gradient(soft, PIXEL, axis=1), np.float32),
        reaches=reaches,
    )


def _channels(
    shape: tuple[int, int], lake: NDArray[np.bool_], level: np.float32, reaches: drainage.Reaches
) -> tuple[Field, Field]:
    """Burn bed and width into a canvas that is otherwise NaN; lakes have width 0."""
    bed = np.full(shape, np.nan, np.float32)
    width = np.zeros(shape, np.float32)
    row = np.clip(np.floor(reaches.row).astype(np.int64), 0, shape[0] - 1)
    column = np.clip(np.floor(reaches.column).astype(np.int64), 0, shape[1] - 1)
    order = np.lexsort((np.arange(len(row)), -reaches.bed))
    # ^ the last write wins: where reaches cross a pixel, its lowest bed
    bed[row[order], column[order]] = reaches.bed[order]
    width[row[order], column[order]] = reaches.width[order]
    bed[lake] = level
    width[lake] = 0
    return bed, width


def _soft(height: Field) -> Field:
    return np.asarray(ndimage.uniform_filter(height, 3, mode="nearest"))
