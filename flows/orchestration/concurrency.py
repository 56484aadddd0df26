"""Who may use a GPU now: runs that share one take turns, and backfills stand back."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flows.orchestration import server
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation

server.prepare_environment()

from prefect import runtime  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import (  # noqa: E402
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType  # noqa: E402
from prefect.concurrency.sync import concurrency  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

GPU_SLOT = "gpu"
"""The slot of plans for a GPU whose job names no other."""

BACKFILL, SCHEDULED = "backfill", "scheduled"
"""Tags of runs that give way, and of those that they give way to."""

LEASE_SECONDS = 60.0
"""Seconds after which the slot of a run that died is free again: the least that Prefect takes."""

START_TIMEOUT = dt.timedelta(minutes=2)
"""How long a run may take to begin before it is no longer waited for."""

MAX_RUNS = 100
"""Runs that are looked at."""

POLL_INTERVAL = 5.0
"""Seconds between two looks whether a scheduled run waits."""


def limit_name(slot: str) -> str:
    """Return the name of a slot's global concurrency limit."""
    return f"terramosaic-{slot}"


def find_slot(plan: Plan) -> str | None:
    """Return the slot that a plan's tiles want: the job's, or that of GPUs; None = none."""
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return plan.settings.execution.slot or (GPU_SLOT if on_gpu else None)


@contextmanager
def hold_slot(slot: str | None) -> Iterator[None]:
    """Hold a slot for the length of a block; whoever comes second waits.

    Where the server has no such limit (``terramosaic deploy`` makes it) nobody waits.
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
    """Tell a run that works, or is about to, from one whose worker died while it started it."""
    if state is None:
        return False
    return state.type == StateType.RUNNING or now - state.timestamp < START_TIMEOUT


def _yield_to_scheduled(slot: str) -> None:
    """Wait while a scheduled run uses a slot, or wants to."""
    running = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
    tags = FlowRunFilterTags(all_=[SCHEDULED, limit_name(slot)])
    wanted = FlowRunFilter(tags=tags, state=running)
    with get_client(sync_client=True) as client:
        while any(
            is_alive(run.state, dt.datetime.now(dt.UTC))
            for run in client.read_flow_runs(flow_run_filter=wanted, limit=MAX_RUNS)
        ):
            log.info("slot=%s is left to a scheduled run", slot)
            cancellation.sleep(POLL_INTERVAL)
