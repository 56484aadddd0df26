"""Who may use a GPU now: runs that share one take turns, and backfills stand back."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flows.orchestration import server
from pipeline.plan.plan import Plan
from pipeline.runtime import cancellation

server.prepare()

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

GPU = "gpu"
"""The slot of plans for a GPU whose job names no other."""

BACKFILL, SCHEDULED = "backfill", "scheduled"
"""Tags of runs that give way, and of those that they give way to."""

LEASE = 60.0
"""Seconds after which the slot of a run that died is free again: the least that Prefect takes."""

BEGINNING = dt.timedelta(minutes=2)
"""How long a run may take to begin before it is no longer waited for."""

MOST = 100
"""Runs that are looked at."""

LOOK = 5.0
"""Seconds between two looks whether a scheduled run waits."""


def name(slot: str) -> str:
    """Return the name of a slot's global concurrency limit."""
    return f"terramosaic-{slot}"


def of(plan: Plan) -> str | None:
    """Return the slot that a plan's tiles want: the job's, or that of GPUs; None = none."""
    asked: str | None = plan.job["execution"].get("slot")
    on_gpu = plan.model is not None and plan.model.device == "cuda"
    return asked or (GPU if on_gpu else None)


@contextmanager
def held(slot: str | None) -> Iterator[None]:
    """Hold a slot for the length of a block; whoever comes second waits.

    Where the server has no such limit (``terramosaic deploy`` makes it) nobody waits.
    """
    if slot is None:
        yield
        return
    if BACKFILL in (runtime.flow_run.tags or ()):
        _stand_back(slot)
    log.info("slot=%s wanted", slot)
    with concurrency(name(slot), lease_duration=LEASE, raise_on_lease_renewal_failure=False):
        # ^ a server that is away for a minute does not stop a run that has its GPU
        log.info("slot=%s held", slot)
        yield


def alive(state: State | None, now: dt.datetime) -> bool:
    """Tell a run that works, or is about to, from one whose worker died while it started it."""
    if state is None:
        return False
    return state.type == StateType.RUNNING or now - state.timestamp < BEGINNING


def _stand_back(slot: str) -> None:
    """Wait while a scheduled run uses a slot, or wants to."""
    running = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
    tags = FlowRunFilterTags(all_=[SCHEDULED, name(slot)])
    wanted = FlowRunFilter(tags=tags, state=running)
    with get_client(sync_client=True) as client:
        while any(
            alive(run.state, dt.datetime.now(dt.UTC))
            for run in client.read_flow_runs(flow_run_filter=wanted, limit=MOST)
        ):
            log.info("slot=%s is left to a scheduled run", slot)
            cancellation.sleep(LOOK)
