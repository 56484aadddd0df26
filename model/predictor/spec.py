"""What a predictor takes and what it answers, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.terramind.modalities import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """One thing that a predictor says of a window."""

    task: str
    """land_cover, embedding or generate."""

    class_names: tuple[str, ...] = ()
    """Names of the probabilities of a land_cover answer, in order."""

    bands: tuple[str, ...] = ()
    """Names of the channels of any other answer."""

    modality: str | None = None
    """What is generated."""

    unit: str | None = None
    """Of what is generated: DN, dB, m, or 1 for a ratio."""

    stride: int = 1
    """Pixels along a side of one value: 16 for the features of a patch."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels: classes, or bands."""
        return self.class_names or self.bands


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec:
    """What a predictor takes and what it answers, for each window."""

    window: int
    """Side of one input, px."""

    inputs: Mapping[str, tuple[str, ...]]
    """Bands by modality, in the order of the channels."""

    statistics: Mapping[str, Statistics]
    """Of the inputs, per band, in the modality's own unit."""

    outputs: tuple[OutputSpec, ...]
    """At least one; the first one is the primary one."""

    digest: str
    """sha256 over configuration, weights, statistics, and everything else that decides numbers."""
