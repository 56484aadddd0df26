"""Check that a product holds what its job asks for: observations, inputs, bands, outputs.

What is too little is the job's ``qc.min_observed``, a share of the region's pixels. Footprints tell
before a run what it cannot reach; the counts in the receipts of the tiles tell what it has reached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shapely.geometry import shape

from catalogs import lonlat_geometry, number_format
from catalogs.scene import Caveat, RejectedScene, Scene
from catalogs.search import scene_selection
from catalogs.sensors import get_sensor
from catalogs.snapshot import Snapshot
from pipeline.plan.plan import Plan, from_geojson
from pipeline.storage.receipt import BandValues, PixelCounts, Receipt

NOTICEABLE_SHARE = 0.05
"""Share of a region without an observation, or without an input, from which on it is told."""

MAX_LISTED_SCENES = 3
"""Scenes that a sentence names."""

_OFF = "qc: {min_observed: 0}"


# -- before a run --------------------------------------------------------------------------------


def check_plan(plan: Plan) -> list[str]:
    """Return a sentence for everything that a run of a plan cannot reach, whatever it reads."""
    return check_scenes(
        plan.snapshot,
        from_geojson(plan.region),
        {modality: plan.required_bands(modality) for modality in plan.recipe.inputs},
        plan.settings.quality_limits.min_observed,
        model=plan.model.name if plan.model else None,
    )


def check_scenes(
    snapshot: Snapshot,
    region: Any,
    required_bands: Mapping[str, Sequence[str]],
    min_observed: float,
    *,
    model: str | None = None,
) -> list[str]:
    """Return a sentence for each input whose scenes cover too little or lack a required band.

    Args:
        snapshot: the scenes that are used, and those left out.
        region: shapely geometry in longitude and latitude.
        required_bands: input → the bands that it must have.
        min_observed: smallest share of the region, 0 to 1; with 0 nothing is checked.
        model: name of the model that requires the bands; None = the job names them.
    """
    reasons: list[str] = []
    if not min_observed:
        return reasons
    for modality, bands in required_bands.items():
        scenes = [scene for scene in snapshot.scenes if scene.modality == modality]
        share = _footprint_share(scenes, region)
        missing = [band for band in bands if not any(band in scene.assets for scene in scenes)]
        if share < min_observed:
            subject = _describe_scenes(modality, scenes, snapshot.refused)
            advice = _advise_on_input(modality, required_bands)
            reasons.append(f"{subject} {_describe_share(share, min_observed)}. {advice}")
        elif missing:
            reasons.append(
                f"None of the {modality} scenes has {', '.join(missing)}, as "
                f"{'the job' if model is None else model} requires."
                f"{_describe_left_out(modality, snapshot.refused)} "
                f"{_advise_on_bands(modality, missing, model)}"
            )
    return reasons


def _footprint_share(scenes: Iterable[Scene], region: Any) -> float:
    footprints = lonlat_geometry.union(shape(scene.footprint) for scene in scenes)
    return lonlat_geometry.covered_fraction(footprints, lonlat_geometry.wrap_longitudes(region))


def _describe_scenes(
    modality: str, scenes: Sequence[Scene], refused: Sequence[RejectedScene]
) -> str:
    """Return the subject of a sentence on how much of the region the scenes of an input cover."""
    if scenes:
        return f"The footprints of the {modality} scenes ({len(scenes)}) cover"
    left_out = [scene for scene in refused if scene.modality == modality]
    example = f" ({left_out[0].id}: {left_out[0].reason})" if left_out else ""
    return f"All {modality} scenes are left out{example}: they cover"


def _describe_left_out(modality: str, refused: Sequence[RejectedScene]) -> str:
    """Return a sentence with the scenes of an input that are left out, which may have a band."""
    scenes = [scene for scene in refused if scene.modality == modality and scene.share != 0]
    if not scenes:
        return ""
    reasons = "; ".join(f"{scene.id}: {scene.reason}" for scene in scenes[:MAX_LISTED_SCENES])
    return f" Left out are {_add_rest(reasons, len(scenes))}."


def _add_rest(listed: str, count: int) -> str:
    """Return a list of the first of several scenes with the number of the others."""
    return f"{listed} and {count - MAX_LISTED_SCENES} more" if count > MAX_LISTED_SCENES else listed


def _describe_share(share: float, min_observed: float) -> str:
    share_text, limit = number_format.format_apart(100 * share, 100 * min_observed, digits=3)
    return f"{share_text} % of the region, and qc.min_observed is {limit} %"


def _advise_on_input(modality: str, inputs: Collection[str]) -> str:
    options = ["Widen the period"] if get_sensor(modality).is_temporal else []
    options += [f"leave {modality} out of inputs"] if len(inputs) > 1 else []
    return _join_options([*options, f"set {_OFF} to publish what there is"])


def _advise_on_bands(modality: str, missing: Sequence[str], model: str | None) -> str:
    remedy = (
        f"remove {', '.join(missing)} from bands: {modality}"
        if model is None
        else "choose a catalog whose scenes have it"
    )
    return _join_options([remedy, f"set {_OFF} to go on without it"])


def _join_options(options: Sequence[str]) -> str:
    *earlier_options, last_option = options
    joined = f"{', '.join(earlier_options)}, or {last_option}" if earlier_options else last_option
    return f"{joined[0].upper()}{joined[1:]}."


# -- after the tiles -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCounts:
    """The counts of a product's finished tiles, added up."""

    cells: float
    observed: float
    """Cells with a clear observation."""

    details: PixelCounts | None
    """Counts by input, band and output; None where a tile is of an earlier version."""

    @property
    def observed_share(self) -> float:
        """Return the share of the cells that are observed."""
        return self.observed / self.cells if self.cells else 0.0


