"""Checks of scenes against their files: headers settle what the catalog states, pixels prove it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from catalogs import snapshot
from catalogs.errors import AssetReadError, UnreadableAssetError
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.search import duplicates
from catalogs.search.scene_selection import Selection
from catalogs.sensors import get_sensor
from flows.observe.progress import Progress
from pipeline.quality import asset_check, header_check, mask_check, radiometry_check, valid_pixels
from pipeline.quality.header_check import SettledScene
from pipeline.quality.mask_check import MaskVerdict
from pipeline.quality.radiometry_check import Verdict
from pipeline.reading import asset_opener

SelectScenes = Callable[[Sequence[Scene]], Selection]
SceneKey = tuple[str, str]
"""Collection and id."""

_DocumentKey = tuple[str, str, tuple[str, ...]]
"""Collection and id of an item, and those of its bands that are used."""

_STATUSES = ("contradicts", "cannot tell", "agrees")
"""Statuses of verdicts; of the items that a scene is united from, the first one counts."""

T = TypeVar("T")

OUTSIDE_CAVEAT = "it has pixels outside of its stated footprint: the extent of its files is used"

SCENES_PER_STEP = 16
"""Scenes that are checked between two steps of the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSelection:
    """A selection of scenes, and the verdicts on their pixels."""

    selection: Selection
    unusable: tuple[RejectedScene, ...] = ()
    """Scenes that their files forbid to use; the selection has them among the refused ones."""

    caveats: tuple[Caveat, ...] = ()
    """What the catalog states otherwise than the files, bands without a valid pixel, and
    contradicted scenes that are used."""

    verdict_counts: Mapping[str, int]
    """Verdict → number of the scenes used; empty where pixels were not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What is checked, and what for."""

    bands: Mapping[str, Sequence[str]]
    """Modality → bands that are used, masks included."""

    region: Any
    """Shapely area in longitude and latitude that the scenes are used for."""

    mapped_region: Any
    """The part of it that is mapped."""

    proof: Literal["refuse", "warn", "off"]
    """What a contradiction of pixels leads to; off = pixels only tell documents apart."""


