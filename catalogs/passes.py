"""Satellite passes: grouping scenes by pass, and the solar day of a pass."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

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
