"""Selecting the scenes to use from a search result; every rejected scene has a reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from catalogs import lonlat_geometry, passes, providers
from catalogs.passes import sort_key
from catalogs.scene import Caveat, RejectedScene
from catalogs.sensors import get_sensor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Scene

SAME_SLICE_TOLERANCE = dt.timedelta(seconds=60)
"""Largest difference between two times of one acquisition that has no MGRS tile (Sentinel-1).

Reprocessing moves a time by milliseconds. Neighbouring slices are close in time, too, but have
other footprints.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The scenes to use, by time and id, and the rejected ones."""

    used: tuple[Scene, ...]
    refused: tuple[RejectedScene, ...]
    caveats: tuple[Caveat, ...] = ()


def select_scenes(
    scenes: Iterable[Scene],
    region: Any,
    max_cloud_cover: float | None = None,
    *,
    bands: Mapping[str, Sequence[str]] | None = None,
    orbit_states: Collection[str] | None = None,
    relative_orbits: Collection[int] | None = None,
    max_passes: int | None = None,
) -> Selection:
    """Select the scenes to use; the order of the input does not matter.

    Scenes are rejected in this order: outside of the region, bands missing, another orbit, too
    cloudy, superseded by a newer processing of the same acquisition, more passes than needed. All
    scenes of one pass get the same solar day.

    Args:
        scenes: The scenes of a search.
        region: Shapely area in longitude and latitude.
        max_cloud_cover: Percent; a scene without a stated cloud cover is kept.
        bands: Modality -> requested bands; the default bands of a modality that is not a key.
        orbit_states: Accepted orbit directions of radar scenes, ascending or descending; any
            where None.
        relative_orbits: Accepted relative orbits of radar scenes; any where None.
        max_passes: Optical passes that each point needs at most: see :func:`_find_surplus_scenes`.
            Whole granules are compared, so the extent of the region matters only through the
            scenes that the search returns.
    """
    candidates: list[Scene] = []
    rejected: list[tuple[Scene, str]] = []
    for scene in sorted(scenes, key=sort_key):
        reason = (
            _check_region(scene, region)
            or _check_bands(scene, _requested_bands(scene, bands))
            or _check_orbit(scene, orbit_states, relative_orbits)
            or _check_cloud_cover(scene, max_cloud_cover)
        )
        if reason:
            rejected.append((scene, reason))
        else:
            candidates.append(scene)
    for find_rejected in (_find_superseded, lambda scenes: _find_surplus(scenes, max_passes)):
        reasons = {id(scene): (scene, reason) for scene, reason in find_rejected(candidates)}
        candidates = [scene for scene in candidates if id(scene) not in reasons]
        rejected += reasons.values()
    used = passes.unify_solar_days(candidates)
    refused = (_reject_scene(scene, reason, region) for scene, reason in rejected)
    return Selection(
        used=used,
        refused=tuple(
            sorted(refused, key=lambda scene: (scene.id, scene.reason, scene.collection))
        ),
        caveats=tuple(_find_missing_bands(used, bands)),
    )


def recency_key(scene: Scene) -> tuple[tuple[int, int], dt.datetime, str, str, str]:
    """Return a key that is larger for a newer processing; ids break ties."""
    baseline = providers.parse_baseline(scene.baseline) or (0, 0)
    processed = passes.time_or_earliest(scene.processed)
    return (baseline, processed, scene.id, scene.collection, scene.provider)


def _reject_scene(scene: Scene, reason: str, region: Any) -> RejectedScene:
    return RejectedScene(
        id=scene.id,
        reason=reason,
        collection=scene.collection,
        modality=scene.modality,
        day=None if scene.datetime is None else scene.solar_day.isoformat(),
        share=round(lonlat_geometry.covered_fraction(shape(scene.footprint), region), 4),
    )


def _find_missing_bands(
    scenes: Iterable[Scene], bands: Mapping[str, Sequence[str]] | None
) -> Iterator[Caveat]:
    for scene in scenes:
        missing = [band for band in _requested_bands(scene, bands) if band not in scene.assets]
        if missing:
            yield Caveat(id=scene.id, text=f"it lacks {', '.join(missing)}: used for the others")


def _requested_bands(scene: Scene, bands: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    return (bands or {}).get(scene.modality, get_sensor(scene.modality).default_bands)


def _check_region(scene: Scene, region: Any) -> str | None:
    return None if shape(scene.footprint).intersects(region) else "it does not touch the region"


def _check_bands(scene: Scene, requested: Sequence[str]) -> str | None:
    """Return the reason where no requested band, or not every polarisation, is available."""
    sensor = get_sensor(scene.modality)
    missing = [band for band in requested if band not in scene.assets]
    if sensor.group == "radar" and missing:
        available = " and ".join(scene.assets) or "none"
        return f"it lacks the polarisation {' and '.join(missing)}: it has {available}"
    measured = [
        band for band in scene.assets if band in requested and band not in sensor.mask_bands
    ]
    # ^ mask bands alone measure nothing
    return None if measured else f"it has none of {', '.join(requested)}"


def _check_orbit(
    scene: Scene, states: Collection[str] | None, orbits: Collection[int] | None
) -> str | None:
    """Return the reason where a radar scene's orbit was not requested."""
    if get_sensor(scene.modality).group != "radar":
        return None
    if states is not None and scene.orbit_state not in states:
        direction = scene.orbit_state or "not stated"
        return f"its orbit direction is {direction}; {' or '.join(sorted(states))} is requested"
    if orbits is not None and scene.relative_orbit not in orbits:
        orbit = "not stated" if scene.relative_orbit is None else str(scene.relative_orbit)
        return f"its relative orbit is {orbit}; {_join_numbers(orbits)} is requested"
    return None


