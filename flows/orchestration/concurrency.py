"""Concurrency limits: runs that share a GPU take turns, and backfills wait for scheduled runs."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.concurrency.sync import concurrency

from flows.config.job import Job
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation

log = logging.getLogger(__name__)

GPU_SLOT = "gpu"
"""Slot of plans for a GPU whose job names no slot (execution.slot)."""

BACKFILL, SCHEDULED = "backfill", "scheduled"
"""Tags of runs that wait for others, and of those that they wait for."""

LEASE_SECONDS = 60.0
"""Seconds until the slot of a run that died is free: the smallest value that Prefect accepts."""

START_TIMEOUT = dt.timedelta(minutes=2)
"""Time that a run may take to start before a backfill no longer waits for it."""

MAX_RUNS = 100
"""Largest number of runs in one request."""

POLL_INTERVAL = 5.0
"""Seconds between two requests for the scheduled runs."""


def limit_name(slot: str) -> str:
    """Return the name of a slot's global concurrency limit."""
    return f"terramosaic-{slot}"


def find_slot(plan: Plan) -> str | None:
    """Return the slot that a plan's tiles need: the job's, or that of GPUs; None = none."""
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return plan.settings.execution.slot or (GPU_SLOT if on_gpu else None)


def get_job_slot(job: Job) -> str:
    """Return the slot of a deployed job's runs: the job's, or that of GPUs."""
    return job.execution.slot or GPU_SLOT


def ensure_limits(client: SyncPrefectClient, jobs: Iterable[Job], limit: int) -> None:
    """Have the server limit the runs that hold the slot of each job at the same time.

    Args:
        client: a client of the server.
        jobs: the jobs that are deployed.
        limit: runs that may hold one slot at a time.
    """
    for slot in sorted({get_job_slot(job) for job in jobs}):
        client.upsert_global_concurrency_limit_by_name(limit_name(slot), limit)


@contextmanager
def hold_slot(slot: str | None) -> Iterator[None]:
    """Hold a slot during a block; wait while other runs hold it.

    Where the server has no such limit (``terramosaic deploy`` creates it), no run waits.
    """
    if slot is None:
        yield
        return
    if BACKFILL in (runtime.flow_run.tags or ()):
        _yield_to_scheduled(slot)
    log.info("slot=%s wanted", slot)
    with concurrency(
        limit_name(slot), lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):
        # ^ a server that is away for a minute does not stop a run that has its GPU
        log.info("slot=%s held", slot)
        yield


def is_alive(state: State | None, now: dt.datetime) -> bool:
    """Tell whether a run works or is about to, rather than left behind by a worker that died."""
    if state is None:
        return False
    return state.type == StateType.RUNNING or now - state.timestamp < START_TIMEOUT


def _yield_to_scheduled(slot: str) -> None:
    """Wait while a scheduled run uses a slot, or waits for it."""
    active = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
    tags = FlowRunFilterTags(all_=[SCHEDULED, limit_name(slot)])
    scheduled_runs = FlowRunFilter(tags=tags, state=active)
    with get_client(sync_client=True) as client:
        while any(
            is_alive(run.state, dt.datetime.now(dt.UTC))
            for run in client.read_flow_runs(flow_run_filter=scheduled_runs, limit=MAX_RUNS)
        ):
            log.info("slot=%s is left to a scheduled run", slot)
            cancellation.sleep(POLL_INTERVAL)
