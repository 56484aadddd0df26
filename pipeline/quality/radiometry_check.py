"""Check the radiometry that a catalog states for a scene against the scene's own pixels.

Since baseline 04.00 every stored number of a Sentinel-2 product is 1000 higher (the offset of −0.1
in its metadata), and catalogs differ in whether they have removed it. Reflectance is never below
zero, and nearly every scene contains pixels that reflect almost nothing. Where the 1000 is in the
pixels, the dark ends of all bands are cut off sharply at 0.1; else pixels lie far below that.
Scenes that are all snow, cloud or haze show neither: the status is then "cannot tell".
The error rates measured with these thresholds are in ``docs/radiometry.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry import shape

from catalogs.scene import Radiometry, Scene
from catalogs.sensors import Sensor, get_sensor
from catalogs.stac.radiometry import BASELINE_OFFSET
from pipeline.quality import header_check, valid_pixels
from pipeline.reading import raster_reader
from pipeline.reading.asset_opener import AssetInfo
from pipeline.runtime import cancellation

THUMBNAIL_SIZE = 512
"""Side of the thumbnails that are examined, pixels."""

MIN_VALID_PIXELS = 1000
"""Valid pixels that a band needs for its quantiles."""

STORED_OFFSET = -BASELINE_OFFSET
"""Reflectance of black ground in pixels that still hold the offset."""

DARK_TOLERANCE = 0.04
"""Reflectance by which overcorrection and noise may fall below zero.

Products hold negative reflectance down to about minus 0.02 where haze was overestimated; lower
values are a few shadows and edges.
"""

OFFSET_FREE_SHARE = 0.05
"""Share of all values below the tolerance that is too large to be such shadows."""

MAX_STRAY_SHARE = 0.01
"""Largest share of values more than half of DARK_TOLERANCE below a cut-off dark end."""

DARK_END_RANGE = (STORED_OFFSET - 0.01, STORED_OFFSET + 0.03)
"""Range of the 2 % quantile of a band if the offset is stored and the scene has dark ground."""

MAX_DARK_END_SPREAD = 0.02
"""Largest difference between the 0.1 % and the 2 % quantile at a cut-off dark end, reflectance.

Thin cloud can lift the dark end as the offset does, but never so evenly.
"""

MIN_VEGETATION_CONTRAST = 0.08
"""Reflectance by which near infrared exceeds red where there is vegetation.

Compared at the lower quartile, so that clouds over half of the land do not matter.
"""

MIN_SCENE_AREA_KM2 = 4.0
"""Square kilometres: over a larger scene thin cloud is never even."""

SATURATED_DN = 65_535
"""Stored value of saturated pixels (Sentinel-2 Products Specification)."""

MAX_REFLECTANCE = 2.5
"""Reflectance above any cloud's."""

DARK_SCENE_RANGE = (0.005, 0.05)
"""Limits for the 99 % quantile of the brightest band: no ground is darker than the first, and only
open water is darker than the second."""

MAX_BACKSCATTER_POWER = 5.0
"""Power (7 dB) that the median of a scene never exceeds, not even in a city."""

ELEVATION_RANGE = (-500.0, 9000.0)
"""Elevations of land, metres."""

REMEDY = (
    "Check the catalog's metadata; to use such scenes nevertheless, set radiometry: {proof: warn}"
)

SCALE_REMEDY = (
    "State the scale with which the values are stored as `scale:` of the collection in a provider "
    "table (docs/providers.md)"
)

