"""The period of a run: the job's own, another one, or the latest whose scenes are complete."""

from __future__ import annotations

from catalogs.errors import NothingFoundError
from flows.config import job as jobs
from flows.config import period as periods
from flows.config.job import Job
from flows.config.period import Period
from flows.observe.progress import Progress
from flows.series import due_periods, period_status


def with_period(job: Job, period: str | None, progress: Progress) -> Job:
    """Return a job over one period.

    Args:
        job: the job.
        period: a period as a job writes it, or ``latest``; None = the job's own.
        progress: progress of the inspection where the latest period is looked for.

    Raises:
        InvalidInputError: the period cannot be read.
        NothingFoundError: no period is complete.
    """
    if period is not None and period != jobs.LATEST:
        return job.with_period(periods.parse(period))
    if period is not None or job.period is None:
        return job.with_period(find_latest(job, progress))
    return job


def find_latest(job: Job, progress: Progress) -> Period:
    """Return the latest period of the schedule whose scenes are complete.

    Raises:
        InvalidInputError: the job does not say from which day periods are counted.
        NothingFoundError: no period is complete.
    """
    day = due_periods.today()
    due = due_periods.list_due(job.schedule, day)
    progress.start_stage("inspect", len(due))
    for period in reversed(due):
        status = period_status.inspect_period(job, period).status
        progress.advance(1, f"{period} {status}")
        is_final = not due_periods.is_awaiting_scenes(job.schedule, period, day)
        if status in {"finished", "ready"} or (status == "thin" and is_final):
            return period
    raise NothingFoundError(
        f"None of the {len(due)} latest periods since {job.schedule.since} has the scenes that "
        "the schedule asks for. terramosaic backfill JOB --dry-run lists the scenes of each."
    )
