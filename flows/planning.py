"""From a job to a frozen plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from catalogs import search, select
from catalogs.errors import NothingFound, Wrong
from catalogs.search import Found, Source
from catalogs.select import Selection
from catalogs.snapshot import Snapshot
from flows.job import Job
from pipeline import grid
from pipeline.plan import Plan, geojson
from pipeline.recipe import Model, Recipe

MARGIN = 1 / 28
"""Share of a model window that, along each side, only serves as context: 8 of 224 pixels."""

OVERLAP = 3 / 14
"""Share of a window that it has in common with the next: 48 of 224 pixels."""

BATCH = {"cpu": 4, "cuda": 64}
"""Windows per call where the job says auto."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the catalog had for a job."""

    selection: Selection
    doubts: tuple[search.Doubt, ...]
    epsg: int
    region: BaseGeometry


def ask(job: Job, *, context_m: float) -> Answer:
    """Search the catalog and choose the scenes.

    Args:
        job: the job.
        context_m: metres around the region from which the model takes context.

    Raises:
        NothingFound: no scene meets the region in the period.
        Wrong: the catalog, or the question, is wrong.
    """
    region = job.geometry
    epsg = grid.epsg_of(job.grid.crs, region)
    place = job.catalog
    source = Source(
        provider=place.provider,
        location=str(place.path) if place.path else place.url,
        allow=job.allow,
    )
    wider = widened(region, epsg, context_m)
    found = search.find(source, job.inputs, wider, job.period.interval)
    _meets(found, region, job)
    wanted = {"S2L2A": ("B02", "B03", "B04", "B08")} if job.model.name == "none" else {}
    selection = select.choose(found.scenes, wider, job.composite.max_cloud_cover, bands=wanted)
    if not any(scene.modality == job.inputs[0] for scene in selection.used):
        reasons = "; ".join(f"{one.id}: {one.reason}" for one in selection.refused[:5])
        raise NothingFound(
            f"All {len(found.scenes)} scenes of the region are left out ({reasons}). "
            "Widen the period, or raise composite.max_cloud_cover."
        )
    refused = tuple(dict.fromkeys(found.refused + selection.refused))
    return Answer(
        selection=Selection(used=selection.used, refused=refused),
        doubts=found.doubts,
        epsg=epsg,
        region=region,
    )


def _meets(found: Found, region: BaseGeometry, job: Job) -> None:
    for modality in job.inputs:
        scenes = [scene for scene in found.scenes if scene.modality == modality]
        if not any(shapely.geometry.shape(one.footprint).intersects(region) for one in scenes):
            raise NothingFound(
                f"No {modality} scene meets the region; the nearest ones only touch the "
                "surroundings that the model looks at. Move the region, or widen the period."
            )


def widened(region: BaseGeometry, epsg: int, metres: float) -> BaseGeometry:
    """Return the region and its surroundings, in longitude and latitude."""
    if metres <= 0:
        return region
    back = Transformer.from_crs(epsg, 4326, always_xy=True)
    box = shapely.box(*grid.project(region, epsg).bounds).buffer(metres, join_style="mitre")
    dense = shapely.segmentize(box, max_segment_length=10_000)
    return region.union(shapely.transform(dense, back.transform, interleaved=False))


