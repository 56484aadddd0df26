"""Recipe and model specification: what a plan states about computing layers from scenes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.plan.output_spec import OutputSpec

COMPOSITE_METHODS = ("median", "medoid", "least_cloudy", "latest")
"""Ways of reducing the clear observations of a pixel to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings between scenes and layers that do not belong to the model."""

    inputs: tuple[str, ...]
    """Modalities, in the order of the job."""

    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality → its bands, where the job requests others than the default ones."""

    clear_scl: tuple[int, ...]
    """Classes of Sentinel-2's scene classification (SCL) that count as clear."""

    dilate_m: float
    """Metres by which pixels of the classes in ``dilate_scl`` are dilated."""

    dilate_scl: tuple[int, ...] = (3, 8, 9, 10)
    """SCL classes that are dilated unless they are clear: cloud shadow, cloud, cirrus."""

    max_cloud_probability: float | None = None
    """Percent: where a scene has a cloud probability band, pixels above it are not clear."""

    method: str
    """How Sentinel-2 observations are composited: one of :data:`COMPOSITE_METHODS`."""

    steps: tuple[tuple[str, str], ...] = ()
    """First and last day of each part of the period that has composites of its own."""

    stride: int
    """Pixels between the starts of neighbouring model windows."""

    margin: int
    """Pixels along each edge of a window that only serve as context; 0 in plans of jobs."""

    average_below: float | None = None
    """Mean probability of the mapped class below which a window gets test-time augmentation."""

    probabilities: bool
    composites: bool

    def __post_init__(self) -> None:
        if self.method not in COMPOSITE_METHODS:
            raise ValueError(
                f"unknown composite method {self.method!r}; "
                f"known are {', '.join(COMPOSITE_METHODS)}"
            )
        limit = self.max_cloud_probability
        if limit is not None and not 0 <= limit <= 100:
            raise ValueError(f"max_cloud_probability is {limit} percent, not between 0 and 100")
        for first, last in self.steps:
            if dt.date.fromisoformat(first) > dt.date.fromisoformat(last):
                raise ValueError(
                    f"the part of the period from {first} to {last} ends before it begins"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: _tuples_to_lists(value) for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from :meth:`to_dict`'s values."""
        return cls(**{key: _lists_to_tuples(value) for key, value in values.items()})


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, tuple) else value


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The model of a plan: what identifies it, and what placing its windows needs."""

    name: str
    digest: str
    window: int
    inputs: Mapping[str, tuple[str, ...]]
    precision: str
    batch: int
    """Windows per call; the last batch of a tile is padded to this size."""

    device: str = "cpu"
    """``cpu`` or ``cuda``: outputs are bit-identical only on the same type of device."""

    outputs: tuple[OutputSpec, ...]
    """The requested outputs of one forward pass, the primary one first; ``answers`` in JSON."""

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a model needs at least one output")
        if len({output.layer_name for output in self.outputs}) < len(self.outputs):
            raise ValueError("an output of the model is requested more than once")
        if any(self.window % output.stride for output in self.outputs):
            raise ValueError(f"windows of {self.window} px are not whole cells of every output")

    @property
    def class_output(self) -> OutputSpec | None:
        """Return the output of class probabilities; None where there is none."""
        return next((output for output in self.outputs if output.kind == "classes"), None)

    @property
    def primary_output(self) -> OutputSpec:
        """Return the primary output: the first one."""
        return self.outputs[0]

    @property
    def output_stride(self) -> int:
        """Return the smallest output stride, pixels."""
        return min(output.stride for output in self.outputs)

    @property
    def max_output_stride(self) -> int:
        """Return the largest output stride, pixels."""
        return max(output.stride for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values, without output fields that have their default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["inputs"] = {key: list(bands) for key, bands in self.inputs.items()}
        del values["outputs"]
        values["answers"] = [output.to_dict() for output in self.outputs]
        return values

    def identity(self) -> dict[str, Any]:
        """Return what decides pixels, JSON-ready: titles and colours of classes do not."""
        return self.to_dict() | {"answers": [output.identity() for output in self.outputs]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Build a model specification from :meth:`to_dict`'s values."""
        inputs = {key: tuple(bands) for key, bands in values["inputs"].items()}
        outputs = tuple(OutputSpec.from_dict(output) for output in values["answers"])
        facts = {key: value for key, value in values.items() if key not in ("answers", "inputs")}
        return cls(**facts, inputs=inputs, outputs=outputs)
