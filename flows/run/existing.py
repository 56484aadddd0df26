"""Finished products: whether one is there that a job or a plan asks for."""

from __future__ import annotations

from pathlib import Path

from catalogs.errors import InvalidInputError
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.run import outcome, planning, product_folder, quality_gate
from flows.run.request import hash_request
from flows.run.results import RunResult, TileCounts
from pipeline.plan.plan import Plan
from pipeline.product import published
from pipeline.storage import receipt


def find_existing_result(plan: Plan, progress: Progress) -> RunResult | None:
    """Return the result of a plan whose product is complete; None where something is left to do.

    The published item must name this very plan (by its digest: scenes, recipe, model, grids), have
    no missing tiles and all of its files, and every tile must have a receipt with its key.

    Args:
        plan: the plan.
        progress: ended where the product is complete.
    """
    product_dir = product_folder.product_dir(plan)
    finished = receipt.read_finished(product_folder.plan_dir(plan), plan)
    if len(finished) < len(plan.tiles) or not published.is_complete(product_dir, plan):
        return None
    progress.finish()
    quality = published.read_seam(product_dir)
    refused = quality is not None and quality_gate.is_refused(plan, quality)
    # ^ the job's limits may be narrower than when the product was published
    return outcome.build_run_result(
        plan,
        status="refused" if refused else "unchanged",
        item=product_dir / published.ITEM_NAME,
        tiles=TileCounts(total=len(plan.tiles), done=0, skipped=len(finished), failed=()),
        seconds={},
        quality=quality,
    )


def find_finished_item(job: Job) -> Path | None:
    """Return the item of a job's product if it is complete and made for the job's request.

    Compared are the request (:func:`flows.run.request.hash_request`), the plan's digest, the
    item's files and the tiles' receipts. The catalog is not searched and the model is not loaded:
    ``terramosaic refresh`` looks for newer scenes and models.

    Args:
        job: the job over one period.
    """
    product_dir = product_folder.product_dir(job)
    try:
        plan, plan_dir = published.read_current_plan(product_dir)
    except InvalidInputError:
        return None
    item = product_dir / published.ITEM_NAME
    request = hash_request(planning.drop_generated_inputs(job))
    if plan.settings.request_digest != request or not published.is_complete(product_dir, plan):
        return None
    return item if len(receipt.read_finished(plan_dir, plan)) == len(plan.tiles) else None
