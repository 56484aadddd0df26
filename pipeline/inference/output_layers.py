"""Convert the blended outputs of a model to stored layers, by task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.recipe import ModelSpec

PROBABILITIES = "probabilities"
"""The layer of class probabilities, which is stored on request."""


def list_output_layers(
    model: ModelSpec, *, include_probabilities: bool
) -> dict[str, tuple[str, ...]]:
    """Return the layers of a model's outputs: name -> band names.

    Args:
        model: the model.
        include_probabilities: whether the class probabilities are stored.
    """
    band_names: dict[str, tuple[str, ...]] = {}
    for spec in model.outputs:
        for name, layer in spec.layers.items():
            if name != PROBABILITIES:
                band_names[name] = layer.band_names(spec.bands)
            elif include_probabilities:
                band_names[name] = spec.class_names
    return band_names


def to_layers(
    output_spec: OutputSpec,
    blended: NDArray[np.float32],
    observed: NDArray[np.bool_],
    *,
    include_probabilities: bool,
) -> dict[str, NDArray[Any]]:
    """Convert one blended output to the stored values of its layers.

    Args:
        output_spec: the output.
        blended: (channel, y, x) values; NaN = no value.
        observed: (y, x) mask of observed pixels; the others become nodata.
        include_probabilities: whether the class probabilities are stored.

    Returns:
        Name of the layer -> (y, x) or (band, y, x).
    """
    if output_spec.kind != "classes":
        layer = output_spec.main_layer
        values = np.full(blended.shape, layer.fill_value, dtype=layer.dtype)
        valid = observed & np.isfinite(blended)
        rounded = blended if values.dtype.kind == "f" else np.rint(blended)
        values[valid] = rounded[valid]
        return {layer.name: values[0] if layer.is_single_band else values}
    result = classify_probabilities(output_spec, blended, observed)
    if not include_probabilities:
        del result[PROBABILITIES]
    return result


def classify_probabilities(
    output_spec: OutputSpec, probabilities: NDArray[np.float32], observed: NDArray[np.bool_]
) -> dict[str, NDArray[np.uint8]]:
    """Convert blended probabilities to the layers of classes.

    Pixels that were not observed, or whose most probable class is a gap of the legend, become
    nodata.

    Args:
        output_spec: the output.
        probabilities: (class, y, x); NaN = no value.
        observed: (y, x) mask of observed pixels.

    Returns:
        Name of the layer -> (y, x), or (class, y, x) probabilities in units of 0.5 %.
    """
    legend, layers = output_spec.legend, output_spec.layers
    codes = np.array(output_spec.codes, dtype=np.uint8)
    finite = np.where(np.isfinite(probabilities), probabilities, 0)
    order = np.argsort(-finite, axis=0, kind="stable")[:2]
    best, second = np.take_along_axis(finite, order, axis=0)
    is_gap = np.array([legend.by_name[name].is_gap for name in output_spec.class_names])
    valid = observed & np.isfinite(probabilities).all(axis=0) & ~is_gap[order[0]]
    return {
        output_spec.layer_name: np.where(valid, codes[order[0]], legend.nodata).astype(np.uint8),
        "confidence": _to_percent(best, valid),
        "second_class": np.where(valid, codes[order[1]], legend.nodata).astype(np.uint8),
        "margin": _to_percent(best - second, valid),
        PROBABILITIES: np.where(
            valid, np.rint(finite * 200), layers[PROBABILITIES].fill_value
        ).astype(np.uint8),
    }


def _to_percent(share: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(valid, np.rint(share * 100), 255).astype(np.uint8)
