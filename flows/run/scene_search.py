"""Search of a job's scenes: catalog search, selection, and their checks against the files."""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry
from catalogs.errors import NothingFoundError
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.search import scene_selection, search
from catalogs.search.scene_selection import IdFilter, Selection
from catalogs.search.search import CatalogSource, SearchResult
from catalogs.sensors import get_sensor
from catalogs.snapshot import Snapshot
from flows.config.job import Job
from flows.config.period import Period
from flows.config.validation_messages import suggest_name
from flows.observe.progress import NullProgress, Progress
from flows.run import scene_checks
from flows.run.scene_checks import CheckedSelection, CheckOptions
from pipeline.grid import grid, utm
from pipeline.quality import completeness

MAX_LISTED_IDS = 5
"""Unknown ids that a caveat lists."""

MAX_LISTED_REASONS = 5
"""Reasons why items of an input cannot be used that are listed; a search and a plan have all."""


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
    check_files: bool = True,
    progress: Progress | None = None,
) -> SceneSearchResult:
    """Search the catalog, select scenes, and check them against their files.

    Args:
        job: the job over one period.
        context_m: width of the surroundings that the model needs around the region, metres.
        bands: modality → the bands that the model takes.
        check_files: whether the headers of files are read, and pixels unless the job forbids it.
        progress: progress of the checks.

    Raises:
        NothingFoundError: no scene meets the region in the period, or all are left out.
        InvalidInputError: the catalog cannot be searched as the job says.
    """
    region = job.geometry
    epsg_codes = grid.resolve_epsg_codes(job.grid.crs, region)
    candidates, searched = _find_candidates(job, epsg_codes, context_m)
    zone_caveats: tuple[Caveat, ...] = ()
    zone = _find_common_zone(job, candidates.scenes, epsg_codes)
    if zone is not None:
        earlier = _find_zones_of_last_year(job)
        if earlier == {zone}:
            zone_caveats = (_describe_common_zone(zone, epsg_codes),)
            epsg_codes = (zone,)
            candidates, searched = _find_candidates(job, epsg_codes, context_m)
            # ^ the surroundings on the grid of another zone are other ones
        else:
            zone_caveats = (_describe_other_zones(zone, earlier, epsg_codes),)
    _check_inputs_intersect(candidates, region, job)
    requested_bands = job.bands | dict(bands or {})
    mask_bands = ("SCL",) if job.mask.max_cloud_probability is None else ("SCL", "CLD")
    ids = IdFilter(include=job.include, exclude=job.exclude)
    unknown_ids = tuple(_find_unknown_ids(ids, candidates))
    select = functools.partial(
        scene_selection.select_scenes,
        region=searched,
        max_cloud_cover=job.composite.max_cloud_cover,
        bands=requested_bands,
        mask_bands=mask_bands,
        orbit_states=job.radar.orbit_states or None,
        relative_orbits=job.radar.relative_orbits or None,
        max_passes=job.composite.max_passes,
        ids=ids,
    )
    if check_files:
        options = CheckOptions(
            bands=scene_checks.list_used_bands(job.inputs, requested_bands, mask_bands),
            region=searched,
            mapped_region=region,
            proof=job.radiometry.proof,
        )
        checked = scene_checks.select_checked_scenes(
            candidates.scenes, select, options, progress or NullProgress()
        )
    else:
        checked = CheckedSelection(selection=select(candidates.scenes), verdict_counts={})
    selection = checked.selection
    refused = tuple(dict.fromkeys(candidates.refused + selection.refused))
    if not any(scene.modality == job.inputs[0] for scene in selection.used):
        left_out = [scene for scene in refused if scene.modality == job.inputs[0]]
        reasons = "; ".join(f"{scene.id}: {scene.reason}" for scene in left_out[:5])
        unknown = "".join(f" {caveat.id}: {caveat.text}." for caveat in unknown_ids)
        unusable = {*candidates.refused, *checked.unusable}
        advice = (
            "Widen the period, choose another catalog, or correct what the reason names."
            if left_out and unusable.issuperset(left_out)
            else "Widen the period, or change the key that leaves them out: "
            "composite.max_cloud_cover, include, exclude, bands, radar or radiometry."
        )
        raise NothingFoundError(
            f"All scenes of {job.inputs[0]} ({len(left_out)}) are left out ({reasons}). "
            f"{advice}{unknown}"
        )
    return SceneSearchResult(
        selection=Selection(used=selection.used, refused=refused),
        caveats=(
            *candidates.caveats,
            *zone_caveats,
            *unknown_ids,
            *checked.caveats,
            *selection.caveats,
            *_find_unused_inputs(job.inputs, candidates.scenes, selection.used),
            *_find_unmasked_inputs(selection.used),
            *_find_days_outside(job.resolved_period, selection.used),
            *_list_unusable(job.inputs, candidates.refused + checked.unusable),
        ),
        verdict_counts=checked.verdict_counts,
        epsg_codes=epsg_codes,
        region=region,
    )


