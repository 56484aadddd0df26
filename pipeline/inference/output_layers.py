"""Convert the blended outputs of a model to stored layers, by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import legend
from pipeline import layer_table
from pipeline.plan.output_spec import OutputSpec
from pipeline.plan.recipe import ModelSpec

NON_LAND_COVER_CLASSES = ("nodata", "clouds")
"""Classes that are no land cover: if one of them is the most probable, a pixel has no class."""

LAND_COVER_LAYERS = ("land_cover", "confidence", "second_class", "margin")
"""Layers of an output of classes."""


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
        if spec.kind == "classes":
            band_names |= {name: layer_table.get(name).band_names() for name in LAND_COVER_LAYERS}
            if include_probabilities:
                band_names["probabilities"] = spec.class_names
        else:
            layer = layer_table.get(spec.layer_name)
            band_names[layer.name] = layer.band_names(spec.bands)
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
        layer = layer_table.get(output_spec.layer_name)
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
    """Convert blended probabilities to the land-cover layers.

    Pixels that were not observed, or whose most probable class is one of
    :data:`NON_LAND_COVER_CLASSES`, become nodata.

    Args:
        probabilities: (class, y, x); NaN = no value.
        class_names: names of the legend, in the order of the probabilities.
        observed: (y, x) mask of observed pixels.

    Returns:
        Name of the layer -> (y, x), or (class, y, x) probabilities in units of 0.5 %.
    """
    codes = np.array([legend.CLASS_BY_NAME[name].code for name in class_names], dtype=np.uint8)
    finite = np.where(np.isfinite(probabilities), probabilities, 0)
    order = np.argsort(-finite, axis=0, kind="stable")[:2]
    best, second = np.take_along_axis(finite, order, axis=0)
    is_no_land_cover = np.isin(
        codes, [legend.CLASS_BY_NAME[name].code for name in NON_LAND_COVER_CLASSES]
    )
    valid = observed & np.isfinite(probabilities).all(axis=0) & ~is_no_land_cover[order[0]]
    return {
        "land_cover": np.where(valid, codes[order[0]], legend.NODATA).astype(np.uint8),
        "confidence": _to_percent(best, valid),
        "second_class": np.where(valid, codes[order[1]], legend.NODATA).astype(np.uint8),
        "margin": _to_percent(best - second, valid),
        "probabilities": np.where(
            valid, np.rint(finite * 200), layer_table.get("probabilities").fill_value
        ).astype(np.uint8),
    }


def _to_percent(share: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(valid, np.rint(share * 100), 255).astype(np.uint8)
