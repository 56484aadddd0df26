"""The main flow: search → snapshot → plan → tiles → verify → publish.

Prefect sees five coarse tasks and the paths between them; tiles are dask's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalogs.errors import Transient, Wrong
from flows import server
from flows.job import Job
from flows.progress import Progress, Silence
from pipeline import estimate, lock, receipt, store, tile
from pipeline.accuracy import Agreement
from pipeline.plan import Plan
from pipeline.publish import Hole

server.prepare()

import prefect  # noqa: E402

# ^ its settings are read when it is imported

from flows import engine, planning, publishing  # noqa: E402
from flows import job as jobs  # noqa: E402

Truth = Callable[[Path, Plan], Agreement | None]
"""Compares a finished store with a known truth."""


class _Watch:
    """Who is told how far a run in this process has come: tasks cannot carry it."""

    progress: Progress = Silence()
    truth: Truth | None = None


@contextmanager
def _watched(progress: Progress, truth: Truth | None) -> Iterator[None]:
    before = (_Watch.progress, _Watch.truth)
    _Watch.progress, _Watch.truth = progress, truth
    try:
        yield
    finally:
        _Watch.progress, _Watch.truth = before


def _again(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may be gone at the next attempt, and nothing else."""
    return isinstance(state.result(raise_on_failure=False), Transient)


@prefect.task(name="plan", retries=2, retry_delay_seconds=10, retry_condition_fn=_again)
def freeze(job: str) -> str:
    """Search, choose and freeze; return the path of the plan."""
    return str(_settle(_frozen(Path(job))))


def _frozen(path: Path) -> Plan:
    return Plan.read(path) if path.suffix == ".json" else planning.freeze(jobs.load(path))


@prefect.task(name="map tiles")
def map_tiles(plan_path: str) -> dict[str, Any]:
    """Make the tiles that are missing; return what became of them."""
    path = Path(plan_path)
    plan = Plan.read(path)
    folder = path.parent
    store.create(folder / store.NAME, plan.grid, plan.tile, tile.variables(plan))
    done = receipt.finished(folder, plan)
    todo = [one for one in plan.tiles if one.id not in done]
    execution = plan.job["execution"]
    _Watch.progress.stage("tiles", len(todo))
    seconds: dict[str, float] = {}
    failed = []
    for outcome in engine.run(
        path, todo, engine=execution["engine"], workers=execution["workers"]
    ):
        _Watch.progress.advance(1, outcome.tile)
        if outcome.reason is not None:
            failed.append({"tile": outcome.tile, "reason": outcome.reason})
        for name, value in outcome.seconds.items():
            seconds[name] = round(seconds.get(name, 0.0) + value, 3)
    return {
        "total": len(plan.tiles),
        "done": len(todo) - len(failed),
        "skipped": len(done),
        "failed": sorted(failed, key=lambda one: one["tile"]),
        "seconds": seconds,
    }


@prefect.task(name="verify")
def check(plan_path: str) -> list[dict[str, str]]:
    """Compare every stored byte with its receipt; return what does not match."""
    path = Path(plan_path)
    return damages(Plan.read(path), path.parent)


@prefect.task(name="publish")
def publish(plan_path: str, failed: list[dict[str, str]]) -> str:
    """Write COGs, pictures, report and, last, the item; return its path."""
    path = Path(plan_path)
    plan = Plan.read(path)
    home = path.parent.parent
    _Watch.progress.stage("publish", len(tile.variables(plan)))
    accuracy = _Watch.truth(path.parent, plan) if _Watch.truth else None
    return str(
        publishing.publish_product(
            plan,
            home,
            holes=[Hole(tile=one["tile"], reason=one["reason"]) for one in failed],
            accuracy=accuracy,
            formats=plan.job["output"]["formats"],
            on_layer=lambda name: _Watch.progress.advance(1, name),
        )
    )


@prefect.flow(name="land_cover", persist_result=False, flow_run_name="{job}")
def land_cover(job: str, allow_partial: bool = False) -> dict[str, Any]:
    """Map one region and period.

    Args:
        job: path of a job file, or of a plan.
        allow_partial: publish with failed tiles declared as holes.

    Returns:
        What ``terramosaic run --json`` prints.
    """
    server.bind()
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    _Watch.progress.stage("plan")
    path = clock.time("plan", freeze, job)
    with lock.held(Path(path).parent):
        store.sweep(Path(path).parent)
        tiles = clock.time("tiles", map_tiles, path)
        seconds |= tiles.pop("seconds")
        _Watch.progress.stage("verify")
        bad = clock.time("verify", check, path)
        failed = _merge(tiles["failed"], bad)
        item = None
        if not failed or allow_partial:
            item = clock.time("publish", publish, path, failed)
    _Watch.progress.finish()
    tiles["failed"] = failed
    status = "complete" if not failed else "partial" if item else "failed"
    return _result(Plan.read(Path(path)), status, item, tiles, seconds)