def _join_numbers(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


def _check_cloud_cover(scene: Scene, limit: float | None) -> str | None:
    if limit is None or scene.cloud_cover is None or scene.cloud_cover <= limit:
        return None
    return f"cloud cover {scene.cloud_cover:.1f} % is above {limit:g} %"


def _find_surplus(scenes: Sequence[Scene], max_passes: int | None) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, reason) where enough clearer passes cover the footprint."""
    if max_passes is not None:
        reason = f"composite.max_passes is {max_passes}: that many clearer passes cover its area"
        yield from ((scene, reason) for scene in _find_surplus_scenes(scenes, max_passes))


def _find_superseded(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, reason) where a newer processing of the same acquisition replaces it."""
    for _, group in groupby(sorted(scenes, key=_tile_key), _tile_key):
        newest: list[Scene] = []
        for scene in sorted(group, key=recency_key, reverse=True):
            replacement = _find_replacement(
                scene, [newer for newer in newest if _is_same_acquisition(scene, newer)]
            )
            if replacement is None:
                newest.append(scene)
            else:
                yield scene, _describe_replacement(scene, replacement)


def _describe_replacement(scene: Scene, replacement: Scene) -> str:
    is_newer = recency_key(replacement)[:2] > recency_key(scene)[:2]
    relation = "reprocessed as" if is_newer else "the same acquisition as"
    if replacement.id != scene.id:
        return f"{relation} {replacement.id}"
    return f"{relation} {replacement.id} of {replacement.collection}"


def _tile_key(scene: Scene) -> tuple[str, str, str]:
    if not get_sensor(scene.modality).is_temporal:
        return (scene.modality, "", "")
        # ^ one catalog states tile and platform of an elevation model, another does not
    return (scene.modality, scene.platform or "", passes.mgrs_code(scene))


def _is_same_acquisition(first: Scene, second: Scene) -> bool:
    """Return whether two scenes of one tile may come from one acquisition."""
    if not get_sensor(first.modality).is_temporal:
        return first.id == second.id or lonlat_geometry.nearly_covers(
            shape(first.footprint), shape(second.footprint)
        )
        # ^ a small fine raster is no duplicate of a large coarse one
    orbits = (
        (first.orbit_state, second.orbit_state),
        (first.relative_orbit, second.relative_orbit),
    )
    if any(None not in pair and pair[0] != pair[1] for pair in orbits):
        return False
    difference = abs(
        passes.time_or_earliest(first.datetime) - passes.time_or_earliest(second.datetime)
    )
    return difference <= (
        passes.SAME_ORBIT_TOLERANCE if passes.mgrs_code(first) else SAME_SLICE_TOLERANCE
    )


def _find_replacement(scene: Scene, newer_scenes: Sequence[Scene]) -> Scene | None:
    """Return the newer scene with the largest overlap, if all together cover the footprint."""
    footprint = shape(scene.footprint)
    areas = [shape(newer.footprint) for newer in newer_scenes]
    if not areas or not lonlat_geometry.nearly_covers(lonlat_geometry.union(areas), footprint):
        return None
    overlaps = [footprint.intersection(area).area for area in areas]
    ranked = zip(overlaps, newer_scenes, strict=True)
    return max(ranked, key=lambda pair: (pair[0], recency_key(pair[1])))[1]


def _find_surplus_scenes(scenes: Sequence[Scene], max_passes: int) -> Iterator[Scene]:
    """Yield the optical scenes that are not among the ``max_passes`` clearest passes anywhere.

    Within an MGRS tile, passes are ordered by cloud cover (unknown last), then time, then id. A
    pass is dropped as a whole, and only where clearer ones cover its footprint in the tile
    ``max_passes`` times, except for slivers (see lonlat_geometry.MAX_SLIVER_WIDTH). So every point
    keeps at least ``max_passes`` passes, or all that it has. Radar and elevation scenes are kept.
    """
    optical = sorted(
        (scene for scene in scenes if get_sensor(scene.modality).group == "optical"), key=_mgrs_key
    )
    for _, group in groupby(optical, _mgrs_key):
        covered = [shapely.Polygon()] * max_passes
        # ^ the area that at least one, two, … passes cover
        for pass_scenes in sorted(passes.group_passes(group), key=_cloud_cover_key):
            area = lonlat_geometry.union(shape(scene.footprint) for scene in pass_scenes)
            if lonlat_geometry.nearly_covers(covered[-1], area):
                yield from pass_scenes
                continue
            for level in range(max_passes - 1, 0, -1):
                overlap = shapely.intersection(covered[level - 1], area)
                covered[level] = shapely.union(covered[level], overlap)
            covered[0] = shapely.union(covered[0], area)


def _mgrs_key(scene: Scene) -> tuple[str, str]:
    return (scene.modality, passes.mgrs_code(scene))


def _cloud_cover_key(
    scenes: Sequence[Scene],
) -> tuple[bool, float, tuple[dt.datetime, str, str, str]]:
    """Return a key that is smaller for a clearer pass: the mean cloud cover weighted by area."""
    stated = [
        (scene.cloud_cover, float(shape(scene.footprint).area))
        for scene in scenes
        if scene.cloud_cover is not None
    ]
    weight = sum(area for _, area in stated)
    mean = sum(cover * area for cover, area in stated) / weight if weight else 0.0
    return (not stated, mean, passes.sort_key(scenes[0]))
