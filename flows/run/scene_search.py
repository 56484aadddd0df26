"""Search of a job's scenes: catalog search, selection, and the check of their radiometry."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import shapely
from pyproj import Transformer
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.errors import NothingFoundError
from catalogs.scene import Caveat, Scene
from catalogs.search import scene_selection, search
from catalogs.search.scene_selection import Selection
from catalogs.search.search import CatalogSource, SearchResult
from catalogs.sensors import get_sensor
from flows.config.job import Job
from flows.observe.progress import NullProgress, Progress
from flows.run import radiometry_selection
from flows.run.radiometry_selection import CheckedSelection
from pipeline.grid import grid, utm


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSearchResult:
    """The scenes of a job."""

    selection: Selection
    caveats: tuple[Caveat, ...]
    verdict_counts: Mapping[str, int]
    """Verdict of the radiometric check → number of scenes; empty where it was skipped."""

    epsg_codes: tuple[int, ...]
    """EPSG codes of the product's grids."""

    region: BaseGeometry
    """The job's region in longitude and latitude."""


def search_scenes(
    job: Job,
    *,
    context_m: float,
    bands: Mapping[str, Sequence[str]] | None = None,
    check_radiometry: bool = True,
    progress: Progress | None = None,
) -> SceneSearchResult:
    """Search the catalog, select scenes, and check the radiometry of their pixels.

    Args:
        job: the job over one period.
        context_m: width of the surroundings that the model needs around the region, metres.
        bands: modality → the bands that the model takes.
        check_radiometry: whether pixels are read; the job may switch the check off as well.
        progress: progress of the check.

    Raises:
        NothingFoundError: no scene meets the region in the period, or all are left out.
        InvalidInputError: the catalog cannot be searched as the job says.
    """
    region = job.geometry
    epsg_codes = grid.resolve_epsg_codes(job.grid.crs, region)
    catalog = job.catalog
    source = CatalogSource(
        provider=catalog.provider,
        location=str(catalog.path) if catalog.path else catalog.url,
        allow=job.allow,
    )
    buffered_region = buffer_region(region, epsg_codes, context_m)
    candidates = search.find_scenes(
        source, job.inputs, buffered_region, job.resolved_period.interval
    )
    _check_inputs_intersect(candidates, region, job)
    select = functools.partial(
        scene_selection.select_scenes,
        region=buffered_region,
        max_cloud_cover=job.composite.max_cloud_cover,
        bands=job.bands | dict(bands or {}),
        orbit_states=job.radar.orbit_states or None,
        relative_orbits=job.radar.relative_orbits or None,
        max_passes=job.composite.max_passes,
    )
    mode = job.radiometry.proof
    checked = (
        CheckedSelection(selection=select(candidates.scenes), verdict_counts={})
        if mode == "off" or not check_radiometry
        else radiometry_selection.select_checked_scenes(
            candidates.scenes,
            select,
            reject_contradicted=mode == "refuse",
            progress=progress or NullProgress(),
        )
    )
    selection = checked.selection
    if not any(scene.modality == job.inputs[0] for scene in selection.used):
        reasons = "; ".join(f"{scene.id}: {scene.reason}" for scene in selection.refused[:5])
        raise NothingFoundError(
            f"All {len(candidates.scenes)} scenes of the region are left out ({reasons}). "
            "Widen the period, or change the key that leaves them out: composite.max_cloud_cover, "
            "bands, radar or radiometry."
        )
    refused = tuple(dict.fromkeys(candidates.refused + selection.refused))
    return SceneSearchResult(
        selection=Selection(used=selection.used, refused=refused),
        caveats=(
            *candidates.caveats,
            *checked.caveats,
            *selection.caveats,
            *_find_unused_inputs(job.inputs, candidates.scenes, selection.used),
            *_find_unmasked_scenes(selection.used),
        ),
        verdict_counts=checked.verdict_counts,
        epsg_codes=epsg_codes,
        region=region,
    )


def _find_unused_inputs(
    inputs: Sequence[str], candidates: Sequence[Scene], selected: Sequence[Scene]
) -> Iterator[Caveat]:
    """Yield a caveat for each input whose scenes are all left out: the product lacks it."""
    for modality in inputs:
        count = sum(scene.modality == modality for scene in candidates)
        if not any(scene.modality == modality for scene in selected):
            yield Caveat(
                id=modality,
                text=f"all {count} scenes are left out, so the product lacks {modality}",
            )


def _find_unmasked_scenes(scenes: Sequence[Scene]) -> Iterator[Caveat]:
    """Yield a caveat for each optical scene without a band that tells clouds from ground."""
    for scene in scenes:
        sensor = get_sensor(scene.modality)
        if sensor.group == "optical" and not set(sensor.mask_bands) & set(scene.assets):
            classification = " or ".join(sensor.mask_bands) or "scene classification"
            yield Caveat(
                id=scene.id,
                text=f"it has no {classification}: all of its pixels count as clear, so clouds may "
                "have entered the product",
            )


def _check_inputs_intersect(candidates: SearchResult, region: BaseGeometry, job: Job) -> None:
    for modality in job.inputs:
        scenes = [scene for scene in candidates.scenes if scene.modality == modality]
        if not any(shapely.geometry.shape(scene.footprint).intersects(region) for scene in scenes):
            raise NothingFoundError(
                f"No {modality} scene intersects the region; the nearest ones only intersect the "
                "surroundings from which the model takes context. Move the region, or widen the "
                "period."
            )


def buffer_region(region: BaseGeometry, epsg_codes: Sequence[int], metres: float) -> BaseGeometry:
    """Return the region and its surroundings on each of its grids, in longitude and latitude."""
    if metres <= 0:
        return region
    boxes = []
    for epsg in epsg_codes:
        part = region if len(epsg_codes) == 1 else utm.clip_to_zone(region, epsg)
        to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
        box = shapely.box(*grid.project(part, epsg).bounds).buffer(metres, join_style="mitre")
        dense_box = shapely.segmentize(box, max_segment_length=10_000)
        footprint = shapely.transform(dense_box, to_lonlat.transform, interleaved=False)
        boxes.append(lonlat_geometry.from_item({"geometry": mapping(footprint)}))
        # ^ at the antimeridian the corners' longitudes change sign
    return shapely.union_all([region, *boxes])
