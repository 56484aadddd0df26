"""A model as the pipeline knows it: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Outputs = tuple[NDArray[np.float32], ...]
"""One array for each answer of a model."""


class OutputSpec(Protocol):
    """What a model says of itself about one of its answers: see :class:`pipeline.plan.recipe.OutputSpec`."""

    @property
    def task(self) -> str:
        """One of :data:`pipeline.plan.recipe.TASKS`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the legend, in the order of the probabilities; empty for other answers."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels of an answer that is no legend."""

    @property
    def cell(self) -> int:
        """Pixels along the side of one cell of the answer."""

    @property
    def modality(self) -> str | None:
        """What is generated, if anything."""

    @property
    def unit(self) -> str | None:
        """Unit of what is generated."""


class Predictor(Protocol):
    """What makes answers of windows."""

    @property
    def window(self) -> int:
        """Side of one input, pixels."""

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Modality → band names in the model's order."""

    @property
    def answers(self) -> Sequence[OutputSpec]:
        """What is answered, all in one pass."""

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
            For each answer (batch, channel, window / cell, window / cell): probabilities that sum
            to one over the classes, or features, or values in its unit. NaN where a window has no
            answer.
        """

    @property
    def predict_reference(self) -> Callable[..., Outputs] | None:
        """The same as :meth:`predict`, in fp32; None where that computes in it already."""
