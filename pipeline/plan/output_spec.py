"""Output specification: what one output of a model holds, and which layers store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from catalogs.legend import LAND_COVER, Legend
from pipeline import layer_table
from pipeline.layer_table import Layer, OutputKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One output of a model: for each window an array (channel, window / stride, window / stride).

    How it is stored follows from :attr:`layers`: Zarr variables, COGs, STAC assets, styles and
    report read data type, nodata, scale, unit and legend there.
    """

    task: str = "land_cover"
    """``land_cover``, ``embedding``, ``generate``, or the name of another layer of an output."""

    class_names: tuple[str, ...] = ()
    """Names of the legend, in the order of the probabilities; empty for other kinds."""

    legend: Legend = LAND_COVER
    """Codes, titles and colours of the classes; of no meaning for other kinds."""

    layer: str | None = None
    """Name of the layer of classes, where it is not the task's."""

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
        layer = layer_table.LAYERS_BY_NAME.get(self._table_name)
        if layer is None or layer.kind is None:
            layer_names = ", ".join(
                name for name, entry in layer_table.LAYERS_BY_NAME.items() if entry.kind
            )
            raise ValueError(
                f"unknown task {self.task!r}: no layer {self._table_name!r} stores an output of a "
                f"model; there are {layer_names}"
            )
        if not self.channels:
            raise ValueError(f"an output of the task {self.task!r} needs class_names or bands")
        unknown = [name for name in self.class_names if name not in self.legend.by_name]
        if unknown:
            raise ValueError(
                f"the legend of the output has no class {unknown[0]!r}; its classes are "
                f"{', '.join(self.legend.by_name)}"
            )
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
    def codes(self) -> tuple[int, ...]:
        """Return the codes of the classes, in the order of the probabilities."""
        return tuple(self.legend.by_name[name].code for name in self.class_names)

    @property
    def layer_name(self) -> str:
        """Return the name of the layer that stores the output, or its classes."""
        return self.layer or self._table_name

    @property
    def main_layer(self) -> Layer:
        """Return the layer that stores the output, or its classes."""
        return self.layers[self.layer_name]

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Return the layers that store the output, by name; see :attr:`main_layer`."""
        layer = layer_table.get(self._table_name)
        if layer.kind == "classes":
            return layer_table.build_class_layers(self.layer_name, self.legend)
        return {layer.name: layer}

    @property
    def kind(self) -> OutputKind | None:
        """Return whether the channels are class probabilities, values or features."""
        return layer_table.get(self._table_name).kind

    @property
    def _table_name(self) -> str:
        """Return the name of the output's entry in the table of layers."""
        return f"generated_{self.modality}" if self.task == "generate" else self.task

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, without the fields that have their default."""
        values: dict[str, Any] = {
            "cell" if field.name == "stride" else field.name: list(value)
            if isinstance(value, tuple)
            else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        if "legend" in values:
            values["legend"] = self.legend.to_dict()
        return values

    def identity(self) -> dict[str, Any]:
        """Return what decides pixels: :meth:`to_dict` without the titles and colours of classes."""
        values = self.to_dict()
        if "legend" in values:
            values["legend"] = {
                "nodata": self.legend.nodata,
                "codes": list(self.codes),
                "gaps": [entry.code for entry in self.legend.classes if entry.is_gap],
            }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OutputSpec:
        """Build an output specification from :meth:`to_dict`'s values."""
        options: dict[str, Any] = {
            "stride" if key == "cell" else key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
        }
        if "legend" in options:
            options["legend"] = Legend.from_dict(options["legend"])
        return cls(**options)
