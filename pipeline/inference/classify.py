"""Blended numbers → stored layers, one way for each thing that a model can answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import legend
from pipeline.plan import layers
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.recipe import ModelSpec

NON_LAND_COVER_CLASSES = ("nodata", "clouds")
"""Answers that are no land cover: where one is most probable, a pixel stays unclassified."""

LAND_COVER_LAYERS = ("land_cover", "confidence", "second_class", "margin")
"""The layers of a land-cover answer."""


def list_output_layers(
    model: ModelSpec, *, include_probabilities: bool
) -> dict[str, tuple[str, ...]]:
    """Return the layers of a model's answers and their band names.

    Args:
        model: the model.
        include_probabilities: whether the class probabilities are kept.
    """
    found: dict[str, tuple[str, ...]] = {}
    for output in model.outputs:
        if output.kind == "classes":
            kept = {"probabilities": output.class_names} if include_probabilities else {}
            found |= {name: layers.get(name).band_names() for name in LAND_COVER_LAYERS} | kept
        else:
            layer = layers.get(output.layer_name)
            found[layer.name] = layer.band_names(output.bands)
    return found


def to_layers(
    output_spec: OutputSpec,
    blended: NDArray[np.float32],
    observed: NDArray[np.bool_],
    *,
    include_probabilities: bool,
) -> dict[str, NDArray[Any]]:
    """Return the stored values of an answer's layers; what was not observed has no answer.

    Args:
        output_spec: what the model was asked.
        blended: (channel, y, x); NaN = no answer.
        observed: (y, x).
        include_probabilities: whether the class probabilities are kept.
    """
    if output_spec.kind != "classes":
        layer = layers.get(output_spec.layer_name)
        values = np.full(blended.shape, layer.fill_value, dtype=layer.dtype)
        valid = observed & np.isfinite(blended)
        rounded = blended if values.dtype.kind == "f" else np.rint(blended)
        values[valid] = rounded[valid]
        return {layer.name: values[0] if layer.is_single_band else values}
    result = classify_probabilities(blended, output_spec.class_names, observed)
    if not include_probabilities:
        del result["probabilities"]
    return result


def classify_probabilities(
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
    observed: NDArray[np.bool_],
) -> dict[str, NDArray[np.uint8]]:
    """Turn blended probabilities into layers; the unseen and :data:`NON_LAND_COVER_CLASSES` have no class.

    Args:
        probabilities: (class, y, x); NaN = no answer.
        class_names: names of the legend, in the order of the probabilities.
        observed: (y, x).
    """
    codes = np.array([legend.CLASS_BY_NAME[name].code for name in class_names], dtype=np.uint8)
    known = np.where(np.isfinite(probabilities), probabilities, 0)
    order = np.argsort(-known, axis=0, kind="stable")[:2]
    best, second = np.take_along_axis(known, order, axis=0)
    none = np.isin(codes, [legend.CLASS_BY_NAME[name].code for name in NON_LAND_COVER_CLASSES])
    there = observed & np.isfinite(probabilities).all(axis=0) & ~none[order[0]]
    return {
        "land_cover": np.where(there, codes[order[0]], legend.NODATA).astype(np.uint8),
        "confidence": _to_percent(best, there),
        "second_class": np.where(there, codes[order[1]], legend.NODATA).astype(np.uint8),
        "margin": _to_percent(best - second, there),
        "probabilities": np.where(
            there, np.rint(known * 200), layers.get("probabilities").fill_value
        ).astype(np.uint8),
    }


def _to_percent(share: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(valid, np.rint(share * 100), 255).astype(np.uint8)