class _Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def time(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = work(*arguments)
        self._seconds[name] = round(time.perf_counter() - started, 3)
        return result


def _merge(
    failed: list[dict[str, str]], bad: list[dict[str, str]]
) -> list[dict[str, str]]:
    known = {one["tile"] for one in failed}
    return failed + [
        {"tile": one["tile"], "reason": f"{one['file']}: {one['reason']}"}
        for one in bad
        if one["tile"] not in known
    ]


def _settle(plan: Plan) -> Path:
    """Write the plan into its folder, where everything that belongs to it will lie."""
    folder = planning.folder(plan) / plan.short
    path = folder / "plan.json"
    plan.write(path)
    return path


def damages(plan: Plan, folder: Path) -> list[dict[str, str]]:
    """Return tile, file and reason of everything stored that a receipt does not vouch for.

    The receipt of a damaged tile is taken away, so that the next run makes the tile anew.
    """
    bad = []
    for one in plan.tiles:
        proof = receipt.read(folder, one)
        if proof is None or proof.key != plan.key(one):
            continue
        found = store.check(folder / store.NAME, one, proof.digests)
        bad += [{"tile": one.id, "file": file, "reason": reason} for file, reason in found]
        if found:
            receipt.path(folder, one).unlink(missing_ok=True)
    return bad


def run(
    job: Path,
    *,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
    truth: Truth | None = None,
) -> dict[str, Any]:
    """Run or resume a job or a plan; a finished product is left as it is."""
    if max_cost is not None:
        raise Wrong(
            "--max-cost: no prices are known, so no cost can be compared. Leave the option out."
        )
    with _watched(progress, truth):
        started = time.perf_counter()
        progress.stage("plan")
        frozen = _frozen(job)
        planned = round(time.perf_counter() - started, 3)
        result = _finished(frozen)
        if result is None:
            progress.stage("start")
            result = land_cover(job=str(_settle(frozen)), allow_partial=allow_partial)
        result["seconds"]["plan"] = planned
    return result


def _finished(plan: Plan) -> dict[str, Any] | None:
    """Return the result of a product that already stands, or None: no server is started for it."""
    item = planning.folder(plan) / "item.json"
    folder = item.parent / plan.short
    done = receipt.finished(folder, plan)
    if len(done) < len(plan.tiles) or not publishing.stands(item, plan):
        return None
    _Watch.progress.finish()
    tiles = {"total": len(plan.tiles), "done": 0, "skipped": len(done), "failed": []}
    return _result(plan, "unchanged", str(item), tiles, {})


def _result(
    plan: Plan,
    status: str,
    item: str | None,
    tiles: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    folder = planning.folder(plan) / plan.short
    return {
        "status": status,
        "item": item,
        "map": _where(item, folder / str(plan.grid.epsg) / "land_cover.tif"),
        "quicklook": _where(item, folder / "quicklook.png"),
        "tiles": dict(tiles),
        "scenes": len(plan.snapshot.scenes),
        "seconds": dict(seconds),
        "accuracy": publishing.accuracy_in(Path(item)) if item else None,
    }


def _where(item: str | None, path: Path) -> str | None:
    return str(path) if item and path.exists() else None


def search(job: Job, progress: Progress) -> dict[str, Any]:
    """Return the scenes of a job, used and refused."""
    progress.stage("search")
    answer = planning.ask(job, context_m=0.0)
    progress.finish()
    return {
        "used": [
            {
                "id": scene.id,
                "datetime": scene.datetime.isoformat() if scene.datetime else None,
                "modality": scene.modality,
                "platform": scene.platform,
                "tile": scene.tile,
                "baseline": scene.baseline,
                "cloud_cover": scene.cloud_cover,
                "orbit_state": scene.orbit_state,
            }
            for scene in answer.selection.used
        ],
        "refused": [
            {"id": one.id, "reason": one.reason} for one in answer.selection.refused
        ],
    }


def plan(job: Job, progress: Progress, output: Path | None) -> dict[str, Any]:
    """Freeze a job and say what running it would take."""
    progress.stage("plan")
    frozen = planning.freeze(job)
    path = output or planning.folder(frozen) / frozen.short / "plan.json"
    frozen.write(path)
    done = receipt.finished(planning.folder(frozen) / frozen.short, frozen)
    progress.finish()
    need = estimate.of(frozen, workers=job.execution.workers)
    return {
        "plan": str(path),
        "tiles": {
            "total": len(frozen.tiles),
            "new": len(frozen.tiles) - len(done),
            "skip": len(done),
            "recompute": 0,
        },
        "scenes": len(frozen.snapshot.scenes),
        "bytes": need.bytes,
        "requests": need.requests,
        "peak_memory_bytes": need.peak_memory_bytes,
        "seconds": need.seconds,
        "cost": None,
    }


def verify(out: Path, progress: Progress) -> dict[str, Any]:
    """Check every byte of the products under a folder, or of one product."""
    homes = publishing.homes(out)
    progress.stage("verify", len(homes))
    bad: list[dict[str, str]] = []
    for home in homes:
        frozen, folder = publishing.current(home)
        with lock.held(folder):
            bad += damages(frozen, folder)
            bad += publishing.damaged_files(home)
            proofs = receipt.finished(folder, frozen)
        holes = publishing.holes_in(home)
        bad += [
            {"tile": one.id, "file": "receipts", "reason": "the tile has no receipt"}
            for one in frozen.tiles
            if one.id not in proofs
            and one.id not in holes
            and one.id not in {entry["tile"] for entry in bad}
        ]
        progress.advance(1, home.name)
    progress.finish()
    return {"ok": not bad, "bad": bad, "seam": {}}
