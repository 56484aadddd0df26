"""What the land is made of: the spectra and the backscatter of every segment on any day.

A segment is a field, a stand, a house lot. It has two spectra on a day, which its pixels mix.
Segments of one class differ more than the classes' means do, as in the real chips: it is shape,
place and texture that tell a fallow field from a gravel bank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalogs.demo import noise, phenology, spectra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Table = NDArray[np.float32]


class Kind(NamedTuple):
    """A group of segments and the spread inside it (relative, standard deviations)."""

    first: int
    size: int
    lot: float
    """of brightness between segments"""
    grain: float
    """of brightness between pixels"""
    pigment: float
    """of visible against infrared, between pixels"""
    clutter: float
    """of backscatter between pixels beyond speckle, decibels"""


def _number(**rows: tuple[int, float, float, float, float]) -> dict[str, Kind]:
    kinds, first = {}, 0
    for name, (count, *spread) in rows.items():
        kinds[name] = Kind(first, count, *spread)
        first += count
    return kinds


KINDS = _number(
    water=(64, 0.10, 0.08, 0.04, 0.4),
    wood=(4096, 0.16, 0.20, 0.12, 0.8),
    marsh=(512, 0.17, 0.20, 0.12, 0.8),
    field=(8192, 0.19, 0.13, 0.09, 0.6),
    house=(1024, 0.30, 0.36, 0.15, 2.8),
    street=(64, 0.15, 0.22, 0.08, 1.2),
    garden=(256, 0.15, 0.24, 0.13, 1.5),
    bare=(512, 0.17, 0.18, 0.08, 1.0),
    snow=(64, 0.06, 0.08, 0.03, 0.6),
    grass=(2048, 0.19, 0.16, 0.11, 0.7),
    road=(16, 0.15, 0.15, 0.06, 0.8),
    hedge=(64, 0.12, 0.15, 0.10, 0.8),
)
# ^ lots: so wide that the principal components of a class' logarithms have the spread of the real
#   ones (crops in A 0.94, 0.70, 0.31, 0.17, 0.16, 0.13, ...; see spectra for the places).
#   Grain and pigment: standard deviation of the chips after a Gaussian of two pixels is taken
#   out, relative to the mean: trees 0.13 to 0.20, crops 0.09 to 0.17, built 0.2 to 0.5,
#   rangeland 0.08 to 0.16, bare 0.07; two thirds of its variance move all bands together and
#   a fifth moves the visible against the infrared
SEGMENTS = sum(kind.size for kind in KINDS.values())

PIGMENT = np.array([1.0, 1.0, 0.9, 1.2, 0.5, -0.2, -0.35, -0.4, -0.4, -0.2, 0.3, 0.6], np.float32)
WETNESS = np.array([0.1, 0.1, 0.15, 0.25, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.8, 1.0], np.float32)
_CENTRES = np.log(
    np.array([443, 490, 560, 665, 704, 740, 783, 842, 865, 945, 1610, 2190], np.float32)
)
_CORRELATED = np.linalg.cholesky(
    np.exp(-(((_CENTRES[:, None] - _CENTRES) / 0.2) ** 2) / 2) + 0.02 * np.eye(len(_CENTRES))
).T.astype(np.float32)
# ^ turns independent numbers into a wobble of the spectrum that is smooth in wavelength


def spread(name: str) -> Table:
    """Return one of the spreads of the kinds, for every segment."""
    return np.concatenate(
        [np.full(kind.size, getattr(kind, name), np.float32) for kind in KINDS.values()]
    )


class Materials:
    """The spectra and backscatter of every segment on any day."""

    def __init__(self, seed: int) -> None:
        """Draw what makes each segment different from its neighbours."""
        rng = noise.stream(seed, "materials")
        self._draw = rng.random((SEGMENTS, 3), np.float32)
        self._shift = rng.normal(0, 6, SEGMENTS).astype(np.float32)
        lot = spread("lot")
        noises = rng.standard_normal((SEGMENTS, len(spectra.BANDS) + 1), dtype=np.float32)
        self._factor = np.exp(lot[:, None] * (0.7 * noises[:, -1:] + noises[:, :-1] @ _CORRELATED))
        self._radar = rng.standard_normal((SEGMENTS, 2), dtype=np.float32)
        self._crop = np.searchsorted(
            np.cumsum(phenology.CROP_SHARES)[:-1], self._part("field")[:, 0]
        )

    def _part(self, name: str) -> Table:
        kind = KINDS[name]
        return self._draw[kind.first : kind.first + kind.size]

    def _late(self, name: str) -> Table:
        kind = KINDS[name]
        return self._shift[kind.first : kind.first + kind.size]

    def reflectance(self, day: int) -> tuple[Table, Table]:
        """Return each segment's first spectrum and the step to its second, (segments, bands)."""
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
            [np.full(kind.size, _LEVEL_SPREAD[name], np.float32) for name, kind in KINDS.items()]
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
        return lush, _mix(poor, heath, np.clip(draw[:, 2] * 2.5 - 0.7, 0, 1))

    def _road(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        return self._street(draw, late, day)

    def _hedge(self, draw: Table, late: Table, day: int) -> tuple[Table, Table]:
        leaves = phenology.leaves(late, day) * (0.7 + 0.3 * draw[:, 0])
        grass = phenology.grass_green(late, day)
        return (
            _blend(spectra.WOOD_BARE, spectra.BROADLEAF, leaves),
            _blend(spectra.GRASS_DRY, spectra.GRASS_GREEN, grass),
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
            _thin(draw),
        )

    def _marsh_db(self, draw: Table, _late: Table, _day: int) -> Table:
        return _level("marsh", "grass", 0.5 * draw[:, 0])

    def _field_db(self, draw: Table, late: Table, day: int) -> Table:
        green = phenology.crop_green(self._crop, late, day)
        return _level("crop_bare", "crop_green", green) + 1.5 * (draw[:, 1:2] - 0.5)
        # ^ moist soil, which draw 1 darkens, scatters more

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
        return _level("grass", "shrub", np.clip(draw[:, 2] * 2.5 - 0.7, 0, 1) * 0.8)

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
    """Return how open a stand is: two in five are young or thinned."""
    return np.asarray(np.clip((draw[:, 1] - 0.58) * 2.6, 0, 0.9), np.float32)


def _blend(first: Table, second: Table, share: Table) -> Table:
    """Mix two spectra, or rows of spectra, by a share per row."""
    return first + (second - first) * share[:, None]


def _mix(first: Table, second: Table, share: Table) -> Table:
    return first + (second - first) * share[:, None]


def _level(first: str, second: str, share: Table) -> Table:
    start, end = (np.array(spectra.BACKSCATTER[name], np.float32) for name in (first, second))
    return start + (end - start) * share[:, None]
