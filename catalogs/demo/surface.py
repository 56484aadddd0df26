"""What the sensors see of the land: every pixel's material, its mixture and its texture.

The canvas is divided into segments (a field, a stand, a house lot). A segment has two spectra on a
day, and a pixel mixes them; texture within the segment multiplies the result. Segments of one
class differ more than the classes' means do, as in the real chips: it is shape, place and texture
that tell a fallow field from a gravel bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from catalogs.demo import landcover, noise, phenology, spectra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.landcover import LandCover
    from catalogs.demo.noise import Field
    from catalogs.demo.relief import Relief

    Table = NDArray[np.float32]


class _Kind(NamedTuple):
    """A group of segments and the spread inside it (relative, standard deviations)."""

    first: int
    count: int
    lot: float
    """of brightness between segments"""
    grain: float
    """of brightness between pixels"""
    pigment: float
    """of visible against infrared, between pixels"""
    clutter: float
    """of backscatter between pixels beyond speckle, decibels"""


def _kinds(**rows: tuple[int, float, float, float, float]) -> dict[str, _Kind]:
    kinds, first = {}, 0
    for name, (count, *spread) in rows.items():
        kinds[name] = _Kind(first, count, *spread)
        first += count
    return kinds


KINDS = _kinds(
    water=(64, 0.16, 0.08, 0.04, 0.4),
    wood=(4096, 0.16, 0.20, 0.12, 0.8),
    marsh=(512, 0.17, 0.20, 0.12, 0.8),
    field=(8192, 0.19, 0.13, 0.09, 0.6),
    house=(1024, 0.28, 0.34, 0.14, 2.6),
    street=(64, 0.15, 0.22, 0.08, 1.2),
    garden=(256, 0.15, 0.24, 0.13, 1.5),
    bare=(512, 0.17, 0.18, 0.08, 1.0),
    snow=(64, 0.06, 0.08, 0.03, 0.6),
    grass=(2048, 0.19, 0.16, 0.11, 0.7),
    road=(16, 0.15, 0.15, 0.06, 0.8),
    hedge=(64, 0.12, 0.15, 0.10, 0.8),
)
# ^ grain and pigment: standard deviation of the chips after a Gaussian of two pixels is taken
#   out, relative to the mean: trees 0.13 to 0.20, crops 0.09 to 0.17, built 0.2 to 0.5,
#   rangeland 0.08 to 0.16, bare 0.07; two thirds of its variance move all bands together and
#   a fifth moves the visible against the infrared
SEGMENTS = sum(kind.count for kind in KINDS.values())

_PIGMENT = np.array([1.0, 1.0, 0.9, 1.2, 0.5, -0.2, -0.35, -0.4, -0.4, -0.2, 0.3, 0.6], np.float32)
_WETNESS = np.array([0.1, 0.1, 0.15, 0.25, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.8, 1.0], np.float32)
_CENTRES = np.log(
    np.array([443, 490, 560, 665, 704, 740, 783, 842, 865, 945, 1610, 2190], np.float32)
)
_CORRELATED = np.linalg.cholesky(
    np.exp(-(((_CENTRES[:, None] - _CENTRES) / 0.2) ** 2) / 2) + 0.02 * np.eye(len(_CENTRES))
).T.astype(np.float32)
# ^ turns independent numbers into a wobble of the spectrum that is smooth in wavelength


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """The land as a mixture; fields are (rows, columns) of the canvas."""

    segment: NDArray[np.uint16]
    mix: Field
    grain: Field
    pigment: Field
    wetness: Field
    clutter: Field
    seed: int

    def reflect(self, spectra_of: tuple[Table, Table], band: int) -> Field:
        """Return the reflectance (DN) of a band under even light."""
        first, step = (np.ascontiguousarray(table[:, band]) for table in spectra_of)
        out = np.take(step, self.segment)
        out *= self.mix
        out += np.take(first, self.segment)
        factor = self.pigment * _PIGMENT[band]
        factor -= self.wetness * _WETNESS[band]
        factor += self.grain
        factor += 1
        out *= factor
        return np.asarray(out)

    def scatter(self, levels: Table) -> Field:
        """Return backscatter in decibels under even incidence, without speckle."""
        return np.take(levels, self.segment) + self.clutter


def cover(land: LandCover, relief: Relief, seed: int) -> Surface:
    """Dress the land cover in materials."""
    shape = land.code.shape
    rng = noise.stream(seed, "surface")
    segment = _segments(land, relief)
    fine = noise.white(rng, shape)
    blotch = noise.fractal(rng, shape, wavelength=8, finest=1, roughness=0.7)
    patch = noise.fractal(rng, shape, wavelength=64, roughness=0.6)
    mix = _mixture(segment, relief, land, (fine, blotch, patch))
    grain = 0.75 * noise.white(rng, shape) + 0.66 * blotch
    pigment = 0.8 * noise.white(rng, shape) + 0.6 * noise.fractal(
        rng, shape, wavelength=8, finest=1
    )
    wetness = 0.07 * noise.fractal(rng, shape, wavelength=128) + 0.08 * noise.white(rng, shape)
    clutter = 0.8 * fine + 0.6 * noise.white(rng, shape)
    return Surface(
        segment=segment,
        mix=mix,
        grain=np.clip(grain, -2.6, 3) * _spread("grain")[segment],
        pigment=pigment * _spread("pigment")[segment],
        wetness=wetness,
        clutter=clutter * _spread("clutter")[segment],
        seed=seed,
    )


def _spread(name: str) -> Table:
    return np.concatenate(
        [np.full(kind.count, getattr(kind, name), np.float32) for kind in KINDS.values()]
    )


def _segments(land: LandCover, relief: Relief) -> NDArray[np.uint16]:
    """Number every pixel's segment."""
    code, division, built = land.code, land.parcels, land.settlements
    segment = np.zeros(code.shape, np.uint16)

    def put(name: str, mask: NDArray[np.bool_], number: NDArray[np.int32]) -> None:
        kind = KINDS[name]
        segment[mask] = kind.first + number[mask] % kind.count

    put("water", code == landcover.WATER, np.where(relief.lake, 0, 4).astype(np.int32))
    put("wood", code == landcover.TREES, division.stand)
    put("marsh", code == landcover.FLOODED, division.stand)
    put("field", code == landcover.CROPS, division.field)
    put("grass", code == landcover.RANGELAND, division.pasture)
    put("bare", code == landcover.BARE, 2 * division.pasture + land.rock)
    put("snow", code == landcover.SNOW, division.pasture)
    open_land = (code == landcover.CROPS) | (code == landcover.RANGELAND)
    hedge = division.lane & (code == landcover.CROPS) & (division.block % 3 > 0)
    put("hedge", hedge, division.block)
    put("road", built.road & (open_land | (code == landcover.TREES)), division.block)
    lot = _lots(built.village)
    inside = code == landcover.BUILT
    put("garden", inside, lot)
    put("house", inside & built.house, lot)
    put("street", inside & (built.street | built.road), built.village)
    return segment


