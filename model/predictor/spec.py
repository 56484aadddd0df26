"""Specification of a predictor in plain values: its inputs, its outputs, its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from model.errors import ModelError, join_names
from model.predictor.card_file import Card
from model.terramind.modalities import RASTER_MODALITIES, Statistics, get_raster_modality
from model.weights import loading

_PRESENTATION_FIELDS = ("class_colors", "ignored_classes", "layer")
"""Fields of an output that decide no number of the model, and so no digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One output of a predictor: for each window an array (channels, H / stride, W / stride)."""

    task: str
    """land_cover, embedding or generate."""

    class_names: tuple[str, ...] = ()
    """Names of the probabilities, in order; empty unless the task is land_cover."""

    class_colors: tuple[str, ...] = ()
    """Colours of the classes, `#rrggbb`; empty where the model has none."""

    ignored_classes: tuple[str, ...] = ()
    """Names of classes that the model was not trained to predict: they are not mapped."""

    layer: str | None = None
    """Name for the layer of classes; None to choose one by the classes."""

    bands: tuple[str, ...] = ()
    """Names of the channels of other tasks."""

    modality: str | None = None
    """Modality that is generated; None for other tasks."""

    unit: str | None = None
    """Unit of generated values: DN, dB, m, or 1 for a ratio."""

    stride: int = 1
    """Pixels along a side of one value: 16 for the features of a patch."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels: classes, or bands."""
        return self.class_names or self.bands


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec:
    """Inputs and outputs of a predictor for each window."""

    window: int
    """Side of one input, px."""

    inputs: Mapping[str, tuple[str, ...]]
    """Bands by modality, in the order of the channels."""

    statistics: Mapping[str, Statistics]
    """Mean and standard deviation of the inputs by band, in the modality's own unit."""

    outputs: tuple[OutputSpec, ...]
    """At least one; the first one is the primary one."""

    digest: str
    """sha256 over configuration, weights, statistics and everything else that decides numbers."""


def build_spec(
    card: Card,
    inputs: Mapping[str, tuple[str, ...]],
    network: nn.Module,
    outputs: Sequence[OutputSpec],
    *,
    options: Mapping[str, Any] | None = None,
) -> PredictorSpec:
    """Return the specification of a network with a card.

    Args:
        card: the model's card.
        inputs: the inputs that will be given, see :func:`select_inputs`.
        network: with its weights, which the digest covers.
        outputs: of the network.
        options: other settings that decide numbers, in JSON-ready values.
    """
    identity = {
        "card": card.identity(),
        "inputs": {name: list(bands) for name, bands in inputs.items()},
        "answers": [_output_identity(output) for output in outputs],
        "how": dict(options or {}),
        "state": loading.hash_state_dict(network.state_dict()),
    }
    text = json.dumps(identity, sort_keys=True)
    return PredictorSpec(
        window=card.window,
        inputs=inputs,
        statistics=card.statistics,
        outputs=tuple(outputs),
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _output_identity(output: OutputSpec) -> dict[str, Any]:
    """Return the fields of an output under the names that digests are computed with."""
    values = asdict(output)
    for name in _PRESENTATION_FIELDS:
        del values[name]
    return {"cell" if name == "stride" else name: value for name, value in values.items()}


def select_inputs(card: Card, inputs: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Return bands by modality of the inputs that will be given, in the order of the card.

    Another order of the inputs would change the bits of the outputs.

    Args:
        card: the model's card.
        inputs: names of modalities, in any order; None = all of the card's.

    Raises:
        ModelError: an input that the card does not have, none at all, or one twice.
    """
    if inputs is None:
        return dict(card.inputs)
    names = [get_raster_modality(name).name for name in inputs]
    unknown = [name for name in names if name not in card.inputs]
    if unknown or not names or len(set(names)) != len(names):
        raise ModelError(
            f"inputs {join_names(inputs)}: the model {card.name} takes "
            f"{join_names(card.inputs)}, each once (TerraMind knows "
            f"{join_names(RASTER_MODALITIES)})"
        )
    return {name: bands for name, bands in card.inputs.items() if name in names}
