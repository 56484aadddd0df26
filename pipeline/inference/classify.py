"""Blended numbers → stored layers, one way for each thing that a model can answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogs import legend
from pipeline.plan import layers
from pipeline.plan.recipe import Answer, Model

UNCLASSED = ("nodata", "clouds")
"""Answers that are no land cover: where one is most probable, a pixel stays unclassified."""

MAP = ("land_cover", "confidence", "second_class", "margin")
"""The layers of a land-cover answer."""


def variables(model: Model, *, probabilities: bool) -> dict[str, tuple[str, ...]]:
    """Return the layers of a model's answers and their band names.

    Args:
        model: the model.
        probabilities: whether the class probabilities are kept.
    """
    found: dict[str, tuple[str, ...]] = {}
    for answer in model.answers:
        if answer.task == "land_cover":
            kept = {"probabilities": answer.class_names} if probabilities else {}
            found |= {name: layers.get(name).named() for name in MAP} | kept
        else:
            layer = layers.get(answer.layer)
            layers.expect(layer, answer.unit)
            found[layer.name] = layer.named(answer.bands)
    return found


def of(
    answer: Answer,
    blended: NDArray[np.float32],
    observed: NDArray[np.bool_],
    *,
    probabilities: bool,
) -> dict[str, NDArray[Any]]:
    """Return the stored values of an answer's layers; what was not observed has no answer.

    Args:
        answer: what the model was asked.
        blended: (channel, y, x); NaN = no answer.
        observed: (y, x).
        probabilities: whether the class probabilities are kept.
    """
    if answer.task != "land_cover":
        layer = layers.get(answer.layer)
        values = np.where(observed, blended, layer.fill).astype(layer.dtype)
        return {layer.name: values[0] if layer.planar else values}
    result = classify(blended, answer.class_names, observed)
    if not probabilities:
        del result["probabilities"]
    return result


def classify(
    probabilities: NDArray[np.float32],
    names: Sequence[str],
    observed: NDArray[np.bool_],
) -> dict[str, NDArray[np.uint8]]:
    """Turn blended probabilities into layers; the unseen and :data:`UNCLASSED` have no class.

    Args:
        probabilities: (class, y, x); NaN = no answer.
        names: names of the legend, in the order of the probabilities.
        observed: (y, x).
    """
    codes = np.array([legend.BY_NAME[name].code for name in names], dtype=np.uint8)
    known = np.where(np.isfinite(probabilities), probabilities, 0)
    order = np.argsort(-known, axis=0, kind="stable")[:2]
    best, second = np.take_along_axis(known, order, axis=0)
    none = np.isin(codes, [legend.BY_NAME[name].code for name in UNCLASSED])
    there = observed & np.isfinite(probabilities).all(axis=0) & ~none[order[0]]
    return {
        "land_cover": np.where(there, codes[order[0]], legend.NODATA).astype(np.uint8),
        "confidence": _percent(best, there),
        "second_class": np.where(there, codes[order[1]], legend.NODATA).astype(np.uint8),
        "margin": _percent(best - second, there),
        "probabilities": np.where(
            there, np.rint(known * 200), layers.get("probabilities").fill
        ).astype(np.uint8),
    }


def _percent(share: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(there, np.rint(share * 100), 255).astype(np.uint8)
