"""The products of one job, period by period: which are there, which can be made, which are late."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shapely.geometry import shape

from catalogs import ground
from catalogs.errors import NothingFound, Wrong
from catalogs.scene import TIMELESS
from flows.config import cadence
from flows.config import period as periods
from flows.config.cadence import Range
from flows.config.job import Job
from flows.config.period import Period
from flows.config.schedule import MOST_PERIODS
from flows.observe.progress import Progress
from flows.run import planning
from pipeline.product import publishing
from pipeline.runtime import cancellation
from pipeline.runtime.cancellation import Halted
from pipeline.runtime.lock import Busy
from pipeline.storage import receipt

log = logging.getLogger(__name__)

Make = Callable[[Period], dict[str, Any]]
"""Makes the product of one period; returns what ``terramosaic run --json`` prints."""

FINISHED, READY, THIN, GAP, WAITING = "finished", "ready", "thin", "gap", "waiting"
BUSY = "busy"
TO_MAKE = (READY, THIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
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


def between(job: Job, wanted: Range) -> list[Period]:
    """Return the periods of a range, the oldest first.

    Raises:
        Wrong: one of its ends cannot be read, or nothing lies between them.
    """
    text = wanted.length or job.schedule.cadence
    start = job.schedule.since if wanted.first is None else periods.parse(wanted.first).start
    if start is None:
        raise Wrong("From which day on? Write --from 2023-01, or schedule: {from: 2023-01}.")
    if wanted.last is not None:
        whole = Period(start=start, end=periods.parse(wanted.last).end)
        return list(cadence.cut(whole, text, most=MOST_PERIODS))
    found = list(job.schedule.ended(start, text, today()))
    if not found:
        raise Wrong(
            f"No {text} that begins with {start} is over by {job.schedule.latency_days} days "
            "(schedule.latency_days). Write --from with an earlier day, or --to."
        )
    return found


def finished(job: Job, period: Period) -> Path | None:
    """Return the item of a period's product if it is complete and what the job asks for now.

    Nothing is searched: newer scenes are what ``refresh`` looks for.
    """
    home = planning.home(job.over(period))
    try:
        plan, folder = publishing.current(home)
    except Wrong:
        return None
    item = home / "item.json"
    if plan.job.get("request") != planning.request(job) or not publishing.stands(item, plan):
        return None
    return item if len(receipt.finished(folder, plan)) == len(plan.tiles) else None


def look(job: Job, period: Period) -> Entry:
    """Say whether a period's product is there, and what the catalog has for it if not."""
    item = finished(job, period)
    if item is not None:
        return Entry(period=period, status=FINISHED, item=str(item))
    try:
        answer = planning.ask(job.over(period), context_m=0.0, prove=False)
    except NothingFound as error:
        return Entry(period=period, status=GAP, scenes=0, coverage=0.0, reason=str(error))
    leading = next((name for name in job.inputs if name not in TIMELESS), job.inputs[0])
    used = [scene for scene in answer.selection.used if scene.modality == leading]
    share = ground.share(ground.union(shape(one.footprint) for one in used), answer.region)
    enough = share >= job.schedule.min_coverage
    clouds = [scene.cloud_cover for scene in used if scene.cloud_cover is not None]
    return Entry(
        period=period,
        status=READY if enough else THIN,
        scenes=len(answer.selection.used),
        coverage=share,
        cloud_cover=sum(clouds) / len(clouds) if clouds else None,
        reason=None if enough else f"{leading} covers {share:.0%} of the region",
    )


def survey(job: Job, wanted: Sequence[Period], progress: Progress) -> list[Entry]:
    """Look at every period before any of them is made."""
    progress.stage("look", len(wanted))
    found = []
    for period in wanted:
        found.append(look(job, period))
        progress.advance(1, f"{period} {found[-1].status}")
    progress.finish()
    return found


