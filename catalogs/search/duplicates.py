"""Several documents of one acquisition: they become one scene, or the fullest of them is used.

Catalogs describe an acquisition more than once: in two collections, after reprocessing, or in parts
with some of the bands each. The documents are compared by the requested bands that they hold. Those
of one processing baseline that cover the same ground are united band by band; of all others the one
with the most requested bands is used, and of equally full ones the newest. A band whose sampled
pixels are all nodata does not count.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from catalogs import lonlat_geometry, passes, providers
from catalogs.scene import Caveat, ItemReference
from catalogs.sensors import get_sensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from catalogs.scene import Asset, Scene

    ListBands = Callable[[Scene], Sequence[str]]
    """Returns the bands of a scene's modality that are requested, those that mask included."""

    RecencyKey = tuple[tuple[int, int], dt.datetime, str, str, str]
    """Baseline, time of processing, id, collection and provider."""

    FullnessKey = tuple[int, bool, int, int, RecencyKey]
    """Number of requested bands, whether SCL is one, tenths of the region with valid pixels, number
    of bands with the smallest pixels, and the recency."""

SAME_SLICE_TOLERANCE = dt.timedelta(seconds=60)
"""Largest difference between two times of one acquisition that has no MGRS tile (Sentinel-1).

Reprocessing moves a time by milliseconds. Neighbouring slices are close in time, too, but have
other footprints.
"""

SAME_PIXEL_SIZE_RATIO = 1.5
"""Ratio of two pixel sizes above which one raster is coarser than the other."""

_UNITED_FIELDS = ("cloud_cover", "orbit_state", "relative_orbit", "platform", "datatake")
"""Fields that a united scene takes from other documents where its own does not state them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedDocument:
    """A document that is no scene of its own, with the reason."""

    scene: Scene
    reason: str

    replacement: Scene | None = None
    """The scene that is used in its place; None where there is none, or it supplies bands to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDocuments:
    """The scenes that are left of several documents per acquisition."""

    scenes: tuple[Scene, ...]
    rejected: tuple[RejectedDocument, ...]
    caveats: tuple[Caveat, ...]


def recency_key(scene: Scene) -> RecencyKey:
    """Return a key that is larger for a newer processing; ids break ties."""
    baseline = providers.parse_baseline(scene.baseline) or (0, 0)
    processed = passes.time_or_earliest(scene.processed)
    return (baseline, processed, scene.id, scene.collection, scene.provider)


def unite_documents(scenes: Iterable[Scene], list_bands: ListBands) -> ResolvedDocuments:
    """Unite the documents of one acquisition and baseline band by band.

    The fullest document becomes the scene; requested bands that it lacks, has without a valid
    pixel, or with larger pixels, come from others that cover its ground, each with its own
    radiometry. Documents that supply none, or cover more ground, are returned as well.
    """
    united: list[Scene] = []
    rejected: list[RejectedDocument] = []
    caveats: list[Caveat] = []
    for group in _group_acquisitions(scenes):
        waiting = sorted(group, key=_fullness_key(group, list_bands), reverse=True)
        while waiting:
            main, *waiting = waiting
            supplied = _supply_bands(main, waiting, group, list_bands(main))
            donors = list({id(donor): donor for donor in supplied.values()}.values())
            united.append(_unite(main, supplied, donors))
            for donor in donors:
                bands = ", ".join(band for band, owner in supplied.items() if owner is donor)
                if _covers(main, donor):
                    waiting = [scene for scene in waiting if scene is not donor]
                    reason = f"united with {_name(main, donor)}: it supplies {bands}"
                    rejected.append(RejectedDocument(scene=donor, reason=reason))
                caveats.append(
                    Caveat(
                        id=main.id,
                        text=f"{bands} from {_name(donor, main)}, another document of the "
                        "acquisition",
                    )
                )
    return ResolvedDocuments(scenes=tuple(united), rejected=tuple(rejected), caveats=tuple(caveats))


def replace_superseded(scenes: Iterable[Scene], list_bands: ListBands) -> ResolvedDocuments:
    """Leave out the documents whose ground fuller or equally full, newer ones cover."""
    kept: list[Scene] = []
    rejected: list[RejectedDocument] = []
    caveats: list[Caveat] = []
    for group in _group_acquisitions(scenes):
        remaining: list[Scene] = []
        for scene in sorted(group, key=_fullness_key(group, list_bands), reverse=True):
            fuller_scenes = [fuller for fuller in remaining if is_same_acquisition(scene, fuller)]
            replacement = _find_replacement(scene, fuller_scenes)
            if replacement is None:
                remaining.append(scene)
                continue
            comparison = _compare_bands(scene, replacement, list_bands(scene))
            rejected.append(
                RejectedDocument(
                    scene=scene,
                    reason=_describe_replacement(scene, replacement, comparison),
                    replacement=replacement,
                )
            )
            caveats += _describe_loss(scene, replacement, comparison)
        kept += remaining
    return ResolvedDocuments(scenes=tuple(kept), rejected=tuple(rejected), caveats=tuple(caveats))


