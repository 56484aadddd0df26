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

ORBIT = dt.timedelta(minutes=45)
"""Two stamps of one platform that are this close belong to one orbit.

Some catalogs stamp a granule with its own time, others with the start of its datatake, up to half
an hour before; the next orbit over the same place comes after 98 minutes or more.
"""

_BASELINE = re.compile(r"_N\d\d\.\d\d$")


def order(scene: Scene) -> tuple[dt.datetime, str, str, str]:
    """Return the key by which scenes are always sorted: time, id, collection, provider."""
    return (moment(scene.datetime), scene.id, scene.collection, scene.provider)


def moment(value: dt.datetime | None) -> dt.datetime:
    """Return a time, the earliest of all where there is none."""
    return value or dt.datetime.min.replace(tzinfo=dt.UTC)


def cell(scene: Scene) -> str:
    """Return the granule's cell with two digits of zone; empty where there is none."""
    return (scene.tile or "").zfill(5) if scene.tile else ""


def passes(scenes: Iterable[Scene]) -> tuple[tuple[Scene, ...], ...]:
    """Group scenes by the pass that they were taken in, whatever their order.

    A pass is one datatake of one platform. Where the catalog names no datatake, it is what one
    platform took on one orbit in one direction within ORBIT. Scenes without a time have no pass.
    """
    timed = sorted((scene for scene in scenes if scene.datetime is not None), key=order)
    found: list[tuple[Scene, ...]] = []
    for key, grouped in groupby(sorted(timed, key=_orbit), _orbit):
        group = tuple(grouped)
        found += [group] if key[2] else _apart(group)
    return tuple(sorted(found, key=lambda one: order(one[0])))


def of_one_day(scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """Return the scenes, all of one pass with one solar day: the earliest of theirs.

    Only passes across 180 degrees or close to a pole have scenes of several solar days.
    """
    own = [replace(scene, day=None) if scene.day else scene for scene in scenes]
    settled: dict[int, Scene] = {}
    for group in passes(own):
        days = [scene.solar_day for scene in group]
        for scene, day in zip(group, days, strict=True):
            settled[id(scene)] = scene if day == min(days) else replace(scene, day=min(days))
    return tuple(settled.get(id(scene), scene) for scene in own)


def surplus(scenes: Sequence[Scene], most: int) -> Iterator[Scene]:
    """Yield the Sentinel-2 scenes without which each place keeps its ``most`` best passes.

    Within a cell, passes are ordered by cloud cover (unknown last), then time, then id. A pass is
    dropped as a whole, and only where better ones cover all of its ground in the cell ``most``
    times, but for slivers (ground.SLIVER). So every place is seen by as many passes as it would
    be without the limit, or by ``most`` at least. Radar and heights have no clouds, and stay.
    """
    optical = sorted((one for one in scenes if one.modality.startswith("S2")), key=_cell)
    for _, group in groupby(optical, _cell):
        covered = [shapely.Polygon()] * most
        # ^ the ground that one, two, … passes cover
        for taken in sorted(passes(group), key=_cloudiness):
            own = ground.union(shape(scene.footprint) for scene in taken)
            if ground.holds(covered[-1], own):
                yield from taken
                continue
            for level in range(most - 1, 0, -1):
                again = shapely.intersection(covered[level - 1], own)
                covered[level] = shapely.union(covered[level], again)
            covered[0] = shapely.union(covered[0], own)


def _cell(scene: Scene) -> tuple[str, str]:
    return (scene.modality, cell(scene))


def _orbit(scene: Scene) -> tuple[str, str, str, str, int]:
    """Return modality and platform, and datatake or else what is known of the orbit."""
    datatake = _BASELINE.sub("", scene.datatake or "")
    # ^ a reprocessed datatake has its new baseline in its name
    known = (scene.modality, scene.platform or "")
    if datatake:
        return (*known, datatake, "", 0)
    return (*known, "", scene.orbit_state or "", scene.relative_orbit or 0)


def _apart(scenes: Iterable[Scene]) -> Iterator[tuple[Scene, ...]]:
    """Split scenes in order of time where they cannot come from one orbit."""
    group: list[Scene] = []
    for scene in scenes:
        if group and moment(scene.datetime) - moment(group[0].datetime) > ORBIT:
            yield tuple(group)
            group = []
        group.append(scene)
    if group:
        yield tuple(group)


def _cloudiness(taken: Sequence[Scene]) -> tuple[bool, float, tuple[dt.datetime, str, str, str]]:
    """Return a key that is smaller for a clearer pass; parts weigh by their area."""
    stated = [
        (scene.cloud_cover, float(shape(scene.footprint).area))
        for scene in taken
        if scene.cloud_cover is not None
    ]
    weight = sum(area for _, area in stated)
    mean = sum(cover * area for cover, area in stated) / weight if weight else 0.0
    return (not stated, mean, order(taken[0]))
