"""From a job to a frozen plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pyproj import Transformer
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from catalogs import lonlat_geometry, scene_selection, search
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.scene import Scene
from catalogs.scene_selection import Selection
from catalogs.search import CatalogSource, SearchResult
from catalogs.snapshot import Snapshot
from flows.config import cadence
from flows.config.job import Job
from flows.config.prices import Prices
from flows.config.sections import WorkerRange
from flows.observe.progress import NullProgress, Progress
from flows.run import radiometric_check
from pipeline.grid import grid, utm
from pipeline.grid.grid import Grid
from pipeline.plan.plan import NUMERICS_VERSION, Plan, hash_json, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.plan.settings import (
    ExecutionSettings,
    ModelOptions,
    PriceList,
    QualityLimits,
    RunSettings,
)

_REQUEST_FIELDS = {"inputs", "bands", "mask", "composite", "radar", "radiometry", "grid"}

MAX_STEPS = 400
"""Parts that a period is cut into at most: each is a composite of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSearchResult:
    """What the catalog had for a job."""

    selection: Selection
    caveats: tuple[scene_selection.Caveat, ...]
    verdict_counts: Mapping[str, int]
    """What the pixels say of the catalog's claims → scenes; empty where nobody looked."""

    epsg_codes: tuple[int, ...]
    """EPSG codes of the grids."""

    region: BaseGeometry


def search_scenes(
    job: Job,
    *,
    context_m: float,
    bands: Mapping[str, Sequence[str]] | None = None,
    check_radiometry: bool = True,
    progress: Progress | None = None,
) -> SceneSearchResult:
    """Search the catalog, choose the scenes, and look at their pixels.

    Args:
        job: the job.
        context_m: metres around the region from which the model takes context.
        bands: modality → the bands that the model takes.
        check_radiometry: whether the pixels are looked at, if the job does not say otherwise.
        progress: who is told how far it has come.

    Raises:
        NothingFoundError: no scene meets the region in the period.
        InvalidInputError: the catalog, or the question, is wrong.
    """
    progress = progress or NullProgress()
    region = job.geometry
    codes = grid.resolve_epsg_codes(job.grid.crs, region)
    place = job.catalog
    source = CatalogSource(
        provider=place.provider,
        location=str(place.path) if place.path else place.url,
        allow=job.allow,
    )
    wider = buffer_region(region, codes, context_m)
    found = search.find_scenes(source, job.inputs, wider, job.resolved_period.interval)
    _check_inputs_intersect(found, region, job)
    choose = functools.partial(
        scene_selection.select_scenes,
        region=wider,
        max_cloud_cover=job.composite.max_cloud_cover,
        bands=job.bands | dict(bands or {}),
        orbit_states=job.radar.orbit_states or None,
        relative_orbits=job.radar.relative_orbits or None,
        max_passes=job.composite.max_passes,
    )
    how = job.radiometry.proof
    proved = (
        radiometric_check.CheckedSelection(selection=choose(found.scenes), verdict_counts={})
        if how == "off" or not check_radiometry
        else radiometric_check.select_checked_scenes(
            found.scenes, choose, reject_contradicted=how == "refuse", progress=progress
        )
    )
    selection = proved.selection
    if not any(scene.modality == job.inputs[0] for scene in selection.used):
        reasons = "; ".join(f"{one.id}: {one.reason}" for one in selection.refused[:5])
        raise NothingFoundError(
            f"All {len(found.scenes)} scenes of the region are left out ({reasons}). "
            "Widen the period, or change the key that leaves them out: composite.max_cloud_cover, "
            "bands, radar or radiometry."
        )
    refused = tuple(dict.fromkeys(found.refused + selection.refused))
    return SceneSearchResult(
        selection=Selection(used=selection.used, refused=refused),
        caveats=(
            *found.caveats,
            *proved.caveats,
            *selection.caveats,
            *_find_unused_inputs(job.inputs, found.scenes, selection.used),
        ),
        verdict_counts=proved.verdict_counts,
        epsg_codes=codes,
        region=region,
    )


def _find_unused_inputs(
    inputs: Sequence[str], candidates: Sequence[Scene], selected: Sequence[Scene]
) -> Iterator[scene_selection.Caveat]:
    """Say of which inputs every scene is left out: the product is made without them."""
    for modality in inputs:
        count = sum(scene.modality == modality for scene in candidates)
        if not any(scene.modality == modality for scene in selected):
            yield scene_selection.Caveat(
                id=modality,
                text=f"all {count} scenes are left out, so the product is made without {modality}",
            )


def _check_inputs_intersect(search_result: SearchResult, region: BaseGeometry, job: Job) -> None:
    for modality in job.inputs:
        scenes = [scene for scene in search_result.scenes if scene.modality == modality]
        if not any(shapely.geometry.shape(one.footprint).intersects(region) for one in scenes):
            raise NothingFoundError(
                f"No {modality} scene meets the region; the nearest ones only touch the "
                "surroundings that the model looks at. Move the region, or widen the period."
            )


