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
from catalogs.errors import NothingFound, Wrong
from catalogs.scene import Scene
from catalogs.scene_selection import Selection
from catalogs.search import Found, Source
from catalogs.snapshot import Snapshot
from flows.config import cadence
from flows.config.job import Job
from flows.observe.progress import Progress, Silence
from flows.run import radiometric_check
from pipeline.grid import grid, utm
from pipeline.grid.grid import Grid
from pipeline.plan.plan import NUMERICS, Plan, digest, geojson
from pipeline.plan.recipe import Model, Recipe

_ASKED = {"inputs", "bands", "mask", "composite", "radar", "radiometry", "grid"}

MOST_STEPS = 400
"""Parts that a period is cut into at most: each is a composite of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the catalog had for a job."""

    selection: Selection
    doubts: tuple[search.Doubt, ...]
    proof: Mapping[str, int]
    """What the pixels say of the catalog's claims → scenes; empty where nobody looked."""

    codes: tuple[int, ...]
    """EPSG codes of the grids."""

    region: BaseGeometry


def ask(
    job: Job,
    *,
    context_m: float,
    bands: Mapping[str, Sequence[str]] | None = None,
    prove: bool = True,
    progress: Progress | None = None,
) -> Answer:
    """Search the catalog, choose the scenes, and look at their pixels.

    Args:
        job: the job.
        context_m: metres around the region from which the model takes context.
        bands: modality → the bands that the model takes.
        prove: whether the pixels are looked at, if the job does not say otherwise.
        progress: who is told how far it has come.

    Raises:
        NothingFound: no scene meets the region in the period.
        Wrong: the catalog, or the question, is wrong.
    """
    progress = progress or Silence()
    region = job.geometry
    codes = grid.systems(job.grid.crs, region)
    place = job.catalog
    source = Source(
        provider=place.provider,
        location=str(place.path) if place.path else place.url,
        allow=job.allow,
    )
    wider = widened(region, codes, context_m)
    found = search.find(source, job.inputs, wider, job.span.interval)
    _meets(found, region, job)
    choose = functools.partial(
        scene_selection.choose,
        region=wider,
        max_cloud_cover=job.composite.max_cloud_cover,
        bands=job.bands | dict(bands or {}),
        orbit_states=job.radar.states or None,
        relative_orbits=job.radar.relative_orbits or None,
        max_passes=job.composite.max_passes,
    )
    how = job.radiometry.proof
    proved = (
        radiometric_check.Proved(selection=choose(found.scenes), verdicts={})
        if how == "off" or not prove
        else radiometric_check.settle(
            found.scenes, choose, refuse=how == "refuse", progress=progress
        )
    )
    selection = proved.selection
    if not any(scene.modality == job.inputs[0] for scene in selection.used):
        reasons = "; ".join(f"{one.id}: {one.reason}" for one in selection.refused[:5])
        raise NothingFound(
            f"All {len(found.scenes)} scenes of the region are left out ({reasons}). "
            "Widen the period, or change the key that leaves them out: composite.max_cloud_cover, "
            "bands, radar or radiometry."
        )
    refused = tuple(dict.fromkeys(found.refused + selection.refused))
    return Answer(
        selection=Selection(used=selection.used, refused=refused),
        doubts=(
            *found.doubts,
            *proved.doubts,
            *(search.Doubt(id=one.id, text=one.text) for one in selection.notices),
            *_unused(job.inputs, found.scenes, selection.used),
        ),
        proof=proved.verdicts,
        codes=codes,
        region=region,
    )


def _unused(
    inputs: Sequence[str], found: Sequence[Scene], used: Sequence[Scene]
) -> Iterator[search.Doubt]:
    """Say of which inputs every scene is left out: the product is made without them."""
    for modality in inputs:
        count = sum(scene.modality == modality for scene in found)
        if not any(scene.modality == modality for scene in used):
            yield search.Doubt(
                id=modality,
                text=f"all {count} scenes are left out, so the product is made without {modality}",
            )


