"""From scenes that were found to scenes that are used: chosen, looked at, and chosen again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from catalogs.errors import Unreadable
from catalogs.scene import Scene
from catalogs.scene_selection import Refusal, Selection
from catalogs.search import Doubt
from flows.observe.progress import Progress
from pipeline.quality import radiometry_check
from pipeline.quality.radiometry_check import Verdict
from pipeline.reading import raster_reader

Choose = Callable[[Sequence[Scene]], Selection]

AT_ONCE = 16
"""Scenes that are looked at between two steps of the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A selection none of whose scenes is contradicted by its own pixels, unless allowed."""

    selection: Selection
    doubts: tuple[Doubt, ...] = ()
    """What the pixels contradict, where that is no reason to refuse."""

    verdicts: Mapping[str, int]
    """Verdict → number of the scenes used."""


def settle(found: Sequence[Scene], choose: Choose, *, refuse: bool, progress: Progress) -> Proved:
    """Choose scenes whose pixels do not contradict what their catalog claims of them.

    A scene that is refused may have stood for an older processing: so the choice is made again
    without it, until all that is chosen has been looked at.

    Args:
        found: what the search found.
        choose: selects some of them.
        refuse: whether a contradicted scene is left out; else it is used, with a doubt.
        progress: who is told how far it has come.

    Raises:
        Unreadable: a scene's pixels cannot be read.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    lying: list[Refusal] = []
    while True:
        out = {(one.collection, one.id) for one in lying}
        selection = choose([scene for scene in found if _key(scene) not in out])
        unknown = [scene for scene in selection.used if _key(scene) not in verdicts]
        verdicts |= _looked_at(unknown, progress)
        liars = [one for one in selection.used if verdicts[_key(one)].answer == "contradicts"]
        if not liars or not refuse:
            break
        lying += [
            Refusal(
                id=scene.id,
                reason=verdicts[_key(scene)].reason.rstrip("."),
                collection=scene.collection,
                modality=scene.modality,
                day=scene.solar_day.isoformat() if scene.datetime else None,
            )
            for scene in liars
        ]
    answers = Counter(verdicts[_key(scene)].answer for scene in selection.used)
    return Proved(
        selection=replace(selection, refused=(*lying, *selection.refused)),
        doubts=tuple(Doubt(id=one.id, text=verdicts[_key(one)].reason) for one in liars),
        verdicts=dict(sorted(answers.items())),
    )


def _key(scene: Scene) -> tuple[str, str]:
    return (scene.collection, scene.id)


def _looked_at(scenes: Sequence[Scene], progress: Progress) -> dict[tuple[str, str], Verdict]:
    """Return what the pixels of each scene say."""
    if not scenes:
        return {}
    threads = raster_reader.threads(scenes, os.cpu_count() or 1)
    progress.stage("proof", len(scenes))
    verdicts: dict[tuple[str, str], Verdict] = {}
    for start in range(0, len(scenes), AT_ONCE):
        some = scenes[start : start + AT_ONCE]
        try:
            answers = radiometry_check.of_all(some, threads=threads)
        except Unreadable as error:
            raise Unreadable(
                f"The scenes' pixels cannot be looked at. {error} To plan without looking: "
                "radiometry: {proof: off}."
            ) from error
        verdicts |= {_key(scene): answer for scene, answer in zip(some, answers, strict=True)}
        progress.advance(len(some), some[-1].id)
    return verdicts
