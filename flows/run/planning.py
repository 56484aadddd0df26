"""Planning: from a job to a frozen plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shapely.geometry.base import BaseGeometry

from catalogs.errors import InvalidInputError
from catalogs.scene import Caveat, Scene
from catalogs.snapshot import Snapshot
from flows.config import cadence
from flows.config.job import Job
from flows.config.run_settings import build_run_settings
from flows.observe.progress import Progress
from flows.run import scene_search
from flows.run.job_digest import hash_request
from flows.run.scene_search import SceneSearchResult
from pipeline.grid import crs, grid, ground_scale, utm
from pipeline.grid.grid import Grid
from pipeline.plan.plan import Plan, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.storage import cog

if TYPE_CHECKING:
    from flows.run.model_spec import LoadedModel

MAX_STEPS = 400
"""Largest number of parts that a period is split into; each has a composite of its own."""


def create_plan(job: Job, progress: Progress | None = None) -> Plan:
    """Search and select scenes, load the model, and freeze what decides the product's pixels.

    Args:
        job: the job over one period.
        progress: progress of the radiometric check.

    Raises:
        InvalidInputError: parts of the job contradict each other or the model.
        NothingFoundError: the catalog has no scenes for the job.
    """
    job = drop_generated_inputs(job)
    loaded = _load_model(job)
    model = loaded.spec if loaded else None
    window = model.window if model else 0
    search_result = scene_search.search_scenes(
        job,
        context_m=window * job.grid.resolution,
        bands=model.inputs if model else None,
        progress=progress,
    )
    used = search_result.selection.used
    grids = _build_grids(job, search_result, model)
    mosaic_grids = _build_mosaic_grids(job, search_result, grids)
    for product_grid in (*grids, *mosaic_grids):
        cog.check_crs(product_grid.epsg)
    recipe = Recipe(
        inputs=tuple(job.inputs),
        bands=job.bands,
        clear_scl=tuple(sorted(job.mask.clear_scl)),
        dilate_m=job.mask.dilate_m,
        dilate_scl=tuple(sorted(job.mask.dilate_scl)),
        max_cloud_probability=job.mask.max_cloud_probability,
        method=job.composite.method,
        steps=_split_period(job),
        stride=window - (loaded.overlap if loaded else 0),
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
        region=to_geojson(search_result.region),
        grids=grids,
        mosaic_grids=mosaic_grids,
        tile_size=job.execution.tile // (model.output_stride if model else 1),
        snapshot=Snapshot(scenes=used, refused=search_result.selection.refused),
        caveats=(
            *(loaded.caveats if loaded else ()),
            *search_result.caveats,
            *_find_misaligned_grids(job, used, grids),
            *_find_distorted_grids(search_result.region, (*grids, *mosaic_grids)),
        ),
        radiometry_verdicts=search_result.verdict_counts,
        recipe=recipe,
        model=model,
        settings=build_run_settings(
            job, loaded.options if loaded else job.model.to_options(), hash_request(job)
        ),
    )


def load_model_spec(job: Job) -> ModelSpec | None:
    """Load a job's model as it is now; None for a job without a model."""
    loaded = _load_model(drop_generated_inputs(job))
    return loaded.spec if loaded else None


def drop_generated_inputs(job: Job) -> Job:
    """Return the job without the inputs that are generated, unless their composites are wanted.

    Raises:
        InvalidInputError: no other input is left.
    """
    inputs = job.model_inputs
    if not inputs:
        raise InvalidInputError(
            f"To generate {', '.join(job.model.modalities)}, the model needs other inputs. Add one "
            "to inputs, such as S1RTC."
        )
    return job if job.output.composites else job.model_copy(update={"inputs": inputs})


