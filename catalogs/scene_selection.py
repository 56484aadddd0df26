"""Which of the scenes that were found are used: pure decisions, each refusal with its reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from shapely.geometry import shape

from catalogs import ground, passes, providers
from catalogs.passes import order
from catalogs.scene import MASKS, WANTED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Scene

__all__ = ["Notice", "Refusal", "Selection", "choose", "newness", "order"]

SAME_SLICE = dt.timedelta(seconds=60)
"""Two stamps of one platform this close are one acquisition where no cell is named (Sentinel-1).

Reprocessing moves a stamp by milliseconds. Neighbouring slices are close too, but hold other
ground.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A scene that is left out, and why."""

    id: str
    reason: str

    collection: str = ""

    modality: str = ""
    """A key of scene.BANDS; empty where the item could not be read so far."""

    day: str | None = None
    """Solar day, YYYY-MM-DD."""

    share: float | None = None
    """Share of the searched region that its footprint covers, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a scene that is used all the same does not have."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The scenes to use, by time and id, and the others."""

    used: tuple[Scene, ...]
    refused: tuple[Refusal, ...]
    notices: tuple[Notice, ...] = ()


def choose(
    scenes: Iterable[Scene],
    region: Any,
    max_cloud_cover: float | None = None,
    *,
    bands: Mapping[str, Sequence[str]] | None = None,
    orbit_states: Collection[str] | None = None,
    relative_orbits: Collection[int] | None = None,
    max_passes: int | None = None,
) -> Selection:
    """Return the scenes to use; the order of the input does not matter.

    Decisions in this order: off the region, bands missing, another orbit, cloudier than allowed,
    superseded by a newer processing of the same acquisition, more passes than allowed. All
    scenes of one pass come out with one solar day.

    Args:
        scenes: What was found.
        region: Shapely area in longitude and latitude.
        max_cloud_cover: Percent; a scene whose cover is not stated is kept.
        bands: Modality -> bands that are asked for; all of a modality where it is not named.
        orbit_states: Directions of Sentinel-1 that are wanted, ascending or descending; any
            where None.
        relative_orbits: Relative orbits of Sentinel-1 that are wanted; any where None.
        max_passes: Sentinel-2 passes that each place needs at most: see passes.surplus. It looks
            at whole granules, so a cut of the region changes it only through what is found.
    """
    kept: list[Scene] = []
    refused: list[tuple[Scene, str]] = []
    for scene in sorted(scenes, key=order):
        reason = (
            _off_region(scene, region)
            or _lacks_bands(scene, _wanted(scene, bands))
            or _on_another_orbit(scene, orbit_states, relative_orbits)
            or _too_cloudy(scene, max_cloud_cover)
        )
        if reason:
            refused.append((scene, reason))
        else:
            kept.append(scene)
    for decide in (_superseded, lambda left: _too_many(left, max_passes)):
        out = {id(scene): (scene, reason) for scene, reason in decide(kept)}
        kept = [scene for scene in kept if id(scene) not in out]
        refused += out.values()
    used = passes.of_one_day(kept)
    refusals = (_refusal(scene, reason, region) for scene, reason in refused)
    return Selection(
        used=used,
        refused=tuple(sorted(refusals, key=lambda one: (one.id, one.reason, one.collection))),
        notices=tuple(_notices(used, bands)),
    )


def newness(scene: Scene) -> tuple[tuple[int, int], dt.datetime, str, str, str]:
    """Return a key that is larger for a newer processing; ids decide between equals."""
    baseline = providers.number_of(scene.baseline) or (0, 0)
    processed = passes.moment(scene.processed)
    return (baseline, processed, scene.id, scene.collection, scene.provider)


def _refusal(scene: Scene, reason: str, region: Any) -> Refusal:
    return Refusal(
        id=scene.id,
        reason=reason,
        collection=scene.collection,
        modality=scene.modality,
        day=None if scene.datetime is None else scene.solar_day.isoformat(),
        share=round(ground.share(shape(scene.footprint), region), 4),
    )


def _notices(
    scenes: Iterable[Scene], bands: Mapping[str, Sequence[str]] | None
) -> Iterator[Notice]:
    for scene in scenes:
        missing = [band for band in _wanted(scene, bands) if band not in scene.assets]
        if missing:
            yield Notice(id=scene.id, text=f"it lacks {', '.join(missing)}: used for the others")