def _lots(village: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number lots of 2 x 2 pixels within the villages."""
    y = np.arange(village.shape[0], dtype=np.int32)[:, None] // 2
    x = np.arange(village.shape[1], dtype=np.int32)[None] // 2
    return (y * 7919 + x * 104729 + village * 31) & 0xFFFFF


def _mixture(
    segment: NDArray[np.uint16], relief: Relief, land: LandCover, noises: tuple[Field, Field, Field]
) -> Field:
    """Return the share of each segment's second spectrum."""
    fine, blotch, patch = noises
    plan = {
        # middle, and the weights of noise from pixel to pixel, of blotches and of patches
        "water": (0.05, 0.02, 0.02, 0.10),
        "wood": (0.25, 0.08, 0.16, 0.06),
        "marsh": (0.26, 0.08, 0.18, 0.10),
        "field": (0.10, 0.04, 0.07, 0.05),
        "house": (0.46, 0.22, 0.10, 0.0),
        "street": (0.30, 0.15, 0.05, 0.0),
        "garden": (0.35, 0.20, 0.10, 0.0),
        "bare": (0.22, 0.08, 0.16, 0.08),
        "snow": (0.12, 0.04, 0.10, 0.06),
        "grass": (0.42, 0.08, 0.12, 0.22),
        "road": (0.45, 0.15, 0.05, 0.0),
        "hedge": (0.40, 0.12, 0.10, 0.0),
    }
    weights = np.concatenate(
        [np.tile(np.array(plan[name], np.float32), (kind.count, 1)) for name, kind in KINDS.items()]
    )
    middle, by_pixel, by_blotch, by_patch = (np.take(column, segment) for column in weights.T)
    mix = middle + by_pixel * fine + by_blotch * blotch + by_patch * patch
    shore = np.asarray(ndimage.uniform_filter((~relief.water).astype(np.float32), 13))
    mix += np.where(relief.water, 0.9 * shore, 0)
    mix[land.parcels.margin & (land.code == landcover.CROPS)] += 0.4
    return np.clip(mix, 0, 1).astype(np.float32)


class Materials:
    """The spectra and backscatter of every segment on any day."""

    def __init__(self, seed: int) -> None:
        """Draw what makes each segment different from its neighbours."""
        rng = noise.stream(seed, "materials")
        self._draw = rng.random((SEGMENTS, 3), np.float32)
        self._shift = rng.normal(0, 6, SEGMENTS).astype(np.float32)
        lot = _spread("lot")
        noises = rng.standard_normal((SEGMENTS, len(spectra.BANDS) + 1), dtype=np.float32)
        self._factor = np.exp(lot[:, None] * (0.7 * noises[:, -1:] + noises[:, :-1] @ _CORRELATED))
        self._radar = rng.standard_normal((SEGMENTS, 2), dtype=np.float32)
        self._crop = np.searchsorted(
            np.cumsum(phenology.CROP_SHARES)[:-1], self._part("field")[:, 0]
        )

    def _part(self, name: str) -> Table:
        kind = KINDS[name]
        return self._draw[kind.first : kind.first + kind.count]

    def _late(self, name: str) -> Table:
        kind = KINDS[name]
        return self._shift[kind.first : kind.first + kind.count]

    def reflectance(self, day: int) -> tuple[Table, Table]:
        """Return the first spectrum of each segment and the step to the second, (segments, bands)."""
        pairs = [
            getattr(self, f"_{name}")(self._part(name), self._late(name), day) for name in KINDS
        ]
        first = np.concatenate([pair[0] for pair in pairs]) * self._factor
        second = np.concatenate([pair[1] for pair in pairs]) * self._factor
        return first, second - first

    def backscatter(self, day: int) -> tuple[Table, Table]:
        """Return the levels of VV and VH of each segment in decibels."""
        levels = np.concatenate(
            [
                getattr(self, f"_{name}_db")(self._part(name), self._late(name), day)
                for name in KINDS
            ]
        )
        common, apart = self._radar.T
        spread = np.concatenate(
            [np.full(kind.count, _LEVEL_SPREAD[name], np.float32) for name, kind in KINDS.items()]
        )
        return levels[:, 0] + spread * common, levels[:, 1] + spread * (0.8 * common + 0.6 * apart)

    # -- spectra ----------------------------------------------------------------------------

    def _water(self, draw: Table, _late: Table, _day: int) -> tuple[Table, Table]:
        river = (np.arange(len(draw)) >= 4)[:, None]
        first = _blend(spectra.WATER_CLEAR, spectra.WATER_TURBID, 0.5 * draw[:, 0])
        first = np.where(river, _blend(spectra.WATER_DARK, spectra.WATER_TURBID, draw[:, 1]), first)
        return first, _blend(spectra.WATER_TURBID, spectra.WATER_SHALLOW, draw[:, 2])

    def _wood(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        leaves = phenology.leaves(late, day)
        deciduous = _blend(spectra.WOOD_BARE, spectra.BROADLEAF * np.float32(1.12), leaves)
        conifer = np.clip((draw[:, 0] - 0.35) * 4, 0, 1)
        canopy = _mix(deciduous, np.broadcast_to(spectra.CONIFER, deciduous.shape), conifer)
        thin = _thin(draw)
        ground = _blend(spectra.SHRUB, spectra.GRASS_GREEN, 0.6 * leaves * draw[:, 2])
        return _mix(canopy, ground, thin), _mix(ground, canopy, np.full(len(draw), 0.3, np.float32))

    def _marsh(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        green = phenology.reeds(late, day)
        reed = _blend(spectra.MARSH_DRY, spectra.MARSH_GREEN, green)
        meadow = _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, green)
        willow = _blend(spectra.WOOD_BARE, spectra.BROADLEAF, green)
        first = _mix(
            _mix(reed, meadow * np.float32(0.9), np.clip(draw[:, 0] * 2 - 1, 0, 0.8)),
            willow,
            np.clip(draw[:, 1] * 3 - 2, 0, 0.8),
        )
        return first, _blend(spectra.WATER_DARK, spectra.MARSH_DRY, 0.3 + 0.5 * draw[:, 2])

    def _field(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        green = phenology.crop_green(self._crop, late, day)
        ripe = phenology.crop_ripe(self._crop, late, day)
        soil = _blend(spectra.SOIL_DRY, spectra.SOIL_MOIST, draw[:, 1])
        soil = _mix(soil, np.broadcast_to(spectra.SOIL_BRIGHT, soil.shape), 0.6 * draw[:, 2])
        ground = _mix(soil, np.broadcast_to(spectra.CROP_DRY, soil.shape), ripe)
        ley = self._crop == phenology.CROPS.index("ley")
        plant = np.where(ley[:, None], spectra.GRASS_GREEN, spectra.CROP_GREEN)
        first = _mix(ground, plant, green)
        grass = phenology.grass_green(late, day)
        return first, _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, grass)

    def _house(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        roof = _blend(spectra.ASPHALT, spectra.ROOF_MID, np.clip(draw[:, 0] * 1.6, 0, 1))
        roof = _mix(
            roof,
            np.broadcast_to(spectra.ROOF_BRIGHT, roof.shape),
            np.clip(draw[:, 1] * 3 - 2, 0, 1),
        )
        return roof, self._green_lot(draw, late, day)

    def _street(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        return _blend(spectra.ASPHALT, spectra.ROOF_MID, 0.6 * draw[:, 0]), self._green_lot(
            draw, late, day
        )

    def _garden(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        return self._green_lot(draw, late, day), _blend(
            spectra.ROOF_MID, spectra.ASPHALT, draw[:, 0]
        )

    def _green_lot(self, draw: Table, late: Table, day: int) -> Table:
        lawn = _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, phenology.grass_green(late, day))
        trees = _blend(spectra.WOOD_BARE, spectra.BROADLEAF, phenology.leaves(late, day))
        both = _mix(lawn, trees, draw[:, 2])
        return _mix(
            both, np.broadcast_to(spectra.GARDEN, both.shape), np.full(len(draw), 0.5, np.float32)
        )

    def _bare(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        rock = (np.arange(len(draw)) % 2 == 1)[:, None]
        shore = _blend(spectra.GRAVEL, spectra.SAND, np.clip(draw[:, 0] * 2.5 - 1.5, 0, 0.8))
        pit = _mix(shore, np.broadcast_to(spectra.SOIL_BRIGHT, shore.shape), draw[:, 1])
        first = np.where(rock, _blend(spectra.ROCK, spectra.GRAVEL, 0.5 * draw[:, 1]), pit)
        grass = phenology.grass_green(late, day)
        return first, _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, 0.6 * grass)

    def _snow(self, draw: Table, _late: Table, _day: int) -> tuple[Table, Table]:
        first = _blend(spectra.SNOW_CLEAN, spectra.SNOW_DIRTY, 0.8 * draw[:, 0])
        return first, np.broadcast_to(spectra.ROCK, first.shape)

    def _grass(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        green = phenology.grass_green(late, day)
        lush = _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, green * (0.75 + 0.35 * draw[:, 0]))
        sparse = _blend(spectra.GRASS_DRY, spectra.SOIL_BRIGHT, 0.7 * draw[:, 1])
        poor = _blend(sparse, spectra.GRASS_GREEN, 0.25 * green)
        heath = _blend(spectra.SHRUB, spectra.WOOD_OPEN, draw[:, 2])
        return lush, _mix(poor, heath, np.clip(draw[:, 2] * 2.5 - 0.9, 0, 1))

    def _road(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        return self._street(draw, late, day)

    def _hedge(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        trees = _blend(spectra.WOOD_BARE, spectra.BROADLEAF, phenology.leaves(late, day))
        return trees, _blend(
            spectra.GRASS_DRY, spectra.GRASS_GREEN, phenology.grass_green(late, day)
        )

    # -- backscatter --------------------------------------------------------------------------

    def _water_db(self, draw: Table, _late: Table, day: int) -> Table:
        wind = np.float32(0.5 + 0.5 * np.sin(day * 1.7))
        return _level("water", "rough_water", np.full(len(draw), wind, np.float32))

    def _wood_db(self, draw: Table, _late: Table, _day: int) -> Table:
        kind = _level("broadleaf", "conifer", np.clip((draw[:, 0] - 0.35) * 4, 0, 1))
        return _mix(
            kind,
            _level("open_wood", "open_wood", draw[:, 0]),
            np.clip((draw[:, 1] - 0.72) * 3, 0, 1),
        )

    def _marsh_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("marsh", "grass", 0.5 * draw[:, 0])

    def _field_db(self, draw: Table, late: Table, day: int) -> Table:
        return _level("crop_bare", "crop_green", phenology.crop_green(self._crop, late, day))

    def _house_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("built", "shrub", 0.5 * draw[:, 0])

    def _street_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("asphalt", "built", 0.5 * draw[:, 0])

    def _garden_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("shrub", "built", 0.5 * draw[:, 0])

    def _bare_db(self, draw: Table, _late: Table, _day: int) -> Table:
        rock = (np.arange(len(draw)) % 2).astype(np.float32)
        return _level("sand", "rock", np.maximum(rock, 0.6 * draw[:, 1]))

    def _snow_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("snow", "rock", 0.4 * draw[:, 0])

    def _grass_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("grass", "shrub", np.clip(draw[:, 2] * 2.5 - 0.9, 0, 1) * 0.8)

    def _road_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("asphalt", "grass", 0.4 + 0.4 * draw[:, 0])

    def _hedge_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("open_wood", "shrub", draw[:, 0])


_LEVEL_SPREAD = {
    "water": 0.5,
    "wood": 0.9,
    "marsh": 1.2,
    "field": 2.0,
    "house": 1.6,
    "street": 1.2,
    "garden": 1.2,
    "bare": 1.6,
    "snow": 1.2,
    "grass": 1.6,
    "road": 1.0,
    "hedge": 0.8,
}
# ^ decibels between segments: standard deviation of the chips after smoothing: trees 0.5 to 1.2,
#   crops 2.1 to 2.7, built 0.8 to 1.2, bare 1.7, rangeland 0.8 to 2.9


def _thin(draw: Table) -> Table:
    """Return how open a stand is: a third are young or thinned."""
    return np.clip((draw[:, 1] - 0.64) * 2.6, 0, 0.85)


def _blend(first: Table, second: Table, share: Table) -> Table:
    """Mix two spectra, or rows of spectra, by a share per row."""
    return first + (second - first) * share[:, None]


def _mix(first: Table, second: Table, share: Table) -> Table:
    return first + (second - first) * share[:, None]


def _level(first: str, second: str, share: Table) -> Table:
    start, end = (np.array(spectra.BACKSCATTER[name], np.float32) for name in (first, second))
    return start + (end - start) * share[:, None]
