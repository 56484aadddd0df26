"""What a product is and what to know before trusting it, in sentences for people."""

from __future__ import annotations

import re
from collections import Counter

from pipeline.compositing import radar
from pipeline.plan import layers
from pipeline.product.product import Product

RANDOM_WEIGHTS_WARNING = (
    "Random weights: the answer is meaningless, and says nothing about the ground."
)

UNOBSERVED_WARNING_PERCENT = 5.0
"""Per cent of a region without an observation from which on it is worth a warning."""

_PERIOD_NOTE = (
    "The product shows the period as a whole, from a composite of its clear observations; it is "
    "not the state on any one day."
)

_LIMITATIONS = {
    "land_cover": (
        (
            "Confidence is the probability that the model gives to its own answer. It is not an "
            "accuracy: a confident pixel can be wrong."
        ),
        (
            "Clouds and no data are never mapped as land cover. Where they are the model's answer "
            "although the ground was seen, the map is 0: not classified. Its observations are "
            "above 0 there, and 0 where nothing was observed."
        ),
        _PERIOD_NOTE,
        (
            "Areas are counted pixels at their nominal size, not bias-adjusted estimates: for "
            "statistics, adjust them with reference data (Olofsson et al. 2014)."
        ),
    ),
    "embedding": (
        (
            "An embedding has no unit, and its bands have no meaning one by one. Embeddings "
            "compare with those of the same model, inputs and grid, and with no others."
        ),
        (
            "A cell counts as observed where at least half of its pixels were; it holds the "
            "number of observations that half of them reach, and the latest of their days. "
            "Composites beside it are means over the cell."
        ),
        _PERIOD_NOTE,
    ),
    "generated": (
        (
            "The values are generated: a model's guess from the inputs, and not a measurement. "
            "They can look right and be wrong, most of all where the inputs say little."
        ),
        (
            "As published, the model's decoder keeps each value within one standard deviation of "
            "the mean of its training data, and cuts off what lies beyond: no NDVI is above 0.65, "
            "and no ground above 1622 m."
        ),
        "What was not observed is left empty; nothing is generated from no data.",
        "The model does not see what it is asked for: that is left out of its inputs.",
        _PERIOD_NOTE,
    ),
}


def describe_product(product: Product) -> str:
    """Say what the product is."""
    if product.provenance.model is None:
        return "Cloud-free composites of satellite images, pixel by pixel, for the period below."
    if product.output_kind == "land_cover":
        return (
            "A land-cover map: for every pixel the most probable class, with how sure the model "
            "is, how often the ground was seen, and when last."
        )
    if product.output_kind == "embedding":
        return (
            "Embeddings: for every cell the features by which the model describes it, as numbers "
            "for search, clustering or a classifier of one's own."
        )
    title = layers.get(product.provenance.main_layer).title.removeprefix("Generated ")
    given = " and ".join(product.provenance.model_options.get("inputs", ())) or "other inputs"
    return f"{title[0].upper()}{title[1:]} as the model generates it from {given}, pixel by pixel."


def list_warnings(product: Product) -> list[str]:
    """Return what must be said before anything else."""
    partial = ["Partial: some tiles are missing."] if product.missing_tiles else []
    return [RANDOM_WEIGHTS_WARNING, *partial] if product.provenance.is_random else partial


def describe_coverage(product: Product) -> str:
    """Say how much of the region was observed, and how much of that has no answer."""
    extent = product.coverage_counts
    if extent is None:
        return "not counted"
    blank = f"; {extent.not_classified_percent:.1f} % not classified although observed"
    seen = 100 - extent.not_observed_percent
    return f"{seen:.1f} % observed{blank if extent.unclassified else ''}"


def warn_unobserved(not_observed_percent: float | None) -> list[str]:
    """Warn of a region much of which was never observed."""
    if not_observed_percent is None or not_observed_percent < UNOBSERVED_WARNING_PERCENT:
        return []
    share = f"{not_observed_percent:.1f} % of the region was never observed"
    return [f"{share}: terramosaic search shows which scenes there are, and why others are out."]


def describe_lineage(product: Product) -> str:
    """Tell in two sentences how the product came about."""
    used = Counter(scene.modality for scene in product.scenes)
    inputs = ", ".join(f"{count} {modality}" for modality, count in sorted(used.items()))
    first = (
        f"Composites of the period {product.start} to {product.end} from {inputs or 'no'} "
        f"scene(s); {len(product.refused)} scene(s) refused."
    )
    if product.provenance.model is None:
        return first
    model = product.provenance.model
    if product.output_kind == "land_cover":
        return (
            f"{first} Land cover predicted by {model} on overlapping windows, probabilities "
            "blended before the most probable class was taken."
        )
    title = layers.get(product.provenance.main_layer).title
    return f"{first} {title} computed by {model} on overlapping windows, and blended."


def list_limitations(product: Product) -> list[str]:
    """Return what a reader must know before trusting the product, one sentence each."""
    notes = [RANDOM_WEIGHTS_WARNING] if product.provenance.is_random else []
    if product.missing_tiles:
        notes.append(
            f"This product is partial: {len(product.missing_tiles)} tile(s) are missing and declared as "
            "holes. Their pixels are no data, and not a statement about the ground."
        )
    if product.scenes_without_scl:
        notes.append(
            f"{len(product.scenes_without_scl)} Sentinel-2 scene(s) came without a scene classification "
            "(SCL). All of their pixels were treated as clear, so clouds and shadows may have "
            "entered the map."
        )
    satellites = radar.describe_mixed_satellites(product.scenes)
    if satellites is not None:
        notes.append(satellites)
    if product.provenance.model is not None:
        notes.extend(_LIMITATIONS[product.output_kind])
    return notes


def redact_message(text: str) -> str:
    """Take folders of this machine and the queries of URLs out of a message.

    A file's own name stays; a query may hold a token.
    """
    text = re.sub(r"((?:https?|s3|gs)://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)
    text = re.sub(r"file://", "", text)
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\":,;]+/)+", "", text)
