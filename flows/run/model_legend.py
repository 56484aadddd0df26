"""The legend of a model's classes: what job and model state of them, and what is assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from catalogs.default_class_colors import parse_color
from catalogs.errors import InvalidInputError
from catalogs.legend import (
    LAND_COVER,
    ClassDefinition,
    Legend,
    build_legend,
    fold_to_ascii,
    is_land_cover,
)
from flows.config.classes import check_layer_name
from flows.config.job import Job
from model.predictor import spec
from pipeline import layer_table
from pipeline.plan.recipe import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """How a map shows the classes of an output."""

    legend: Legend = LAND_COVER
    layer: str | None = None
    """Name of the layer of classes, where it is not the task's."""


def build_class_map(job: Job, output: spec.OutputSpec) -> ClassMap:
    """Return legend and layer of an output of classes; the default ones for other outputs.

    The job's titles, colours, codes and layer come first, then the model's.

    Raises:
        InvalidInputError: the model's classes cannot be mapped, or all of them are gaps.
    """
    if not output.class_names:
        return ClassMap()
    stated = {entry.name: entry.to_definition() for entry in job.model.classes or ()}
    colors = output.class_colors or (None,) * len(output.class_names)
    definitions = [
        _complete_definition(
            stated.get(name, ClassDefinition(name=name)), color, name in output.ignored_classes
        )
        for name, color in zip(output.class_names, colors, strict=True)
    ]
    if all(definition.is_gap for definition in definitions):
        raise InvalidInputError(
            f"The model {job.model.label}: all of its classes are gaps, so nothing would be "
            "mapped. Remove gap: true from the classes that stand for something on the ground."
        )
    default = layer_table.CLASS_LAYER if is_land_cover(definitions) else layer_table.OWN_CLASS_LAYER
    try:
        legend = build_legend(definitions)
        layer = check_layer_name(job.model.layer or output.layer or default)
    except ValueError as error:
        raise InvalidInputError(f"The model {job.model.label}: {error}") from error
    return ClassMap(legend=legend, layer=None if layer == layer_table.CLASS_LAYER else layer)


def _complete_definition(
    definition: ClassDefinition, color: str | None, is_ignored: bool
) -> ClassDefinition:
    """Add what the model states of a class."""
    own_color = None if color is None else parse_color(color)
    return replace(
        definition,
        color=definition.color or own_color,
        is_gap=definition.is_gap or is_ignored,
    )


def list_notes(model: ModelSpec) -> Iterator[str]:
    """Yield what was assumed of the classes of a model whose legend is its own."""
    output = model.class_output
    if output is None or output.legend.nodata == LAND_COVER.nodata:
        return
    public = [_to_public_name(name) for name in output.class_names]
    if all(name in LAND_COVER.by_name for name in public):
        yield (
            "the classes are not written as those of land cover, so the map has codes of its own: "
            f"for the public codes write classes: [{', '.join(public)}]"
        )
    gaps = [name for name in output.class_names if output.legend.by_name[name].is_gap]
    if gaps:
        yield f"never mapped, and counted as not classified: {', '.join(gaps)}"


def _to_public_name(name: str) -> str:
    """Return the public name of a class of land cover that is spelled otherwise, else the name."""
    folded = fold_to_ascii(name).casefold().replace(" ", "_").replace("-", "_")
    for entry in LAND_COVER.classes:
        if folded == entry.title.casefold().replace(" ", "_"):
            return entry.name
    return folded
