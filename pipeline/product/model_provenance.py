"""List the options of a plan's model and the sources of its weights, to be published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.plan import Plan
from pipeline.plan.settings import ModelOptions


def model_options(plan: Plan) -> dict[str, Any]:
    """Return the model's options, JSON-ready; files are named without their folders."""
    if plan.model is None:
        return {}
    settings = plan.settings.model
    tasks = list(dict.fromkeys(_task_name(output) for output in plan.model.outputs))
    options = {"task": tasks if len(tasks) > 1 else tasks[0], "inputs": list(plan.model_inputs)}
    published = {
        "modality": settings.modality,
        "timesteps": settings.timesteps,
        "classes": settings.classes,
        "checkpoint": _drop_directory(settings.checkpoint),
        "stats": _drop_directory(settings.stats),
    }
    options |= {key: value for key, value in published.items() if value is not None}
    options |= {key: _drop_directory(source) for key, source in _weight_sources(settings).items()}
    return options


def _task_name(output: OutputSpec) -> str:
    """Return the task of an output; classes that are no land cover are called by their layer."""
    return output.layer_name if output.kind == "classes" else output.task


def is_random(plan: Plan) -> bool:
    """Return whether any weights of the plan's model are random."""
    if plan.model is None:
        return False
    sources = _weight_sources(plan.settings.model).values()
    return any("random" in source for source in sources if isinstance(source, Mapping))


def _weight_sources(model_options: ModelOptions) -> dict[str, Any]:
    """Return the sources of the weights of the model and of each tokenizer, by label."""
    sources: dict[str, Any] = {}
    if model_options.checkpoint is None:
        sources["weights"] = model_options.weights or "shipped"
    for name, source in (model_options.tokenizers or {}).items():
        sources[f"tokenizer {name}"] = source
    return sources


def _drop_directory(source: Any) -> Any:
    """Return a source of weights with the name of a file instead of its path."""
    if isinstance(source, str):
        return Path(source).name
    if isinstance(source, Mapping) and "path" in source:
        return {**source, "path": Path(source["path"]).name}
    return source
