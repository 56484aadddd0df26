"""What the verbs do: search, plan, run and verify products.

Only a run that has something to do, and a Prefect server to tell, imports the flow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.config import period as periods
from flows.config.job import Job
from flows.execution import engine
from flows.observe import exporter, run_context
from flows.observe.progress import Progress
from flows.observe.run_context import TruthComparison
from flows.orchestration import server
from flows.run import cost, planning, quality_gate
from flows.series import inspection
from pipeline.plan.plan import Plan
from pipeline.product import descriptions, provenance, published
from pipeline.quality import coverage, gates
from pipeline.report import search_page
from pipeline.storage import plan_file, receipt, zarr_store
from pipeline.storage.store import StoreLike, open_store, write_json

log = logging.getLogger(__name__)


def load_or_create_plan(path: Path, period: str | None = None) -> Plan:
    """Return the plan of a plan file, or of a job file over a period.

    Args:
        path: the file.
        period: another one than the job's, or ``latest``; None = the job's.

    Raises:
        InvalidInputError: a plan is asked for another period than its own; something in the job cannot be.
        NothingFoundError: no scene answers it.
    """
    if path.suffix == ".json":
        if period is not None:
            raise InvalidInputError(
                f"{path} is a plan, and has its period. Give the job, or no --period."
            )
        return plan_file.read_plan_file(path)
    return planning.create_plan(
        with_period(jobs.load(path), period, run_context.get_progress()), run_context.get_progress()
    )


def with_period(job: Job, period: str | None, progress: Progress) -> Job:
    """Return a job over a period: another one than its own, or the latest that is complete.

    Args:
        job: the job.
        period: as a job writes it, or ``latest``; None = the job's own.
        progress: who is told how far it has come.

    Raises:
        InvalidInputError: the period cannot be read.
        NothingFoundError: no period is complete.
    """
    if period is not None and period != jobs.LATEST:
        return job.with_period(periods.parse(period))
    if period is not None or job.period is None:
        return job.with_period(inspection.find_latest(job, progress))
    return job


def write_plan(plan: Plan) -> Path:
    """Write the plan into its folder, where everything that belongs to it will lie."""
    folder = planning.product_dir(plan) / plan.short_digest
    path = folder / "plan.json"
    try:
        plan_file.write_plan(folder, plan)
    except OSError as error:
        raise InvalidInputError(
            f"Nothing can be written to {folder} ({error.strerror or error}). "
            "Name another folder in output.path."
        ) from error
    return path


def find_damaged_tiles(plan: Plan, plan_dir: StoreLike) -> list[dict[str, str]]:
    """Return tile, file and reason of everything stored that a receipt does not vouch for.

    The receipt of a damaged tile is taken away, so that the next run makes the tile anew.
    """
    bad = []
    for one in plan.tiles:
        proof = receipt.read(plan_dir, one)
        if proof is None or proof.key != plan.tile_key(one):
            continue
        found = zarr_store.check_tile(plan_dir, plan, one, proof.digests)
        bad += [{"tile": one.id, "file": file, "reason": reason} for file, reason in found]
        if found:
            receipt.delete(plan_dir, one)
    return bad


def run(
    job: Path,
    *,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
    truth: TruthComparison | None = None,
    period: str | None = None,
) -> dict[str, Any]:
    """Run or resume a job or a plan; a finished product is left as it is.

    Args:
        job: path of a job file, or of a plan.
        allow_partial: publish with failed tiles declared as holes.
        max_cost: refuse above it.
        progress: who is told how far it has come.
        truth: what the map is compared with.
        period: another one than the job's, or ``latest``.
    """
    exporter.read_destination()
    if max_cost is not None and job.suffix != ".json":
        cost.validate_limit(jobs.load(job), max_cost)
    # ^ both refused before anything is planned
    with run_context.activate(progress, truth):
        started = time.perf_counter()
        progress.start_stage("plan")
        ready = load_or_create_plan(job, period)
        planned = round(time.perf_counter() - started, 3)
        result = find_existing_result(ready)
        if result is None:
            cost.check_limit(ready, planning.product_dir(ready) / ready.short_digest, max_cost)
            if job.suffix == ".json":
                engine.check_model(ready)
                # ^ a job has just been planned with the model as it is
            result = _run_stages(str(write_plan(ready)), allow_partial)
        else:
            exporter.export_existing_result(
                planning.product_dir(ready) / ready.short_digest / "plan.json", result
            )
        result["seconds"]["plan"] = planned
    return result


def _run_stages(plan_path: str, allow_partial: bool) -> dict[str, Any]:
    """Take the stages of a plan: as a flow where Prefect has a server to tell, and by themselves.

    Without one Prefect would start a server that ends with the run: seconds, and nobody to read it.
    """
    from flows.run import stages  # noqa: PLC0415

    # ^ it imports this file
    named = server.resolve_api_url()
    if named is not None:
        from flows.orchestration import land_cover  # noqa: PLC0415

        # ^ Prefect takes seconds to import
        try:
            return land_cover.land_cover(job=plan_path, allow_partial=allow_partial)
        except land_cover.IncompleteProduct as error:
            return error.result
        except Exception as error:
            # ^ what Prefect raises depends on what it was at when its server went
            if not server.is_unreachable(error):
                raise
            log.warning("Prefect's server at %s no longer answers: the run goes on alone", named)
    return stages.run(plan_path, None, allow_partial, lambda stage, *given: stage(*given))


def find_existing_result(plan: Plan) -> dict[str, Any] | None:
    """Return the result of a product that already stands, or None: no server is started for it."""
    product_dir = planning.product_dir(plan)
    folder = product_dir / plan.short_digest
    done = receipt.read_finished(folder, plan)
    if len(done) < len(plan.tiles) or not published.is_complete(product_dir, plan):
        return None
    run_context.get_progress().finish()
    tiles = {"total": len(plan.tiles), "done": 0, "skipped": len(done), "failed": []}
    seam = published.read_seam(product_dir)
    status = "refused" if seam and quality_gate.is_refused(plan, seam) else "unchanged"
    # ^ the gate may be narrower than when it was published
    return build_result(plan, status, str(product_dir / published.ITEM_NAME), tiles, {}, seam)


def build_result(
    plan: Plan,
    status: str,
    item: str | None,
    tiles: Mapping[str, Any],
    seconds: Mapping[str, float],
    seam: Mapping[str, Any] | None,
    planned: Mapping[str, Any] | None = None,
    traffic: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return what ``run --json`` prints."""
    folder = planning.product_dir(plan) / plan.short_digest
    answer = plan.model.primary_output.layer_name if plan.model else "land_cover"
    return {
        "status": status,
        "item": item,
        "map": _existing_path(item, folder / published.main_dir_name(plan) / f"{answer}.tif"),
        "quicklook": _existing_path(item, folder / "quicklook.png"),
        "tiles": dict(tiles),
        "scenes": len(plan.snapshot.scenes),
        "seconds": dict(seconds),
        "accuracy": published.read_accuracy(folder.parent) if item else None,
        "seam": seam,
        "planned": planned,
        "actual": cost.get_actual_usage(plan, traffic or {}, seconds, int(tiles["done"])),
        "warnings": [
            *([descriptions.RANDOM_WEIGHTS_WARNING] if provenance.is_random(plan) else []),
            *descriptions.warn_unobserved(
                published.read_not_observed(folder.parent) if item else None
            ),
            *quality_gate.find_violations(plan, seam),
        ],
    }


