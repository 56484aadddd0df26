"""A model as the pipeline knows it: numbers in, numbers out."""

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
    """What makes answers of windows."""

    @property
    def window(self) -> int:
        """Side of one input, pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality → band names in the model's order."""

    @property
    def outputs(self) -> Sequence[PredictorOutput]:
        """What is predicted, all in one pass."""

    @property
    def digest(self) -> str:
        """sha256 over configuration, weights and statistics."""

    def predict(
        self, chips: Mapping[str, NDArray[np.float32]], places: Sequence[tuple[int, int]]
    ) -> Outputs:
        """Predict a batch.

        Args:
            chips: modality → (batch, band, window, window); NaN = missing. Sentinel-2 in DN
                without offset, Sentinel-1 in decibel, heights in metres.
            places: (row, column) of each window's first pixel, counted from the origin of the
                CRS: what is drawn at random is drawn for the ground.

        Returns:
            For each output (batch, channel, window / stride, window / stride): probabilities that
            sum to one over the classes, or features, or values in its unit. NaN where a window has
            no output.
        """

    @property
    def predict_reference(self) -> Callable[..., Outputs] | None:
        """The same as :meth:`predict`, in fp32; None where that computes in it already."""