def _build_grids(
    job: Job, search_result: SceneSearchResult, model: ModelSpec | None
) -> tuple[Grid, ...]:
    """Return one grid per coordinate system, in cells of the model's finest output.

    Raises:
        InvalidInputError: no pixel of a layer has its centre in the region.
    """
    stride, max_stride = (model.output_stride, model.max_output_stride) if model else (1, 1)
    outputs = model.outputs if model else ()
    resolution, grids, parts = job.grid.resolution, list[Grid](), list[BaseGeometry]()
    for epsg in search_result.epsg_codes:
        part = (
            search_result.region
            if len(search_result.epsg_codes) == 1
            else utm.clip_to_zone(search_result.region, epsg)
        )
        alignment = (
            grid.common_alignment(search_result.selection.used, epsg, resolution)
            if job.grid.align == "auto"
            else (0.0, 0.0)
        )
        pixels = grid.build_covering_grid(part, epsg, resolution, alignment)
        grids.append(pixels.coarsen(max_stride).refine(max_stride // stride))
        parts.append(grid.project(part, epsg))
    for output_stride in sorted({stride, *(output.stride for output in outputs)}):
        cells = [finest.coarsen(output_stride // stride) for finest in grids]
        if not any(map(grid.has_pixel, parts, cells)):
            layer = next((o.layer_name for o in outputs if o.stride == output_stride), "")
            raise InvalidInputError(_describe_small_region(parts[0], cells[0].resolution, layer))
    return tuple(grids)


def _describe_small_region(region: BaseGeometry, side: float, layer: str) -> str:
    """Return the message for a projected region in which no pixel's centre lies."""
    left, bottom, right, top = region.bounds
    return (
        f"No pixel of {layer or 'the grid'} has its centre in the region: the region is "
        f"{right - left:.3g} m wide and {top - bottom:.3g} m high, and a pixel is {side:g} m wide. "
        f"Make the region larger than {2 * side:g} m, or grid.resolution smaller."
    )


def _find_misaligned_grids(
    job: Job, used: Sequence[Scene], grids: Sequence[Grid]
) -> Iterator[Caveat]:
    """Yield a caveat where a part of the region, planned alone, could lie on another grid."""
    if job.grid.align != "auto":
        return
    for product_grid in grids:
        alignments = grid.find_alignments(used, product_grid.epsg, job.grid.resolution)
        if len(alignments) > 1 or any(x or y for x, y in alignments):
            cause = (
                "the scenes' grids differ by parts of a pixel, so the map lies on multiples of "
                "the resolution and takes the pixel at each centre, up to half a pixel away"
                if len(alignments) > 1
                else "the map lies on the scenes' own grid, beside the multiples of the resolution"
            )
            yield Caveat(
                id=f"EPSG:{product_grid.epsg}",
                text=f"{cause}; a part of the region that meets other scenes may lie otherwise. "
                "Set grid: {align: multiples} for parts that are to be joined",
            )


def _find_distorted_grids(region: BaseGeometry, grids: Sequence[Grid]) -> Iterator[Caveat]:
    """Yield what to know of the coordinate systems that the job names, once for each."""
    for product_grid in {product_grid.epsg: product_grid for product_grid in grids}.values():
        epsg = product_grid.epsg
        if epsg in utm.zone_polygons() and (
            epsg in utm.find_zones(region) or utm.is_in_reach(region, epsg)
        ):
            continue
            # ^ made for this ground, up to 0.6 % (UTM) and 1.2 % (UPS)
        projected = grid.project(region, epsg)
        for text in (
            *crs.describe_area_of_use(region, epsg),
            *ground_scale.describe_distortion(projected, epsg, product_grid.resolution),
        ):
            yield Caveat(id=f"EPSG:{epsg}", text=text)


def _build_mosaic_grids(
    job: Job, search_result: SceneSearchResult, grids: Sequence[Grid]
) -> tuple[Grid, ...]:
    """Return the grids that join several zones: those of the job, else the largest zone's own."""
    if len(grids) == 1 and not job.grid.mosaic:
        return ()
    region = search_result.region
    largest = max(grids, key=lambda zone_grid: utm.clip_to_zone(region, zone_grid.epsg).area)
    epsg_codes = [
        epsg for name in job.grid.mosaic for epsg in grid.resolve_epsg_codes(name, region)
    ]
    alignments = {zone_grid.epsg: zone_grid.alignment for zone_grid in grids}
    # ^ pixels that already lie on the mosaic's coordinate system are not resampled
    return tuple(
        grid.build_covering_grid(region, epsg, largest.resolution, alignments.get(epsg, (0.0, 0.0)))
        for epsg in epsg_codes or [largest.epsg]
    )


def _split_period(job: Job) -> tuple[tuple[str, str], ...]:
    """Return first and last day of the parts of the period that have composites of their own."""
    if job.composite.every is None:
        return ()
    parts = cadence.split_period(job.resolved_period, job.composite.every, max_parts=MAX_STEPS)
    return tuple((part.start.isoformat(), part.end.isoformat()) for part in parts)


def _load_model(job: Job) -> LoadedModel | None:
    """Load the plan's model; None for a job without one."""
    if job.model.name == "none":
        return None
    from flows.run import model_spec  # noqa: PLC0415

    # ^ torch takes seconds to import, and composites do not need it
    return model_spec.load_model(job)
