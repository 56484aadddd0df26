"""Satellite passes: grouping scenes by pass, solar days, and the passes beyond a maximum."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import shape

from catalogs import lonlat_geometry
from catalogs.sensors import get_sensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from catalogs.scene import Scene

SAME_ORBIT_TOLERANCE = dt.timedelta(minutes=45)
"""Largest difference between two times of one platform that belong to one orbit.

Some catalogs give a granule its own time, others the start of its datatake, up to half an hour
earlier; the next orbit over the same ground follows after 98 minutes or more.
"""

_BASELINE_SUFFIX = re.compile(r"_N\d\d\.\d\d$")


def sort_key(scene: Scene) -> tuple[dt.datetime, str, str, str]:
    """Return the key by which scenes are sorted: time, id, collection, provider."""
    return (time_or_earliest(scene.datetime), scene.id, scene.collection, scene.provider)


def time_or_earliest(value: dt.datetime | None) -> dt.datetime:
    """Return a time; the earliest possible one where it is None."""
    return value or dt.datetime.min.replace(tzinfo=dt.UTC)


def mgrs_code(scene: Scene) -> str:
    """Return the granule's MGRS tile with two digits of zone; empty where there is none."""
    return (scene.tile or "").zfill(5) if scene.tile else ""


def group_passes(scenes: Iterable[Scene]) -> tuple[tuple[Scene, ...], ...]:
    """Return the scenes grouped by pass; the order of the input does not matter.

    A pass is one datatake of one platform. Where the catalog names no datatake, it is what one
    platform took on one orbit in one direction within SAME_ORBIT_TOLERANCE. Scenes without a time
    belong to no pass.
    """
    timed = sorted((scene for scene in scenes if scene.datetime is not None), key=sort_key)
    groups: list[tuple[Scene, ...]] = []
    for key, grouped in groupby(sorted(timed, key=_datatake_key), _datatake_key):
        group = tuple(grouped)
        groups += [group] if key[2] else _split_by_orbit(group)
    return tuple(sorted(groups, key=lambda group: sort_key(group[0])))


def unify_solar_days(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """Return the scenes, with the earliest solar day of a pass for all scenes of the pass.

    Only passes across 180 degrees or close to a pole have scenes of several solar days.
    """
    originals = [replace(scene, day=None) if scene.day else scene for scene in scenes]
    unified: dict[int, Scene] = {}
    for group in group_passes(originals):
        days = [scene.solar_day for scene in group]
        for scene, day in zip(group, days, strict=True):
            unified[id(scene)] = scene if day == min(days) else replace(scene, day=min(days))
    return tuple(unified.get(id(scene), scene) for scene in originals)


def find_surplus_scenes(scenes: Sequence[Scene], max_passes: int) -> Iterator[Scene]:
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
        for pass_scenes in sorted(group_passes(group), key=_cloud_cover_key):
            area = lonlat_geometry.union(shape(scene.footprint) for scene in pass_scenes)
            if lonlat_geometry.nearly_covers(covered[-1], area):
                yield from pass_scenes
                continue
            for level in range(max_passes - 1, 0, -1):
                overlap = shapely.intersection(covered[level - 1], area)
                covered[level] = shapely.union(covered[level], overlap)
            covered[0] = shapely.union(covered[0], area)


def _mgrs_key(scene: Scene) -> tuple[str, str]:
    return (scene.modality, mgrs_code(scene))


def _datatake_key(scene: Scene) -> tuple[str, str, str, str, int]:
    """Return modality, platform and datatake; without a datatake, the orbit as far as stated."""
    datatake = _BASELINE_SUFFIX.sub("", scene.datatake or "")
    # ^ a reprocessed datatake has its new baseline in its name
    satellite = (scene.modality, scene.platform or "")
    if datatake:
        return (*satellite, datatake, "", 0)
    return (*satellite, "", scene.orbit_state or "", scene.relative_orbit or 0)


def _split_by_orbit(scenes: Iterable[Scene]) -> Iterator[tuple[Scene, ...]]:
    """Yield groups of scenes, sorted by time, that can come from one orbit."""
    group: list[Scene] = []
    for scene in scenes:
        if (
            group
            and time_or_earliest(scene.datetime) - time_or_earliest(group[0].datetime)
            > SAME_ORBIT_TOLERANCE
        ):
            yield tuple(group)
            group = []
        group.append(scene)
    if group:
        yield tuple(group)


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
    return (not stated, mean, sort_key(scenes[0]))
