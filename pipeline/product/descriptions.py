"""Describe a product in sentences: what it is, how it was made, its limitations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from catalogs.legend import Legend
from catalogs.scene import Caveat
from pipeline import layer_table
from pipeline.layer_table import Layer, OutputKind
from pipeline.product.product import Product

RANDOM_WEIGHTS_WARNING = (
    "Random weights: the output is meaningless, and says nothing about the ground."
)

_PERIOD_NOTE = (
    "The product shows the period as a whole, from a composite of its clear observations; it is "
    "not the state on any one day."
)

_MAX_NAMED_CLASSES = 6
"""Classes up to which a map is described by their names."""

_LIMITATIONS: dict[OutputKind, tuple[str, ...]] = {
    "classes": (
        (
            "Confidence is the probability that the model gives to the class on the map. It is "
            "not an accuracy: a confident pixel can be wrong."
        ),
        _PERIOD_NOTE,
        (
            "Areas are those of the counted pixels, not bias-adjusted estimates: for statistics, "
            "adjust them with reference data (Olofsson et al. 2014)."
        ),
    ),
    "features": (
        (
            "An embedding has no unit, and a single band of it has no meaning. Embeddings can be "
            "compared only with those of the same model, inputs and grid."
        ),
        (
            "A cell counts as observed where at least half of its pixels were observed; it holds "
            "the number of observations that half of them reach, and the latest of their days. "
            "Composites of the same product are means over the cell."
        ),
        _PERIOD_NOTE,
    ),
    "values": (
        (
            "The values are generated: a model's estimate from the inputs, and not a measurement. "
            "They can look plausible and be wrong, most of all where the inputs say little."
        ),
        (
            "As published, the model's decoder keeps each value within one standard deviation of "
            "the mean of its training data, and cuts off what lies beyond: no NDVI is above 0.65, "
            "and no ground above 1622 m."
        ),
        "What was not observed is left empty; nothing is generated from no data.",
        "The modality that is generated is never among the model's inputs.",
        _PERIOD_NOTE,
    ),
}


def describe_product(product: Product) -> str:
    """Return what the product is, in one sentence."""
    layer = product.provenance.main_layer
    if product.provenance.model is None or layer is None:
        return "Cloud-free composites of satellite images, pixel by pixel, for the period below."
    if product.output_kind == "classes":
        return (
            f"{_describe_map(layer)}: for every pixel the most probable class, the model's "
            "confidence, the number of clear observations, and the day of the last one."
        )
    if product.output_kind == "features":
        return (
            "Embeddings: for every cell the features that the model computes, for search, "
            "clustering or a classifier of your own."
        )
    title = layer.title.removeprefix("Generated ")
    inputs = " and ".join(product.provenance.model_options.get("inputs", ())) or "other inputs"
    return f"{title[0].upper()}{title[1:]} as the model generates it from {inputs}, pixel by pixel."


def _describe_map(layer: Layer) -> str:
    """Return what a map of classes is of."""
    if layer.name == layer_table.CLASS_LAYER or layer.legend is None:
        return "A land-cover map"
    titles = [entry.title for entry in layer.legend.mapped_classes if not entry.is_gap]
    if len(titles) > _MAX_NAMED_CLASSES:
        return f"A map of {len(titles)} classes"
    return f"A map of {_join_titles(titles)}"


def _join_titles(titles: Sequence[str]) -> str:
    *earlier_titles, last_title = titles
    if not earlier_titles:
        return last_title
    return f"{', '.join(earlier_titles)} and {last_title}"


def _describe_gaps(legend: Legend) -> str:
    """Return what nodata means in a map of classes."""
    titles = [entry.title.lower() for entry in legend.mapped_classes if entry.is_gap]
    reason = (
        f" because its most probable class is one that is never mapped: "
        f"{_join_titles([*titles, 'no data'])}"
        if titles
        else ""
    )
    return (
        f"Pixels without a class are {legend.nodata}. Where nothing was observed, the layer "
        "observations is 0 there; where it is above 0, the pixel was observed and not "
        f"classified{reason}."
    )


def list_warnings(product: Product) -> list[str]:
    """Return the warnings that stand at the head of the report and in the item."""
    random = [RANDOM_WEIGHTS_WARNING] if product.provenance.is_random else []
    partial = ["Partial: some tiles are missing."] if product.missing_tiles else []
    return [*random, *partial, *product.coverage_warnings]


def describe_coverage(product: Product) -> str:
    """Return how much of the region was observed, and how much of that was not classified."""
    counts = product.coverage_counts
    if counts is None:
        return "not counted"
    unclassified = f"; {counts.not_classified_percent:.1f} % not classified although observed"
    observed = f"{100 - counts.not_observed_percent:.1f} % observed"
    return f"{observed}{unclassified if counts.unclassified else ''}"


def summarise_caveats(caveats: Iterable[Caveat], max_ids: int = 3) -> list[str]:
    """Return a sentence for each text of caveats, with some of the ids that it holds for."""
    ids_by_text: dict[str, list[str]] = {}
    for caveat in caveats:
        ids = ids_by_text.setdefault(caveat.text, [])
        if caveat.id not in ids:
            ids.append(caveat.id)
    return [f"{_list_ids(ids, max_ids)}: {text}" for text, ids in ids_by_text.items()]


def predict_refusal(reason: str) -> str:
    """Return a warning that a run will publish nothing."""
    return f"A run will publish nothing. {reason}"


def _list_ids(ids: Sequence[str], max_ids: int) -> str:
    text = ", ".join(ids[:max_ids])
    return f"{text} and {len(ids) - max_ids} more" if len(ids) > max_ids else text


def describe_lineage(product: Product) -> str:
    """Return how the product was made, in two sentences."""
    used = Counter(scene.modality for scene in product.scenes)
    inputs = ", ".join(f"{count} {modality}" for modality, count in sorted(used.items()))
    composites = (
        f"Composites of the period {product.start} to {product.end} from {inputs or 'no'} "
        f"scene(s); {len(product.refused)} scene(s) refused."
    )
    model, layer = product.provenance.model, product.provenance.main_layer
    if model is None or layer is None:
        return composites
    if product.output_kind == "classes":
        return (
            f"{composites} {layer.title} predicted by {model} on overlapping windows, "
            "probabilities blended before the most probable class was taken."
        )
    return f"{composites} {layer.title} computed by {model} on overlapping windows, and blended."


def list_limitations(product: Product) -> list[str]:
    """Return the limitations of the product, as paragraphs."""
    notes = [RANDOM_WEIGHTS_WARNING] if product.provenance.is_random else []
    if product.missing_tiles:
        notes.append(
            f"This product is partial: {len(product.missing_tiles)} tile(s) are missing and listed "
            "as such. Their pixels are no data, and not a statement about the ground."
        )
    if product.scenes_without_scl:
        notes.append(
            f"{len(product.scenes_without_scl)} Sentinel-2 scene(s) have no scene classification "
            "(SCL). All of their pixels were treated as clear, so clouds and shadows may have "
            "entered the map."
        )
    from pipeline.compositing import radar  # noqa: PLC0415

    # ^ slow to import (xarray, dask), and the other descriptions do not need it
    mixed_satellites = radar.describe_mixed_satellites(product.scenes)
    if mixed_satellites is not None:
        notes.append(mixed_satellites)
    layer = product.provenance.main_layer
    if layer is not None and product.output_kind is not None:
        notes.extend(_LIMITATIONS[product.output_kind])
        if layer.legend is not None:
            notes.append(_describe_gaps(layer.legend))
    return notes


def redact_message(text: str) -> str:
    """Remove local folders and the queries of URLs from a message.

    File names stay; a query may hold a token.
    """
    text = re.sub(r"((?:https?|s3|gs)://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)
    text = re.sub(r"file://", "", text)
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\":,;]+/)+", "", text)
