"""The protocol of models in the pipeline: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Outputs = tuple[NDArray[np.float32], ...]
"""One array for each output of a model."""


class PredictorOutput(Protocol):
    """One output of a predictor; see :class:`pipeline.plan.output_spec.OutputSpec`."""

    @property
    def task(self) -> str:
        """``land_cover``, ``embedding``, ``generate`` or the name of another layer."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels: classes, or bands."""

    @property
    def stride(self) -> int:
        """Pixels along a side of one value."""


class Predictor(Protocol):
    """A model that predicts windows."""

    @property
    def window(self) -> int:
        """Side of a window in pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality -> band names in the model's order."""

    @property
    def outputs(self) -> Sequence[PredictorOutput]:
        """Outputs of one call of :meth:`predict`, in order."""

    @property
    def digest(self) -> str:
        """sha256 of configuration, weights and statistics."""

    def predict(
        self, chips: Mapping[str, NDArray[np.float32]], origins: Sequence[tuple[int, int]]
    ) -> Outputs:
        """Predict a batch.

        Args:
            chips: modality -> (batch, band, window, window); NaN = missing. Sentinel-2 in DN
                without offset, Sentinel-1 in decibel, heights in metres.
            origins: (row, column) of each window's first pixel, counted from the origin of the
                CRS; random numbers of generative models depend on it, not on the batch.

        Returns:
            For each output (batch, channel, window / stride, window / stride): probabilities that
            sum to one over the classes, features, or values in the output's unit. NaN = no value.
        """

    @property
    def predict_reference(self) -> Callable[..., Outputs] | None:
        """:meth:`predict` in fp32; None if it computes in fp32 already."""
