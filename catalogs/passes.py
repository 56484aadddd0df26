"""Satellite passes: grouping scenes by pass, and the solar day of a pass."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import shape

from catalogs import lonlat_geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from catalogs.scene import Scene

SAME_ORBIT_TOLERANCE = dt.timedelta(minutes=45)
"""Largest difference between two times of one platform that belong to one orbit.

Some catalogs give a granule its own time, others the start of its datatake, up to half an hour
earlier; the next orbit over the same ground follows after 98 minutes or more.
"""

MAX_SAME_DAY_DIFFERENCE = dt.timedelta(hours=18)
"""Largest difference between two passes over one place that are of one solar day.

The two directions of an orbit pass twelve hours apart, orbits beside each other 98 minutes; passes
on consecutive days at the same solar time follow each other by 23 hours or more.
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
    """Return the scenes with one solar day for all scenes of a pass, and one pass a day.

    The day of a pass is the earliest solar day of its scenes; only passes across 180 degrees or
    close to a pole have scenes of several. Where an earlier pass over the same ground has that day,
    too, although it is nearly a day older, the pass is of the day after: at 180 degrees both sides
    of the date line are right, and two passes must not count as one observation.
    """
    originals = [replace(scene, day=None) if scene.day else scene for scene in scenes]
    unified: dict[int, Scene] = {}
    dated: dict[tuple[str, dt.date], list[tuple[Scene, ...]]] = {}
    for group in group_passes(originals):
        days = [scene.solar_day for scene in group]
        modality, day = group[0].modality, min(days)
        while any(_is_day_after(group, earlier) for earlier in dated.get((modality, day), ())):
            day += dt.timedelta(days=1)
        dated.setdefault((modality, day), []).append(group)
        for scene, own_day in zip(group, days, strict=True):
            unified[id(scene)] = scene if day == own_day else replace(scene, day=day)
    return tuple(unified.get(id(scene), scene) for scene in originals)


def _is_day_after(later: Sequence[Scene], earlier: Sequence[Scene]) -> bool:
    """Return whether a pass follows another one over the same ground by nearly a day."""
    difference = time_or_earliest(later[0].datetime) - time_or_earliest(earlier[0].datetime)
    return difference > MAX_SAME_DAY_DIFFERENCE and shapely.intersects(
        *(
            lonlat_geometry.union(shape(scene.footprint) for scene in scenes)
            for scenes in (later, earlier)
        )
    )


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