def _wanted(scene: Scene, bands: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    return (bands or {}).get(scene.modality, WANTED[scene.modality])


def _off_region(scene: Scene, region: Any) -> str | None:
    return None if shape(scene.footprint).intersects(region) else "it does not touch the region"


def _lacks_bands(scene: Scene, wanted: Sequence[str]) -> str | None:
    """Return why the assets do not do: none of the wanted bands, or radar with one alone."""
    missing = [band for band in wanted if band not in scene.assets]
    if scene.modality.startswith("S1") and missing:
        there = " and ".join(scene.assets) or "none"
        return f"it lacks the polarisation {' and '.join(missing)}: it has {there}"
    measured = [band for band in scene.assets if band in wanted and band not in MASKS]
    # ^ a scene of which only the classification is left shows nothing
    return None if measured else f"it has none of {', '.join(wanted)}"


def _on_another_orbit(
    scene: Scene, states: Collection[str] | None, orbits: Collection[int] | None
) -> str | None:
    """Return why a radar scene's orbit is not a wanted one."""
    if not scene.modality.startswith("S1"):
        return None
    if states is not None and scene.orbit_state not in states:
        there = scene.orbit_state or "not stated"
        return f"its orbit direction is {there}; {' or '.join(sorted(states))} is asked for"
    if orbits is not None and scene.relative_orbit not in orbits:
        there = "not stated" if scene.relative_orbit is None else str(scene.relative_orbit)
        return f"its relative orbit is {there}; {_listed(orbits)} is asked for"
    return None


def _listed(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


def _too_cloudy(scene: Scene, limit: float | None) -> str | None:
    if limit is None or scene.cloud_cover is None or scene.cloud_cover <= limit:
        return None
    return f"cloud cover {scene.cloud_cover:.1f} % is above {limit:g} %"


def _too_many(scenes: Sequence[Scene], most: int | None) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, why) where clearer passes are enough."""
    if most is not None:
        reason = f"composite.max_passes is {most}, and so many clearer passes cover its ground"
        yield from ((scene, reason) for scene in passes.surplus(scenes, most))


def _superseded(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, which newer twin stands for it)."""
    for _, place in groupby(sorted(scenes, key=_place), _place):
        winners: list[Scene] = []
        for scene in sorted(place, key=newness, reverse=True):
            twin = _standing_for(scene, [one for one in winners if _same(scene, one)])
            if twin is None:
                winners.append(scene)
            else:
                newer = newness(twin)[:2] > newness(scene)[:2]
                how = "reprocessed as" if newer else "the same acquisition as"
                name = twin.id if twin.id != scene.id else f"{twin.id} of {twin.collection}"
                yield scene, f"{how} {name}"


def _place(scene: Scene) -> tuple[str, str, str]:
    if scene.datetime is None or scene.modality == "DEM":
        return (scene.modality, "", "")
        # ^ the same heights have a cell and a platform in one catalog, and none in another
    return (scene.modality, scene.platform or "", passes.cell(scene))


def _same(one: Scene, other: Scene) -> bool:
    """Tell whether two scenes of one place may come from one acquisition."""
    if one.modality == "DEM":
        return one.id == other.id or ground.holds(shape(one.footprint), shape(other.footprint))
        # ^ a small fine grid is no duplicate of a large coarse one
    facts = ((one.orbit_state, other.orbit_state), (one.relative_orbit, other.relative_orbit))
    if any(None not in pair and pair[0] != pair[1] for pair in facts):
        return False
    apart = abs(passes.moment(one.datetime) - passes.moment(other.datetime))
    return apart <= (passes.ORBIT if passes.cell(one) else SAME_SLICE)


def _standing_for(scene: Scene, winners: Sequence[Scene]) -> Scene | None:
    """Return the newer twin that holds most of scene, if together they hold nearly all of it."""
    own = shape(scene.footprint)
    areas = [shape(winner.footprint) for winner in winners]
    if not areas or not ground.holds(ground.union(areas), own):
        return None
    shares = [own.intersection(area).area for area in areas]
    return max(zip(shares, winners, strict=True), key=lambda one: (one[0], newness(one[1])))[1]
