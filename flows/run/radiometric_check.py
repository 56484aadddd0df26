"""From scenes that were found to scenes that are used: chosen, looked at, and chosen again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from catalogs.errors import AssetReadError
from catalogs.scene import Scene
from catalogs.scene_selection import Caveat, RejectedScene, Selection
from flows.observe.progress import Progress
from pipeline.quality import radiometry_check
from pipeline.quality.radiometry_check import Verdict
from pipeline.reading import raster_reader

SelectScenes = Callable[[Sequence[Scene]], Selection]

SCENES_PER_STEP = 16
"""Scenes that are looked at between two steps of the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSelection:
    """A selection none of whose scenes is contradicted by its own pixels, unless allowed."""

    selection: Selection
    caveats: tuple[Caveat, ...] = ()
    """What the pixels contradict, where that is no reason to refuse."""

    verdict_counts: Mapping[str, int]
    """Verdict → number of the scenes used."""


def select_checked_scenes(
    candidates: Sequence[Scene],
    select_scenes: SelectScenes,
    *,
    reject_contradicted: bool,
    progress: Progress,
) -> CheckedSelection:
    """Choose scenes whose pixels do not contradict what their catalog claims of them.

    A scene that is refused may have stood for an older processing: so the choice is made again
    without it, until all that is chosen has been looked at.

    Args:
        candidates: what the search found.
        select_scenes: selects some of them.
        reject_contradicted: whether a contradicted scene is left out; else it is used, with a doubt.
        progress: who is told how far it has come.

    Raises:
        AssetReadError: a scene's pixels cannot be read.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    lying: list[RejectedScene] = []
    while True:
        out = {(one.collection, one.id) for one in lying}
        selection = select_scenes([scene for scene in candidates if _scene_key(scene) not in out])
        unknown = [scene for scene in selection.used if _scene_key(scene) not in verdicts]
        verdicts |= _check_scenes(unknown, progress)
        liars = [one for one in selection.used if verdicts[_scene_key(one)].status == "contradicts"]
        if not liars or not reject_contradicted:
            break
        lying += [
            RejectedScene(
                id=scene.id,
                reason=verdicts[_scene_key(scene)].reason.rstrip("."),
                collection=scene.collection,
                modality=scene.modality,
                day=scene.solar_day.isoformat() if scene.datetime else None,
            )
            for scene in liars
        ]
    answers = Counter(verdicts[_scene_key(scene)].status for scene in selection.used)
    return CheckedSelection(
        selection=replace(selection, refused=(*lying, *selection.refused)),
        caveats=tuple(Caveat(id=one.id, text=verdicts[_scene_key(one)].reason) for one in liars),
        verdict_counts=dict(sorted(answers.items())),
    )


def _scene_key(scene: Scene) -> tuple[str, str]:
    return (scene.collection, scene.id)


def _check_scenes(scenes: Sequence[Scene], progress: Progress) -> dict[tuple[str, str], Verdict]:
    """Return what the pixels of each scene say."""
    if not scenes:
        return {}
    threads = raster_reader.count_read_threads(scenes, os.cpu_count() or 1)
    progress.start_stage("proof", len(scenes))
    verdicts: dict[tuple[str, str], Verdict] = {}
    for start in range(0, len(scenes), SCENES_PER_STEP):
        some = scenes[start : start + SCENES_PER_STEP]
        try:
            answers = radiometry_check.check_scenes(some, threads=threads)
        except AssetReadError as error:
            raise AssetReadError(
                f"The scenes' pixels cannot be looked at. {error} To plan without looking: "
                "radiometry: {proof: off}."
            ) from error
        verdicts |= {_scene_key(scene): answer for scene, answer in zip(some, answers, strict=True)}
        progress.advance(len(some), some[-1].id)
    return verdicts