def list_used_bands(
    modalities: Sequence[str], bands: Mapping[str, Sequence[str]], mask_bands: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return modality → the bands of it that are read, with those that mask.

    Args:
        modalities: names of sensors.
        bands: modality → requested bands; the default bands of a modality that is not a key.
        mask_bands: bands that mask clouds.
    """
    used = {}
    for modality in modalities:
        sensor = get_sensor(modality)
        masks = [band for band in sensor.mask_bands if band in mask_bands]
        used[modality] = tuple(dict.fromkeys([*bands.get(modality, sensor.default_bands), *masks]))
    return used


def select_checked_scenes(
    candidates: Sequence[Scene],
    select_scenes: SelectScenes,
    options: CheckOptions,
    progress: Progress,
) -> CheckedSelection:
    """Select scenes as their files say, whose pixels do not contradict what is stated of them.

    A refused scene may have replaced an older processing of the same acquisition, and a settled one
    may lie elsewhere. Therefore the selection is repeated until every selected scene is checked.
    The items that a scene is united from are checked one by one, as each has its own radiometry.
    Where there are several documents of one acquisition, a sample of the pixels of those that are
    used is read, whatever ``proof`` is: without valid pixels a document takes no other's place.

    Args:
        candidates: the scenes that the search found.
        select_scenes: selects some of them.
        options: what is checked.
        progress: a step per batch of scenes.

    Raises:
        AssetReadError: a file cannot be read.
        InvalidInputError: a file is no raster.
    """
    checks = _Checks(
        options=options,
        progress=progress,
        twins=frozenset(map(_key, duplicates.find_twins(candidates))),
    )
    checks.settle([scene for scene in candidates if scene.other_footprint is not None])
    while True:
        selection = select_scenes(
            [
                checks.settled[_key(scene)].scene if _key(scene) in checks.settled else scene
                for scene in candidates
                if _key(scene) not in checks.refused
            ]
        )
        documents = [document for scene in selection.used for document in scene.split_by_item()]
        unsettled = {_key(document) for document in documents} - checks.settled.keys()
        if unsettled:
            checks.settle([scene for scene in candidates if _key(scene) in unsettled])
        elif not (
            checks.sample(documents) or checks.check_masks(documents) or checks.prove(documents)
        ):
            break
    return CheckedSelection(
        selection=replace(
            selection,
            used=_note_catalog_digests(candidates, selection.used),
            refused=(*checks.refused.values(), *selection.refused),
        ),
        unusable=tuple(checks.refused.values()),
        caveats=tuple(checks.iterate_caveats(documents)),
        verdict_counts=checks.count_verdicts(selection.used),
    )


@dataclass(slots=True, kw_only=True)
class _Checks:
    """The results of the checks so far, by scene."""

    options: CheckOptions
    progress: Progress
    twins: frozenset[SceneKey]
    """Candidates of whose acquisition there are other documents."""

    settled: dict[SceneKey, SettledScene] = field(default_factory=dict)
    refused: dict[SceneKey, RejectedScene] = field(default_factory=dict)
    verdicts: dict[_DocumentKey, Verdict] = field(default_factory=dict)
    enlarged: set[SceneKey] = field(default_factory=set)
    sampled: set[_DocumentKey] = field(default_factory=set)
    masks: dict[_DocumentKey, MaskVerdict] = field(default_factory=dict)

    def settle(self, scenes: Sequence[Scene]) -> None:
        """Settle scenes by the headers of their files."""
        results = _call_in_batches(
            "headers",
            scenes,
            lambda batch, threads: header_check.check_scenes(
                batch,
                self._select_bands,
                region=self.options.region,
                mapped_region=self.options.mapped_region,
                threads=threads,
            ),
            self.progress,
        )
        for scene, result in zip(scenes, results, strict=True):
            if isinstance(result, SettledScene):
                self.settled[_key(scene)] = result
            else:
                self.refused[_key(scene)] = result

    def _select_bands(self, scene: Scene) -> tuple[str, ...]:
        """Return the bands of a scene that are read, also those that only prove its radiometry."""
        probes = () if self.options.proof == "off" else radiometry_check.select_probe_bands(scene)
        return tuple(dict.fromkeys([*self.options.bands[scene.modality], *probes]))

    def sample(self, documents: Sequence[Scene]) -> bool:
        """Sample the pixels of twins among documents; return whether the selection may change."""
        unsampled = [
            document
            for document in documents
            if _key(document) in self.twins and _document_key(document) not in self.sampled
        ]
        samples = _call_in_batches(
            "samples",
            [scene.select_bands(self.options.bands[scene.modality]) for scene in unsampled],
            lambda batch, threads: valid_pixels.sample_scenes(
                batch, self.options.mapped_region, threads=threads
            ),
            self.progress,
        )
        self.sampled |= {_document_key(document) for document in unsampled}
        shares = {
            _key(sample): {band: asset.valid_share for band, asset in sample.assets.items()}
            for sample in samples
        }
        for key, shares_by_band in shares.items():
            self._note_valid_shares(key, shares_by_band)
        return any(set(bands.values()) - {None, 1.0} for bands in shares.values())

    def _note_valid_shares(self, key: SceneKey, shares: Mapping[str, float | None]) -> None:
        """Note band → share of valid pixels in the settled scene of a document."""
        result = self.settled[key]
        assets = {
            band: replace(asset, valid_share=shares[band]) if band in shares else asset
            for band, asset in result.scene.assets.items()
        }
        self.settled[key] = replace(result, scene=replace(result.scene, assets=assets))

    def check_masks(self, documents: Sequence[Scene]) -> bool:
        """Refuse documents whose masks hold other values; return whether there are any."""
        unchecked = [
            document
            for document in documents
            if _document_key(document) not in self.masks
            and set(self._select_masks(document)) & document.assets.keys()
        ]
        verdicts = _call_in_batches(
            "masks",
            unchecked,
            lambda batch, threads: mask_check.check_scenes(
                batch, self._select_masks, threads=threads
            ),
            self.progress,
        )
        self.masks |= {
            _document_key(document): verdict
            for document, verdict in zip(unchecked, verdicts, strict=True)
        }
        contradicted = {
            _key(document): header_check.reject_scene(document, verdict.reason)
            for document, verdict in zip(unchecked, verdicts, strict=True)
            if verdict.reason is not None
        }
        self.refused |= contradicted
        return bool(contradicted)

    def _select_masks(self, scene: Scene) -> tuple[str, ...]:
        mask_bands = get_sensor(scene.modality).mask_bands
        return tuple(band for band in self.options.bands[scene.modality] if band in mask_bands)

    def prove(self, documents: Sequence[Scene]) -> bool:
        """Compare documents with their pixels; return whether the selection may change."""
        if self.options.proof == "off":
            return False
        unproved = [
            document for document in documents if _document_key(document) not in self.verdicts
        ]
        verdicts = _call_in_batches(
            "radiometry",
            unproved,
            lambda batch, threads: radiometry_check.check_scenes(
                batch, region=self.options.mapped_region, threads=threads
            ),
            self.progress,
        )
        self.verdicts |= {
            _document_key(document): verdict
            for document, verdict in zip(unproved, verdicts, strict=True)
        }
        is_changed = self._enlarge_footprints(documents) | self._note_empty_bands(unproved)
        if self.options.proof == "warn":
            return is_changed
        contradicted = {
            _key(document): header_check.reject_scene(document, reason)
            for document in documents
            if (reason := self._find_contradiction(document)) is not None
        }
        self.refused |= contradicted
        return is_changed or bool(contradicted)

    def _enlarge_footprints(self, documents: Sequence[Scene]) -> bool:
        """Take the extent of the files where pixels lie outside of footprints; return if any do."""
        enlarged = {
            _key(document)
            for document in documents
            if self.verdicts[_document_key(document)].has_pixels_outside
        } - self.enlarged
        for key in enlarged:
            result = self.settled[key]
            self.settled[key] = replace(
                result,
                scene=header_check.replace_footprint(result.scene),
                caveats=(*result.caveats, OUTSIDE_CAVEAT),
            )
        self.enlarged |= enlarged
        return bool(enlarged)

    def _note_empty_bands(self, documents: Sequence[Scene]) -> bool:
        """Note the bands that thumbnails show to be empty; return whether there are any.

        Where a document was sampled, the sample counts, as it has smaller pixels.
        """
        empty_bands = {
            _key(document): self.verdicts[_document_key(document)].empty_bands
            for document in documents
            if _document_key(document) not in self.sampled
        }
        for key, bands in empty_bands.items():
            self._note_valid_shares(key, dict.fromkeys(bands, 0.0))
        return any(empty_bands.values())

    def _find_contradiction(self, document: Scene) -> str | None:
        """Return why pixels forbid to use a document; None if they do not."""
        verdict = self.verdicts[_document_key(document)]
        if verdict.status == "contradicts":
            return verdict.reason
        doubt = self.settled[_key(document)].offset_doubt
        if doubt is None or verdict.status == "agrees":
            return None
        return (
            f"{doubt}, and its pixels cannot tell: {verdict.reason}. Set `offset:` of the "
            f"collection {asset_check.REMEDY}, or to use the stated offset, "
            "radiometry: {proof: warn}"
        )

    def iterate_caveats(self, documents: Sequence[Scene]) -> Iterator[Caveat]:
        """Yield the caveats about the documents that are used."""
        for document in documents:
            verdict = self.verdicts.get(_document_key(document))
            texts = list(self.settled[_key(document)].caveats)
            empty = [band for band, asset in document.assets.items() if asset.valid_share == 0]
            masks = self.masks.get(_document_key(document))
            if masks is not None and masks.caveat is not None:
                texts.append(masks.caveat)
            if empty:
                texts.append(f"no valid pixel in the region in {', '.join(empty)}, by a sample")
            if verdict is not None and verdict.status == "contradicts":
                texts.append(verdict.reason)
            yield from (Caveat(id=document.id, text=text) for text in texts)

    def count_verdicts(self, scenes: Sequence[Scene]) -> dict[str, int]:
        """Return verdict → number of scenes; of several documents the worst one counts."""
        if self.options.proof == "off":
            return {}
        counts = Counter(
            min(
                (self.verdicts[_document_key(part)].status for part in scene.split_by_item()),
                key=_STATUSES.index,
            )
            for scene in scenes
        )
        return dict(sorted(counts.items()))


def _key(scene: Scene) -> SceneKey:
    return (scene.collection, scene.id)


def _document_key(document: Scene) -> _DocumentKey:
    return (*_key(document), tuple(document.assets))


def _note_catalog_digests(candidates: Sequence[Scene], used: Sequence[Scene]) -> tuple[Scene, ...]:
    """Return scenes with the digest of the catalog's own statements where files say otherwise."""
    originals = {_key(scene): scene for scene in candidates}
    noted = []
    for scene in used:
        original = originals[_key(scene)]
        supplied = {
            band: replace(
                originals[asset.item.collection, asset.item.id].assets[band], item=asset.item
            )
            for band, asset in scene.assets.items()
            if asset.item is not None
        }
        stated = replace(
            scene,
            footprint=original.footprint,
            bbox=original.bbox,
            assets={**original.assets, **supplied},
        )
        is_same = stated.identity() == scene.identity()
        digest = None if is_same else snapshot.digest_catalog_scene(stated)
        noted.append(replace(scene, catalog_digest=digest))
    return tuple(noted)


def _call_in_batches(
    stage: str,
    scenes: Sequence[Scene],
    check_batch: Callable[[Sequence[Scene], int], list[T]],
    progress: Progress,
) -> list[T]:
    """Check scenes batch by batch, each with a step of the progress.

    Args:
        stage: name of the stage of the progress.
        scenes: the scenes.
        check_batch: called with some scenes and a number of threads.
        progress: a step per batch.

    Raises:
        AssetReadError: a file of a scene cannot be read.
        UnreadableAssetError: neither can a later attempt.
    """
    if not scenes:
        return []
    progress.start_stage(stage, len(scenes))
    results: list[T] = []
    threads = asset_opener.count_read_threads(scenes, os.cpu_count() or 1)
    for start in range(0, len(scenes), SCENES_PER_STEP):
        batch = scenes[start : start + SCENES_PER_STEP]
        try:
            results += check_batch(batch, threads)
        except UnreadableAssetError:
            raise
        except AssetReadError as error:
            raise AssetReadError(
                f"{error} Run the same command again when the file can be reached."
            ) from error
        progress.advance(len(batch), batch[-1].id)
    return results
