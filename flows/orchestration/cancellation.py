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
from pipeline.runtime.cancellation import Halted

server.prepare()

from prefect import runtime  # noqa: E402
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.objects import StateType  # noqa: E402
from prefect.states import Cancelled, Running  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

LOOK = 8.0
"""Seconds between two looks."""


class _Standing:
    """The runs of this process, one within another, and whether they are still wanted."""

    lock = threading.Lock()
    runs: set[UUID] = set()  # noqa: RUF012
    called_off = threading.Event()
    thread: threading.Thread | None = None


def heeded(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do the work of a flow; it is given up, and the flow ends as cancelled, when it is cancelled.

    Not a decorator: Prefect looks for the types of a flow's parameters where its function is.
    """
    run = UUID(runtime.flow_run.id)
    _begin(run)
    try:
        with cancellation.when(_Standing.called_off.is_set):
            return work(*arguments)
    except Halted:
        if not _Standing.called_off.is_set():
            raise
        return Cancelled(message="What is finished is kept; the next run goes on from there.")
    finally:
        _end(run)


def _begin(run: UUID) -> None:
    with _Standing.lock:
        _Standing.runs.add(run)
        if _Standing.thread is None:
            _Standing.thread = threading.Thread(target=_look_on, name="orders", daemon=True)
            _Standing.thread.start()


def _end(run: UUID) -> None:
    with _Standing.lock:
        _Standing.runs.discard(run)
        if not _Standing.runs:
            _Standing.called_off.clear()


def _look_on() -> None:
    """Look again and again, until there is no run left."""
    pause = threading.Event()
    while True:
        pause.wait(LOOK)
        with _Standing.lock:
            runs = tuple(_Standing.runs)
            if not runs:
                _Standing.thread = None
                return
        try:
            with get_client(sync_client=True) as client:
                for run in runs:
                    _look(client, run)
        except Exception as error:  # noqa: BLE001
            # ^ the server is away: the run goes on
            log.debug("no orders: %s", error)


def _look(client: SyncPrefectClient, run: UUID) -> None:
    state = client.read_flow_run(run).state
    if state is None or run not in _Standing.runs:
        return
    if state.type in {StateType.CANCELLING, StateType.CANCELLED}:
        log.info("run=%s is cancelled", run)
        _Standing.called_off.set()
    elif state.type == StateType.CRASHED:
        log.warning("run=%s was called crashed and is well", run)
        client.set_flow_run_state(run, Running(message="It is well."), force=True)
