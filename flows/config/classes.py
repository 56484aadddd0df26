"""Classes of a model in a job: their names, and how a map shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from catalogs.default_class_colors import format_color, parse_color
from catalogs.legend import OWN_NODATA, ClassDefinition
from flows.config.base import ConfigModel
from pipeline import layer_table

LAYER_NAME_PATTERN = "[A-Za-z][A-Za-z0-9_]{0,62}"
"""Regular expression of the name of a layer."""

_RESERVED_NAMES = (
    *("x", "y", "time", "band", "spatial_ref"),
    *("quicklook", "zarr", "report", "style", "sld", "plan"),
)
# ^ coordinates of the Zarr store, and other assets of the item
RESERVED_PREFIXES = ("band_", "cells_", "composite_", "series_", "generated_", "style_", "sld_")
"""Beginnings of names of other layers and files, in lower case."""


class ClassConfig(ConfigModel):
    """One class of a checkpoint; a text is its name."""

    name: str = Field(title="Name of the class", description="the class's name, a text")
    title: str | None = Field(
        title="Title in legends", default=None, min_length=1, description="a text for legends"
    )
    color: str | None = Field(
        title="Colour on the map", default=None, description="a colour in quotes, as in '#d55e00'"
    )
    code: int | None = Field(
        title="Value of its pixels",
        default=None,
        ge=0,
        lt=OWN_NODATA,
        description=f"a whole number from 0 to {OWN_NODATA - 1}",
    )
    gap: bool = Field(
        title="Whether the class stands for a gap, such as clouds",
        default=False,
        description="true where pixels of the class count as not classified",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            raise ValueError(  # noqa: TRY004
                # ^ pydantic reports ValueError only
                f"the class name {value!r} is not a text: write it in quotes."
            )
        return value

    @field_validator("color")
    @classmethod
    def _check_color(cls, value: str | None) -> str | None:
        return value if value is None else f"#{format_color(parse_color(value))}"

    def to_definition(self) -> ClassDefinition:
        """Return the definition of the class."""
        return ClassDefinition(
            name=self.name,
            title=self.title,
            color=None if self.color is None else parse_color(self.color),
            code=self.code,
            is_gap=self.gap,
        )

    @property
    def has_details(self) -> bool:
        """Tell whether the job states more of the class than its name."""
        return self != ClassConfig(name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendOptions:
    """What a job states about the map of a model's classes beyond their names."""

    layer: str | None = None
    classes: tuple[ClassConfig, ...] = ()
    """All classes, where more is stated of one of them than its name."""

    def to_mapping(self) -> dict[str, Any]:
        """Return what is stated, as JSON types."""
        layer = {} if self.layer is None else {"layer": self.layer}
        classes = [entry.model_dump() for entry in self.classes]
        return {**layer, **({"classes": classes} if classes else {})}


def check_layer_name(name: str) -> str:
    """Return the name of a layer of classes.

    Raises:
        ValueError: The name cannot name a file and a variable, or it names another layer.
    """
    if not re.fullmatch(LAYER_NAME_PATTERN, name):
        raise ValueError(
            f"the layer {name!r} must begin with a letter and have letters, digits and "
            "underscores only, as in burn_scars."
        )
    if name.lower() in list_reserved_names() or name.lower().startswith(RESERVED_PREFIXES):
        raise ValueError(f"the name {name!r} is taken by another layer or file: write another one.")
    return name


def list_reserved_names() -> frozenset[str]:
    """Return the names of other layers and files, in lower case."""
    layers = [layer.name for layer in layer_table.list_layers() if layer.kind != "classes"]
    return frozenset((*map(str.lower, layers), *_RESERVED_NAMES))
