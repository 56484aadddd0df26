"""What turns scenes into layers: the recipe, and what must be known of the model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.plan.output_spec import OutputSpec

COMPOSITE_METHODS = ("median", "medoid", "least_cloudy", "latest")
"""How many clear observations of a pixel become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything between scenes and layers that is not the model."""

    inputs: tuple[str, ...]
    """Modalities, in the order the job names them."""

    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> its bands, where others than the usual ones are asked for."""

    clear_scl: tuple[int, ...]
    """Scene classes of Sentinel-2 that count as clear."""

    dilate_m: float
    """Metres by which what is in ``dilate_scl`` is widened."""

    dilate_scl: tuple[int, ...] = (3, 8, 9, 10)
    """Scene classes that are widened where they are not clear: cloud shadow, cloud, cirrus."""

    max_cloud_probability: float | None = None
    """Percent: pixels above it are not clear, where a scene has a cloud probability."""

    method: str
    """How Sentinel-2 observations are composed: one of :data:`COMPOSITE_METHODS`."""

    steps: tuple[tuple[str, str], ...] = ()
    """First and last day of each part of the period that gets composites of its own."""

    stride: int
    """Pixels between neighbouring model windows."""

    margin: int
    """Pixels of a window that only serve as context."""

    average_below: float | None = None
    """Mean probability of the mapped class below which a window is asked from eight sides."""

    probabilities: bool
    composites: bool

    def __post_init__(self) -> None:
        if self.method not in COMPOSITE_METHODS:
            raise ValueError(
                f"unknown method {self.method!r}; known are {', '.join(COMPOSITE_METHODS)}"
            )
        limit = self.max_cloud_probability
        if limit is not None and not 0 <= limit <= 100:
            raise ValueError(f"a cloud probability of {limit} percent")
        for first, last in self.steps:
            if dt.date.fromisoformat(first) > dt.date.fromisoformat(last):
                raise ValueError(f"the step {first} to {last} ends before it begins")

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
        return {key: _tuples_to_lists(one) for key, one in value.items()}
    return [_tuples_to_lists(one) for one in value] if isinstance(value, tuple) else value


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(one) for key, one in value.items()}
    return tuple(_lists_to_tuples(one) for one in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the plan must know of the model to cut windows, and to know it again."""

    name: str
    digest: str
    window: int
    inputs: Mapping[str, tuple[str, ...]]
    precision: str
    batch: int
    """Windows per call: the last call of a tile is filled up."""

    device: str = "cpu"
    """Kind of device, ``cpu`` or ``cuda``: the bits of an answer are those of a kind."""

    outputs: tuple[OutputSpec, ...]
    """Its outputs, all of one pass; the first one is the primary one. ``answers`` in plan.json."""

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a model that is asked for nothing")
        if len({one.layer_name for one in self.outputs}) < len(self.outputs):
            raise ValueError("a model is asked for each thing once")
        if any(self.window % one.stride for one in self.outputs):
            raise ValueError(f"windows of {self.window} px are not whole cells")

    @property
    def primary_output(self) -> OutputSpec:
        """Return the answer that leads: the land cover, or the first one."""
        return self.outputs[0]

    @property
    def output_stride(self) -> int:
        """Return the pixels along the side of a cell of the finest answer."""
        return min(one.stride for one in self.outputs)

    @property
    def max_output_stride(self) -> int:
        """Return the pixels along the side of a cell of the coarsest answer."""
        return max(one.stride for one in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values; what has its default stands there unsaid."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["inputs"] = {key: list(bands) for key, bands in self.inputs.items()}
        del values["outputs"]
        values["answers"] = [output.to_dict() for output in self.outputs]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Build a model from :meth:`to_dict`'s values."""
        inputs = {key: tuple(bands) for key, bands in values["inputs"].items()}
        outputs = tuple(OutputSpec.from_dict(entry) for entry in values["answers"])
        others = {key: value for key, value in values.items() if key not in ("answers", "inputs")}
        return cls(**others, inputs=inputs, outputs=outputs)
