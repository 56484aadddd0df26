"""Planning: from a job to a frozen plan."""

from __future__ import annotations

from catalogs.errors import InvalidInputError
from catalogs.snapshot import Snapshot
from flows.config import cadence
from flows.config.job import Job
from flows.config.run_settings import build_run_settings
from flows.observe.progress import Progress
from flows.run import model_spec_cache, product_grids, scene_search
from flows.run.job_digest import hash_request
from flows.run.model_spec_cache import PlannedModel
from pipeline.plan.plan import Plan, to_geojson
from pipeline.plan.recipe import ModelSpec, Recipe
from pipeline.storage import cog

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
    grids = product_grids.build_grids(job, search_result, model)
    mosaic_grids = product_grids.build_mosaic_grids(job, search_result, grids)
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
            *product_grids.find_grid_caveats(job, search_result, grids, mosaic_grids, model),
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


def _split_period(job: Job) -> tuple[tuple[str, str], ...]:
    """Return first and last day of the parts of the period that have composites of their own."""
    if job.composite.every is None:
        return ()
    parts = cadence.split_period(job.resolved_period, job.composite.every, max_parts=MAX_STEPS)
    return tuple((part.start.isoformat(), part.end.isoformat()) for part in parts)


def _load_model(job: Job) -> PlannedModel | None:
    """Load the plan's model, unless it is known as it is; None for a job without one."""
    if job.model.name == "none":
        return None
    known = model_spec_cache.find_model(job)
    if known is not None:
        return known
    from flows.run import model_spec  # noqa: PLC0415

    # ^ torch takes seconds to import, and composites do not need it
    return model_spec.load_model(job)
