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

_DocumentKey = tuple[str, str, tuple[str, ...]]
"""Collection and id of an item, and those of its bands that are used."""

_STATUSES = ("contradicts", "cannot tell", "agrees")
"""Statuses of verdicts; of the items that a scene is united from, the first one counts."""

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
    selection is repeated without it, until every selected scene is checked. The items that a scene
    is united from are checked one by one, as each has its own radiometry.

    Args:
        candidates: the scenes that the search found.
        select_scenes: selects some of them.
        reject_contradicted: whether a contradicted scene is left out; else it gets a caveat.
        progress: a step per batch of scenes.

    Raises:
        AssetReadError: a scene's pixels cannot be read.
    """
    verdicts: dict[_DocumentKey, Verdict] = {}
    rejected: list[RejectedScene] = []
    while True:
        excluded = {(scene.collection, scene.id) for scene in rejected}
        selection = select_scenes(
            [scene for scene in candidates if (scene.collection, scene.id) not in excluded]
        )
        documents = [document for scene in selection.used for document in scene.split_by_item()]
        unchecked = [document for document in documents if _document_key(document) not in verdicts]
        verdicts |= _check_scenes(unchecked, progress)
        contradicted = [
            document
            for document in documents
            if verdicts[_document_key(document)].status == "contradicts"
        ]
        if not contradicted or not reject_contradicted:
            break
        rejected += [
            RejectedScene(
                id=document.id,
                reason=verdicts[_document_key(document)].reason.rstrip("."),
                collection=document.collection,
                modality=document.modality,
                day=document.solar_day.isoformat() if document.datetime else None,
            )
            for document in contradicted
        ]
    counts = Counter(
        min(
            (verdicts[_document_key(document)].status for document in scene.split_by_item()),
            key=_STATUSES.index,
        )
        for scene in selection.used
    )
    return CheckedSelection(
        selection=replace(selection, refused=(*rejected, *selection.refused)),
        caveats=tuple(
            Caveat(id=document.id, text=verdicts[_document_key(document)].reason)
            for document in contradicted
        ),
        verdict_counts=dict(sorted(counts.items())),
    )


def _document_key(document: Scene) -> _DocumentKey:
    return (document.collection, document.id, tuple(document.assets))


def _check_scenes(scenes: Sequence[Scene], progress: Progress) -> dict[_DocumentKey, Verdict]:
    """Return the verdict on the pixels of each scene."""
    if not scenes:
        return {}
    threads = asset_opener.count_read_threads(scenes, os.cpu_count() or 1)
    progress.start_stage("radiometry", len(scenes))
    verdicts: dict[_DocumentKey, Verdict] = {}
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
            _document_key(scene): verdict
            for scene, verdict in zip(batch, batch_verdicts, strict=True)
        }
        progress.advance(len(batch), batch[-1].id)
    return verdicts