def _existing_path(item: str | None, path: Path) -> str | None:
    return str(path) if item and open_store(path.parent).exists(path.name) else None


def search(
    job: Job, progress: Progress, report: Path | None = None, period: str | None = None
) -> dict[str, Any]:
    """Return the scenes of a job, used and refused, and what they cover on which day.

    Args:
        job: the job.
        progress: who is told how far it has come.
        report: where a page with tables and picture is written, if anywhere.
        period: another one than the job's, or ``latest``.
    """
    job = with_period(job, period, progress)
    progress.start_stage("search")
    answer = planning.search_scenes(job, context_m=0.0, check_radiometry=False)
    selection = answer.selection
    days = coverage.group_by_day(selection.used, selection.refused, answer.region)
    if report is not None:
        page = search_page.render_search_page(
            f"{job.name}: scenes found", days, selection.used, selection.refused
        )
        try:
            open_store(report.parent).write(report.name, page.encode())
        except OSError as error:
            raise InvalidInputError(
                f"The report cannot be written to {report} ({error.strerror or error}). "
                "Name another file with --report."
            ) from error
    progress.finish()
    return {
        "used": [
            {
                "id": scene.id,
                "datetime": scene.datetime.isoformat() if scene.datetime else None,
                "collection": scene.collection,
                "modality": scene.modality,
                "platform": scene.platform,
                "tile": scene.tile,
                "baseline": scene.baseline,
                "orbit_state": scene.orbit_state,
                "relative_orbit": scene.relative_orbit,
                "cloud_cover": scene.cloud_cover,
                "coverage": round(coverage.footprint_share(scene, answer.region), 4),
            }
            for scene in selection.used
        ],
        "refused": [
            {
                "id": one.id,
                "reason": one.reason,
                "collection": one.collection or None,
                "modality": one.modality or None,
                "date": one.day,
                "coverage": one.share,
            }
            for one in selection.refused
        ],
        "coverage": [
            {
                "modality": day.modality,
                "date": day.date.isoformat() if day.date else None,
                "coverage": round(day.share, 4),
                "cloud_cover": None if day.cloud_cover is None else round(day.cloud_cover, 2),
                "used": list(day.scenes),
                "refused": [one.id for one in day.refused],
            }
            for day in days
        ],
        "report": None if report is None else str(report),
    }


