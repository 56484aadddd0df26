"""What the sensors see of the land: every pixel's segment, its mixture and its texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from catalogs.demo import landcover, materials, noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalogs.demo.landcover import LandCover
    from catalogs.demo.materials import Table
    from catalogs.demo.noise import Field
    from catalogs.demo.relief import Relief


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """The land as a mixture; fields are (rows, columns) of the canvas.

    ``mix`` is the share of the segment's second spectrum; ``grain``, ``pigment`` and ``wetness``
    are relative changes of all bands, of the visible against the infrared, and of the short-wave
    infrared; ``clutter`` is decibels.
    """

    segment: NDArray[np.uint16]
    mix: Field
    grain: Field
    pigment: Field
    wetness: Field
    clutter: Field

    def reflect(self, spectra_of: tuple[Table, Table], band: int) -> Field:
        """Return the reflectance (DN) of a band under even light."""
        first, step = (np.ascontiguousarray(table[:, band]) for table in spectra_of)
        out = np.take(step, self.segment)
        out *= self.mix
        out += np.take(first, self.segment)
        factor = self.pigment * materials.PIGMENT[band]
        factor -= self.wetness * materials.WETNESS[band]
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
        grain=np.clip(grain, -2.6, 3) * materials.spread("grain")[segment],
        pigment=pigment * materials.spread("pigment")[segment],
        wetness=wetness,
        clutter=clutter * materials.spread("clutter")[segment],
    )


def _segments(land: LandCover, relief: Relief) -> NDArray[np.uint16]:
    """Number every pixel's segment."""
    code, division, built = land.code, land.parcels, land.settlements
    segment = np.zeros(code.shape, np.uint16)

    def put(name: str, mask: NDArray[np.bool_], number: NDArray[np.int32]) -> None:
        kind = materials.KINDS[name]
        segment[mask] = kind.first + number[mask] % kind.size

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
        "marsh": (0.28, 0.06, 0.28, 0.08),
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
        [
            np.tile(np.array(plan[name], np.float32), (kind.size, 1))
            for name, kind in materials.KINDS.items()
        ]
    )
    middle, by_pixel, by_blotch, by_patch = (np.take(column, segment) for column in weights.T)
    mix = middle + by_pixel * fine + by_blotch * blotch + by_patch * patch
    shore = np.asarray(ndimage.uniform_filter((~relief.water).astype(np.float32), 13))
    mix += np.where(relief.water, 0.9 * shore, 0)
    mix[land.parcels.margin & (land.code == landcover.CROPS)] += 0.4
    return np.clip(mix, 0, 1).astype(np.float32)
