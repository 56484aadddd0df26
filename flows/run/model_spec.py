"""What a plan freezes of a job's model: its digest, its windows, and how it is loaded again."""

from __future__ import annotations

from typing import Any

from catalogs.errors import Wrong
from flows.config.job import Job
from flows.execution import malloc, model_cache
from model.predictor import batch_size, registry, weight_source
from pipeline.plan.recipe import Answer, Model

OVERLAP = 1 / 11
"""Share of a window that it has in common with the next where the model's own curve was not
measured: 20 of 224 pixels, which blend by fewer windows than a stride of 192 crops."""


def model(job: Job) -> Model:
    """Load the model of a job, and return what a plan says of it.

    Raises:
        Wrong: an input has no statistics; the model is not what the job says it is.
    """
    lacking = [name for name in job.inputs if name not in job.model.measured]
    if job.model.checkpoint is not None and lacking:
        raise Wrong(
            "A checkpoint carries no statistics, and model.stats has none of "
            f"{', '.join(lacking)}. Add them, or name only the inputs that the checkpoint was "
            "trained with."
        )
    malloc.give_back()
    # ^ weights are read in full precision and kept in half of it
    predictor = registry.load(
        **job.model.to_load(),
        inputs=job.shown,
        device=job.execution.device,
        precision=job.execution.precision,
        holes="fill",
    )
    model_cache.keep(predictor)
    batch = job.execution.batch
    return Model(
        name=job.model.label,
        digest=predictor.digest,
        window=predictor.window,
        inputs={name: tuple(bands) for name, bands in predictor.inputs.items()},
        precision=predictor.precision,
        batch=batch if isinstance(batch, int) else batch_size.batch(predictor),
        device=predictor.device_kind,
        answers=tuple(
            Answer(
                task=one.task,
                class_names=tuple(one.class_names),
                bands=tuple(one.bands),
                cell=one.cell,
                modality=one.modality,
                unit=one.unit,
            )
            for one in predictor.answers
        ),
    )


def overlap(job: Job, model: Model) -> int:
    """Return by how many pixels windows overlap: as the job says, else as was measured.

    Whole cells of the coarsest answer, so that the cells of two windows are the same.

    Raises:
        Wrong: more than half of a window.
    """
    asked = job.model.overlap
    if asked is not None and 2 * asked > model.window:
        raise Wrong(
            f"model.overlap {asked}: windows of {model.window} px can share "
            f"{model.window // 2} px at most."
        )
    cell = model.coarsest
    if asked is not None:
        return round(asked / cell) * cell
    return max(round((_measured(job) or model.window * OVERLAP) / cell), 1) * cell
    # ^ windows that do not overlap at all do not blend


def _measured(job: Job) -> int | None:
    """Return the overlap that the model's own curve asks for, where one was measured."""
    if job.model.checkpoint is not None:
        return None
    curve = registry.card_of(job.model.name, job.shown).reach
    return curve.overlap if curve else None


def to_load(job: Job) -> dict[str, Any]:
    """Return what the model's loader takes, with the weights that a configuration names."""
    asked = job.model.to_load()
    if job.model.config is not None and asked.get("weights") == "hub":
        card = registry.card_of(job.model.name, job.shown)
        asked["weights"] = weight_source.chosen(job.model.name, card, "hub")
    return asked
