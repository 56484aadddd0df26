"""The result of a run, from its plan, tiles and published item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flows.run import product_folder
from flows.run.command_results import (
    Accuracy,
    Quality,
    RunResult,
    RunStatus,
    TileCounts,
)
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, model_provenance, published_item
from pipeline.quality import completeness, quality_gate
from pipeline.quality.completeness import ProductCounts
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage.store import open_store


def build_run_result(
    plan: Plan,
    *,
    status: RunStatus,
    item: Path | None,
    tiles: TileCounts,
    seconds: Mapping[str, float],
    reasons: Sequence[str] = (),
    quality: QualityMetrics | None = None,
    counts: ProductCounts | None = None,
) -> RunResult:
    """Return the result of a run, or of a product that needs none, without what it took.

    Args:
        plan: the plan.
        status: how the run ended.
        item: path of the published item; None where nothing is published.
        tiles: the tiles by their outcome.
        seconds: seconds by stage, and of all tiles by step.
        reasons: why the product is refused.
        quality: quality figures, if they were measured.
        counts: counts of pixels with values, if tiles were finished.
    """
    plan_dir = product_folder.plan_dir(plan)
    layer = plan.model.primary_output.layer_name if plan.model else "land_cover"
    accuracy = published_item.read_accuracy(plan_dir.parent) if item else None
    return RunResult(
        status=status,
        item=str(item) if item else None,
        map=_path_if_published(
            item, plan_dir / published_item.main_dir_name(plan) / f"{layer}.tif"
        ),
        quicklook=_path_if_published(item, plan_dir / "quicklook.png"),
        tiles=tiles,
        scenes=len(plan.snapshot.scenes),
        seconds=dict(seconds),
        accuracy=Accuracy.model_validate(accuracy, from_attributes=True) if accuracy else None,
        seam=Quality.from_metrics(quality) if quality else None,
        planned=None,
        actual=None,
        reason=" ".join(reasons) or None,
        warnings=tuple(_list_warnings(plan, status, quality, counts)),
    )


def list_plan_warnings(plan: Plan) -> Iterator[str]:
    """Yield what must be known before a plan is run: why it would be refused, what is assumed."""
    if model_provenance.is_random(plan):
        yield descriptions.RANDOM_WEIGHTS_WARNING
    yield from map(descriptions.predict_refusal, completeness.check_plan(plan))
    yield from descriptions.summarise_caveats(plan.caveats)


def _list_warnings(
    plan: Plan, status: RunStatus, quality: QualityMetrics | None, counts: ProductCounts | None
) -> Iterator[str]:
    """Yield what must be known before the product is used, the most serious first."""
    if model_provenance.is_random(plan):
        yield descriptions.RANDOM_WEIGHTS_WARNING
    if status != "refused":
        yield from completeness.list_coverage_warnings(plan, counts) if counts else ()
        yield from quality_gate.find_violations(plan, quality)
    # ^ else they are the reason, or follow from it
    uniform_bands = completeness.find_uniform_bands(counts) if counts else ()
    yield from descriptions.summarise_caveats((*uniform_bands, *plan.caveats))


def _path_if_published(item: Path | None, path: Path) -> str | None:
    return str(path) if item and open_store(path.parent).exists(path.name) else None