def _meets(found: Found, region: BaseGeometry, job: Job) -> None:
    for modality in job.inputs:
        scenes = [scene for scene in found.scenes if scene.modality == modality]
        if not any(shapely.geometry.shape(one.footprint).intersects(region) for one in scenes):
            raise NothingFound(
                f"No {modality} scene meets the region; the nearest ones only touch the "
                "surroundings that the model looks at. Move the region, or widen the period."
            )


def widened(region: BaseGeometry, codes: Sequence[int], metres: float) -> BaseGeometry:
    """Return the region and its surroundings on each of its grids, in longitude and latitude."""
    if metres <= 0:
        return region
    boxes = []
    for code in codes:
        part = region if len(codes) == 1 else utm.ground(region, code)
        back = Transformer.from_crs(code, 4326, always_xy=True)
        box = shapely.box(*grid.project(part, code).bounds).buffer(metres, join_style="mitre")
        dense = shapely.segmentize(box, max_segment_length=10_000)
        around = shapely.transform(dense, back.transform, interleaved=False)
        boxes.append(lonlat_geometry.of_item({"geometry": mapping(around)}))
        # ^ around 180 degrees the corners jump from one side to the other
    return shapely.union_all([region, *boxes])


def _grids(job: Job, answer: Answer, model: Model | None) -> tuple[Grid, ...]:
    """Return one grid for each coordinate system, in cells of the model's finest answer."""
    cell, coarsest = (model.cell, model.coarsest) if model else (1, 1)
    resolution, found = job.grid.resolution, []
    for code in answer.codes:
        part = answer.region if len(answer.codes) == 1 else utm.ground(answer.region, code)
        phase = (
            grid.phase(answer.selection.used, code, resolution)
            if job.grid.align == "auto"
            else (0.0, 0.0)
        )
        whole = grid.covering(part, code, resolution, phase).coarsened(coarsest)
        found.append(whole.refined(coarsest // cell))
    return tuple(found)


def _off_the_multiples(
    job: Job, scenes: Sequence[Scene], grids: Sequence[Grid]
) -> Iterator[search.Doubt]:
    """Say where a part of the region, planned by itself, could lie on another grid."""
    if job.grid.align != "auto":
        return
    for one in grids:
        phases = grid.phases(scenes, one.epsg, job.grid.resolution)
        if len(phases) > 1 or any(x or y for x, y in phases):
            what = (
                "the scenes' grids differ by parts of a pixel, so the map lies on multiples of "
                "the resolution and takes the pixel at each centre, up to half a pixel away"
                if len(phases) > 1
                else "the map lies on the scenes' own grid, beside the multiples of the resolution"
            )
            yield search.Doubt(
                id=f"EPSG:{one.epsg}",
                text=f"{what}; a part of the region that meets other scenes may lie otherwise. "
                "Set grid: {align: multiples} for parts that are to be joined",
            )


def _mosaics(job: Job, answer: Answer, grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """Return the grids that join several zones: those asked for, else the largest zone's own."""
    if len(grids) == 1 and not job.grid.mosaic:
        return ()
    largest = max(grids, key=lambda one: utm.ground(answer.region, one.epsg).area)
    codes = [code for name in job.grid.mosaic for code in grid.systems(name, answer.region)]
    phases = {one.epsg: one.phase for one in grids}
    # ^ what lies on a grid of ours already is not moved
    return tuple(
        grid.covering(answer.region, code, largest.resolution, phases.get(code, (0.0, 0.0)))
        for code in codes or [largest.epsg]
    )


def freeze(job: Job, progress: Progress | None = None) -> Plan:
    """Search, choose, and freeze everything that decides the product's pixels.

    Raises:
        Wrong: something in the job cannot be.
        NothingFound: no scene answers it.
    """
    job = _without_target(job)
    model, overlap, load = _model(job)
    side = model.window if model else 0
    answer = ask(
        job,
        context_m=side * job.grid.resolution,
        bands=model.inputs if model else None,
        progress=progress,
    )
    scenes = answer.selection.used
    grids = _grids(job, answer, model)
    doubts = (*answer.doubts, *_off_the_multiples(job, scenes, grids))
    recipe = Recipe(
        inputs=tuple(job.inputs),
        bands=job.bands,
        clear_scl=tuple(sorted(job.mask.clear_scl)),
        dilate_m=job.mask.dilate_m,
        dilate_scl=tuple(sorted(job.mask.dilate_scl)),
        max_cloud_probability=job.mask.max_cloud_probability,
        method=job.composite.method,
        steps=_steps(job),
        stride=side - overlap,
        margin=0,
        # ^ a margin without weight was never better than a longer blend: docs/mapping.md
        average_below=job.model.average_below if model else None,
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
        period=(job.span.start.isoformat(), job.span.end.isoformat()),
        region=geojson(answer.region),
        grids=grids,
        mosaics=_mosaics(job, answer, grids),
        tile=job.execution.tile // (model.cell if model else 1),
        snapshot=Snapshot(scenes=scenes, refused=answer.selection.refused),
        doubts=doubts,
        proof=answer.proof,
        recipe=recipe,
        model=model,
        job={"model": load, **_how(job)},
    )


def _steps(job: Job) -> tuple[tuple[str, str], ...]:
    """Return the parts of the period that get composites of their own."""
    if job.composite.every is None:
        return ()
    parts = cadence.cut(job.span, job.composite.every, most=MOST_STEPS)
    return tuple((part.start.isoformat(), part.end.isoformat()) for part in parts)


def _model(job: Job) -> tuple[Model | None, int, dict[str, Any]]:
    """Return the plan's model, by how many pixels its windows overlap, and how it is loaded."""
    if job.model.name == "none":
        return None, 0, job.model.to_load()
    from flows.run import model_spec  # noqa: PLC0415

    # ^ composites need no torch
    model = model_spec.model(job)
    return model, model_spec.overlap(job, model), model_spec.to_load(job)


def model(job: Job) -> Model | None:
    """Return the model of a job as it is now; None where it has none."""
    return _model(_without_target(job))[0]


def _how(job: Job) -> dict[str, Any]:
    """Return what running the plan needs beside what it is: places and machinery."""
    return {
        "request": request(job),
        "output": {
            "path": str(job.output.folder),
            "formats": list(job.output.formats),
        },
        "execution": json.loads(job.execution.model_dump_json()),
        "qc": json.loads(job.qc.model_dump_json()),
        "prices": json.loads(job.prices.model_dump_json()) if job.prices else None,
    }


def _without_target(job: Job) -> Job:
    """Leave what is to be generated out of what is read, unless its composite is wanted.

    Raises:
        Wrong: no other input is left.
    """
    shown = job.shown
    if not shown:
        raise Wrong(
            f"To generate {', '.join(job.model.modalities)}, other inputs are needed: a model that "
            "is shown what it shall make has nothing to imagine. Add one to inputs."
        )
    return job if job.output.composites else job.model_copy(update={"inputs": shown})


def folder(plan: Plan) -> Path:
    """Return the folder of the plan's product: that of its period, which holds ``item.json``."""
    return Path(plan.job["output"]["path"]) / plan.name / f"{plan.period[0]}_{plan.period[1]}"


def home(job: Job) -> Path:
    """Return the folder of the product of a job's period, which holds ``item.json``."""
    return job.output.folder / job.name / job.span.folder


def request(job: Job) -> str:
    """Return the sha256 of what a job asks for, whatever the period: no folder, no machinery.

    A product whose plan was made for another request is no longer what the job describes.
    """
    values = json.loads(job.model_dump_json(include=_ASKED))
    place, made = job.catalog, job.execution
    return digest(
        values
        | {
            "region": geojson(job.geometry),
            "catalog": [place.provider, place.location],
            "model": job.model.to_load() | {"overlap": job.model.overlap},
            "average_below": job.model.average_below,
            "output": [job.output.formats, job.output.probabilities, job.output.composites],
            "execution": [made.tile, made.device, made.precision],
            "numerics": NUMERICS,
        }
    )
