"""Compute the coverage of the region by date and input, and its cloud cover."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shapely.geometry import shape

from catalogs import lonlat_geometry
from catalogs.sensors import get_sensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalogs.scene import RejectedScene, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCoverage:
    """Coverage of the region on one solar day by one input."""

    modality: str

    date: dt.date | None
    """None for scenes without a time (DEM)."""

    share: float
    """Share of the region under the footprints of the scenes that are used, 0 to 1."""

    cloud_cover: float | None
    """Percentage over those scenes, weighted by their shares; None where no scene states it."""

    scenes: tuple[str, ...]
    """Ids of those scenes."""

    refused: tuple[RejectedScene, ...] = ()
    """Rejected scenes of that day."""


def group_by_day(
    scenes: Iterable[Scene], refused: Iterable[RejectedScene], region: Any
) -> tuple[DayCoverage, ...]:
    """Group scenes by input and day; inputs in order of first use, days in order of time.

    Args:
        scenes: scenes that are used.
        refused: rejected scenes; those without an input or a day are left out.
        region: shapely geometry in longitude and latitude.
    """
    used: dict[tuple[str, dt.date | None], list[Scene]] = defaultdict(list)
    rejected: dict[tuple[str, dt.date | None], list[RejectedScene]] = defaultdict(list)
    for scene in scenes:
        date = scene.solar_day if get_sensor(scene.modality).is_temporal else None
        used[scene.modality, date].append(scene)
    for rejection in refused:
        if not rejection.modality:
            continue
        if not get_sensor(rejection.modality).is_temporal:
            rejected[rejection.modality, None].append(rejection)
        elif rejection.day:
            date = dt.date.fromisoformat(rejection.day)
            rejected[rejection.modality, date].append(rejection)
    keys = list(dict.fromkeys((*used, *rejected)))
    rows = list(dict.fromkeys(modality for modality, _ in keys))
    keys.sort(key=lambda key: (rows.index(key[0]), key[1] or dt.date.min))
    return tuple(_build_day(key, used[key], rejected[key], region) for key in keys)


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
    weighted = sum(cover * weight for cover, weight in zip(covers, weights, strict=True))
    return weighted / sum(weights)
