"""The products of one job, period by period: which are there, which can be made, which are late."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shapely.geometry import shape

from catalogs import lonlat_geometry
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.sensors import get_sensor
from flows.config import cadence
from flows.config import period as periods
from flows.config.cadence import PeriodRange
from flows.config.job import Job
from flows.config.period import Period
from flows.config.schedule import MAX_PERIODS
from flows.observe.progress import Progress
from flows.run import planning
from pipeline.product import published
from pipeline.runtime import cancellation
from pipeline.runtime.cancellation import Cancelled
from pipeline.runtime.lock import FolderLockedError
from pipeline.storage import receipt
from pipeline.storage.store import open_store

log = logging.getLogger(__name__)

RunPeriod = Callable[[Period], dict[str, Any]]
"""Makes the product of one period; returns what ``terramosaic run --json`` prints."""

FINISHED, READY, THIN, GAP, WAITING = "finished", "ready", "thin", "gap", "waiting"
BUSY = "busy"
RUNNABLE = (READY, THIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodSummary:
    """One period of a job."""

    period: Period
    status: str
    """Before anything is made finished, ready, thin, gap or waiting; then what became of it."""

    reason: str | None = None
    scenes: int | None = None
    coverage: float | None = None
    """Share of the region under the scenes of the leading input, 0 to 1."""

    cloud_cover: float | None = None
    """Mean of these scenes, percent, as the catalog says."""

    item: str | None = None
    tiles: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-ready values."""
        return {
            "start": self.period.start.isoformat(),
            "end": self.period.end.isoformat(),
            "status": self.status,
            "item": self.item,
            "scenes": self.scenes,
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "cloud_cover": None if self.cloud_cover is None else round(self.cloud_cover, 1),
            "tiles": self.tiles,
            "reason": self.reason,
        }


def today() -> dt.date:
    """Return the day in UTC."""
    return dt.datetime.now(dt.UTC).date()


def list_periods(job: Job, period_range: PeriodRange) -> list[Period]:
    """Return the periods of a range, the oldest first.

    Raises:
        InvalidInputError: one of its ends cannot be read, or nothing lies between them.
    """
    text = period_range.length or job.schedule.cadence
    start = (
        job.schedule.since
        if period_range.first is None
        else periods.parse(period_range.first).start
    )
    if start is None:
        raise InvalidInputError(
            "From which day on? Write --from 2023-01, or schedule: {from: 2023-01}."
        )
    if period_range.last is not None:
        whole = Period(start=start, end=periods.parse(period_range.last).end)
        return list(cadence.split_period(whole, text, max_parts=MAX_PERIODS))
    found = list(job.schedule.complete_periods(start, text, today()))
    if not found:
        raise InvalidInputError(
            f"No {text} that begins with {start} is over by {job.schedule.latency_days} days "
            "(schedule.latency_days). Write --from with an earlier day, or --to."
        )
    return found


def find_finished_item(job: Job, period: Period) -> Path | None:
    """Return the item of a period's product if it is complete and what the job asks for now.

    Nothing is searched: newer scenes are what ``refresh`` looks for.
    """
    home = planning.job_product_dir(job.with_period(period))
    try:
        plan, folder = published.read_current_plan(home)
    except InvalidInputError:
        return None
    item = home / "item.json"
    if plan.job.get("request") != planning.hash_request(job) or not published.is_complete(
        home, plan
    ):
        return None
    return item if len(receipt.read_finished(folder, plan)) == len(plan.tiles) else None


def inspect_period(job: Job, period: Period) -> PeriodSummary:
    """Say whether a period's product is there, and what the catalog has for it if not."""
    item = find_finished_item(job, period)
    if item is not None:
        return PeriodSummary(period=period, status=FINISHED, item=str(item))
    try:
        answer = planning.search_scenes(
            job.with_period(period), context_m=0.0, check_radiometry=False
        )
    except NothingFoundError as error:
        return PeriodSummary(period=period, status=GAP, scenes=0, coverage=0.0, reason=str(error))
    leading = next((name for name in job.inputs if get_sensor(name).is_temporal), job.inputs[0])
    used = [scene for scene in answer.selection.used if scene.modality == leading]
    share = lonlat_geometry.covered_fraction(
        lonlat_geometry.union(shape(one.footprint) for one in used), answer.region
    )
    enough = share >= job.schedule.min_coverage
    clouds = [scene.cloud_cover for scene in used if scene.cloud_cover is not None]
    return PeriodSummary(
        period=period,
        status=READY if enough else THIN,
        scenes=len(answer.selection.used),
        coverage=share,
        cloud_cover=sum(clouds) / len(clouds) if clouds else None,
        reason=None if enough else f"{leading} covers {share:.0%} of the region",
    )


def inspect_periods(
    job: Job, requested_periods: Sequence[Period], progress: Progress
) -> list[PeriodSummary]:
    """Look at every period before any of them is made."""
    progress.start_stage("look", len(requested_periods))
    found = []
    for period in requested_periods:
        found.append(inspect_period(job, period))
        progress.advance(1, f"{period} {found[-1].status}")
    progress.finish()
    return found