def ranged(job: Job, wanted: Range, progress: Progress) -> list[Entry]:
    """Look at the periods of a range, in the order in which they will be made.

    Raises:
        Wrong: one of its ends cannot be read, or nothing lies between them.
    """
    found = survey(job, between(job, wanted), progress)
    found = _marked(found, wanted.length or job.schedule.cadence)
    if wanted.last is None:
        found = patiently(job, found)
    return found[::-1] if wanted.newest_first else found


def _marked(entries: Sequence[Entry], text: str) -> list[Entry]:
    """Say of the first and the last period of a range, the oldest first, what it has cut off."""
    since = entries[0].period.start
    found = list(entries)
    for place in {0, len(entries) - 1}:
        one = entries[place]
        whole = cadence.uncut(one.period, since, text)
        if whole != one.period:
            words = (one.reason, f"a part of {whole}, which the range cuts")
            found[place] = replace(one, reason="; ".join(filter(None, words)))
    return found


def patiently(job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """Let those periods wait whose scenes may still come, by the schedule's rule."""
    now = today()
    return [
        replace(one, status=WAITING)
        if one.status in {THIN, GAP} and job.schedule.patient(one.period, now)
        else one
        for one in entries
    ]


def due(job: Job, progress: Progress) -> list[Entry]:
    """Look at the latest periods that have ended; those that may still fill up are waiting.

    Raises:
        Wrong: the job does not say from which day periods are counted.
    """
    return patiently(job, survey(job, job.schedule.due(today()), progress))


def latest(job: Job, progress: Progress) -> Period:
    """Return the latest period whose scenes are complete by the schedule's rule.

    Raises:
        Wrong: the job does not say from which day periods are counted.
        NothingFound: there is none.
    """
    now = today()
    wanted = job.schedule.due(now)
    progress.stage("look", len(wanted))
    for period in reversed(wanted):
        found = look(job, period)
        progress.advance(1, f"{period} {found.status}")
        late = not job.schedule.patient(period, now)
        if found.status in {FINISHED, READY} or (found.status == THIN and late):
            return period
    raise NothingFound(
        f"Of the {len(wanted)} latest periods since {job.schedule.since} none has the scenes that "
        "the schedule asks for. terramosaic backfill JOB --dry-run lists what each one has."
    )


def make(entries: Sequence[Entry], one: Make, *, at_once: int) -> list[Entry]:
    """Make the periods that can be made; one that fails does not stop the others.

    Args:
        entries: all periods, in the order in which they are begun.
        one: makes one of them.
        at_once: how many at a time.
    """

    def attempt(entry: Entry) -> Entry:
        cancellation.look()
        return _attempted(entry, one) if entry.status in TO_MAKE else entry

    if at_once == 1:
        return [attempt(entry) for entry in entries]
    with cancellation.Pool(at_once, "period") as pool:
        return list(pool.map(attempt, entries))
        # ^ they take its context with them: who watches the run, and what Prefect knows of it


def _attempted(entry: Entry, one: Make) -> Entry:
    try:
        result = one(entry.period)
    except NothingFound as error:
        return replace(entry, status=GAP, reason=str(error))
    except Busy as error:
        return replace(entry, status=BUSY, reason=str(error))
        # ^ as where a schedule fires again while its last run is still at it
    except Halted:
        raise
    except Exception as error:
        # ^ whatever is wrong with one month, the next one may be sound
        cancellation.look()
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


def told(job: Job, entries: Iterable[Entry], **more: Any) -> dict[str, Any]:
    """Return what ``backfill --json`` and ``refresh --json`` print."""
    return {"name": job.name, **more, "periods": [entry.to_dict() for entry in entries]}


def products(job: Job) -> Iterator[tuple[Period, Path]]:
    """Yield period and folder of the products of a job that are there, the oldest first."""
    for item in sorted((job.output.folder / job.name).glob("*_*/item.json")):
        try:
            yield periods.parse(item.parent.name.replace("_", "/")), item.parent
        except Wrong:
            log.warning("%s is no period's folder and is left alone", item.parent)
