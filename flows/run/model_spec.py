"""What a plan freezes of a job's model: its digest, its windows, and how it is loaded again."""

from __future__ import annotations

from typing import Any

from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.execution import malloc, model_cache
from model.predictor import batch_size, registry, weight_source
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.recipe import ModelSpec

DEFAULT_OVERLAP = 1 / 11
"""Share of a window that it has in common with the next where the model's own curve was not
measured: 20 of 224 pixels, which blend by fewer windows than a stride of 192 crops."""


def load_spec(job: Job) -> ModelSpec:
    """Load the model of a job, and return what a plan says of it.

    Raises:
        InvalidInputError: an input has no statistics; the model is not what the job says it is.
    """
    lacking = [name for name in job.inputs if name not in job.model.inputs_with_statistics]
    if job.model.checkpoint is not None and lacking:
        raise InvalidInputError(
            "A checkpoint carries no statistics, and model.stats has none of "
            f"{', '.join(lacking)}. Add them, or name only the inputs that the checkpoint was "
            "trained with."
        )
    malloc.trim_heap()
    # ^ weights are read in full precision and kept in half of it
    predictor = registry.load(
        **job.model.to_loader_options(),
        inputs=job.model_inputs,
        device=job.execution.device,
        precision=job.execution.precision,
        nan_policy="fill",
    )
    model_cache.store_predictor(predictor)
    batch = job.execution.batch
    return ModelSpec(
        name=job.model.label,
        digest=predictor.digest,
        window=predictor.window,
        inputs={name: tuple(bands) for name, bands in predictor.inputs.items()},
        precision=predictor.precision,
        batch=batch if isinstance(batch, int) else batch_size.find_batch_size(predictor),
        device=predictor.device_type,
        outputs=tuple(
            OutputSpec(
                task=output.task,
                class_names=output.class_names,
                bands=output.bands,
                stride=output.stride,
                modality=output.modality,
                unit=output.unit,
            )
            for output in predictor.outputs
        ),
    )


def choose_overlap(job: Job, model: ModelSpec) -> int:
    """Return by how many pixels windows overlap: as the job says, else as was measured.

    Whole cells of the coarsest answer, so that the cells of two windows are the same.

    Raises:
        InvalidInputError: more than half of a window.
    """
    asked = job.model.overlap
    if asked is not None and 2 * asked > model.window:
        raise InvalidInputError(
            f"model.overlap {asked}: windows of {model.window} px can share "
            f"{model.window // 2} px at most."
        )
    cell = model.max_output_stride
    if asked is not None:
        return round(asked / cell) * cell
    return max(round((_measured_overlap(job) or model.window * DEFAULT_OVERLAP) / cell), 1) * cell
    # ^ windows that do not overlap at all do not blend


def _measured_overlap(job: Job) -> int | None:
    """Return the overlap that the model's own curve asks for, where one was measured."""
    if job.model.checkpoint is not None:
        return None
    curve = registry.get_card(job.model.name, job.model_inputs).reach
    return curve.overlap if curve else None


def build_load_options(job: Job) -> dict[str, Any]:
    """Return what the model's loader takes, with the weights that a configuration names."""
    asked = job.model.to_loader_options()
    if job.model.config_path is not None and asked.get("weights") == "hub":
        card = registry.get_card(job.model.name, job.model_inputs)
        asked["weights"] = weight_source.choose_source(job.model.name, card, "hub")
    return asked