def plan(
    job: Job, progress: Progress, output: Path | None, period: str | None = None
) -> dict[str, Any]:
    """Freeze a job over a period, by default its own, and say what running it would take."""
    job = with_period(job, period, progress)
    progress.start_stage("plan")
    ready = planning.create_plan(job, progress)
    folder = planning.product_dir(ready) / ready.short_digest
    path = output or folder / plan_file.PLAN_NAME
    plan_store = open_store(path.parent)
    write_json(plan_store, path.name, ready.to_dict())
    tiles, _ = cost.find_missing_tiles(ready, folder)
    need = cost.estimate_resources(ready, folder, tiles)
    before = published.read_finished_tiles(folder.parent)
    again = sum(one.id in before for one in tiles)
    progress.finish()
    return {
        "plan": str(path),
        "tiles": {
            "total": len(ready.tiles),
            "new": len(tiles) - again,
            "skip": len(ready.tiles) - len(tiles),
            "recompute": again,
        },
        "scenes": len(ready.snapshot.scenes),
        "bytes": need.bytes,
        "requests": need.requests,
        "peak_memory_bytes": need.peak_memory_bytes,
        "seconds": need.seconds,
        "cpu_hours": need.cpu_hours,
        "gpu_hours": need.gpu_hours,
        "stored_bytes": need.stored_bytes,
        "uncertainty": need.uncertainty,
        "basis": need.basis,
        "cost": cost.estimate_cost(ready, need),
    }


def verify(out: Path, progress: Progress) -> dict[str, Any]:
    """Check every byte of the products under a folder, or of one product."""
    homes = published.find_product_dirs(out)
    progress.start_stage("verify", len(homes))
    bad: list[dict[str, str]] = []
    looked: list[dict[str, Any]] = []
    refused = False
    for home in homes:
        progress.advance(1, home.name)
        try:
            ready, folder = published.read_current_plan(home)
        except InvalidInputError as error:
            bad.append({"tile": "", "file": str(home / "item.json"), "reason": str(error)})
            continue
        with folder.lock():
            found = find_damaged_tiles(ready, folder)
            bad += found + published.find_damaged_files(home)
            proofs = receipt.read_finished(folder, ready)
            holes = published.read_missing_tiles(home)
            if len(proofs) + len(holes) >= len(ready.tiles):
                seam = gates.measure_quality(ready, folder).to_dict()
                refused |= quality_gate.is_refused(ready, seam)
                looked.append({"item": str(home / "item.json"), **seam})
        bad += [
            {"tile": one.id, "file": "receipts", "reason": "the tile has no receipt"}
            for one in ready.tiles
            if one.id not in proofs
            and one.id not in holes
            and one.id not in {entry["tile"] for entry in bad}
        ]
    progress.finish()
    return {
        "ok": not bad and not refused,
        "bad": bad,
        "seam": max(looked, key=gates.largest_z) if looked else None,
    }