def _find_candidates(
    job: Job, epsg_codes: Sequence[int], context_m: float
) -> tuple[SearchResult, BaseGeometry]:
    """Search the scenes of the region and of its surroundings on grids; return both."""
    tile_metres = job.execution.tile * job.grid.resolution
    searched = buffer_region(job.geometry, epsg_codes, context_m, tile_metres)
    candidates = search.find_scenes(
        _catalog_source(job), job.inputs, searched, job.resolved_period.interval
    )
    return candidates, searched


def _catalog_source(job: Job) -> CatalogSource:
    catalog = job.catalog
    return CatalogSource(
        provider=catalog.provider,
        location=str(catalog.path) if catalog.path else catalog.url,
        allow=job.allow,
    )


LOOKBACK = dt.timedelta(days=365)
"""Time before a period whose scenes decide on its zone too, so that a series keeps one grid."""


def _find_common_zone(job: Job, scenes: Sequence[Scene], epsg_codes: Sequence[int]) -> int | None:
    """Return the UTM zone in which all scenes of the region lie, if it is another one.

    All scenes count, whatever their clouds: the grid does not depend on what is selected.
    None where the job names its grid, or the region is out of reach of granules of the zone.
    """
    if job.grid.crs != "utm" or job.grid.align != "auto":
        return None
    zones = grid.find_scene_zones(scenes, job.geometry)
    if len(zones) != 1 or zones == set(epsg_codes):
        return None
    (zone,) = zones
    return zone if zone is not None and utm.is_in_reach(job.geometry, zone) else None


def _find_zones_of_last_year(job: Job) -> frozenset[int | None]:
    """Return the zones of the scenes of the period and of the year before it."""
    start, end = job.resolved_period.interval
    inputs = grid.find_grid_defining_inputs(job.inputs)
    candidates = search.find_scenes(
        _catalog_source(job), inputs, job.geometry, (start - LOOKBACK, end)
    )
    return grid.find_scene_zones(candidates.scenes, job.geometry)


def _describe_common_zone(zone: int, own_zones: Sequence[int]) -> Caveat:
    own = _format_codes(own_zones)
    return Caveat(
        id=f"EPSG:{zone}",
        text=f"all scenes of the region lie in this UTM zone, so the map does, and not in {own} as "
        f"the region; a period or a part of the region with scenes in {own} gets another grid. "
        f"Set grid: {{crs: EPSG:{zone}}} for all products that are to be joined or compared",
    )


def _describe_other_zones(
    zone: int, earlier: frozenset[int | None], own_zones: Sequence[int]
) -> Caveat:
    others = _format_codes(sorted(code for code in earlier if code and code != zone)) or "no zone"
    return Caveat(
        id=_format_codes(own_zones),
        text=f"all scenes of the period lie in EPSG:{zone} and are resampled: within the last year "
        f"there were scenes in {others} too, so the map stays in the zone of the region. To avoid "
        f"resampling, set grid: {{crs: EPSG:{zone}}}",
    )


def _format_codes(epsg_codes: Sequence[int]) -> str:
    return " and ".join(f"EPSG:{code}" for code in epsg_codes)


