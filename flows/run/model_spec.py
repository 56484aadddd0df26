"""The model in a plan: its spec, the overlap of its windows, and its load options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from catalogs.errors import InvalidInputError
from catalogs.scene import Caveat
from flows.config.job import Job
from flows.execution import memory_release, model_cache
from flows.run import model_legend, model_spec_cache
from flows.run.model_spec_cache import PlannedModel
from model.predictor import batch_size_search, registry, spec, weight_source
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.recipe import ModelSpec
from pipeline.plan.settings import ModelOptions

DEFAULT_OVERLAP = 1 / 11
"""Overlap of two windows as a share of a window, where the model's edge effect was not measured:
20 of 224 pixels, which blend over fewer windows than a stride of 192 crops."""


def load_model(job: Job) -> PlannedModel:
    """Load the model of a job; it stays in memory for the run.

    Raises:
        InvalidInputError: the model's classes cannot be mapped, the overlap is too large, or the
            job names other bands of an input than the model takes.
        ModelError: the model cannot be loaded, or contradicts the job.
    """
    memory_release.trim_heap()
    # ^ weights are read in full precision and kept in half of it
    predictor = registry.load(
        **job.model.to_options().to_dict(),
        inputs=job.model_inputs,
        device=job.execution.device,
        precision=job.execution.precision,
        nan_policy="fill",
    )
    _check_bands(job, predictor.inputs)
    model_cache.store_predictor(predictor)
    batch = job.execution.batch
    model_spec = ModelSpec(
        name=job.model.label,
        digest=predictor.digest,
        window=predictor.window,
        inputs={name: tuple(bands) for name, bands in predictor.inputs.items()},
        precision=predictor.precision,
        batch=batch if isinstance(batch, int) else batch_size_search.find_batch_size(predictor),
        device=predictor.device_type,
        outputs=tuple(_build_output_spec(job, output) for output in predictor.outputs),
    )
    planned = PlannedModel(
        spec=model_spec,
        overlap=_choose_overlap(job, model_spec, predictor.overlap),
        options=_build_model_options(job),
        caveats=tuple(
            Caveat(id=job.model.label, text=note)
            for note in (*predictor.notes, *model_legend.list_notes(model_spec))
        ),
    )
    model_spec_cache.keep_model(job, planned)
    return planned


def _check_bands(job: Job, inputs: Mapping[str, Sequence[str]]) -> None:
    """Refuse a list of bands in the job that is not the one that the model takes."""
    for name, bands in job.bands.items():
        model_bands = inputs.get(name, bands)
        if list(bands) != list(model_bands):
            raise InvalidInputError(
                f"bands names {', '.join(bands)} of {name}, but the model {job.model.label} takes "
                f"{', '.join(model_bands)} in this order: remove {name} from bands, as an input of "
                "the model has the model's bands. For composites of other bands, write model: "
                "{name: none} and output: {composites: true}."
            )


def _build_output_spec(job: Job, output: spec.OutputSpec) -> OutputSpec:
    """Return the specification of an output, with the legend and the layer of its classes.

    Raises:
        InvalidInputError: the model's classes cannot be mapped.
    """
    class_map = model_legend.build_class_map(job, output)
    return OutputSpec(
        task=output.task,
        class_names=output.class_names,
        legend=class_map.legend,
        layer=class_map.layer,
        bands=output.bands,
        stride=output.stride,
        modality=output.modality,
        unit=output.unit,
    )


def _choose_overlap(job: Job, model: ModelSpec, stated: int | None) -> int:
    """Return the overlap of two windows in pixels.

    It is the job's, else that of the model's authors, the measured or the default one.

    It is a multiple of the coarsest output's stride, so that the cells of two windows coincide.

    Raises:
        InvalidInputError: the job's overlap is more than half of a window.
    """
    overlap = job.model.overlap
    if overlap is not None and 2 * overlap > model.window:
        raise InvalidInputError(
            f"model.overlap {overlap}: windows of {model.window} px can share "
            f"{model.window // 2} px at most."
        )
    stride = model.max_output_stride
    if overlap is not None:
        return round(overlap / stride) * stride
    default = stated or _measured_overlap(job) or model.window * DEFAULT_OVERLAP
    return max(round(default / stride), 1) * stride
    # ^ windows without any overlap do not blend


def _measured_overlap(job: Job) -> int | None:
    """Return the overlap that the model's measured edge effect needs; None where unmeasured."""
    if job.model.checkpoint is not None:
        return None
    curve = registry.get_card(job.model.name, job.model_inputs).reach
    return curve.overlap if curve else None


def _build_model_options(job: Job) -> ModelOptions:
    """Return the options of the model, with the weights that a configuration names."""
    options = job.model.to_options()
    if job.model.config_path is None or options.weights != "hub":
        return options
    card = registry.get_card(job.model.name, job.model_inputs)
    source = weight_source.choose_source(job.model.name, card, "hub")
    return replace(options, weights=str(source) if isinstance(source, Path) else source)
