"""What the model of a plan was asked for, and whose numbers it has: told in the product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.plan.plan import Plan

_PUBLISHED_OPTIONS = ("modality", "timesteps", "classes")


def model_options(plan: Plan) -> dict[str, Any]:
    """Return the model's options, JSON-ready; of files the names, and no folder."""
    if plan.model is None:
        return {}
    asked = plan.job["model"]
    tasks = list(dict.fromkeys(one.task for one in plan.model.outputs))
    told = {"task": tasks if len(tasks) > 1 else tasks[0], "inputs": list(plan.model_inputs)}
    told |= {key: asked[key] for key in _PUBLISHED_OPTIONS if key in asked}
    told |= {key: _drop_directory(asked[key]) for key in ("checkpoint", "stats") if key in asked}
    told |= {key: _drop_directory(value) for key, value in _weight_sources(asked).items()}
    return told


def is_random(plan: Plan) -> bool:
    """Tell whether any of the model's numbers are random."""
    if plan.model is None:
        return False
    sources = _weight_sources(plan.job["model"])
    return any("random" in each for each in sources.values() if isinstance(each, Mapping))


def _weight_sources(model_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the numbers of the model and of each tokenizer come from."""
    own = (
        {}
        if "checkpoint" in model_settings
        else {"weights": model_settings.get("weights") or "shipped"}
    )
    return own | {
        f"tokenizer {name}": one for name, one in model_settings.get("tokenizers", {}).items()
    }


def _drop_directory(source: Any) -> Any:
    """Return a source with a file's name instead of its path."""
    if isinstance(source, str):
        return Path(source).name
    if isinstance(source, Mapping) and "path" in source:
        return {**source, "path": Path(source["path"]).name}
    return source
