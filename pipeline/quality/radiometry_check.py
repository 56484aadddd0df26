"""Radiometry proved, not believed: what a scene claims of its numbers against its own pixels.

Since baseline 04.00 Sentinel-2 products carry 1000 more in every number (the offset of −0.1 in
their metadata), and catalogs disagree on who has taken it out again. The ground decides: nothing
reflects less than nothing, and nearly every scene holds something that reflects next to nothing.
Where the 1000 is in the pixels, the dark end of all bands is a wall at 0.1; where it is not, pixels
lie far below. Snow, cloud and veils have neither: then the answer is that none can be given.
The rates of error measured with these thresholds are in ``docs/radiometry.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod
from scipy import ndimage
from shapely.geometry import shape

from catalogs.scene import Radiometry, Scene
from catalogs.sensors import Sensor, get_sensor
from catalogs.stac.radiometry import BASELINE_OFFSET
from pipeline.reading import raster_reader
from pipeline.runtime import cancellation

THUMBNAIL_SIZE = 512
"""Side of the thumbnails that the proof looks at."""

MIN_VALID_PIXELS = 1000
"""Valid pixels of a band that its quantiles need."""

STORED_OFFSET = -BASELINE_OFFSET
"""Reflectance of black ground in pixels that still hold the offset."""

DARK_TOLERANCE = 0.04
"""Reflectance by which overcorrection and noise may darken ground below zero.

Products hold negative reflectance down to about minus 0.02 where haze was overestimated; what is
deeper is a few shadows and edges.
"""

OFFSET_FREE_SHARE = 0.05
"""Share of all readings that cannot be such shadows."""

MAX_STRAY_SHARE = 0.01
"""Share of readings further below the wall than half of BLACKER that a wall may have."""

DARK_END_RANGE = (STORED_OFFSET - 0.01, STORED_OFFSET + 0.03)
"""Where the darkest fiftieth of a band ends if the offset is stored and dark ground was seen."""

MAX_DARK_END_SPREAD = 0.02
"""Reflectance between the darkest thousandth and the darkest fiftieth at a wall.

A veil of thin cloud can lift the dark end as the offset does, but it is never so even.
"""

MIN_VEGETATION_CONTRAST = 0.08
"""Reflectance by which near infrared lies above red where there are plants.

The lower quartile, so that clouds over half of the land do not hide them.
"""

MIN_SCENE_AREA_KM2 = 4.0
"""Square kilometres of scene over which no veil is even."""

SATURATED_DN = 65_535
"""Stored number of saturated pixels (Sentinel-2 Products Specification)."""

MAX_REFLECTANCE = 2.5
"""Reflectance above any cloud's."""

DARK_SCENE_RANGE = (0.005, 0.05)
"""Where the brightest hundredth of every band ends: below the first no ground is so dark; up to the
second only open water is."""

MAX_BACKSCATTER_POWER = 5.0
"""Power (7 dB) above the median of any scene, its brightest town included."""

ELEVATION_RANGE = (-500.0, 9000.0)
"""Heights of land in metres."""

REMEDY = (
    "Check what the catalog says of it; to use such scenes all the same: radiometry: {proof: warn}"
)

