"""Outdated products: those that the job, the catalog or the model of today would make otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from catalogs import snapshot
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.scene import Scene
from catalogs.search import scene_selection
from catalogs.search.scene_selection import Selection
from flows.config import period as periods
from flows.config.job import Job
from flows.config.period import Period
from flows.observe.progress import Progress
from flows.run import planning, scene_search
from flows.run.job_digest import hash_request
from flows.series.period_status import PeriodSummary
from pipeline.plan.plan import NUMERICS_VERSION, Plan
from pipeline.plan.recipe import ModelSpec
from pipeline.product import published_item
from pipeline.storage.store import open_store

log = logging.getLogger(__name__)


def find_outdated(job: Job, progress: Progress) -> list[PeriodSummary]:
    """Inspect the finished periods of a job; outdated ones get the status ready and a reason.

    Args:
        job: the job, whatever its period.
        progress: a step per finished period.
    """
    products = list(iter_products(job))
    progress.start_stage("inspect", len(products))
    model = planning.load_model_spec(job) if products else None
    entries = []
    for period, product_dir in products:
        entry = PeriodSummary(period=period, status="finished", item=str(product_dir / "item.json"))
        try:
            plan, _ = published_item.read_current_plan(product_dir)
            changes = "; ".join(iter_changes(job.with_period(period), plan, product_dir, model))
        except NothingFoundError as error:
            changes = ""
            entry = replace(entry, reason=f"kept as it is: {error}")
        except InvalidInputError as error:
            changes = str(error)
            # ^ the plan was written by another version
        if changes:
            entry = replace(entry, status="ready", reason=changes)
        entries.append(entry)
        progress.advance(1, f"{period} {entry.status}")
    progress.finish()
    return entries


def iter_products(job: Job) -> Iterator[tuple[Period, Path]]:
    """Yield period and folder of the job's published products, oldest first."""
    collection_dir = job.output.folder / job.name
    for name in open_store(collection_dir).glob(f"*_*/{published_item.ITEM_NAME}"):
        product_dir = (collection_dir / name).parent
        try:
            yield periods.parse(product_dir.name.replace("_", "/")), product_dir
        except InvalidInputError:
            log.warning("%s is not the folder of a period and is skipped", product_dir)


def iter_changes(job: Job, plan: Plan, product_dir: Path, model: ModelSpec | None) -> Iterator[str]:
    """Yield what has changed since a plan was frozen, in words.

    Args:
        job: the job over the plan's period.
        plan: the plan of the published product.
        product_dir: the product's folder.
        model: the job's model as it is now.

    Raises:
        NothingFoundError: the catalog has no scenes for the job any more.
    """
    job = planning.drop_generated_inputs(job)
    if plan.numerics != NUMERICS_VERSION:
        yield f"this version computes other pixel values (numerics {NUMERICS_VERSION})"
    elif plan.settings.request_digest != hash_request(job):
        yield "the job asks for something else"
    if (plan.model and plan.model.to_dict()) != (model and model.to_dict()):
        yield "the model is another one"
    if published_item.read_missing_tiles(product_dir):
        yield "tiles are missing"
    search_result = scene_search.search_scenes(
        job,
        context_m=model.window * job.grid.resolution if model else 0.0,
        bands=model.inputs if model else None,
        check_files=False,
    )
    selected = search_result.selection.used
    planned = {snapshot.digest_catalog_scene(scene) for scene in plan.snapshot.scenes}
    rejected = {(scene.collection, scene.id) for scene in plan.snapshot.refused}
    newer = [scene for scene in selected if _is_new(scene, planned, rejected)]
    kept = {snapshot.digest_catalog_scene(scene) for scene in selected}
    kept |= _find_displaced(plan, search_result.selection)
    removed = planned - kept
    if newer:
        yield f"{len(newer)} newer scenes ({_list_ids(newer)})"
    elif removed:
        yield f"{len(removed)} scenes are no longer used"


def _is_new(scene: Scene, planned_digests: set[str], rejected_keys: set[tuple[str, str]]) -> bool:
    is_planned = snapshot.digest_catalog_scene(scene) in planned_digests
    return not is_planned and not rejected_keys & {
        (scene.collection, scene.id),
        ("", scene.id),
        # ^ older plans state no collection
    }
    # ^ a search finds again what the checks of files have rejected


def _find_displaced(plan: Plan, selection: Selection) -> set[str]:
    """Return digests of planned scenes that a search replaces by some that the plan rejected.

    A search reads no file, so it prefers a newer document that has no valid pixels.
    """
    rejected_names = {
        name for scene in plan.snapshot.refused for name in scene_selection.list_names(scene)
    }
    displaced = {
        (scene.collection, scene.id)
        for scene in selection.refused
        if scene.replaced_by in rejected_names
    }
    return {
        snapshot.digest_catalog_scene(scene)
        for scene in plan.snapshot.scenes
        if (scene.collection, scene.id) in displaced
    }


def _list_ids(scenes: Sequence[Scene], max_listed: int = 3) -> str:
    ids = ", ".join(scene.id for scene in scenes[:max_listed])
    return f"{ids}, …" if len(scenes) > max_listed else ids
