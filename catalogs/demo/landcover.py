"""What covers the land: the truth of the country, laid out from its relief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from catalogs import legend
from catalogs.demo import noise, parcels, settlements

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.frame import Frame
    from catalogs.demo.noise import Field
    from catalogs.demo.relief import Relief

WATER, TREES, FLOODED, CROPS, BUILT, BARE, SNOW, RANGELAND = (
    legend.LAND_COVER.by_name[name].code
    for name in (
        "water",
        "trees",
        "flooded_vegetation",
        "crops",
        "built",
        "bare",
        "snow_ice",
        "rangeland",
    )
)
SHARES = {SNOW: 0.035, BARE: 0.035, FLOODED: 0.045, BUILT: 0.05, TREES: 0.22, CROPS: 0.28}
# ^ shares of the country; water has what the relief gave it (about a tenth), rangeland the rest.
#   Quantiles of the country's own fields decide, so that every seed has every class.


@dataclass(frozen=True, slots=True, kw_only=True)
class LandCover:
    """The truth and the division that the sensors see.

    ``code`` are codes of the legend on the whole canvas, ``rock`` tells bare mountain from bare
    shores and pits.
    """

    code: NDArray[np.uint8]
    rock: NDArray[np.bool_]
    parcels: parcels.Parcels
    settlements: settlements.Settlements


class _Layout:
    """The canvas while it is being filled: what is free, and how much a class may take."""

    def __init__(self, frame: Frame) -> None:
        self.covered = frame.covered
        self.code = np.zeros(frame.shape, np.uint8)
        self.total = int(self.covered.sum())

    @property
    def free(self) -> NDArray[np.bool_]:
        return np.asarray(self.code == 0)

    def take(self, code: int, mask: NDArray[np.bool_]) -> None:
        """Give the free pixels of a mask to a class."""
        self.code[mask & self.free] = code

    def best(self, code: int, score: Field, share: float, where: NDArray[np.bool_]) -> None:
        """Give a class the free pixels with the highest score, as many as its share is."""
        candidates = score[where & self.free & self.covered]
        candidate_share = share * self.total / max(len(candidates), 1)
        if len(candidates) and candidate_share > 0:
            limit = np.quantile(candidates, max(0.0, 1 - candidate_share))
            self.take(code, where & (score >= limit))


def lay(frame: Frame, relief: Relief, seed: int) -> LandCover:
    """Lay the legend over a relief."""
    rng = noise.stream(seed, "cover")
    layout = _Layout(frame)
    everywhere = np.ones(frame.shape, np.bool_)
    slope = relief.slope
    layout.take(WATER, relief.water)
    cold = relief.height + 90 * noise.fractal(rng, frame.shape, wavelength=64, roughness=0.6)
    cold += 60 * relief.slope_y / (1 + slope)
    # ^ slopes that face north keep their snow
    layout.best(SNOW, cold, SHARES[SNOW], everywhere)
    rock = _bare(layout, relief, cold, slope, rng)
    _flood(layout, relief, slope, rng)
    division = parcels.divide(frame.shape, seed)
    suitable = _farmland(relief, slope, rng)
    villages = _villages(layout, relief, suitable, slope, seed)
    wood = _woodland(relief, slope, division, rng)
    layout.best(TREES, wood, SHARES[TREES], cold < np.quantile(cold[layout.covered], 0.88))
    field = parcels.average(suitable, division.field)
    layout.best(CROPS, 0.25 * suitable + field, SHARES[CROPS], slope < 0.25)
    layout.take(RANGELAND, everywhere)
    _sieve(layout.code)
    return LandCover(code=layout.code, rock=rock, parcels=division, settlements=villages)


def _bare(
    layout: _Layout, relief: Relief, cold: Field, slope: Field, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Lay rock under the snow line, beaches, gravel banks and pits; return the rock."""
    patch = noise.fractal(rng, cold.shape, wavelength=32, roughness=0.6)
    limit = np.quantile(cold[layout.covered], 0.9)
    steep = slope * 400 + (cold - limit) * 0.6 + 60 * patch
    layout.best(BARE, steep, 0.55 * SHARES[BARE], relief.rank > 0.8)
    rock = np.asarray(layout.code == BARE)
    beach = (relief.stream == 0) & (relief.distance < 5) & (relief.above < 4)
    layout.best(BARE, patch - 0.15 * relief.distance, 0.15 * SHARES[BARE], beach)
    bank = (relief.stream > 1.6) & (relief.distance < 4)
    layout.best(BARE, patch - 0.25 * relief.distance, 0.1 * SHARES[BARE], bank)
    _pits(layout, relief, 0.2 * SHARES[BARE], rng)
    return rock


