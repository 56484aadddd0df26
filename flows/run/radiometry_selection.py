"""Radiometric check: scenes whose pixels contradict their catalog are left out of the selection."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from catalogs.errors import AssetReadError, UnreadableAssetError
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.search.scene_selection import Selection
from flows.observe.progress import Progress
from pipeline.quality import radiometry_check
from pipeline.quality.radiometry_check import Verdict
from pipeline.reading import asset_opener

SelectScenes = Callable[[Sequence[Scene]], Selection]

SCENES_PER_STEP = 16
"""Scenes that are checked between two steps of the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSelection:
    """A selection of scenes, and the verdicts on their pixels."""

    selection: Selection
    caveats: tuple[Caveat, ...] = ()
    """Contradicted scenes that are used all the same, because the job allows it."""

    verdict_counts: Mapping[str, int]
    """Verdict → number of the scenes used."""


def select_checked_scenes(
    candidates: Sequence[Scene],
    select_scenes: SelectScenes,
    *,
    reject_contradicted: bool,
    progress: Progress,
) -> CheckedSelection:
    """Select scenes whose pixels do not contradict what their catalog states of them.

    A rejected scene may have replaced an older processing of the same acquisition. Therefore the
    selection is repeated without it, until every selected scene is checked.

    Args:
        candidates: the scenes that the search found.
        select_scenes: selects some of them.
        reject_contradicted: whether a contradicted scene is left out; else it gets a caveat.
        progress: a step per batch of scenes.

    Raises:
        AssetReadError: a scene's pixels cannot be read.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    rejected: list[RejectedScene] = []
    while True:
        excluded = {(scene.collection, scene.id) for scene in rejected}
        selection = select_scenes(
            [scene for scene in candidates if _scene_key(scene) not in excluded]
        )
        unchecked = [scene for scene in selection.used if _scene_key(scene) not in verdicts]
        verdicts |= _check_scenes(unchecked, progress)
        contradicted = [
            scene for scene in selection.used if verdicts[_scene_key(scene)].status == "contradicts"
        ]
        if not contradicted or not reject_contradicted:
            break
        rejected += [
            RejectedScene(
                id=scene.id,
                reason=verdicts[_scene_key(scene)].reason.rstrip("."),
                collection=scene.collection,
                modality=scene.modality,
                day=scene.solar_day.isoformat() if scene.datetime else None,
            )
            for scene in contradicted
        ]
    counts = Counter(verdicts[_scene_key(scene)].status for scene in selection.used)
    return CheckedSelection(
        selection=replace(selection, refused=(*rejected, *selection.refused)),
        caveats=tuple(
            Caveat(id=scene.id, text=verdicts[_scene_key(scene)].reason) for scene in contradicted
        ),
        verdict_counts=dict(sorted(counts.items())),
    )


def _scene_key(scene: Scene) -> tuple[str, str]:
    return (scene.collection, scene.id)


def _check_scenes(scenes: Sequence[Scene], progress: Progress) -> dict[tuple[str, str], Verdict]:
    """Return the verdict on the pixels of each scene."""
    if not scenes:
        return {}
    threads = asset_opener.count_read_threads(scenes, os.cpu_count() or 1)
    progress.start_stage("radiometry", len(scenes))
    verdicts: dict[tuple[str, str], Verdict] = {}
    for start in range(0, len(scenes), SCENES_PER_STEP):
        batch = scenes[start : start + SCENES_PER_STEP]
        try:
            batch_verdicts = radiometry_check.check_scenes(batch, threads=threads)
        except UnreadableAssetError:
            raise
        except AssetReadError as error:
            raise AssetReadError(
                f"{error} Run the same command again when the file can be reached."
            ) from error
        verdicts |= {
            _scene_key(scene): verdict for scene, verdict in zip(batch, batch_verdicts, strict=True)
        }
        progress.advance(len(batch), batch[-1].id)
    return verdicts
