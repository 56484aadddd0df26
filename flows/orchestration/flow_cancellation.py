"""Cancellation of flow runs, asked for at the Prefect server by the run itself.

A worker ends a cancelled run with a signal. A worker that replaced another one does not know the
runs of its predecessor, which would go on to their end. And a server that was away for a while has
received no heartbeats meanwhile, and marks healthy runs as crashed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, cast
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Running

from flows.run.command_results import Result
from pipeline.runtime import cancellation

Params = ParamSpec("Params")

log = logging.getLogger(__name__)

POLL_INTERVAL = 8.0
"""Seconds between two requests for the state of the runs."""


class _ActiveRuns:
    """The flow runs of this process (subflows within flows), and whether they are cancelled.

    Shared by the process, because one thread asks for all of its runs.
    """

    lock = threading.Lock()
    runs: set[UUID] = set()  # noqa: RUF012
    # ^ one set for the process, as there is no instance
    cancelled = threading.Event()
    thread: threading.Thread | None = None


def run_cancellable(
    function: Callable[Params, Result], *arguments: Params.args, **options: Params.kwargs
) -> dict[str, Any]:
    """Call a function within a flow, and return its result as JSON-ready values.

    If the flow run is cancelled, the function is stopped, and the state in which the run ends is
    returned. This is no decorator, because Prefect reads the types of a flow's parameters from its
    function.
    """
    run = UUID(runtime.flow_run.id)
    _register_run(run)
    try:
        with cancellation.cancel_when(_ActiveRuns.cancelled.is_set):
            return function(*arguments, **options).to_dict()
    except cancellation.Cancelled:
        if not _ActiveRuns.cancelled.is_set():
            raise
        state: Any = Cancelled(message="Finished tiles are kept; the next run goes on from there.")
        return cast("dict[str, Any]", state)
        # ^ Prefect takes a state in place of a flow's result
    finally:
        _unregister_run(run)


def _register_run(run: UUID) -> None:
    with _ActiveRuns.lock:
        _ActiveRuns.runs.add(run)
        if _ActiveRuns.thread is None:
            _ActiveRuns.thread = threading.Thread(
                target=_poll_server, name="cancellation", daemon=True
            )
            _ActiveRuns.thread.start()


def _unregister_run(run: UUID) -> None:
    with _ActiveRuns.lock:
        _ActiveRuns.runs.discard(run)
        if not _ActiveRuns.runs:
            _ActiveRuns.cancelled.clear()


def _poll_server() -> None:
    """Ask for the state of the runs again and again, until no run is left."""
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
            log.debug("the state of the runs could not be read: %s", error)


def _check_run(client: SyncPrefectClient, run: UUID) -> None:
    state = client.read_flow_run(run).state
    if state is None or run not in _ActiveRuns.runs:
        return
    if state.type in {StateType.CANCELLING, StateType.CANCELLED}:
        log.info("run=%s is cancelled", run)
        _ActiveRuns.cancelled.set()
    elif state.type == StateType.CRASHED:
        log.warning("run=%s was marked as crashed and is still running", run)
        client.set_flow_run_state(run, Running(message="The run is still running."), force=True)
