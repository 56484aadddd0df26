"""How much of the region was seen on which day, by which input, through how much cloud."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shapely.geometry import shape

from catalogs import lonlat_geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalogs.scene import Scene
    from catalogs.scene_selection import RejectedScene


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCoverage:
    """One solar day of one input."""

    modality: str

    date: dt.date | None
    """None for scenes without a time (DEM)."""

    share: float
    """Share of the region under the footprints of the scenes that are used, 0 to 1."""

    cloud_cover: float | None
    """Per cent over those scenes, weighed by the share of each; None where none states it."""

    scenes: tuple[str, ...]
    """Ids of those scenes."""

    refused: tuple[RejectedScene, ...] = ()
    """What was left out."""


def group_by_day(
    scenes: Iterable[Scene], refused: Iterable[RejectedScene], region: Any
) -> tuple[DayCoverage, ...]:
    """Return the days of each input, inputs in order of first use, days in order of time.

    Args:
        scenes: Those that are used.
        refused: Those that are not; what has no input and day stands in no row.
        region: Shapely area in longitude and latitude.
    """
    seen: dict[tuple[str, dt.date | None], list[Scene]] = defaultdict(list)
    left: dict[tuple[str, dt.date | None], list[RejectedScene]] = defaultdict(list)
    for scene in scenes:
        date = None if scene.datetime is None or scene.modality == "DEM" else scene.solar_day
        seen[scene.modality, date].append(scene)
    for refusal in refused:
        if refusal.modality and (refusal.day or refusal.modality == "DEM"):
            dated = refusal.day if refusal.modality != "DEM" else None
            date = dt.date.fromisoformat(dated) if dated else None
            left[refusal.modality, date].append(refusal)
    keys = list(dict.fromkeys((*seen, *left)))
    rows = list(dict.fromkeys(modality for modality, _ in keys))
    keys.sort(key=lambda key: (rows.index(key[0]), key[1] or dt.date.min))
    return tuple(_build_day(key, seen[key], left[key], region) for key in keys)


def footprint_share(scene: Scene, region: Any) -> float:
    """Return the share of the region under one scene's footprint, 0 to 1."""
    return lonlat_geometry.covered_fraction(shape(scene.footprint), region)


def _build_day(
    key: tuple[str, dt.date | None],
    scenes: Sequence[Scene],
    refused: Sequence[RejectedScene],
    region: Any,
) -> DayCoverage:
    footprints = lonlat_geometry.union(shape(scene.footprint) for scene in scenes)
    return DayCoverage(
        modality=key[0],
        date=key[1],
        share=lonlat_geometry.covered_fraction(footprints, region),
        cloud_cover=_cloud_cover(scenes, region),
        scenes=tuple(scene.id for scene in scenes),
        refused=tuple(refused),
    )


def _cloud_cover(scenes: Sequence[Scene], region: Any) -> float | None:
    stated = [scene for scene in scenes if scene.cloud_cover is not None]
    weights = [footprint_share(scene, region) for scene in stated]
    if not sum(weights):
        return None
    covers = [scene.cloud_cover or 0.0 for scene in stated]
    together = sum(cover * weight for cover, weight in zip(covers, weights, strict=True))
    return together / sum(weights)