VerdictStatus = Literal["agrees", "contradicts", "cannot tell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Result of checking one scene."""

    status: VerdictStatus

    reason: str
    """The stated radiometry and what the pixels show; for a contradiction also what to do."""

    evidence: Mapping[str, float] = field(default_factory=dict)
    """Name → figure on which the status rests."""

    has_pixels_outside: bool = False
    """Whether many valid pixels lie well outside of the scene's footprint."""

    empty_bands: tuple[str, ...] = ()
    """Those of the bands that were read that have no valid pixel in the region."""


class ThumbnailReader(Protocol):
    """Signature of :func:`pipeline.reading.raster_reader.read_thumbnail`."""

    def __call__(  # noqa: D102 -- described above
        self, href: str, asset: AssetInfo, *, size: int
    ) -> NDArray[np.float32]: ...


def check_scene(
    scene: Scene,
    *,
    region: Any = None,
    read_thumbnail: ThumbnailReader = raster_reader.read_thumbnail,
) -> Verdict:
    """Check the stated radiometry of a scene against thumbnails of some of its bands.

    Args:
        scene: a scene with its assets.
        region: shapely area in longitude and latitude in which bands without a valid pixel are
            found; None = that of the scene.
        read_thumbnail: reader of thumbnails.

    Raises:
        AssetReadError: a band could not be read.
        InvalidInputError: an asset is not a georeferenced single-band raster.
    """
    bands = {}
    for name in select_probe_bands(scene):
        asset = scene.assets[name]
        asset_info = AssetInfo.from_scene(scene, asset)
        bands[name] = read_thumbnail(asset.href, asset_info, size=THUMBNAIL_SIZE)
    claims = {
        name: asset.radiometry
        for name, asset in scene.assets.items()
        if name not in get_sensor(scene.modality).mask_bands
    }
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shape(scene.footprint))
    verdict = evaluate_radiometry(scene.modality, bands, claims, square_km=abs(area) / 1e6)
    outside = (
        header_check.has_pixels_outside(scene, scene.assets[name], thumbnail)
        for name, thumbnail in bands.items()
    )
    return replace(
        verdict,
        has_pixels_outside=next(outside, None) or False,
        empty_bands=valid_pixels.find_empty_bands(
            scene, bands, shape(scene.footprint) if region is None else region
        ),
    )


def check_scenes(
    scenes: Sequence[Scene],
    *,
    threads: int,
    region: Any = None,
    read_thumbnail: ThumbnailReader = raster_reader.read_thumbnail,
) -> list[Verdict]:
    """Check scenes in parallel; return their verdicts in the order of the scenes."""

    def check(scene: Scene) -> Verdict:
        return check_scene(scene, region=region, read_thumbnail=read_thumbnail)

    with cancellation.CancellableThreadPool(threads, "proof") as pool:
        return list(pool.map(check, scenes))


def select_probe_bands(scene: Scene) -> tuple[str, ...]:
    """Return the bands of a scene that are read, at most four."""
    groups = get_sensor(scene.modality).probe_bands
    bands = (next((name for name in group if name in scene.assets), None) for group in groups)
    return tuple(name for name in bands if name is not None)


def evaluate_radiometry(
    modality: str,
    bands: Mapping[str, NDArray[np.floating]],
    claims: Mapping[str, Radiometry],
    *,
    square_km: float,
) -> Verdict:
    """Compare the stated radiometry with pixel values.

    Args:
        modality: name of a sensor.
        bands: band name → stored values (y, x), each on its own grid, NaN where there is no data.
        claims: band name → stated radiometry, at least of the bands in ``bands``.
        square_km: area of the scene.
    """
    stored = {name: _interior_pixels(values) for name, values in bands.items()}
    stored = {name: values for name, values in stored.items() if values.size >= MIN_VALID_PIXELS}
    sensor = get_sensor(modality)
    if sensor.group == "optical":
        return _check_reflectance(sensor, stored, claims, square_km)
    if not stored:
        return _unknown(f"no band has {MIN_VALID_PIXELS} valid pixels", {})
    if sensor.group == "elevation":
        return _check_elevation(stored, claims)
    return _check_backscatter(stored, claims)


