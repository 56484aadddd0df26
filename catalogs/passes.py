"""Passes: what one satellite took in one go, the day it belongs to, and how many are kept."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import shape

from catalogs import ground

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from catalogs.scene import Scene

SAME_ORBIT_TOLERANCE = dt.timedelta(minutes=45)
"""Two stamps of one platform that are this close belong to one orbit.

Some catalogs stamp a granule with its own time, others with the start of its datatake, up to half
an hour before; the next orbit over the same place comes after 98 minutes or more.
"""

_BASELINE_SUFFIX = re.compile(r"_N\d\d\.\d\d$")


def sort_key(scene: Scene) -> tuple[dt.datetime, str, str, str]:
    """Return the key by which scenes are always sorted: time, id, collection, provider."""
    return (time_or_earliest(scene.datetime), scene.id, scene.collection, scene.provider)


def time_or_earliest(value: dt.datetime | None) -> dt.datetime:
    """Return a time, the earliest of all where there is none."""
    return value or dt.datetime.min.replace(tzinfo=dt.UTC)


def mgrs_code(scene: Scene) -> str:
    """Return the granule's cell with two digits of zone; empty where there is none."""
    return (scene.tile or "").zfill(5) if scene.tile else ""


def group_passes(scenes: Iterable[Scene]) -> tuple[tuple[Scene, ...], ...]:
    """Group scenes by the pass that they were taken in, whatever their order.

    A pass is one datatake of one platform. Where the catalog names no datatake, it is what one
    platform took on one orbit in one direction within ORBIT. Scenes without a time have no pass.
    """
    timed = sorted((scene for scene in scenes if scene.datetime is not None), key=sort_key)
    found: list[tuple[Scene, ...]] = []
    for key, grouped in groupby(sorted(timed, key=_datatake_key), _datatake_key):
        group = tuple(grouped)
        found += [group] if key[2] else _split_by_orbit(group)
    return tuple(sorted(found, key=lambda one: sort_key(one[0])))


def unify_solar_days(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """Return the scenes, all of one pass with one solar day: the earliest of theirs.

    Only passes across 180 degrees or close to a pole have scenes of several solar days.
    """
    own = [replace(scene, day=None) if scene.day else scene for scene in scenes]
    settled: dict[int, Scene] = {}
    for group in group_passes(own):
        days = [scene.solar_day for scene in group]
        for scene, day in zip(group, days, strict=True):
            settled[id(scene)] = scene if day == min(days) else replace(scene, day=min(days))
    return tuple(settled.get(id(scene), scene) for scene in own)


def find_surplus_scenes(scenes: Sequence[Scene], max_passes: int) -> Iterator[Scene]:
    """Yield the Sentinel-2 scenes without which each place keeps its ``max_passes`` best passes.

    Within a cell, passes are ordered by cloud cover (unknown last), then time, then id. A pass is
    dropped as a whole, and only where better ones cover all of its ground in the cell ``max_passes``
    times, but for slivers (ground.SLIVER). So every place is seen by as many passes as it would
    be without the limit, or by ``max_passes`` at least. Radar and heights have no clouds, and stay.
    """
    optical = sorted((one for one in scenes if one.modality.startswith("S2")), key=_mgrs_key)
    for _, group in groupby(optical, _mgrs_key):
        covered = [shapely.Polygon()] * max_passes
        # ^ the ground that one, two, … passes cover
        for taken in sorted(group_passes(group), key=_cloud_cover_key):
            own = ground.union(shape(scene.footprint) for scene in taken)
            if ground.nearly_covers(covered[-1], own):
                yield from taken
                continue
            for level in range(max_passes - 1, 0, -1):
                again = shapely.intersection(covered[level - 1], own)
                covered[level] = shapely.union(covered[level], again)
            covered[0] = shapely.union(covered[0], own)


def _mgrs_key(scene: Scene) -> tuple[str, str]:
    return (scene.modality, mgrs_code(scene))


def _datatake_key(scene: Scene) -> tuple[str, str, str, str, int]:
    """Return modality and platform, and datatake or else what is known of the orbit."""
    datatake = _BASELINE_SUFFIX.sub("", scene.datatake or "")
    # ^ a reprocessed datatake has its new baseline in its name
    known = (scene.modality, scene.platform or "")
    if datatake:
        return (*known, datatake, "", 0)
    return (*known, "", scene.orbit_state or "", scene.relative_orbit or 0)


def _split_by_orbit(scenes: Iterable[Scene]) -> Iterator[tuple[Scene, ...]]:
    """Split scenes in order of time where they cannot come from one orbit."""
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
    """Return a key that is smaller for a clearer pass; parts weigh by their area."""
    stated = [
        (scene.cloud_cover, float(shape(scene.footprint).area))
        for scene in scenes
        if scene.cloud_cover is not None
    ]
    weight = sum(area for _, area in stated)
    mean = sum(cover * area for cover, area in stated) / weight if weight else 0.0
    return (not stated, mean, sort_key(scenes[0]))
