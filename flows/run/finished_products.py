"""Finished products: whether one is there that a job or a plan asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from catalogs import snapshot
from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.config.run_settings import build_run_settings
from flows.observe import metrics_destination
from flows.run import (
    model_spec_cache,
    planning,
    product_folder,
    run_result,
    scene_search,
)
from flows.run.command_results import RunResult, TileCounts
from flows.run.job_digest import hash_request
from pipeline.plan.plan import Plan
from pipeline.product import published_item
from pipeline.quality import completeness, quality_gate
from pipeline.quality.completeness import ProductCounts
from pipeline.storage import plan_file, receipt


def find_existing_result(plan: Plan) -> RunResult | None:
    """Return the result of a plan whose product is complete; None where something is left to do.

    The published item must name this very plan (by its digest: scenes, recipe, model, grids), have
    no missing tiles and all of its files, and every tile must have a receipt with its key.
    """
    product_dir = product_folder.product_dir(plan)
    finished = receipt.read_finished(product_folder.plan_dir(plan), plan)
    if len(finished) < len(plan.tiles) or not published_item.is_complete(product_dir, plan):
        return None
    quality = published_item.read_quality(product_dir)
    counts = completeness.add_counts(plan, finished)
    reasons = _list_shortfalls(plan, counts) or quality_gate.list_refusals(plan, quality)
    # ^ the job's limits may be narrower than when the product was published
    return run_result.build_run_result(
        plan,
        status="refused" if reasons else "unchanged",
        item=product_dir / published_item.ITEM_NAME,
        tiles=TileCounts(total=len(plan.tiles), done=0, skipped=len(finished), failed=()),
        seconds={},
        reasons=reasons,
        quality=quality,
        counts=counts,
    )


def _list_shortfalls(plan: Plan, counts: ProductCounts) -> list[str]:
    """Return what a published product holds too little of; earlier versions did not count it."""
    return completeness.check_counts(plan, counts) if counts.details is not None else []


def find_unchanged(job: Job) -> tuple[Plan, RunResult] | None:
    """Return plan and result of a job's finished product if planning the job would not change it.

    This saves loading the model and reading pixels where nothing is left to do. Compared with the
    published plan are

    * the request of the job (:func:`flows.run.job_digest.hash_request`);
    * the model, by a fingerprint of its files and of this installation
      (:mod:`flows.run.model_spec_cache`);
    * the scenes that a search of the catalog selects now, by the digest of their identities.

    Everything else in a plan's digest follows from these. The product must be complete, as
    :func:`find_existing_result` requires. None is returned wherever something differs or cannot be
    known this way: then the job is planned. The checks of scenes against their files are not
    repeated: they depend on the files alone, which have an identity in the catalog.

    Args:
        job: the job over one period.

    Raises:
        NothingFoundError: the catalog has no scenes for the job.
        InvalidInputError: the catalog cannot be searched as the job says.
    """
    job = planning.drop_generated_inputs(job)
    plan = _read_requested_plan(job)
    if plan is None:
        return None
    plan = _with_settings(plan, job)
    model = plan.model
    if model is not None:
        known = model_spec_cache.find_model(job)
        if known is None or known.spec.to_dict() != model.to_dict():
            return None
    result = find_existing_result(plan)
    if result is None:
        return None
    search_result = scene_search.search_scenes(
        job,
        context_m=model.window * job.grid.resolution if model else 0.0,
        bands=model.inputs if model else None,
        check_files=False,
    )
    selected, planned = (
        snapshot.compute_catalog_digest(scenes)
        for scenes in (search_result.selection.used, plan.snapshot.scenes)
    )
    return (plan, result) if selected == planned else None


def export_metrics(plan: Plan, result: RunResult) -> None:
    """Export the metrics of a finished product, at which no run is at work."""
    metrics_destination.export_existing_result(
        product_folder.plan_dir(plan) / plan_file.PLAN_NAME,
        status=result.status,
        tiles=result.tiles.total,
        skipped=result.tiles.skipped,
    )


def find_finished_item(job: Job) -> Path | None:
    """Return the item of a job's product if it is complete and made for the job's request.

    Compared are the request (:func:`flows.run.job_digest.hash_request`), the plan's digest, the
    item's files, the tiles' receipts and ``qc.min_observed``. The catalog is not searched and the
    model is not loaded: ``terramosaic refresh`` looks for newer scenes and models.

    Args:
        job: the job over one period.
    """
    plan = _read_requested_plan(planning.drop_generated_inputs(job))
    if plan is None:
        return None
    plan = _with_settings(plan, job)
    product_dir = product_folder.product_dir(job)
    finished = receipt.read_finished(product_dir / plan.short_digest, plan)
    if len(finished) < len(plan.tiles) or not published_item.is_complete(product_dir, plan):
        return None
    if _list_shortfalls(plan, completeness.add_counts(plan, finished)):
        return None
    return product_dir / published_item.ITEM_NAME


def _with_settings(plan: Plan, job: Job) -> Plan:
    """Return a published plan with the run settings of its job as it is now.

    The folder may have been moved, and the limits of the quality gate may be other ones.
    """
    settings = build_run_settings(job, plan.settings.model, hash_request(job))
    return replace(plan, settings=settings)


def _read_requested_plan(job: Job) -> Plan | None:
    """Return the plan of a job's published product; None where it was made for another request."""
    try:
        plan, _ = published_item.read_current_plan(product_folder.product_dir(job))
    except InvalidInputError:
        return None
    return plan if plan.settings.request_digest == hash_request(job) else None
