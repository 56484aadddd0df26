"""The result of a run, from its plan, tiles and published item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.run import product_folder
from flows.run.results import (
    Accuracy,
    ActualUsage,
    PlannedUsage,
    Quality,
    RunResult,
    RunStatus,
    TileCounts,
)
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, model_provenance, published_item
from pipeline.quality import quality_gate
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage.store import open_store


def build_run_result(
    plan: Plan,
    *,
    status: RunStatus,
    item: Path | None,
    tiles: TileCounts,
    seconds: Mapping[str, float],
    quality: QualityMetrics | None,
    planned: PlannedUsage | None = None,
    actual: ActualUsage | None = None,
) -> RunResult:
    """Return the result of a run, or of a product that needs none.

    Args:
        plan: the plan.
        status: how the run ended.
        item: path of the published item; None where nothing is published.
        tiles: the tiles by their outcome.
        seconds: seconds by stage, and of all tiles by step.
        quality: quality figures, if they were measured.
        planned: estimate for the tiles that were made.
        actual: what these tiles took.
    """
    plan_dir = product_folder.plan_dir(plan)
    layer = plan.model.primary_output.layer_name if plan.model else "land_cover"
    accuracy = published_item.read_accuracy(plan_dir.parent) if item else None
    random_weights = model_provenance.is_random(plan)
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
        planned=planned,
        actual=actual,
        warnings=(
            *([descriptions.RANDOM_WEIGHTS_WARNING] if random_weights else []),
            *descriptions.warn_unobserved(
                published_item.read_not_observed(plan_dir.parent) if item else None
            ),
            *quality_gate.find_violations(plan, quality),
        ),
    )


def _path_if_published(item: Path | None, path: Path) -> str | None:
    return str(path) if item and open_store(path.parent).exists(path.name) else None
