"""The country rendered as scenes: pixels on disk, and what the catalog must know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import Polygon, mapping

from catalogs.demo import (
    clouds,
    cog,
    frame,
    landcover,
    materials,
    noise,
    optical,
    passes,
    radar,
    relief,
    spectra,
    surface,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.transform import Affine

    from catalogs.demo.frame import Frame, Granule
    from catalogs.demo.noise import Field

    Tick = Callable[[int], None]

SWATH_HEADING = 0.23
# ^ columns that the edge of a descending swath moves west per row
_NUMBER = {name: index for index, name in enumerate(spectra.BANDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A written raster."""

    path: Path
    epsg: int
    transform: Affine
    shape: tuple[int, int]


@dataclass(slots=True, kw_only=True)
class Record:
    """A scene for the catalog: its files by asset key, its footprint, its facts."""

    id: str
    footprint: dict[str, Any]
    files: dict[str, File] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class _Sampler:
    """How the neighbour's granule sees the canvas: bilinear, or nearest for classes."""

    def __init__(self, plan: Frame, granule: Granule) -> None:
        side = granule.side(60) * 6
        rows, columns = plan.positions(granule.epsg, granule.transform(), (side, side))
        top = np.floor(rows).astype(np.int32)
        left = np.floor(columns).astype(np.int32)
        self._corner = top * plan.width + left
        self._down = (rows - top).astype(np.float32)
        self._right = (columns - left).astype(np.float32)
        self._nearest = np.rint(rows).astype(np.int32) * plan.width + np.rint(columns).astype(
            np.int32
        )
        self._width = plan.width

    def blend(self, canvas: Field) -> Field:
        flat = canvas.ravel()
        upper = flat[self._corner]
        upper += self._right * (flat[self._corner + 1] - upper)
        below = self._corner + self._width
        lower = flat[below]
        lower += self._right * (flat[below + 1] - lower)
        return np.asarray(upper + self._down * (lower - upper))

    def pick(self, canvas: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(canvas.ravel()[self._nearest])


class Scenery:
    """The land of one seed, ready to be looked at."""

    def __init__(self, plan: Frame, seed: int) -> None:
        """Make the land."""
        self.plan = plan
        self.seed = seed
        self.relief = relief.shape_land(plan, seed)
        self.land = landcover.lay(plan, self.relief, seed)
        self.surface = surface.cover(self.land, self.relief, seed)
        self.materials = materials.Materials(seed)
        self._sampler = _Sampler(plan, plan.granules[2])

    def granule(
        self, canvas: NDArray[Any], granule: Granule, *, classes: bool = False
    ) -> NDArray[Any]:
        """Return a granule's pixels of 10 m, up to the end of its last pixel of 60 m."""
        if granule.epsg == frame.MAIN:
            row, column = self.plan.offset(granule)
            side = granule.side(60) * 6
            return canvas[row : row + side, column : column + side]
        return self._sampler.pick(canvas) if classes else self._sampler.blend(canvas)

    def height(self) -> Field:
        """Return the surface that a radar sees: ground, part of the trees' height, roofs."""
        rng = noise.stream(self.seed, "elevation")
        tall = noise.fractal(rng, self.plan.shape, wavelength=32)
        canopy = np.where(self.land.code == landcover.TREES, 11 + 3 * tall, 0)
        canopy += np.where(self.land.settlements.house, 4, 0)
        rough = np.where(self.land.code == landcover.WATER, 0, 0.5) * noise.white(rng, tall.shape)
        return np.asarray(self.relief.height + canopy + rough, np.float32)


def at_resolution(pixels: Field, granule: Granule, resolution: int) -> Field:
    """Average 10 m pixels to a band's resolution."""
    side = granule.side(resolution)
    factor = resolution // frame.PIXEL
    part = pixels[: side * factor, : side * factor]
    return part if factor == 1 else noise.block_mean(np.ascontiguousarray(part), factor)


# -- Sentinel-2 ---------------------------------------------------------------------------------


def photograph(scenery: Scenery, folder: Path, pool: Executor, tick: Tick) -> list[Record]:
    """Render every pass of Sentinel-2: an item for each granule, and for the older edition."""
    records: list[Record] = []
    coming = pool.submit(_look, scenery, 0)
    for number in range(len(passes.OPTICAL)):
        look = coming.result()
        if number + 1 < len(passes.OPTICAL):
            coming = pool.submit(_look, scenery, number + 1)
            # ^ one pass ahead, so that no thread waits for the sky
        records += _shoot(scenery, look, folder, pool, tick)
    return records


def _shoot(
    scenery: Scenery,
    look: tuple[optical.View, clouds.Sun],
    folder: Path,
    pool: Executor,
    tick: Tick,
) -> list[Record]:
    """Render one pass, a band at a time."""
    view, sun = look
    records = _records(scenery, passes.OPTICAL[view.number], sun)
    for record in records:
        (folder / record.id).mkdir(parents=True)
    jobs = [
        pool.submit(_expose, scenery, view, band, records, folder)
        for band in range(len(spectra.BANDS))
    ]
    jobs.append(pool.submit(_classify, scenery, view, records, folder))
    for job in jobs:
        job.result()
        tick(1)
    for record in records:
        record.files = dict(sorted(record.files.items()))
    return records


def _records(scenery: Scenery, flight: passes.OpticalPass, sun: clouds.Sun) -> list[Record]:
    records = []
    for granule in scenery.plan.granules:
        outside = _beyond(scenery, granule) if flight.cut else None
        for edition in _editions(flight, granule, scenery.plan):
            record = _record(flight, granule, edition, outside)
            record.facts["sun"] = sun
            records.append(record)
    return records


def _look(scenery: Scenery, number: int) -> tuple[optical.View, clouds.Sun]:
    flight = passes.OPTICAL[number]
    sun = clouds.sun_at(flight.sensed, frame.EDGE_LONGITUDE, 47.8)
    sky = clouds.gather(
        scenery.plan.shape,
        scenery.seed,
        number=number,
        share=flight.clouds,
        veil=flight.veil,
        sun=sun,
    )
    view = optical.View(
        surface=scenery.surface,
        spectra=scenery.materials.reflectance(flight.sensed.timetuple().tm_yday),
        light=optical.illuminate(scenery.relief, sun),
        sky=sky,
        haze=flight.haze,
        seed=scenery.seed,
        number=number,
    )
    return view, sun


def _editions(
    flight: passes.OpticalPass, granule: Granule, plan: Frame
) -> tuple[passes.Edition, ...]:
    if flight.older is not None and granule is plan.granules[0]:
        return flight.edition, flight.older
    return (flight.edition,)


def _beyond(scenery: Scenery, granule: Granule) -> NDArray[np.bool_] | None:
    """Tell which pixels of a granule lie east of the swath; None where none does."""
    plan = scenery.plan
    third = plan.granules[2]
    rows, columns = plan.positions(third.epsg, third.transform(), (third.size, third.size))
    middle = third.size // 2
    y = np.arange(plan.height, dtype=np.float32)[:, None] - rows[middle, middle]
    x = np.arange(plan.width, dtype=np.float32)[None] - columns[middle, middle]
    east = x - 0.1 * third.size + SWATH_HEADING * y > 0
    mask = scenery.granule(east, granule, classes=True)
    return mask if mask.any() else None


def _record(
    flight: passes.OpticalPass,
    granule: Granule,
    edition: passes.Edition,
    outside: NDArray[np.bool_] | None,
) -> Record:
    short = {"Sentinel-2A": "S2A", "Sentinel-2B": "S2B"}[flight.platform]
    sensed, done = (f"{moment:%Y%m%dT%H%M%S}" for moment in (flight.sensed, edition.processed))
    outline = granule.outline()
    if outside is not None:
        outline = outline.intersection(_swath(granule, outside))
    return Record(
        id=f"{short}_MSIL2A_{sensed}_R{flight.orbit:03d}_T{granule.tile}_{done}",
        footprint=lonlat(outline, granule.epsg),
        facts={
            "flight": flight,
            "granule": granule,
            "edition": edition,
            "outside": outside,
            "sensed": sensed,
            "done": done,
        },
    )


def _swath(granule: Granule, outside: NDArray[np.bool_]) -> Polygon:
    """Return a polygon in the granule's zone that holds its pixels inside the swath."""
    size = granule.size
    inside = (~outside[:size, :size]).sum(axis=1)
    rows = np.arange(size)
    slope, start = np.polyfit(rows, inside, 1)
    ends = [(0.0, start), (float(size), start + slope * size)]
    corners = [
        (-size, -1.0),
        (ends[0][1], ends[0][0]),
        (ends[1][1], ends[1][0]),
        (-size, size + 1.0),
    ]
    return Polygon([granule.transform() @ corner for corner in corners])


def _expose(
    scenery: Scenery, view: optical.View, band: int, records: list[Record], folder: Path
) -> None:
    """Render one band and write it for every record."""
    name = spectra.BANDS[band]
    resolution = spectra.RESOLUTION[name]
    seen = view.band(band)
    if resolution == frame.PIXEL:
        seen = optical.spread(seen)
    for record in records:
        granule, edition = record.facts["granule"], record.facts["edition"]
        flight = record.facts["flight"]
        if name == flight.missing and granule is scenery.plan.granules[1]:
            continue
        pixels = at_resolution(scenery.granule(seen, granule), granule, resolution)
        if edition is flight.older:
            pixels = _as_before(pixels, band, view)
        numbers = optical.to_numbers(pixels, edition.offset)
        outside = record.facts["outside"]
        if outside is not None:
            numbers[_centres(outside, granule, resolution)] = 0
        _store(record, name, numbers, granule, resolution, folder)


def _as_before(pixels: Field, band: int, view: optical.View) -> Field:
    """Return what an older processor made of the same signal: a little more haze left in."""
    rng = noise.stream(view.seed, "older", view.number, band)
    return 0.985 * pixels + (14 - band) + 6 * noise.white(rng, (pixels.shape[0], pixels.shape[1]))


def _centres(mask: NDArray[np.bool_], granule: Granule, resolution: int) -> NDArray[np.bool_]:
    factor = resolution // frame.PIXEL
    side = granule.side(resolution)
    return mask[factor // 2 :: factor, factor // 2 :: factor][:side, :side]


def _classify(scenery: Scenery, view: optical.View, records: list[Record], folder: Path) -> None:
    """Write the scene classification of every record, and keep its shares."""
    red, infrared = (view.clear(_NUMBER[name]) for name in ("B04", "B08"))
    greenness = (infrared - red) / (infrared + red)
    sky = view.sky
    layers = {
        "greenness": greenness,
        "light": view.light,
        "opacity": sky.opacity,
        "veil": sky.veil,
        "shadow": sky.shadow,
    }
    for index, record in enumerate(records):
        granule = record.facts["granule"]
        code = scenery.granule(scenery.land.code, granule, classes=True)
        ground = optical.Ground(
            code=code[::2, ::2][: granule.side(20), : granule.side(20)],
            **{
                name: at_resolution(scenery.granule(layer, granule), granule, 20)
                for name, layer in layers.items()
            },
        )
        scl = optical.classify(ground, noise.stream(view.seed, "scl", view.number, index))
        outside = record.facts["outside"]
        if outside is not None:
            scl[_centres(outside, granule, 20)] = 0
        record.facts["shares"] = np.bincount(scl.ravel(), minlength=12) / scl.size
        _store(record, "SCL", scl, granule, 20, folder)


def _store(
    record: Record,
    name: str,
    pixels: NDArray[Any],
    granule: Granule,
    resolution: int,
    folder: Path,
) -> None:
    file = f"T{granule.tile}_{record.facts['sensed']}_{name}_{resolution}m.tif"
    path = folder / record.id / file
    transform = granule.transform(resolution)
    cog.write(path, pixels, epsg=granule.epsg, transform=transform, nodata=0)
    record.files[name] = File(
        path=path, epsg=granule.epsg, transform=transform, shape=(pixels.shape[0], pixels.shape[1])
    )


def lonlat(outline: Polygon, epsg: int) -> dict[str, Any]:
    """Return a polygon of a zone as GeoJSON in longitude and latitude."""
    return dict(mapping(frame.turn(outline, frame.inverse(epsg))))


# -- Sentinel-1 ---------------------------------------------------------------------------------


def illuminate(scenery: Scenery, number: int, folder: Path) -> Record:
    """Render one pass of Sentinel-1 over the whole canvas."""
    flight = passes.RADAR[number]
    plan = scenery.plan
    change, hidden = radar.lie(scenery.relief, flight.state)
    outline = frame.rectangle(plan)
    if flight.cut:
        line = 0.3 * plan.width
        y, x = np.ogrid[: plan.height, : plan.width]
        hidden = hidden | (x + 1.4 * y < line)
        corners = [
            (0, line / 1.4),
            (line, 0),
            (plan.width, 0),
            (plan.width, plan.height),
            (0, plan.height),
        ]
        outline = Polygon([plan.transform @ corner for corner in corners])
    stamp = f"{flight.start:%Y%m%dT%H%M%S}_{flight.stop:%Y%m%dT%H%M%S}"
    take = (flight.absolute * 7 + 0x3A00) & 0xFFFFF
    name = f"S1A_IW_GRDH_1SDV_{stamp}_{flight.absolute:06d}_{take:06X}_rtc"
    record = Record(
        id=name, footprint=lonlat(outline, frame.MAIN), facts={"flight": flight, "take": take}
    )
    (folder / name).mkdir(parents=True)
    levels = scenery.materials.backscatter(flight.start.timetuple().tm_yday)
    for key, level in zip(("vv", "vh"), levels, strict=True):
        rng = noise.stream(scenery.seed, "speckle", number, key)
        pixels = radar.power(scenery.surface.scatter(level), change, hidden, rng)
        path = folder / name / f"iw-{key}.rtc.tiff"
        cog.write(path, pixels, epsg=frame.MAIN, transform=plan.transform, nodata=radar.NODATA)
        record.files[key] = File(
            path=path, epsg=frame.MAIN, transform=plan.transform, shape=plan.shape
        )
    return record
