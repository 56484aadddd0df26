"""Output specification: what one output of a model holds, and which layer stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pipeline import layer_table
from pipeline.layer_table import OutputKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One output of a model: for each window an array (channel, window / stride, window / stride).

    How it is stored follows from the entry of :data:`pipeline.layer_table.LAYERS` that
    is called :attr:`layer_name`: Zarr variable, COG, STAC asset, style and report read data type,
    nodata, scale and unit there.
    """

    task: str = "land_cover"
    """``land_cover``, ``embedding``, ``generate``, or the name of another layer of an output."""

    class_names: tuple[str, ...] = ()
    """Names of the legend, in the order of the probabilities; empty for other kinds."""

    bands: tuple[str, ...] = ()
    """Names of the channels where they are not classes."""

    stride: int = 1
    """Pixels along a side of one value: 16 for the features of a patch. ``cell`` in plan.json."""

    modality: str | None = None
    """Modality that is generated; None for other tasks."""

    unit: str | None = None
    """Unit of the values as the model gives them; None where they have none."""

    def __post_init__(self) -> None:
        if self.task == "generate" and self.modality is None:
            raise ValueError("an output of the task 'generate' needs a modality")
        layer = layer_table.LAYERS_BY_NAME.get(self.layer_name)
        if layer is None or layer.kind is None:
            known = ", ".join(
                name for name, entry in layer_table.LAYERS_BY_NAME.items() if entry.kind
            )
            raise ValueError(
                f"unknown task {self.task!r}: no layer {self.layer_name!r} stores an output of a "
                f"model; there are {known}"
            )
        if not self.channels:
            raise ValueError(f"an output of the task {self.task!r} needs class_names or bands")
        if self.stride < 1:
            raise ValueError(f"an output stride of {self.stride} px is not positive")
        if self.unit != layer.model_unit:
            raise ValueError(
                f"The layer {layer.name!r} stores values in {layer.model_unit!r}, but the model's "
                f"output is in {self.unit!r}."
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels: classes, or bands."""
        return self.class_names or self.bands

    @property
    def layer_name(self) -> str:
        """Return the name of the layer that stores the output."""
        return f"generated_{self.modality}" if self.task == "generate" else self.task

    @property
    def kind(self) -> OutputKind | None:
        """Return whether the channels are class probabilities, values or features."""
        return layer_table.get(self.layer_name).kind

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, without the fields that have their default."""
        return {
            "cell" if field.name == "stride" else field.name: list(value)
            if isinstance(value, tuple)
            else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OutputSpec:
        """Build an output specification from :meth:`to_dict`'s values."""
        options: dict[str, Any] = {
            "stride" if key == "cell" else key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
        }
        return cls(**options)