def find_twins(scenes: Iterable[Scene]) -> list[Scene]:
    """Return the scenes that share acquisition and ground with another one, as documents do."""
    twins: list[Scene] = []
    for group in _group_acquisitions(scenes):
        footprints = [shape(scene.footprint) for scene in group]
        pairs = shapely.STRtree(footprints).query(footprints, predicate="intersects").T.tolist()
        indices = {
            index
            for index, twin_index in pairs
            if index != twin_index
            and is_same_acquisition(group[index], group[twin_index])
            and (
                lonlat_geometry.nearly_covers(footprints[index], footprints[twin_index])
                or lonlat_geometry.nearly_covers(footprints[twin_index], footprints[index])
            )
        }
        twins += [scene for index, scene in enumerate(group) if index in indices]
    return twins


def choose_document(scenes: Sequence[Scene], list_bands: ListBands) -> ResolvedDocuments:
    """Return one scene for several documents that have the same collection and id.

    They are united where they can be. What is left of the others is not used, even if it is of
    another acquisition, as an id names one item of a collection.
    """
    ordered = sorted(
        scenes, key=lambda scene: json.dumps(scene.to_dict(), sort_keys=True), reverse=True
    )
    # ^ recency_key does not order scenes of one id
    united = unite_documents(ordered, list_bands)
    chosen = max(united.scenes, key=_fullness_key(united.scenes, list_bands))
    unused = [scene for scene in united.scenes if scene is not chosen]
    caveats = [
        Caveat(id=chosen.id, text=f"another document of this id is not used: it {difference}")
        for difference in dict.fromkeys(
            _describe_difference(scene, chosen, list_bands(scene)) for scene in unused
        )
        if difference
    ]
    reason = "another document of its id"
    return ResolvedDocuments(
        scenes=(chosen,),
        rejected=(
            *united.rejected,
            *(RejectedDocument(scene=scene, reason=reason) for scene in unused),
        ),
        caveats=(*united.caveats, *caveats),
    )


def _describe_difference(scene: Scene, chosen: Scene, bands: Sequence[str]) -> str:
    """Return what a document has that the chosen one of the same id has not; empty if nothing."""
    if not is_same_acquisition(scene, chosen) or _tile_key(scene) != _tile_key(chosen):
        time = "no time" if scene.datetime is None else f"{scene.datetime:%Y-%m-%dT%H:%M:%SZ}"
        return f"is of another acquisition ({time})"
    lost = _compare_bands(scene, chosen, bands).lost
    return f"also has {', '.join(lost)}, but of another processing or ground" if lost else ""


def is_same_acquisition(first: Scene, second: Scene) -> bool:
    """Return whether two scenes of one modality and tile may come from one acquisition."""
    if not get_sensor(first.modality).is_temporal:
        return first.id == second.id or lonlat_geometry.nearly_covers(
            shape(first.footprint), shape(second.footprint)
        )
        # ^ a small fine raster is no duplicate of a large coarse one
    stated_pairs = (
        (first.platform, second.platform),
        (first.orbit_state, second.orbit_state),
        (first.relative_orbit, second.relative_orbit),
    )
    if any(None not in pair and pair[0] != pair[1] for pair in stated_pairs):
        return False
    difference = abs(
        passes.time_or_earliest(first.datetime) - passes.time_or_earliest(second.datetime)
    )
    return difference <= (
        passes.SAME_ORBIT_TOLERANCE if passes.mgrs_code(first) else SAME_SLICE_TOLERANCE
    )


def _group_acquisitions(scenes: Iterable[Scene]) -> Iterator[list[Scene]]:
    """Yield the scenes of one modality and tile that follow each other within one orbit."""
    for _, group in groupby(sorted(scenes, key=_tile_key), _tile_key):
        close: list[Scene] = []
        for scene in sorted(group, key=passes.sort_key):
            if close and _is_later_orbit(close[-1], scene):
                yield close
                close = []
            close.append(scene)
        yield close


def _tile_key(scene: Scene) -> tuple[str, str]:
    if not get_sensor(scene.modality).is_temporal:
        return (scene.modality, "")
        # ^ one catalog states the tile of an elevation model, another does not
    return (scene.modality, passes.mgrs_code(scene))


def _is_later_orbit(first: Scene, second: Scene) -> bool:
    difference = passes.time_or_earliest(second.datetime) - passes.time_or_earliest(first.datetime)
    return difference > passes.SAME_ORBIT_TOLERANCE