def add_counts(plan: Plan, receipts: Mapping[str, Receipt]) -> ProductCounts:
    """Add up the counts of finished tiles.

    Args:
        plan: the plan.
        receipts: id of a tile → its receipt.
    """
    cells = observed = 0.0
    for tile_id, receipt in receipts.items():
        if receipt.counts is not None:
            cells += receipt.counts.cells
            observed += receipt.counts.observed
        else:
            tile = plan.tiles_by_id[tile_id]
            inside = receipt.coverage["inside"] * tile.height * tile.width
            cells += inside
            observed += inside * receipt.coverage["observed"]
    return ProductCounts(cells=cells, observed=observed, details=_add_details(receipts.values()))


def _add_details(receipts: Collection[Receipt]) -> PixelCounts | None:
    counts = [receipt.counts for receipt in receipts if receipt.counts is not None]
    if len(counts) < len(receipts):
        return None
    bands: dict[str, dict[str, BandValues]] = {}
    outputs: dict[str, tuple[int, int]] = {}
    for tile_counts in counts:
        for modality, tile_bands in tile_counts.bands.items():
            total = bands.setdefault(modality, {})
            for band, values in tile_bands.items():
                total[band] = total[band].join(values) if band in total else values
        for layer, (cells, valued) in tile_counts.outputs.items():
            all_cells, all_valued = outputs.get(layer, (0, 0))
            outputs[layer] = (all_cells + cells, all_valued + valued)
    return PixelCounts(
        pixels=sum(tile_counts.pixels for tile_counts in counts),
        cells=sum(tile_counts.cells for tile_counts in counts),
        observed=sum(tile_counts.observed for tile_counts in counts),
        bands=bands,
        outputs=outputs,
    )


def check_counts(plan: Plan, counts: ProductCounts) -> list[str]:
    """Return a sentence for everything that finished tiles hold too little of.

    Tiles that are missing do not count: a product that lacks tiles declares them.
    """
    limit = plan.settings.quality_limits.min_observed
    if not limit:
        return []
    if counts.observed_share < limit:
        modality = plan.counted_modality
        share = _describe_share(counts.observed_share, limit)
        advice = _advise_on_input(modality, plan.recipe.inputs)
        causes = _explain_unobserved(plan) + _advise_on_replaced(plan.snapshot, modality)
        return [f"{modality} has observed {share}. {causes} {advice}"]
    if counts.details is None:
        return []
    return [
        *_check_inputs(plan, counts.details, limit),
        *_check_outputs(plan, counts.details, limit),
    ]


def _check_inputs(plan: Plan, details: PixelCounts, limit: float) -> Iterator[str]:
    for modality in plan.recipe.inputs:
        bands = plan.bands(modality)
        shares = _band_shares(details, modality, bands)
        empty = [band for band, share in shares.items() if share < limit]
        if bands and len(empty) == len(bands):
            share = max(shares.values())
            yield (
                f"{modality} has values at {_describe_share(share, limit)}: elsewhere its files "
                f"hold no data.{_advise_on_replaced(plan.snapshot, modality)} "
                f"{_advise_on_input(modality, plan.recipe.inputs)}"
            )
        elif empty:
            examples = [s.id for s in plan.snapshot.scenes if s.modality == modality][:3]
            share = max(shares[band] for band in empty)
            yield (
                f"{', '.join(empty)} of {modality} has values at {_describe_share(share, limit)}: "
                f"its files hold no data, or no scene has it ({', '.join(examples)})."
                f"{_advise_on_replaced(plan.snapshot, modality)} "
                f"{_advise_on_bands(modality, empty, plan.model.name if plan.model else None)}"
            )