def inspect_range(job: Job, period_range: PeriodRange, progress: Progress) -> list[PeriodSummary]:
    """Look at the periods of a range, in the order in which they will be made.

    Raises:
        InvalidInputError: one of its ends cannot be read, or nothing lies between them.
    """
    found = inspect_periods(job, list_periods(job, period_range), progress)
    found = _mark_cut_periods(found, period_range.length or job.schedule.cadence)
    if period_range.last is None:
        found = mark_waiting(job, found)
    return found[::-1] if period_range.newest_first else found


def _mark_cut_periods(entries: Sequence[PeriodSummary], period_length: str) -> list[PeriodSummary]:
    """Say of the first and the last period of a range, the oldest first, what it has cut off."""
    since = entries[0].period.start
    found = list(entries)
    for place in {0, len(entries) - 1}:
        one = entries[place]
        whole = cadence.restore_full_period(one.period, since, period_length)
        if whole != one.period:
            words = (one.reason, f"a part of {whole}, which the range cuts")
            found[place] = replace(one, reason="; ".join(filter(None, words)))
    return found


def mark_waiting(job: Job, entries: Sequence[PeriodSummary]) -> list[PeriodSummary]:
    """Let those periods wait whose scenes may still come, by the schedule's rule."""
    now = today()
    return [
        replace(one, status=WAITING)
        if one.status in {THIN, GAP} and job.schedule.is_awaiting_scenes(one.period, now)
        else one
        for one in entries
    ]


def inspect_due(job: Job, progress: Progress) -> list[PeriodSummary]:
    """Look at the latest periods that have ended; those that may still fill up are waiting.

    Raises:
        InvalidInputError: the job does not say from which day periods are counted.
    """
    return mark_waiting(job, inspect_periods(job, job.schedule.due_periods(today()), progress))


def find_latest(job: Job, progress: Progress) -> Period:
    """Return the latest period whose scenes are complete by the schedule's rule.

    Raises:
        InvalidInputError: the job does not say from which day periods are counted.
        NothingFoundError: there is none.
    """
    now = today()
    wanted = job.schedule.due_periods(now)
    progress.start_stage("look", len(wanted))
    for period in reversed(wanted):
        found = inspect_period(job, period)
        progress.advance(1, f"{period} {found.status}")
        late = not job.schedule.is_awaiting_scenes(period, now)
        if found.status in {FINISHED, READY} or (found.status == THIN and late):
            return period
    raise NothingFoundError(
        f"Of the {len(wanted)} latest periods since {job.schedule.since} none has the scenes that "
        "the schedule asks for. terramosaic backfill JOB --dry-run lists what each one has."
    )


def run_entries(
    entries: Sequence[PeriodSummary], run_period: RunPeriod, *, at_once: int
) -> list[PeriodSummary]:
    """Make the periods that can be made; one that fails does not stop the others.

    Args:
        entries: all periods, in the order in which they are begun.
        run_period: makes one of them.
        at_once: how many at a time.
    """

    def attempt(entry: PeriodSummary) -> PeriodSummary:
        cancellation.check_cancelled()
        return _run_entry(entry, run_period) if entry.status in RUNNABLE else entry

    if at_once == 1:
        return [attempt(entry) for entry in entries]
    with cancellation.CancellableThreadPool(at_once, "period") as pool:
        return list(pool.map(attempt, entries))
        # ^ they take its context with them: who watches the run, and what Prefect knows of it


def _run_entry(entry: PeriodSummary, run_period: RunPeriod) -> PeriodSummary:
    try:
        result = run_period(entry.period)
    except NothingFoundError as error:
        return replace(entry, status=GAP, reason=str(error))
    except FolderLockedError as error:
        return replace(entry, status=BUSY, reason=str(error))
        # ^ as where a schedule fires again while its last run is still at it
    except Cancelled:
        raise
    except Exception as error:
        # ^ whatever is wrong with one month, the next one may be sound
        cancellation.check_cancelled()
        # ^ but what a stop has cut off is no failure
        log.warning("period=%s failed reason=%s", entry.period, error, exc_info=True)
        return replace(entry, status="failed", reason=str(error) or type(error).__name__)
    failed = result["tiles"]["failed"]
    why = None if result["status"] == "unchanged" else entry.reason
    return replace(
        entry,
        status=result["status"],
        item=result["item"],
        scenes=result["scenes"],
        tiles={**result["tiles"], "failed": len(failed)},
        reason=f"{len(failed)} tiles failed, {failed[0]['reason']}" if failed else why,
    )


def build_result(job: Job, entries: Iterable[PeriodSummary], **extra: Any) -> dict[str, Any]:
    """Return what ``backfill --json`` and ``refresh --json`` print."""
    return {"name": job.name, **extra, "periods": [entry.to_dict() for entry in entries]}


def iter_products(job: Job) -> Iterator[tuple[Period, Path]]:
    """Yield period and folder of the products of a job that are there, the oldest first."""
    collection_dir = job.output.folder / job.name
    for name in open_store(collection_dir).glob(f"*_*/{published.ITEM_NAME}"):
        product_dir = (collection_dir / name).parent
        try:
            yield periods.parse(product_dir.name.replace("_", "/")), product_dir
        except InvalidInputError:
            log.warning("%s is not the folder of a period, and is ignored", product_dir)
