"""What Prefect's server wants of a run at work, asked for by the run itself.

A worker that is there ends a cancelled run with a signal. One that was replaced knows nothing of
the runs of its predecessor, and they would go on to their end. And a server that was away for a
while has heard no sign of life meanwhile, and calls runs crashed that are well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from flows.orchestration import server
from pipeline.runtime import cancellation

server.prepare_environment()

from prefect import runtime  # noqa: E402
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.objects import StateType  # noqa: E402
from prefect.states import Cancelled, Running  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

POLL_INTERVAL = 8.0
"""Seconds between two looks."""


class _ActiveRuns:
    """The runs of this process, one within another, and whether they are still wanted."""

    lock = threading.Lock()
    runs: set[UUID] = set()  # noqa: RUF012
    cancelled = threading.Event()
    thread: threading.Thread | None = None


def run_cancellable(function: Callable[..., Any], *arguments: Any) -> Any:
    """Do the work of a flow; it is given up, and the flow ends as cancelled, when it is cancelled.

    Not a decorator: Prefect looks for the types of a flow's parameters where its function is.
    """
    run = UUID(runtime.flow_run.id)
    _register_run(run)
    try:
        with cancellation.cancel_when(_ActiveRuns.cancelled.is_set):
            return function(*arguments)
    except cancellation.Cancelled:
        if not _ActiveRuns.cancelled.is_set():
            raise
        return Cancelled(message="What is finished is kept; the next run goes on from there.")
    finally:
        _unregister_run(run)


def _register_run(run: UUID) -> None:
    with _ActiveRuns.lock:
        _ActiveRuns.runs.add(run)
        if _ActiveRuns.thread is None:
            _ActiveRuns.thread = threading.Thread(target=_poll_server, name="orders", daemon=True)
            _ActiveRuns.thread.start()


def _unregister_run(run: UUID) -> None:
    with _ActiveRuns.lock:
        _ActiveRuns.runs.discard(run)
        if not _ActiveRuns.runs:
            _ActiveRuns.cancelled.clear()


def _poll_server() -> None:
    """Look again and again, until there is no run left."""
    pause = threading.Event()
    while True:
        pause.wait(POLL_INTERVAL)
        with _ActiveRuns.lock:
            runs = tuple(_ActiveRuns.runs)
            if not runs:
                _ActiveRuns.thread = None
                return
        try:
            with get_client(sync_client=True) as client:
                for run in runs:
                    _check_run(client, run)
        except Exception as error:  # noqa: BLE001
            # ^ the server is away: the run goes on
            log.debug("no orders: %s", error)


def _check_run(client: SyncPrefectClient, run: UUID) -> None:
    state = client.read_flow_run(run).state
    if state is None or run not in _ActiveRuns.runs:
        return
    if state.type in {StateType.CANCELLING, StateType.CANCELLED}:
        log.info("run=%s is cancelled", run)
        _ActiveRuns.cancelled.set()
    elif state.type == StateType.CRASHED:
        log.warning("run=%s was called crashed and is well", run)
        client.set_flow_run_state(run, Running(message="It is well."), force=True)
