"""Whether a finished product is still what its job, the catalog and the model would make today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.scene import Scene
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.run import planning
from flows.series import inspection
from flows.series.inspection import FINISHED, READY, PeriodSummary
from pipeline.plan.plan import Plan, hash_json
from pipeline.plan.recipe import ModelSpec
from pipeline.product import published


def find_outdated(job: Job, progress: Progress) -> list[PeriodSummary]:
    """Look at the finished periods of a job; those to be made anew are ready, and say why."""
    found = list(inspection.iter_products(job))
    progress.start_stage("look", len(found))
    model = planning.load_model_spec(job) if found else None
    entries = []
    for period, home in found:
        one = PeriodSummary(period=period, status=FINISHED, item=str(home / "item.json"))
        try:
            plan, _ = published.read_current_plan(home)
            why = "; ".join(iter_changes(job.with_period(period), plan, model))
        except NothingFoundError as error:
            why = ""
            one = replace(one, reason=f"kept as it is: {error}")
        except InvalidInputError as error:
            why = str(error)
            # ^ a plan of another version
        if why:
            one = replace(one, status=READY, reason=why)
        entries.append(one)
        progress.advance(1, f"{period} {one.status}")
    progress.finish()
    return entries


def iter_changes(job: Job, plan: Plan, model: ModelSpec | None) -> Iterator[str]:
    """Say what is other than when a plan was frozen; nothing where nothing is.

    Args:
        job: the job over the plan's period.
        plan: the plan of the product that stands.
        model: the job's model as it is now.

    Raises:
        NothingFoundError: the catalog has nothing any more.
    """
    if plan.settings.request_digest != planning.hash_request(job):
        yield "the job asks for something else"
    before, now = (one.to_dict() if one else None for one in (plan.model, model))
    if before != now:
        yield "the model is another one"
    if published.read_missing_tiles(planning.job_product_dir(job)):
        yield "tiles are missing"
    context = model.window * job.grid.resolution if model else 0.0
    answer = planning.search_scenes(
        job, context_m=context, bands=model.inputs if model else None, check_radiometry=False
    )
    known = {hash_json(one.identity()) for one in plan.snapshot.scenes}
    left_out = {one.id for one in plan.snapshot.refused}
    newer = [one for one in answer.selection.used if _is_new(one, known, left_out)]
    gone = known - {hash_json(one.identity()) for one in answer.selection.used}
    if newer:
        yield f"{len(newer)} newer scenes ({', '.join(one.id for one in newer[:3])}{_format_ellipsis(newer)})"
    elif gone:
        yield f"{len(gone)} scenes are no longer used"


def _is_new(scene: Scene, known_digests: set[str], rejected_ids: set[str]) -> bool:
    return hash_json(scene.identity()) not in known_digests and scene.id not in rejected_ids
    # ^ what the proof on pixels has refused is found again by a search


def _format_ellipsis(scenes: list[Scene]) -> str:
    return ", …" if len(scenes) > 3 else ""