def _interior_pixels(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the valid pixels whose neighbours are all valid: at an edge averages are mixed."""
    from scipy import ndimage  # noqa: PLC0415

    # ^ slow to import, and a search without the check does not need it
    valid = np.isfinite(values)
    interior: NDArray[np.bool_] = ndimage.binary_erosion(
        valid, np.ones((3, 3), np.bool_), border_value=1
    )
    return values[interior].astype(np.float64)


# -- Sentinel-2 ---------------------------------------------------------------------------------


def _check_reflectance(
    sensor: Sensor,
    stored: Mapping[str, NDArray[np.float64]],
    claims: Mapping[str, Radiometry],
    square_km: float,
) -> Verdict:
    offsets = {name: claim.offset for name, claim in claims.items()}
    if len(set(offsets.values())) > 1:
        return _contradiction(f"its bands state different offsets ({_format_offsets(offsets)})", {})
    reflectance = {
        name: values[values < SATURATED_DN] * claims[name].scale for name, values in stored.items()
    }
    reflectance = {
        name: values for name, values in reflectance.items() if values.size >= MIN_VALID_PIXELS
    }
    if not reflectance:
        return _unknown(f"no band has {MIN_VALID_PIXELS} valid pixels", {})
    stated_offset = offsets[next(iter(reflectance))]
    return _check_scale(reflectance) or _check_offset(sensor, reflectance, stated_offset, square_km)


def _check_scale(reflectance: Mapping[str, NDArray[np.float64]]) -> Verdict | None:
    """Check the magnitude of reflectances (before the offset); None if it is plausible."""
    top = max(float(np.quantile(values, 0.99)) for values in reflectance.values())
    median = max(float(np.median(values)) for values in reflectance.values())
    figures = {"brightest": top, "median": median}
    if median > MAX_REFLECTANCE:
        return _contradiction(
            f"with its scale half of the pixels of a band reflect more than {median:.3g}; the "
            "whitest cloud reflects about 1",
            figures,
            SCALE_REMEDY,
        )
    if top < DARK_SCENE_RANGE[0]:
        return _contradiction(
            f"with its scale 99 % of the pixels of every band reflect less than {top:.3g}, which "
            "no ground does",
            figures,
            SCALE_REMEDY,
        )
    if top < DARK_SCENE_RANGE[1]:
        return _unknown(
            f"99 % of the pixels of every band reflect less than {top:.3g}: open water, or a wrong "
            "scale",
            figures,
        )
    return None


def _check_offset(
    sensor: Sensor,
    reflectance: Mapping[str, NDArray[np.float64]],
    stated_offset: float,
    square_km: float,
) -> Verdict:
    """Compare the stated offset with the one that the dark end of the bands shows."""
    figures = _dark_end_statistics(reflectance)
    if not sensor.offset_probe_bands:
        return _unknown(f"the offset of {sensor.name} is not checked", figures)
    statement = f"the stated offset is {stated_offset:g}"
    dark_bands = [name for name in sensor.offset_probe_bands if name in reflectance]
    dark_ends = ", ".join(f"{name} {figures[name] / 1e-4:.0f}" for name in reflectance)
    observation = f"the darkest 2 % of the pixels end at {dark_ends} (stored, as 1/10000)"
    if figures["below"] >= OFFSET_FREE_SHARE:
        actual_offset = 0.0
        conclusion = (
            f"{figures['below']:.0%} of the values lie below "
            f"{STORED_OFFSET - DARK_TOLERANCE:g}, so the offset is not in the pixels"
        )
    elif _is_dark_end_cut_off(dark_bands, reflectance, figures, sensor, square_km):
        actual_offset = BASELINE_OFFSET
        conclusion = (
            f"dark ground is cut off at {STORED_OFFSET:g}, so {BASELINE_OFFSET:g} is still to be "
            "added"
        )
    else:
        return _unknown(f"{statement}; {observation}: too few dark pixels to tell", figures)
    if abs(actual_offset - stated_offset) < DARK_TOLERANCE / 2:
        return Verdict(
            status="agrees", reason=f"{statement}; {observation}: {conclusion}", evidence=figures
        )
    return _contradiction(f"{statement}, but {observation}: {conclusion}", figures)


def _dark_end_statistics(reflectance: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return the 2 % quantile of each band, and the shares of values below the stored offset."""
    figures = {name: float(np.quantile(values, 0.02)) for name, values in reflectance.items()}
    for key, limit in (("below", DARK_TOLERANCE), ("stray", DARK_TOLERANCE / 2)):
        shares = [np.mean(values < STORED_OFFSET - limit) for values in reflectance.values()]
        figures[key] = float(np.mean(shares))
    return figures


def _is_dark_end_cut_off(
    names: Sequence[str],
    reflectance: Mapping[str, NDArray[np.float64]],
    figures: Mapping[str, float],
    sensor: Sensor,
    square_km: float,
) -> bool:
    """Return whether dark ground is cut off at 0.1: sharply, and in all of the bands."""
    if len(names) < 2 or square_km < MIN_SCENE_AREA_KM2 or figures["stray"] > MAX_STRAY_SHARE:
        return False
    is_sharp = all(
        figures[name] - float(np.quantile(reflectance[name], 0.001)) <= MAX_DARK_END_SPREAD
        and DARK_END_RANGE[0] <= figures[name] <= DARK_END_RANGE[1]
        for name in names
    )
    return is_sharp and (
        not sensor.is_surface_reflectance or _has_dark_ground(reflectance, figures)
    )


def _has_dark_ground(
    reflectance: Mapping[str, NDArray[np.float64]], figures: Mapping[str, float]
) -> bool:
    """Return whether there is vegetation (dark in red), or water or shadow (dark in shortwave).

    Deserts have neither: a plain of dark gravel reflects a tenth in blue and red by itself.
    """
    infrared = next((reflectance[name] for name in ("B8A", "B08") if name in reflectance), None)
    red = np.quantile(reflectance["B04"], 0.25)
    has_vegetation = (
        infrared is not None and np.quantile(infrared, 0.25) - red >= MIN_VEGETATION_CONTRAST
    )
    has_shadow = any(
        DARK_END_RANGE[0] <= figures[name] <= DARK_END_RANGE[1]
        for name in ("B12", "B11")
        if name in reflectance
    )
    return bool(has_vegetation) or has_shadow


# -- Sentinel-1 and elevation --------------------------------------------------------------------


def _check_backscatter(
    stored: Mapping[str, NDArray[np.float64]], claims: Mapping[str, Radiometry]
) -> Verdict:
    """Check the unit of backscatter: power is never negative, decibels mostly are."""
    verdicts = []
    for name, values in stored.items():
        claim = claims[name]
        physical = values[values != 0] * claim.scale + claim.offset
        # ^ zeros are the edge of a slice in products without a nodata value
        verdicts.append(_check_polarisation(name, physical, claim.unit))
    return min(
        verdicts, key=lambda verdict: ("contradicts", "cannot tell", "agrees").index(verdict.status)
    )


def _check_polarisation(name: str, values: NDArray[np.float64], unit: str) -> Verdict:
    if values.size < MIN_VALID_PIXELS:
        return _unknown(f"{name} has fewer than {MIN_VALID_PIXELS} valid pixels", {})
    negative, median = float(np.mean(values < 0)), float(np.median(values))
    figures = {f"{name} negative": negative, f"{name} median": median}
    statement = f"the stated unit of {name} is {'linear power' if unit == 'power' else unit}"
    observation = f"{negative:.0%} of its pixels are negative and the median is {median:.3g}"
    if unit == "dB":
        is_wrong, is_right = negative < 0.01 and median >= 0, negative > 0.5 and median > -60
    else:
        is_wrong, is_right = negative > 0.5 or median > MAX_BACKSCATTER_POWER, negative < 0.01
    if is_wrong:
        return _contradiction(f"{statement}, but {observation}", figures)
    status: VerdictStatus = "agrees" if is_right else "cannot tell"
    return Verdict(status=status, reason=f"{statement}; {observation}", evidence=figures)


def _check_elevation(
    stored: Mapping[str, NDArray[np.float64]], claims: Mapping[str, Radiometry]
) -> Verdict:
    name, values = next(iter(stored.items()))
    median = float(np.median(values)) * claims[name].scale + claims[name].offset
    figures = {"median": median}
    if not ELEVATION_RANGE[0] <= median <= ELEVATION_RANGE[1]:
        return _contradiction(
            f"the stated unit is metres, but the median elevation is {median:g}", figures
        )
    reason = f"the median elevation is {median:g} m"
    return Verdict(status="agrees", reason=reason, evidence=figures)


def _format_offsets(offsets: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {offset:g}" for name, offset in offsets.items())


def _contradiction(reason: str, figures: Mapping[str, float], remedy: str = REMEDY) -> Verdict:
    reason = f"its radiometry is not as stated: {reason}. {remedy}"
    return Verdict(status="contradicts", reason=reason, evidence=figures)


def _unknown(reason: str, figures: Mapping[str, float]) -> Verdict:
    return Verdict(status="cannot tell", reason=reason, evidence=figures)