def buffer_region(region: BaseGeometry, epsg_codes: Sequence[int], metres: float) -> BaseGeometry:
    """Return the region and its surroundings on each of its grids, in longitude and latitude."""
    if metres <= 0:
        return region
    boxes = []
    for code in epsg_codes:
        part = region if len(epsg_codes) == 1 else utm.clip_to_zone(region, code)
        back = Transformer.from_crs(code, 4326, always_xy=True)
        box = shapely.box(*grid.project(part, code).bounds).buffer(metres, join_style="mitre")
        dense = shapely.segmentize(box, max_segment_length=10_000)
        around = shapely.transform(dense, back.transform, interleaved=False)
        boxes.append(lonlat_geometry.from_item({"geometry": mapping(around)}))
        # ^ around 180 degrees the corners jump from one side to the other
    return shapely.union_all([region, *boxes])


def _build_grids(
    job: Job, search_result: SceneSearchResult, model: ModelSpec | None
) -> tuple[Grid, ...]:
    """Return one grid for each coordinate system, in cells of the model's finest answer."""
    cell, coarsest = (model.output_stride, model.max_output_stride) if model else (1, 1)
    resolution, found = job.grid.resolution, []
    for code in search_result.epsg_codes:
        part = (
            search_result.region
            if len(search_result.epsg_codes) == 1
            else utm.clip_to_zone(search_result.region, code)
        )
        phase = (
            grid.common_alignment(search_result.selection.used, code, resolution)
            if job.grid.align == "auto"
            else (0.0, 0.0)
        )
        whole = grid.build_covering_grid(part, code, resolution, phase).coarsen(coarsest)
        found.append(whole.refine(coarsest // cell))
    return tuple(found)


def _find_misaligned_grids(
    job: Job, scenes: Sequence[Scene], grids: Sequence[Grid]
) -> Iterator[scene_selection.Caveat]:
    """Say where a part of the region, planned by itself, could lie on another grid."""
    if job.grid.align != "auto":
        return
    for one in grids:
        phases = grid.find_alignments(scenes, one.epsg, job.grid.resolution)
        if len(phases) > 1 or any(x or y for x, y in phases):
            what = (
                "the scenes' grids differ by parts of a pixel, so the map lies on multiples of "
                "the resolution and takes the pixel at each centre, up to half a pixel away"
                if len(phases) > 1
                else "the map lies on the scenes' own grid, beside the multiples of the resolution"
            )
            yield scene_selection.Caveat(
                id=f"EPSG:{one.epsg}",
                text=f"{what}; a part of the region that meets other scenes may lie otherwise. "
                "Set grid: {align: multiples} for parts that are to be joined",
            )


def _build_mosaic_grids(
    job: Job, search_result: SceneSearchResult, grids: Sequence[Grid]
) -> tuple[Grid, ...]:
    """Return the grids that join several zones: those asked for, else the largest zone's own."""
    if len(grids) == 1 and not job.grid.mosaic:
        return ()
    largest = max(grids, key=lambda one: utm.clip_to_zone(search_result.region, one.epsg).area)
    codes = [
        code
        for name in job.grid.mosaic
        for code in grid.resolve_epsg_codes(name, search_result.region)
    ]
    phases = {one.epsg: one.alignment for one in grids}
    # ^ what lies on a grid of ours already is not moved
    return tuple(
        grid.build_covering_grid(
            search_result.region, code, largest.resolution, phases.get(code, (0.0, 0.0))
        )
        for code in codes or [largest.epsg]
    )


def create_plan(job: Job, progress: Progress | None = None) -> Plan:
    """Search, choose, and freeze everything that decides the product's pixels.

    Raises:
        InvalidInputError: something in the job cannot be.
        NothingFoundError: no scene answers it.
    """
    job = _drop_generated_inputs(job)
    model, overlap, load = _load_model(job)
    side = model.window if model else 0
    answer = search_scenes(
        job,
        context_m=side * job.grid.resolution,
        bands=model.inputs if model else None,
        progress=progress,
    )
    scenes = answer.selection.used
    grids = _build_grids(job, answer, model)
    doubts = (*answer.caveats, *_find_misaligned_grids(job, scenes, grids))
    recipe = Recipe(
        inputs=tuple(job.inputs),
        bands=job.bands,
        clear_scl=tuple(sorted(job.mask.clear_scl)),
        dilate_m=job.mask.dilate_m,
        dilate_scl=tuple(sorted(job.mask.dilate_scl)),
        max_cloud_probability=job.mask.max_cloud_probability,
        method=job.composite.method,
        steps=_split_period(job),
        stride=side - overlap,
        margin=0,
        # ^ a margin without weight was never better than a longer blend: docs/mapping.md
        average_below=job.model.average_below if model else None,
        probabilities=job.output.probabilities,
        composites=job.output.composites,
    )
    if not model and not job.output.composites:
        raise InvalidInputError(
            "Without a model and without composites there is nothing to make. "
            "Name a model, or set output: {composites: true}."
        )
    return Plan(
        name=job.name,
        period=(job.resolved_period.start.isoformat(), job.resolved_period.end.isoformat()),
        region=to_geojson(answer.region),
        grids=grids,
        mosaic_grids=_build_mosaic_grids(job, answer, grids),
        tile_size=job.execution.tile // (model.output_stride if model else 1),
        snapshot=Snapshot(scenes=scenes, refused=answer.selection.refused),
        caveats=doubts,
        radiometry_verdicts=answer.verdict_counts,
        recipe=recipe,
        model=model,
        settings=_run_settings(job, load),
    )


def _split_period(job: Job) -> tuple[tuple[str, str], ...]:
    """Return the parts of the period that get composites of their own."""
    if job.composite.every is None:
        return ()
    parts = cadence.split_period(job.resolved_period, job.composite.every, max_parts=MAX_STEPS)
    return tuple((part.start.isoformat(), part.end.isoformat()) for part in parts)


def _load_model(job: Job) -> tuple[ModelSpec | None, int, dict[str, Any]]:
    """Return the plan's model, by how many pixels its windows overlap, and how it is loaded."""
    if job.model.name == "none":
        return None, 0, job.model.to_loader_options()
    from flows.run import model_spec  # noqa: PLC0415

    # ^ composites need no torch
    model = model_spec.load_spec(job)
    return model, model_spec.choose_overlap(job, model), model_spec.build_load_options(job)


def load_model_spec(job: Job) -> ModelSpec | None:
    """Return the model of a job as it is now; None where it has none."""
    return _load_model(_drop_generated_inputs(job))[0]


def _run_settings(job: Job, loader_options: Mapping[str, Any]) -> RunSettings:
    """Return where and how the plan of a job runs."""
    execution, limits = job.execution, job.qc
    workers = execution.workers
    return RunSettings(
        output_dir=str(job.output.folder),
        formats=tuple(job.output.formats),
        request_digest=hash_request(job),
        model=ModelOptions(**loader_options),
        execution=ExecutionSettings(
            tile=execution.tile,
            engine=execution.engine,
            workers=workers.model_dump() if isinstance(workers, WorkerRange) else workers,
            device=execution.device,
            precision=execution.precision,
            batch=execution.batch,
            slot=execution.slot,
            max_hours=execution.max_hours,
        ),
        quality_limits=QualityLimits(
            gate=limits.gate,
            max_seam_z=limits.max_seam_z,
            max_disagreement=limits.max_disagreement,
            min_agreement=limits.min_agreement,
        ),
        prices=_price_list(job.prices) if job.prices else None,
    )


def _price_list(prices: Prices) -> PriceList:
    return PriceList(
        currency=prices.currency,
        cpu_hour=prices.cpu_hour,
        gpu_hour=prices.gpu_hour,
        gb_read=prices.gb_read,
        thousand_requests=prices.thousand_requests,
        gb_month=prices.gb_month,
        months=prices.months,
    )


def _drop_generated_inputs(job: Job) -> Job:
    """Leave what is to be generated out of what is read, unless its composite is wanted.

    Raises:
        InvalidInputError: no other input is left.
    """
    shown = job.model_inputs
    if not shown:
        raise InvalidInputError(
            f"To generate {', '.join(job.model.modalities)}, other inputs are needed: a model that "
            "is shown what it shall make has nothing to imagine. Add one to inputs."
        )
    return job if job.output.composites else job.model_copy(update={"inputs": shown})


def product_dir(plan: Plan) -> Path:
    """Return the folder of the plan's product: that of its period, which holds ``item.json``."""
    return Path(plan.settings.output_dir) / plan.name / f"{plan.period[0]}_{plan.period[1]}"


def job_product_dir(job: Job) -> Path:
    """Return the folder of the product of a job's period, which holds ``item.json``."""
    return job.output.folder / job.name / job.resolved_period.folder_name


def hash_request(job: Job) -> str:
    """Return the sha256 of what a job asks for, whatever the period: no folder, no machinery.

    A product whose plan was made for another request is no longer what the job describes.
    """
    values = json.loads(job.model_dump_json(include=_REQUEST_FIELDS))
    place, made = job.catalog, job.execution
    return hash_json(
        values
        | {
            "region": to_geojson(job.geometry),
            "catalog": [place.provider, place.location],
            "model": job.model.to_loader_options() | {"overlap": job.model.overlap},
            "average_below": job.model.average_below,
            "output": [job.output.formats, job.output.probabilities, job.output.composites],
            "execution": [made.tile, made.device, made.precision],
            "numerics": NUMERICS_VERSION,
        }
    )