def list_shortfalls(job: Job, search_result: SceneSearchResult) -> list[str]:
    """Return why a run of a job would be refused, as far as its scenes tell."""
    selection = search_result.selection
    inputs = job.inputs if job.output.composites else job.model_inputs
    return completeness.check_scenes(
        Snapshot(scenes=selection.used, refused=selection.refused),
        search_result.region,
        {modality: job.bands.get(modality, ()) for modality in inputs},
        job.qc.min_observed,
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


def _list_unusable(inputs: Sequence[str], unusable: Sequence[RejectedScene]) -> Iterator[Caveat]:
    """Yield a caveat for each item that cannot be used, whatever the job asks for."""
    for modality in inputs:
        scenes = [scene for scene in unusable if scene.modality == modality]
        reasons = list(dict.fromkeys(scene.reason for scene in scenes))
        for scene in scenes:
            if scene.reason in reasons[:MAX_LISTED_REASONS]:
                yield Caveat(id=scene.id, text=f"left out: {scene.reason}")
        count = sum(scene.reason in reasons[MAX_LISTED_REASONS:] for scene in scenes)
        if count:
            yield Caveat(
                id=modality,
                text=f"{count} more items cannot be used and are left out; the plan lists them",
            )


def _find_unmasked_inputs(scenes: Sequence[Scene]) -> Iterator[Caveat]:
    """Yield a caveat for each optical input whose sensor has no band that tells clouds."""
    for modality in dict.fromkeys(scene.modality for scene in scenes):
        sensor = get_sensor(modality)
        if sensor.group == "optical" and not sensor.mask_bands:
            yield Caveat(id=modality, text="no scene classification: clouds are not masked")


def _find_days_outside(period: Period, scenes: Sequence[Scene]) -> Iterator[Caveat]:
    """Yield a caveat for each input with scenes of a solar day outside of the period."""
    outside: dict[str, list[dt.date]] = {}
    for scene in scenes:
        is_dated = get_sensor(scene.modality).is_temporal
        if is_dated and not period.start <= scene.solar_day <= period.end:
            outside.setdefault(scene.modality, []).append(scene.solar_day)
    for modality, days in outside.items():
        listed = " and ".join(day.isoformat() for day in sorted(set(days)))
        yield Caveat(
            id=modality,
            text=f"scenes ({len(days)}) of {listed} in solar time: the period is in UTC, the days "
            "of observations are solar days",
        )


def _find_unknown_ids(ids: IdFilter, candidates: SearchResult) -> Iterator[Caveat]:
    """Yield a caveat for each key of the job that names scenes which the search did not find."""
    known: list[Scene | RejectedScene] = [*candidates.scenes, *candidates.refused]
    for key, names in (("include", ids.include), ("exclude", ids.exclude)):
        unknown = IdFilter(include=names).find_unknown(known)
        if unknown:
            hints = (suggest_name(name, [scene.id for scene in known]) for name in unknown)
            listed = "; ".join(
                f"{name} ({hint.strip()})" if hint else name
                for name, hint in zip(unknown[:MAX_LISTED_IDS], hints, strict=False)
            )
            more = f"; and {len(unknown) - MAX_LISTED_IDS} more" * (len(unknown) > MAX_LISTED_IDS)
            yield Caveat(id=key, text=f"no scene of this region and period: {listed}{more}")


def _check_inputs_intersect(candidates: SearchResult, region: BaseGeometry, job: Job) -> None:
    for modality in job.inputs:
        scenes = [scene for scene in candidates.scenes if scene.modality == modality]
        if not any(
            shapely.geometry.shape(footprint).intersects(region)
            for scene in scenes
            for footprint in (scene.footprint, scene.other_footprint)
            if footprint is not None
        ):
            raise NothingFoundError(
                f"No {modality} scene intersects the region; the nearest ones only intersect the "
                "surroundings from which the model takes context. Move the region, or widen the "
                "period."
            )


def buffer_region(
    region: BaseGeometry, epsg_codes: Sequence[int], metres: float, tile_metres: float
) -> BaseGeometry:
    """Return the ground that the tiles of a region need, in longitude and latitude.

    These are the region and its surroundings on each of its grids, less the ground of tiles that
    hold no part of it.

    Args:
        region: the region in longitude and latitude.
        epsg_codes: EPSG codes of the grids.
        metres: width of the surroundings.
        tile_metres: side of a tile.
    """
    if metres <= 0:
        return region
    areas = [region]
    for epsg in epsg_codes:
        part = region if len(epsg_codes) == 1 else utm.clip_to_zone(region, epsg)
        to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
        needed = _buffer_tiles(grid.project(part, epsg), metres, tile_metres)
        for polygon in shapely.get_parts(shapely.segmentize(needed, max_segment_length=10_000)):
            footprint = shapely.transform(polygon, to_lonlat.transform, interleaved=False)
            areas.append(lonlat_geometry.from_item({"geometry": mapping(footprint)}))
            # ^ at the antimeridian the corners' longitudes change sign
    return shapely.union_all(areas)


MAX_CELLS = 256
"""Cells along a side of a region: the ground that is searched is described no finer."""


def _buffer_tiles(region: BaseGeometry, metres: float, tile_metres: float) -> BaseGeometry:
    """Return the bounding box of a projected region with its surroundings, less empty tiles.

    The grid of the product is not known before the search. Its tiles begin up to a window beside
    the cells used here, so the surroundings of cells are wider by as much.
    """
    west, south, east, north = region.bounds
    surroundings = shapely.box(west, south, east, north).buffer(metres, join_style="mitre")
    side = tile_metres * math.ceil(max(east - west, north - south) / (tile_metres * MAX_CELLS))
    lefts, tops = np.meshgrid(np.arange(west, east, side), np.arange(north, south, -side))
    cells = shapely.box(
        lefts, np.maximum(tops - side, south), np.minimum(lefts + side, east), tops
    ).ravel()
    shapely.prepare(region)
    is_needed = shapely.dwithin(region, cells, metres)
    if is_needed.all():
        return surroundings
    buffered = shapely.buffer(cells[is_needed], 2 * metres, join_style="mitre")
    return surroundings.intersection(shapely.union_all(buffered))