def freeze(job: Job) -> Plan:
    """Search, choose, and freeze everything that decides the product's pixels.

    Raises:
        Wrong: something in the job cannot be.
        NothingFound: no scene answers it.
    """
    job = _without_target(job)
    model = _model(job)
    side, cell = (model.window, model.cell) if model else (0, 1)
    answer = ask(job, context_m=side * job.grid.resolution)
    scenes = answer.selection.used
    phase = (
        grid.phase(scenes, answer.epsg, job.grid.resolution)
        if job.grid.align == "auto"
        else (0.0, 0.0)
    )
    recipe = Recipe(
        inputs=tuple(job.inputs),
        clear_scl=tuple(sorted(job.mask.clear_scl)),
        dilate_m=job.mask.dilate_m,
        method=job.composite.method,
        stride=side - _whole(side * OVERLAP, cell),
        margin=_whole(side * MARGIN, cell),
        probabilities=job.output.probabilities,
        composites=job.output.composites,
    )
    if not model and not job.output.composites:
        raise Wrong(
            "Without a model and without composites there is nothing to make. "
            "Name a model, or set output: {composites: true}."
        )
    return Plan(
        name=job.name,
        period=(job.period.start.isoformat(), job.period.end.isoformat()),
        region=geojson(answer.region),
        grid=grid.covering(answer.region, answer.epsg, job.grid.resolution, phase).coarsened(cell),
        tile=job.execution.tile // cell,
        snapshot=Snapshot(scenes=scenes, refused=answer.selection.refused),
        doubts=answer.doubts,
        recipe=recipe,
        model=model,
        job=_how(job),
    )


def _whole(pixels: float, cell: int) -> int:
    """Round to whole cells: where windows of patches overlap, so do their patches."""
    return round(pixels / cell) * cell


def _how(job: Job) -> dict[str, Any]:
    """Return what running the plan needs beside what it is: places and machinery."""
    return {
        "model": _load(job),
        "output": {
            "path": str(job.output.folder),
            "formats": list(job.output.formats),
        },
        "execution": json.loads(job.execution.model_dump_json()),
    }


def _load(job: Job) -> dict[str, Any]:
    """Return what the model's loader takes, with the weights that a configuration names."""
    asked = job.model.to_load()
    if job.model.config is not None and asked.get("weights") == "hub":
        from model.prediction import known, sources  # noqa: PLC0415

        card = known.card_of(job.model.name, _shown(job), job.model.task)
        asked["weights"] = sources.chosen(job.model.name, card, "hub")
    return asked


def _without_target(job: Job) -> Job:
    """Leave what is to be generated out of what is read, unless its composite is wanted.

    Raises:
        Wrong: no other input is left.
    """
    shown = _shown(job)
    if not shown:
        raise Wrong(
            f"To generate {job.model.modality}, other inputs are needed: a model that is shown "
            f"{job.model.modality} has nothing to imagine. Add one to inputs."
        )
    return job if job.output.composites else job.model_copy(update={"inputs": shown})


def _shown(job: Job) -> tuple[str, ...]:
    """Return the inputs without what is to be generated."""
    return tuple(name for name in job.inputs if name != job.model.modality)


def _model(job: Job) -> Model | None:
    if job.model.name == "none":
        return None
    lacking = [name for name in job.inputs if name not in job.model.measured]
    if job.model.checkpoint is not None and lacking:
        raise Wrong(
            "A checkpoint carries no statistics, and model.stats has none of "
            f"{', '.join(lacking)}. Add them, or name only the inputs that the checkpoint was "
            "trained with."
        )
    from model.prediction import known  # noqa: PLC0415

    # ^ composites need no torch
    predictor = known.load(
        **job.model.to_load(),
        inputs=_shown(job),
        device=job.execution.device,
        precision=job.execution.precision,
        holes="fill",
    )
    batch = job.execution.batch
    return Model(
        name=job.model.label,
        task=predictor.task,
        digest=predictor.digest,
        window=predictor.window,
        inputs={name: tuple(bands) for name, bands in predictor.inputs.items()},
        class_names=tuple(predictor.class_names),
        bands=tuple(predictor.bands),
        cell=predictor.cell,
        modality=predictor.modality,
        unit=predictor.unit,
        precision=predictor.precision,
        batch=batch if isinstance(batch, int) else BATCH.get(predictor.device.type, 4),
    )


def folder(plan: Plan) -> Path:
    """Return the folder of the plan's product: that of its period, which holds ``item.json``."""
    return Path(plan.job["output"]["path"]) / plan.name / f"{plan.period[0]}_{plan.period[1]}"
