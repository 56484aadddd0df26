"""Which of the scenes that were found are used: pure decisions, each refusal with its reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from catalogs import providers
from catalogs.scene import MASKS, WANTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Scene

SAME_PASS = dt.timedelta(seconds=60)
"""Two stamps of one platform over one tile that are this close come from one acquisition.

Reprocessing moves a stamp by milliseconds; the next orbit comes after more than an hour.
"""

COVERED = 0.9
"""Share of a scene's footprint that newer twins must hold before it counts as superseded.

Footprints are simplified differently from one processing to the next, hence not 1; the parts of a
split granule overlap by a few percent only.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A scene that is left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The scenes to use, by time and id, and the others."""

    used: tuple[Scene, ...]
    refused: tuple[Refusal, ...]


def choose(
    scenes: Iterable[Scene],
    region: Any,
    max_cloud_cover: float | None = None,
    *,
    bands: Mapping[str, Sequence[str]] | None = None,
) -> Selection:
    """Return the scenes to use; the order of the input does not matter.

    Decisions in this order: off the region, bands missing, cloudier than allowed, superseded by
    a newer processing of the same acquisition.

    Args:
        scenes: What was found.
        region: Shapely area in longitude and latitude.
        max_cloud_cover: Percent; a scene whose cover is not stated is kept.
        bands: Modality -> bands that are asked for; all of a modality where it is not named.
    """
    kept: list[Scene] = []
    refused: list[Refusal] = []
    for scene in sorted(scenes, key=order):
        reason = (
            _off_region(scene, region)
            or _lacks_bands(scene, (bands or {}).get(scene.modality, WANTED[scene.modality]))
            or _too_cloudy(scene, max_cloud_cover)
        )
        if reason:
            refused.append(Refusal(id=scene.id, reason=reason))
        else:
            kept.append(scene)
    superseded = {id(scene): winner for scene, winner in _superseded(kept)}
    refused += [
        Refusal(id=scene.id, reason=f"reprocessed as {superseded[id(scene)].id}")
        for scene in kept
        if id(scene) in superseded
    ]
    return Selection(
        used=tuple(scene for scene in kept if id(scene) not in superseded),
        refused=tuple(sorted(refused, key=lambda refusal: (refusal.id, refusal.reason))),
    )


def order(scene: Scene) -> tuple[dt.datetime, str, str]:
    """Return the key by which scenes are always sorted: time, id, collection."""
    return (_moment(scene.datetime), scene.id, scene.collection)


def _off_region(scene: Scene, region: Any) -> str | None:
    return None if shape(scene.footprint).intersects(region) else "it does not touch the region"


def _lacks_bands(scene: Scene, wanted: Sequence[str]) -> str | None:
    """Return why the assets do not do: none of the wanted bands, or radar with one alone."""
    missing = [band for band in wanted if band not in scene.assets]
    if scene.modality in ("S1RTC", "S1GRD") and missing:
        return f"it lacks the polarisation {' and '.join(missing)}"
    measured = [band for band in scene.assets if band in wanted and band not in MASKS]
    # ^ a scene of which only the classification is left shows nothing
    return None if measured else f"it has none of {', '.join(wanted)}"


def _too_cloudy(scene: Scene, limit: float | None) -> str | None:
    if limit is None or scene.cloud_cover is None or scene.cloud_cover <= limit:
        return None
    return f"cloud cover {scene.cloud_cover:.1f} % is above {limit:g} %"


def _superseded(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, Scene]]:
    """Yield (scene, the newer twin that stands for it)."""
    for group in _acquisitions(scenes):
        winners: list[Scene] = []
        for scene in sorted(group, key=_newness, reverse=True):
            twin = _standing_for(scene, winners)
            if twin is None:
                winners.append(scene)
            else:
                yield scene, twin


def _acquisitions(scenes: Sequence[Scene]) -> Iterator[list[Scene]]:
    """Yield groups of scenes of one platform, tile and pass."""
    timed = [scene for scene in scenes if scene.datetime is not None]
    for _, place in groupby(sorted(timed, key=lambda scene: (_place(scene), order(scene))), _place):
        group: list[Scene] = []
        for scene in place:
            if group and _moment(scene.datetime) - _moment(group[-1].datetime) > SAME_PASS:
                yield group
                group = []
            group.append(scene)
        yield group


def _place(scene: Scene) -> tuple[str, str, str]:
    return (scene.modality, scene.platform or "", scene.tile or "")


def _newness(scene: Scene) -> tuple[tuple[int, int], dt.datetime, str, str]:
    """Return a key that is larger for a newer processing; ids decide between equals."""
    baseline = providers.number_of(scene.baseline) or (0, 0)
    return (baseline, _moment(scene.processed), scene.id, scene.collection)


def _standing_for(scene: Scene, winners: Sequence[Scene]) -> Scene | None:
    """Return the newer twin that holds most of scene, if together they hold nearly all of it."""
    own = shape(scene.footprint)
    shares = [(own.intersection(shape(winner.footprint)).area, winner) for winner in winners]
    together = own.intersection(
        shapely.union_all([shape(winner.footprint) for _, winner in shares])
    ).area
    if not shares or together < COVERED * own.area:
        return None
    return max(shares, key=lambda share: (share[0], _newness(share[1])))[1]


def _moment(value: dt.datetime | None) -> dt.datetime:
    return value or dt.datetime.min.replace(tzinfo=dt.UTC)
