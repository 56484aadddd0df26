"""Which of the scenes that were found are used: pure decisions, each refusal with its reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from shapely.geometry import shape

from catalogs import ground, passes, providers
from catalogs.passes import sort_key
from catalogs.scene import DEFAULT_BANDS, MASK_BANDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Scene

__all__ = ["Caveat", "RejectedScene", "Selection", "recency_key", "select_scenes", "sort_key"]

SAME_SLICE_TOLERANCE = dt.timedelta(seconds=60)
"""Two stamps of one platform this close are one acquisition where no cell is named (Sentinel-1).

Reprocessing moves a stamp by milliseconds. Neighbouring slices are close too, but hold other
ground.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedScene:
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
class Caveat:
    """What a scene that is used all the same does not have."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The scenes to use, by time and id, and the others."""

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
    for scene in sorted(scenes, key=sort_key):
        reason = (
            _check_region(scene, region)
            or _check_bands(scene, _requested_bands(scene, bands))
            or _check_orbit(scene, orbit_states, relative_orbits)
            or _check_cloud_cover(scene, max_cloud_cover)
        )
        if reason:
            refused.append((scene, reason))
        else:
            kept.append(scene)
    for decide in (_find_superseded, lambda left: _find_surplus(left, max_passes)):
        out = {id(scene): (scene, reason) for scene, reason in decide(kept)}
        kept = [scene for scene in kept if id(scene) not in out]
        refused += out.values()
    used = passes.unify_solar_days(kept)
    refusals = (_reject_scene(scene, reason, region) for scene, reason in refused)
    return Selection(
        used=used,
        refused=tuple(sorted(refusals, key=lambda one: (one.id, one.reason, one.collection))),
        caveats=tuple(_find_missing_bands(used, bands)),
    )


def recency_key(scene: Scene) -> tuple[tuple[int, int], dt.datetime, str, str, str]:
    """Return a key that is larger for a newer processing; ids decide between equals."""
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
        share=round(ground.covered_fraction(shape(scene.footprint), region), 4),
    )


def _find_missing_bands(
    scenes: Iterable[Scene], bands: Mapping[str, Sequence[str]] | None
) -> Iterator[Caveat]:
    for scene in scenes:
        missing = [band for band in _requested_bands(scene, bands) if band not in scene.assets]
        if missing:
            yield Caveat(id=scene.id, text=f"it lacks {', '.join(missing)}: used for the others")


def _requested_bands(scene: Scene, bands: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    return (bands or {}).get(scene.modality, DEFAULT_BANDS[scene.modality])


def _check_region(scene: Scene, region: Any) -> str | None:
    return None if shape(scene.footprint).intersects(region) else "it does not touch the region"


def _check_bands(scene: Scene, requested: Sequence[str]) -> str | None:
    """Return why the assets do not do: none of the wanted bands, or radar with one alone."""
    missing = [band for band in requested if band not in scene.assets]
    if scene.modality.startswith("S1") and missing:
        there = " and ".join(scene.assets) or "none"
        return f"it lacks the polarisation {' and '.join(missing)}: it has {there}"
    measured = [band for band in scene.assets if band in requested and band not in MASK_BANDS]
    # ^ a scene of which only the classification is left shows nothing
    return None if measured else f"it has none of {', '.join(requested)}"


def _check_orbit(
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
        return f"its relative orbit is {there}; {_join_numbers(orbits)} is asked for"
    return None


def _join_numbers(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


def _check_cloud_cover(scene: Scene, limit: float | None) -> str | None:
    if limit is None or scene.cloud_cover is None or scene.cloud_cover <= limit:
        return None
    return f"cloud cover {scene.cloud_cover:.1f} % is above {limit:g} %"


def _find_surplus(scenes: Sequence[Scene], max_passes: int | None) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, why) where clearer passes are enough."""
    if max_passes is not None:
        reason = (
            f"composite.max_passes is {max_passes}, and so many clearer passes cover its ground"
        )
        yield from ((scene, reason) for scene in passes.find_surplus_scenes(scenes, max_passes))


def _find_superseded(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, which newer twin stands for it)."""
    for _, place in groupby(sorted(scenes, key=_place_key), _place_key):
        winners: list[Scene] = []
        for scene in sorted(place, key=recency_key, reverse=True):
            twin = _find_replacement(
                scene, [one for one in winners if _is_same_acquisition(scene, one)]
            )
            if twin is None:
                winners.append(scene)
            else:
                newer = recency_key(twin)[:2] > recency_key(scene)[:2]
                how = "reprocessed as" if newer else "the same acquisition as"
                name = twin.id if twin.id != scene.id else f"{twin.id} of {twin.collection}"
                yield scene, f"{how} {name}"


def _place_key(scene: Scene) -> tuple[str, str, str]:
    if scene.datetime is None or scene.modality == "DEM":
        return (scene.modality, "", "")
        # ^ the same heights have a cell and a platform in one catalog, and none in another
    return (scene.modality, scene.platform or "", passes.mgrs_code(scene))


def _is_same_acquisition(first: Scene, second: Scene) -> bool:
    """Tell whether two scenes of one place may come from one acquisition."""
    if first.modality == "DEM":
        return first.id == second.id or ground.nearly_covers(
            shape(first.footprint), shape(second.footprint)
        )
        # ^ a small fine grid is no duplicate of a large coarse one
    facts = ((first.orbit_state, second.orbit_state), (first.relative_orbit, second.relative_orbit))
    if any(None not in pair and pair[0] != pair[1] for pair in facts):
        return False
    apart = abs(passes.time_or_earliest(first.datetime) - passes.time_or_earliest(second.datetime))
    return apart <= (
        passes.SAME_ORBIT_TOLERANCE if passes.mgrs_code(first) else SAME_SLICE_TOLERANCE
    )


def _find_replacement(scene: Scene, winners: Sequence[Scene]) -> Scene | None:
    """Return the newer twin that holds most of scene, if together they hold nearly all of it."""
    own = shape(scene.footprint)
    areas = [shape(winner.footprint) for winner in winners]
    if not areas or not ground.nearly_covers(ground.union(areas), own):
        return None
    shares = [own.intersection(area).area for area in areas]
    return max(zip(shares, winners, strict=True), key=lambda one: (one[0], recency_key(one[1])))[1]