def _pits(layout: _Layout, relief: Relief, share: float, rng: np.random.Generator) -> None:
    """Dig quarries into the hills and gravel pits into the plain."""
    ragged = noise.fractal(rng, layout.code.shape, wavelength=16, roughness=0.6)
    dry = layout.free & layout.covered & (relief.distance > 8) & (relief.rank < 0.85)
    rows, columns = np.nonzero(dry[::8, ::8])
    left = share * layout.total
    for pick in rng.permutation(len(rows)):
        if left <= 0:
            break
        row, column = rows[pick] * 8, columns[pick] * 8
        radius = rng.uniform(6, 14)
        window = (slice(max(0, row - 24), row + 25), slice(max(0, column - 24), column + 25))
        y, x = np.ogrid[window]
        pit = np.hypot(y - row, x - column) / radius + 0.35 * ragged[window] < 1
        pit &= layout.free[window]
        layout.code[window][pit] = BARE
        left -= int(pit.sum())


def _flood(layout: _Layout, relief: Relief, slope: Field, rng: np.random.Generator) -> None:
    """Lay marsh and swamp into the flats beside water."""
    patch = noise.fractal(rng, slope.shape, wavelength=64, roughness=0.55)
    wet = 1.3 * patch - 0.3 * relief.above - 0.06 * relief.distance - 8 * slope
    layout.best(FLOODED, wet, SHARES[FLOODED], relief.rank < 0.75)


def _farmland(relief: Relief, slope: Field, rng: np.random.Generator) -> Field:
    patch = noise.fractal(rng, slope.shape, wavelength=256, roughness=0.5)
    return np.asarray(0.55 * patch - 9 * np.minimum(slope, 0.4) - 1.6 * relief.rank, np.float32)


def _villages(
    layout: _Layout, relief: Relief, suitable: Field, slope: Field, seed: int
) -> settlements.Settlements:
    near = np.asarray(np.exp(-relief.distance / 40), np.float32)
    allowed = layout.free & (slope < 0.2) & (relief.above > 0.8) & (relief.rank < 0.85)
    inside = allowed & layout.covered
    built_pixels = round(SHARES[BUILT] * layout.total)
    villages = settlements.settle(suitable + 0.8 * near, inside, built_pixels, seed)
    layout.take(BUILT, villages.built)
    return villages


def _woodland(
    relief: Relief, slope: Field, division: parcels.Parcels, rng: np.random.Generator
) -> Field:
    """Score forest: natural outlines on slopes, straight ones in the plain."""
    patch = noise.fractal(rng, slope.shape, wavelength=128, roughness=0.55)
    score = patch + 4 * np.minimum(slope, 0.35) + 0.9 * relief.rank
    steep = noise.smoothstep(slope, 0.06, 0.16)
    blocks = parcels.average(score, division.block)
    return np.asarray(steep * score + (1 - steep) * blocks, np.float32)


def _sieve(code: NDArray[np.uint8]) -> None:
    """Hand specks of fewer than six pixels to rangeland, as maps with a least unit do."""
    for value in (TREES, CROPS, FLOODED, BARE):
        label, count = ndimage.label(code == value)
        small = np.bincount(label.ravel(), minlength=count + 1) < 6
        small[0] = False
        code[small[label]] = RANGELAND