# -- what a document holds ----------------------------------------------------------------------


def _fullness_key(group: Sequence[Scene], list_bands: ListBands) -> Callable[[Scene], FullnessKey]:
    """Return a key function: larger for a document with more requested bands, then for a newer one.

    Bands without a valid pixel do not count, and none does where the scene classification has no
    class, as it masks all. Of as many bands, those with a classification are preferred: without
    one, clouds are taken for ground. Then those with more valid pixels, and with smaller ones.
    """
    finest = _finest_pixel_sizes(group)

    def key(scene: Scene) -> FullnessKey:
        bands = [] if scene.has_empty_classification else list_bands(scene)
        held_assets = [scene.assets[band] for band in bands if _holds(scene, band)]
        return (
            len(held_assets),
            _holds(scene, "SCL"),
            sum(_count_valid_tenths(asset) for asset in held_assets),
            sum(not _is_coarse(asset, finest) for asset in held_assets),
            recency_key(scene),
        )

    return key


def _holds(scene: Scene, band: str) -> bool:
    """Return whether a document has a band, with a valid pixel in the region as far as is known."""
    return band in scene.assets and scene.assets[band].valid_share != 0


def _count_valid_tenths(asset: Asset) -> int:
    """Return in how many tenths of the region an asset has pixels; all where none was read."""
    return 10 if asset.valid_share is None else round(10 * asset.valid_share)


def _finest_pixel_sizes(scenes: Iterable[Scene]) -> dict[tuple[str, int | None], float]:
    """Return the smallest stated pixel size of each band and coordinate system."""
    finest: dict[tuple[str, int | None], float] = {}
    for scene in scenes:
        for asset in scene.assets.values():
            size = _pixel_size(asset)
            if size is not None:
                key = (asset.band, asset.epsg)
                finest[key] = min(size, finest.get(key, size))
    return finest


def _pixel_size(asset: Asset) -> float | None:
    if asset.transform is None:
        return None
    a, b, _, d, e, _ = asset.transform
    return abs(a * e - b * d) ** 0.5 or None


def _is_coarse(asset: Asset, finest: Mapping[tuple[str, int | None], float]) -> bool:
    """Return whether another document states distinctly smaller pixels for a band."""
    size = _pixel_size(asset)
    return size is not None and size > SAME_PIXEL_SIZE_RATIO * finest[asset.band, asset.epsg]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BandComparison:
    """The bands of a document that is not used, compared with those of the one that is."""

    missing: tuple[str, ...]
    """Bands that it lacks and the used one has."""

    empty: tuple[str, ...]
    """Bands in which it has no valid pixel in the region, and the used one has some."""

    sparse: tuple[str, ...]
    """Bands in which it has fewer valid pixels in the region than the used one."""

    lost: tuple[str, ...]
    """Bands that the used one lacks, or has without a valid pixel, and it has."""


def _compare_bands(scene: Scene, used: Scene, bands: Sequence[str]) -> _BandComparison:
    """Compare a document that is not used with the one that is, by the requested bands."""
    shared = [band for band in bands if band in scene.assets and _holds(used, band)]
    fewer = [
        band
        for band in shared
        if _count_valid_tenths(scene.assets[band]) < _count_valid_tenths(used.assets[band])
    ]
    return _BandComparison(
        missing=tuple(band for band in bands if _holds(used, band) and band not in scene.assets),
        empty=tuple(band for band in shared if not _holds(scene, band)),
        sparse=tuple(band for band in fewer if _holds(scene, band)),
        lost=tuple(band for band in bands if _holds(scene, band) and not _holds(used, band)),
    )


# -- uniting ------------------------------------------------------------------------------------


def _supply_bands(
    main: Scene, documents: Sequence[Scene], group: Sequence[Scene], bands: Sequence[str]
) -> dict[str, Scene]:
    """Return the documents that supply what a scene lacks, by band; fuller documents first."""
    finest = _finest_pixel_sizes(group)
    lacking = [
        band for band in bands if not _holds(main, band) or _is_coarse(main.assets[band], finest)
    ]
    if not lacking:
        return {}
    candidates = [document for document in documents if _can_supply(document, main)]
    supplied: dict[str, Scene] = {}
    for band in lacking:
        holders = [document for document in candidates if _holds(document, band)]
        holders.sort(key=lambda holder: _is_coarse(holder.assets[band], finest))
        if holders and (not _holds(main, band) or not _is_coarse(holders[0].assets[band], finest)):
            supplied[band] = holders[0]
    return supplied


