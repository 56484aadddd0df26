"""Tasks that a model can be requested for, and the outputs that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.errors import ModelError, join_names
from model.predictor.card_file import TASKS
from model.predictor.spec import OutputSpec
from model.terramind.encoder import Encoder
from model.terramind.modalities import PATCH_SIZE, RASTER_MODALITIES, TARGET_MODALITIES

GENERATED_MODALITIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    name: (RASTER_MODALITIES[name].bands, RASTER_MODALITIES[name].unit)
    if name in RASTER_MODALITIES
    else ((name,), "1")
    for name, target in TARGET_MODALITIES.items()
    if target.statistics is not None
}
"""Modalities that can be generated as values → names of the channels, and the unit."""


def parse_tasks(
    task: str | Sequence[str], modality: str | Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requested tasks, and the modalities to generate, in a fixed order.

    Args:
        task: one task or several, in any order.
        modality: what to generate, one or several; None unless the task is generate.

    Raises:
        ModelError: an unknown, repeated or missing name, or a modality without its task.
    """
    tasks, modalities = _parse_names(task), _parse_names(modality)
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise ModelError(f"unknown task {join_names(unknown)}; known are {join_names(TASKS)}")
    if ("generate" in tasks and not modalities) or any(
        name not in GENERATED_MODALITIES for name in modalities
    ):
        raise ModelError(
            f"modality {join_names(modalities)}: name what is to be generated, one or more of "
            f"{join_names(GENERATED_MODALITIES)}"
            + (" (land cover is a task of its own)" if "LULC" in modalities else "")
        )
    if modalities and "generate" not in tasks:
        raise ModelError(
            f"modality {join_names(modalities)}: only the task generate has one, not "
            f"{join_names(tasks)}"
        )
    return (
        tuple(name for name in TASKS if name in tasks),
        tuple(name for name in GENERATED_MODALITIES if name in modalities),
    )


def embedding_output(encoder: Encoder) -> OutputSpec:
    """Return the output of the task embedding: one vector per patch."""
    bands = tuple(f"e{index:03d}" for index in range(encoder.architecture.dim))
    return OutputSpec(task="embedding", bands=bands, stride=PATCH_SIZE)


def generated_output(modality: str) -> OutputSpec:
    """Return the output of the task generate for a modality.

    Raises:
        ModelError: the modality cannot be generated as values.
    """
    if modality not in GENERATED_MODALITIES:
        raise ModelError(
            f"modality {modality!r} cannot be generated as values; known are "
            f"{join_names(GENERATED_MODALITIES)} (land cover has a task of its own)"
        )
    bands, unit = GENERATED_MODALITIES[modality]
    return OutputSpec(task="generate", bands=bands, modality=modality, unit=unit)


def _parse_names(names: str | Sequence[str] | None) -> list[str]:
    unique = [names] if isinstance(names, str) else list(names or ())
    if len(set(unique)) < len(unique):
        raise ModelError(f"{join_names(unique)}: each once")
    return unique