def _advise_on_replaced(snapshot: Snapshot, modality: str) -> str:
    """Return a sentence with the documents in whose place others of their acquisition are used."""
    scenes = [scene for scene in snapshot.scenes if scene.modality == modality]
    used_names = {name for scene in scenes for name in scene_selection.list_names(scene)}
    replaced = [scene for scene in snapshot.refused if scene.replaced_by in used_names]
    if not replaced:
        return ""
    listed = ", ".join(
        f"{scene.id} (in its place: {scene.replaced_by})" for scene in replaced[:MAX_LISTED_SCENES]
    )
    names = list(dict.fromkeys(scene.replaced_by for scene in replaced if scene.replaced_by))
    return (
        f" Of the acquisitions used there are other documents: {_add_rest(listed, len(replaced))}. "
        f"To use these, set exclude: [{', '.join(names[:MAX_LISTED_SCENES])}]."
    )


def _check_outputs(plan: Plan, details: PixelCounts, limit: float) -> Iterator[str]:
    for output in plan.model.outputs if plan.model else ():
        cells, valued = details.outputs.get(output.layer_name, (0, 0))
        share = valued / cells if cells else 0.0
        if share < limit:
            cause = "the model has no finite output"
            if output.kind == "classes":
                cause = f"the most probable class is one that is never mapped, or {cause}"
            yield (
                f"The layer {output.layer_name} has values at {_describe_share(share, limit)}: "
                f"elsewhere {cause}. Check the scenes, and the weights with terramosaic models "
                f"check, or set {_OFF} to publish what there is."
            )


def _band_shares(details: PixelCounts, modality: str, bands: Sequence[str]) -> dict[str, float]:
    """Return the share of the region's pixels at which each band of an input has a value."""
    counted = details.bands.get(modality, {})
    return {
        band: counted[band].pixels / details.pixels if band in counted and details.pixels else 0.0
        for band in bands
    }


def _explain_unobserved(plan: Plan) -> str:
    """Return why parts of the region are not observed: not covered, or covered but not clear."""
    scenes = [scene for scene in plan.snapshot.scenes if scene.modality == plan.counted_modality]
    share = _footprint_share(scenes, from_geojson(plan.region))
    return (
        f"The footprints of the scenes ({len(scenes)}) cover {format_share(share)} of it; where "
        "they do and nothing was observed, pixels are masked as clouds or hold no data."
    )


def list_coverage_warnings(plan: Plan, counts: ProductCounts) -> list[str]:
    """Return a sentence for each noticeable part of the region that lacks something."""
    sentences = []
    unobserved = 1 - counts.observed_share
    if unobserved >= NOTICEABLE_SHARE:
        share = format_share(unobserved)
        sentences.append(f"{share} of the region was never observed. {_explain_unobserved(plan)}")
    if counts.details is not None:
        for modality in plan.recipe.inputs:
            shares = _band_shares(counts.details, modality, plan.bands(modality))
            lacking = 1 - max(shares.values(), default=0.0)
            if modality != plan.counted_modality and lacking >= NOTICEABLE_SHARE:
                sentences.append(f"{format_share(lacking)} of the region has no {modality}.")
            sentences += _describe_band_holes(modality, shares)
    return sentences


def _describe_band_holes(modality: str, shares: Mapping[str, float]) -> Iterator[str]:
    """Yield a sentence for the bands that lack values where another band of their input has one."""
    most = max(shares.values(), default=0.0)
    bands_by_share: dict[str, list[str]] = {}
    for band, share in shares.items():
        if most - share >= NOTICEABLE_SHARE:
            bands_by_share.setdefault(format_share(most - share), []).append(band)
    for formatted, bands in bands_by_share.items():
        yield (
            f"{', '.join(bands)} of {modality} has no value at {formatted} of the region, where "
            "other bands have one: its files hold no data there, or a scene lacks it."
        )


def find_uniform_bands(counts: ProductCounts) -> Iterator[Caveat]:
    """Yield a caveat for each input with bands that have one value at every pixel of the region."""
    for modality, bands in (counts.details.bands if counts.details else {}).items():
        uniform = {
            band: values.low
            for band, values in bands.items()
            if values.pixels > 1 and values.low == values.high
        }
        listed = ", ".join(f"{band} ({value:g})" for band, value in uniform.items())
        if uniform and get_sensor(modality).group == "elevation":
            heights = ", ".join(f"{value:g} m" for value in uniform.values())
            yield Caveat(
                id=modality,
                text=f"the height is {heights} at every pixel of the region, as on water: on land "
                "the files hold no terrain",
            )
        elif uniform:
            yield Caveat(
                id=modality,
                text=f"the same value at every pixel of the region, as in an empty file: {listed}",
            )


def format_share(share: float) -> str:
    """Format a share as a percentage with three digits."""
    return f"{100 * share:.3g} %"