def _can_supply(donor: Scene, main: Scene) -> bool:
    """Return whether a document is of the same acquisition and baseline and covers the ground.

    Parts of a granule do not supply each other: where one has no classification, the other would
    lose all pixels. Documents without a baseline must have one radiometry.
    """
    if donor.baseline != main.baseline or not is_same_acquisition(donor, main):
        return False
    if donor.baseline is None and len(_radiometries(donor) | _radiometries(main)) > 1:
        return False
    return _covers(donor, main)


def _covers(scene: Scene, covered: Scene) -> bool:
    return lonlat_geometry.nearly_covers(shape(scene.footprint), shape(covered.footprint))


def _radiometries(scene: Scene) -> set[tuple[float, float, str]]:
    """Return scale, offset and unit of the bands that measure something."""
    mask_bands = get_sensor(scene.modality).mask_bands
    stated = (asset.radiometry for band, asset in scene.assets.items() if band not in mask_bands)
    return {(radiometry.scale, radiometry.offset, radiometry.unit) for radiometry in stated}


def _unite(main: Scene, supplied: Mapping[str, Scene], donors: Sequence[Scene]) -> Scene:
    """Return a scene with the supplied bands; each asset names the item that it is from."""
    if not supplied:
        return main
    assets = {
        band: replace(
            donor.assets[band], item=donor.assets[band].item or _reference_item(donor, main)
        )
        for band, donor in supplied.items()
    }
    fields: dict[str, Any] = {
        name: next(
            (getattr(donor, name) for donor in (main, *donors) if getattr(donor, name) is not None),
            None,
        )
        for name in _UNITED_FIELDS
    }
    return replace(main, assets={**main.assets, **assets}, **fields)


def _reference_item(donor: Scene, main: Scene) -> ItemReference | None:
    """Return the item of a document; None where it has the id of the scene that it supplies."""
    if (donor.collection, donor.id) == (main.collection, main.id):
        return None
    return ItemReference(collection=donor.collection, id=donor.id, href=donor.item_href)


# -- replacing ----------------------------------------------------------------------------------


def _find_replacement(scene: Scene, fuller_scenes: Sequence[Scene]) -> Scene | None:
    """Return the fuller scene with the largest overlap, if all together cover the footprint."""
    footprint = shape(scene.footprint)
    areas = [shape(fuller.footprint) for fuller in fuller_scenes]
    if not areas or not lonlat_geometry.nearly_covers(lonlat_geometry.union(areas), footprint):
        return None
    overlaps = [footprint.intersection(area).area for area in areas]
    ranked = zip(overlaps, fuller_scenes, strict=True)
    return max(ranked, key=lambda pair: (pair[0], recency_key(pair[1])))[1]


def _describe_replacement(scene: Scene, replacement: Scene, comparison: _BandComparison) -> str:
    is_newer = recency_key(replacement)[:2] > recency_key(scene)[:2]
    relation = "reprocessed as" if is_newer else "the same acquisition as"
    addition = f", which also has {', '.join(comparison.missing)}" if comparison.missing else ""
    pixels = _describe_pixels(comparison)
    return f"{relation} {_name(replacement, scene)}{addition}{pixels and f'; it {pixels}'}"


def _describe_loss(
    scene: Scene, replacement: Scene, comparison: _BandComparison
) -> Iterator[Caveat]:
    """Yield what a scene that is used lacks, or is older than, beside the one that it replaces."""
    age = recency_key(scene)[:2]
    is_newer, is_older = age > recency_key(replacement)[:2], age < recency_key(replacement)[:2]
    lacks = f"lacks {', '.join(comparison.missing)}" if is_newer and comparison.missing else ""
    pixels = "" if is_older else _describe_pixels(comparison)
    if lacks or pixels:
        yield Caveat(
            id=replacement.id,
            text=f"used in place of {'the newer ' * is_newer}{_name(scene, replacement)}, which "
            f"{' and '.join(filter(None, (lacks, pixels)))}",
        )
    if comparison.lost:
        yield Caveat(
            id=replacement.id,
            text=f"{', '.join(comparison.lost)} of {_name(scene, replacement)} not used: another "
            "processing of the acquisition",
        )


def _describe_pixels(comparison: _BandComparison) -> str:
    """Return why the pixels of a document are worse than those of the used one; empty if not."""
    clauses = (
        f"has {quantity} in the region in {', '.join(bands)}"
        for quantity, bands in (
            ("no valid pixel", comparison.empty),
            ("fewer valid pixels", comparison.sparse),
        )
        if bands
    )
    return " and ".join(clauses)


def _name(scene: Scene, beside: Scene) -> str:
    """Return a scene's id, with its collection where another scene has the same id."""
    return scene.id if scene.id != beside.id else f"{scene.id} of {scene.collection}"