VerdictStatus = Literal["agrees", "contradicts", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the pixels say to the claim."""

    status: VerdictStatus

    reason: str
    """What is claimed and what is seen; after a contradiction also what to do."""

    evidence: Mapping[str, float] = field(default_factory=dict)
    """What the answer rests on, by name."""


class ThumbnailReader(Protocol):
    """How a thumbnail is read; see :func:`pipeline.reading.raster_reader.read_thumbnail`."""

    def __call__(  # noqa: D102 -- said above
        self, href: str, asset: raster_reader.AssetInfo, *, size: int
    ) -> NDArray[np.float32]: ...


def check_scene(
    scene: Scene, *, read_thumbnail: ThumbnailReader = raster_reader.read_thumbnail
) -> Verdict:
    """Look at the scene's pixels.

    Args:
        scene: what is claimed, and where the pixels are.
        read_thumbnail: how a thumbnail is read.

    Raises:
        AssetReadError: a band could not be read: that is no answer.
        InvalidInputError: an asset is not a single-band raster on the ground.
    """
    bands = {}
    for name in select_probe_bands(scene):
        asset = scene.assets[name]
        source = raster_reader.AssetInfo(
            scene_id=scene.id, provider=scene.provider, nodata=asset.nodata
        )
        bands[name] = read_thumbnail(asset.href, source, size=THUMBNAIL_SIZE)
    claims = {
        name: asset.radiometry
        for name, asset in scene.assets.items()
        if name not in get_sensor(scene.modality).mask_bands
    }
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shape(scene.footprint))
    return evaluate_radiometry(scene.modality, bands, claims, square_km=abs(area) / 1e6)


def check_scenes(
    scenes: Sequence[Scene],
    *,
    threads: int,
    read_thumbnail: ThumbnailReader = raster_reader.read_thumbnail,
) -> list[Verdict]:
    """Look at the pixels of many scenes, some at a time; the verdicts come in their order."""
    with cancellation.CancellableThreadPool(threads, "proof") as pool:
        return list(
            pool.map(lambda scene: check_scene(scene, read_thumbnail=read_thumbnail), scenes)
        )


def select_probe_bands(scene: Scene) -> tuple[str, ...]:
    """Return the bands of a scene that are read: four at most."""
    groups = get_sensor(scene.modality).probe_bands
    found = (next((name for name in group if name in scene.assets), None) for group in groups)
    return tuple(name for name in found if name is not None)


def evaluate_radiometry(
    modality: str,
    bands: Mapping[str, NDArray[np.floating]],
    claims: Mapping[str, Radiometry],
    *,
    square_km: float,
) -> Verdict:
    """Judge what is claimed by what is seen.

    Args:
        modality: name of a sensor.
        bands: stored numbers by band name, (y, x) each on its own grid, NaN where nothing was seen.
        claims: what the scene says of its bands, at least of those in ``bands``.
        square_km: ground that the scene covers.
    """
    seen = {name: _interior_pixels(values) for name, values in bands.items()}
    seen = {name: values for name, values in seen.items() if values.size >= MIN_VALID_PIXELS}
    sensor = get_sensor(modality)
    if sensor.group == "optical":
        return _check_reflectance(sensor, seen, claims, square_km)
    if not seen:
        return _unknown(f"no band has {MIN_VALID_PIXELS} valid pixels", {})
    return (
        _check_elevation(seen) if sensor.group == "elevation" else _check_backscatter(seen, claims)
    )


def _interior_pixels(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return valid pixels whose neighbours are valid too: an average at the edge is of both."""
    valid = np.isfinite(values)
    whole: NDArray[np.bool_] = ndimage.binary_erosion(
        valid, np.ones((3, 3), np.bool_), border_value=1
    )
    return values[whole].astype(np.float64)


# -- Sentinel-2 ---------------------------------------------------------------------------------


def _check_reflectance(
    sensor: Sensor,
    stored: Mapping[str, NDArray[np.float64]],
    claims: Mapping[str, Radiometry],
    square_km: float,
) -> Verdict:
    offsets = {name: claim.offset for name, claim in claims.items()}
    if len(set(offsets.values())) > 1:
        return _contradiction(f"its bands claim different offsets ({_format_offsets(offsets)})", {})
    seen = {
        name: values[values < SATURATED_DN] * claims[name].scale for name, values in stored.items()
    }
    seen = {name: values for name, values in seen.items() if values.size >= MIN_VALID_PIXELS}
    if not seen:
        return _unknown(f"no band has {MIN_VALID_PIXELS} valid pixels", {})
    return _check_scale(seen) or _check_offset(sensor, seen, offsets[next(iter(seen))], square_km)


def _check_scale(seen: Mapping[str, NDArray[np.float64]]) -> Verdict | None:
    """Tell whether reflectances are of the right size; None if they are."""
    top = max(float(np.quantile(values, 0.99)) for values in seen.values())
    middle = max(float(np.median(values)) for values in seen.values())
    figures = {"brightest": top, "median": middle}
    if middle > MAX_REFLECTANCE:
        return _contradiction(
            f"with its scale half of a band reflects more than {middle:.3g}, where the whitest "
            "cloud reflects about 1",
            figures,
        )
    if top < DARK_SCENE_RANGE[0]:
        return _contradiction(
            f"with its scale 99 % of every band reflect less than {top:.3g}, which no ground does",
            figures,
        )
    if top < DARK_SCENE_RANGE[1]:
        return _unknown(
            f"99 % of every band reflect less than {top:.3g}: open water, or a wrong scale", figures
        )
    return None


def _check_offset(
    sensor: Sensor, seen: Mapping[str, NDArray[np.float64]], claimed: float, square_km: float
) -> Verdict:
    """Compare the claimed offset with the one that the dark end tells of."""
    figures = _dark_end_statistics(seen)
    if not sensor.offset_probe_bands:
        return _unknown(f"the offset of {sensor.name} is not checked", figures)
    said = f"an offset of {claimed:g} is claimed"
    walls = [name for name in sensor.offset_probe_bands if name in seen]
    darkest = ", ".join(f"{name} {figures[name] / 1e-4:.0f}" for name in seen)
    lies = f"the darkest 2 % of the pixels end at {darkest} (stored, as 1/10000)"
    if figures["below"] >= OFFSET_FREE_SHARE:
        told = 0.0
        share = (
            f"{figures['below']:.0%} of the readings lie below {STORED_OFFSET - DARK_TOLERANCE:g}"
        )
        why = f"{share}, so the pixels are free of it"
    elif _has_dark_wall(walls, seen, figures, sensor, square_km):
        told = BASELINE_OFFSET
        share = f"dark ground ends in a wall at {STORED_OFFSET:g}"
        why = f"{share}, so {BASELINE_OFFSET:g} is still to be added"
    else:
        return _unknown(f"{said}; {lies}: too few dark pixels to tell", figures)
    if abs(told - claimed) < DARK_TOLERANCE / 2:
        return Verdict(status="agrees", reason=f"{said}; {lies}: {why}", evidence=figures)
    return _contradiction(f"{said}, yet {lies}: {why}", figures)


def _dark_end_statistics(seen: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return the darkest fiftieth of each band and shares of all readings far below the wall."""
    figures = {name: float(np.quantile(values, 0.02)) for name, values in seen.items()}
    for key, limit in (("below", DARK_TOLERANCE), ("stray", DARK_TOLERANCE / 2)):
        shares = [np.mean(values < STORED_OFFSET - limit) for values in seen.values()]
        figures[key] = float(np.mean(shares))
    return figures


def _has_dark_wall(
    names: Sequence[str],
    seen: Mapping[str, NDArray[np.float64]],
    figures: Mapping[str, float],
    sensor: Sensor,
    square_km: float,
) -> bool:
    """Tell whether dark ground ends in a wall at 0.1: in both bands, steeply, and for a cause."""
    if len(names) < 2 or square_km < MIN_SCENE_AREA_KM2 or figures["stray"] > MAX_STRAY_SHARE:
        return False
    steep = all(
        figures[name] - float(np.quantile(seen[name], 0.001)) <= MAX_DARK_END_SPREAD
        and DARK_END_RANGE[0] <= figures[name] <= DARK_END_RANGE[1]
        for name in names
    )
    return steep and (not sensor.is_surface_reflectance or _has_dark_ground(seen, figures))


def _has_dark_ground(seen: Mapping[str, NDArray[np.float64]], figures: Mapping[str, float]) -> bool:
    """Tell whether there are plants (dark in red), or water and shadow (dark in shortwave).

    Deserts have neither: a plain of dark gravel reflects a tenth in blue and red by itself.
    """
    infrared = next((seen[name] for name in ("B8A", "B08") if name in seen), None)
    red = np.quantile(seen["B04"], 0.25)
    green = infrared is not None and np.quantile(infrared, 0.25) - red >= MIN_VEGETATION_CONTRAST
    shadow = any(
        DARK_END_RANGE[0] <= figures[name] <= DARK_END_RANGE[1]
        for name in ("B12", "B11")
        if name in seen
    )
    return bool(green) or shadow


# -- Sentinel-1 and heights ---------------------------------------------------------------------


def _check_backscatter(
    stored: Mapping[str, NDArray[np.float64]], claims: Mapping[str, Radiometry]
) -> Verdict:
    """Tell decibel from power and power from amplitude: power is never negative."""
    verdicts = []
    for name, values in stored.items():
        claim = claims[name]
        physical = values[values != 0] * claim.scale + claim.offset
        # ^ zeros are the edge of a slice in products that tag no nodata
        verdicts.append(_check_polarisation(name, physical, claim.unit))
    return min(verdicts, key=lambda one: ("contradicts", "cannot tell", "agrees").index(one.status))


def _check_polarisation(name: str, values: NDArray[np.float64], unit: str) -> Verdict:
    if values.size < MIN_VALID_PIXELS:
        return _unknown(f"{name} has fewer than {MIN_VALID_PIXELS} valid pixels", {})
    negative, middle = float(np.mean(values < 0)), float(np.median(values))
    figures = {f"{name} negative": negative, f"{name} median": middle}
    said = f"{name} is claimed to be {'linear power' if unit == 'power' else unit}"
    seen = f"{negative:.0%} of its pixels are negative and the median is {middle:.3g}"
    if unit == "dB":
        wrong, right = negative < 0.01 and middle >= 0, negative > 0.5 and middle > -60
    else:
        wrong, right = negative > 0.5 or middle > MAX_BACKSCATTER_POWER, negative < 0.01
    if wrong:
        return _contradiction(f"{said}, yet {seen}", figures)
    answer: VerdictStatus = "agrees" if right else "cannot tell"
    return Verdict(status=answer, reason=f"{said}; {seen}", evidence=figures)


def _check_elevation(stored: Mapping[str, NDArray[np.float64]]) -> Verdict:
    middle = float(np.median(next(iter(stored.values()))))
    figures = {"median": middle}
    if not ELEVATION_RANGE[0] <= middle <= ELEVATION_RANGE[1]:
        return _contradiction(f"metres are claimed, yet the median height is {middle:g}", figures)
    return Verdict(status="agrees", reason=f"a median height of {middle:g} m", evidence=figures)


def _format_offsets(offsets: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {offset:g}" for name, offset in offsets.items())


def _contradiction(reason: str, figures: Mapping[str, float]) -> Verdict:
    reason = f"its radiometry is not what it claims: {reason}. {REMEDY}"
    return Verdict(status="contradicts", reason=reason, evidence=figures)


def _unknown(reason: str, figures: Mapping[str, float]) -> Verdict:
    return Verdict(status="cannot tell", reason=reason, evidence=figures)
