"""Selecting the scenes to use from a search result; every rejected scene has a reason."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from catalogs import lonlat_geometry, number_format, passes
from catalogs.passes import sort_key
from catalogs.scene import Caveat, RejectedScene
from catalogs.search import duplicates
from catalogs.search.duplicates import RejectedDocument, recency_key
from catalogs.sensors import get_sensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Scene

__all__ = ["IdFilter", "Selection", "list_names", "recency_key", "select_scenes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFilter:
    """The scenes that a job names by their ids, or by ``collection/id``."""

    include: tuple[str, ...] = ()
    """Scenes to select from; all where empty. Elevation is restricted only where one of its scenes
    is named."""

    exclude: tuple[str, ...] = ()
    """Scenes that are not used."""

    def find_unknown(self, scenes: Iterable[Scene | RejectedScene]) -> tuple[str, ...]:
        """Return the names that no scene of a search has."""
        scene_names = {name for scene in scenes for name in list_names(scene)}
        return tuple(name for name in (*self.include, *self.exclude) if name not in scene_names)

    def check(self, scenes: Iterable[Scene]) -> Callable[[Scene], str | None]:
        """Return a function that returns why one of these scenes is left out, or None."""
        restricted = {
            scene.modality
            for scene in scenes
            if get_sensor(scene.modality).is_temporal or _is_named(scene, self.include)
        }

        def find_reason(scene: Scene) -> str | None:
            if _is_named(scene, self.exclude):
                return "excluded by the job"
            if not self.include or scene.modality not in restricted:
                return None
            return None if _is_named(scene, self.include) else "not among include"

        return find_reason


def list_names(scene: Scene | RejectedScene) -> tuple[str, str]:
    """Return the names by which a job includes or excludes a scene."""
    return (scene.id, f"{scene.collection}/{scene.id}")


def _is_named(scene: Scene, names: Collection[str]) -> bool:
    return any(name in names for name in list_names(scene))


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
    mask_bands: Collection[str] = ("SCL",),
    orbit_states: Collection[str] | None = None,
    relative_orbits: Collection[int] | None = None,
    max_passes: int | None = None,
    ids: IdFilter | None = None,
) -> Selection:
    """Select the scenes to use; the order of the input does not matter.

    Scenes are rejected in this order: excluded by the job, outside of the region, united with
    another document of the acquisition, bands missing, another orbit, too cloudy, superseded by a
    fuller or newer document of the same acquisition, more passes than needed. All scenes of one
    pass get the same solar day.

    Args:
        scenes: The scenes of a search.
        region: Shapely area in longitude and latitude.
        max_cloud_cover: Percent; a scene without a stated cloud cover is kept.
        bands: Modality -> requested bands; the default bands of a modality that is not a key.
        mask_bands: The bands that mask clouds in the composite.
        orbit_states: Accepted orbit directions of radar scenes, ascending or descending; any
            where None.
        relative_orbits: Accepted relative orbits of radar scenes; any where None.
        max_passes: Optical passes that each point needs at most: see :func:`_find_surplus_scenes`.
            Whole granules are compared, so the extent of the region matters only through the
            scenes that the search returns.
        ids: The scenes that the job includes or excludes by name.
    """

    def list_used_bands(scene: Scene) -> list[str]:
        masks = [band for band in get_sensor(scene.modality).mask_bands if band in mask_bands]
        return list(dict.fromkeys((*_requested_bands(scene, bands), *masks)))

    ordered = sorted(scenes, key=sort_key)
    check_id = (ids or IdFilter()).check(ordered)
    candidates, rejected = _split_by_reason(
        ordered, lambda scene: check_id(scene) or _check_region(scene, region)
    )
    united = duplicates.unite_documents(candidates, list_used_bands)
    candidates, unsuitable = _split_by_reason(
        united.scenes,
        lambda scene: (
            _check_bands(scene, _requested_bands(scene, bands))
            or _check_orbit(scene, orbit_states, relative_orbits)
            or _check_cloud_cover(scene, max_cloud_cover)
        ),
    )
    current = duplicates.replace_superseded(candidates, list_used_bands)
    surplus = {id(scene): reason for scene, reason in _find_surplus(current.scenes, max_passes)}
    candidates, unneeded = _split_by_reason(
        sorted(current.scenes, key=sort_key), lambda scene: surplus.get(id(scene))
    )
    used = passes.unify_solar_days(candidates)
    rejected += [*united.rejected, *unsuitable, *current.rejected, *unneeded]
    id_counts = Counter(scene.id for scene in ordered)
    refused = (_reject_scene(document, region, id_counts) for document in rejected)
    used_ids = {scene.id for scene in used}
    return Selection(
        used=used,
        refused=tuple(
            sorted(refused, key=lambda scene: (scene.id, scene.reason, scene.collection))
        ),
        caveats=(
            *(
                caveat
                for caveat in sorted(
                    {*united.caveats, *current.caveats}, key=lambda caveat: (caveat.id, caveat.text)
                )
                if caveat.id in used_ids
            ),
            *_find_missing_bands(used, bands),
            *_find_missing_masks(used, mask_bands),
        ),
    )


def _split_by_reason(
    scenes: Iterable[Scene], find_reason: Callable[[Scene], str | None]
) -> tuple[list[Scene], list[RejectedDocument]]:
    """Return the scenes without a reason to reject them, and the others with theirs."""
    kept: list[Scene] = []
    rejected: list[RejectedDocument] = []
    for scene in scenes:
        reason = find_reason(scene)
        if reason is None:
            kept.append(scene)
        else:
            rejected.append(RejectedDocument(scene=scene, reason=reason))
    return kept, rejected


def _reject_scene(
    document: RejectedDocument, region: Any, id_counts: Mapping[str, int]
) -> RejectedScene:
    scene, replacement = document.scene, document.replacement
    return RejectedScene(
        id=scene.id,
        reason=document.reason,
        collection=scene.collection,
        modality=scene.modality,
        day=None if scene.datetime is None else scene.solar_day.isoformat(),
        share=round(lonlat_geometry.covered_fraction(shape(scene.footprint), region), 4),
        replaced_by=(
            None if replacement is None else list_names(replacement)[id_counts[replacement.id] > 1]
        ),
    )


def _find_missing_bands(
    scenes: Iterable[Scene], bands: Mapping[str, Sequence[str]] | None
) -> Iterator[Caveat]:
    for scene in scenes:
        missing = [band for band in _requested_bands(scene, bands) if band not in scene.assets]
        if missing:
            yield Caveat(id=scene.id, text=f"it lacks {', '.join(missing)}: used for the others")


def _find_missing_masks(scenes: Iterable[Scene], mask_bands: Collection[str]) -> Iterator[Caveat]:
    """Yield a caveat for each scene without a mask that its sensor has."""
    for scene in scenes:
        missing = [
            band
            for band in get_sensor(scene.modality).mask_bands
            if band in mask_bands and band not in scene.assets
        ]
        if "SCL" in missing:
            masked_by = (
                "not masked"
                if "CLD" in missing or "CLD" not in mask_bands
                else ("masked by their probability (CLD) alone")
            )
            yield Caveat(id=scene.id, text=f"no SCL: clouds are {masked_by}")
        elif missing:
            yield Caveat(id=scene.id, text="no CLD: clouds are masked by SCL alone")


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
    cover, limit_text = number_format.format_apart(scene.cloud_cover, limit, digits=3)
    return f"cloud cover {cover} % is above {limit_text} %"


def _find_surplus(scenes: Sequence[Scene], max_passes: int | None) -> Iterator[tuple[Scene, str]]:
    """Yield (scene, reason) where enough clearer passes cover the footprint."""
    if max_passes is not None:
        reason = f"composite.max_passes is {max_passes}: that many clearer passes cover its area"
        yield from ((scene, reason) for scene in _find_surplus_scenes(scenes, max_passes))


def _find_surplus_scenes(scenes: Sequence[Scene], max_passes: int) -> Iterator[Scene]:
    """Yield the optical scenes that are not among the ``max_passes`` clearest passes anywhere.

    Within an MGRS tile, passes are ordered by cloud cover (unknown last), then time, then id. A
    pass is dropped as a whole, and only where clearer ones cover its footprint in the tile
    ``max_passes`` times, except for slivers (see lonlat_geometry.MAX_SLIVER_WIDTH). So every point
    keeps at least ``max_passes`` passes, or all that it has. Scenes that are known to be empty
    cover nothing. Radar and elevation scenes are kept.
    """
    optical = sorted(
        (scene for scene in scenes if get_sensor(scene.modality).group == "optical"), key=_mgrs_key
    )
    for _, group in groupby(optical, _mgrs_key):
        covered = [shapely.Polygon()] * max_passes
        # ^ the area that at least one, two, … passes cover
        for pass_scenes in sorted(passes.group_passes(group), key=_cloud_cover_key):
            area = lonlat_geometry.union(
                shape(scene.footprint) for scene in pass_scenes if not scene.is_empty
            )
            if not area.is_empty and lonlat_geometry.nearly_covers(covered[-1], area):
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
