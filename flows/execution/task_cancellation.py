"""Whether a task on a dask worker is still wanted: its client may be gone, or have given it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed

from pipeline.runtime import cancellation


def run_cancellable(function: Callable[..., Any], *arguments: Any) -> Any:
    """Do a task's work, unless it is given up meanwhile.

    Raises:
        Cancelled: nobody waits for it any more.
    """
    worker = distributed.get_worker()
    task = worker.state.tasks[worker.get_current_task()]

    def unwanted() -> bool:
        return task.state != "executing" or worker.batched_stream.closed()
        # ^ distributed 2026.7.1: where a client cancels, closes or is killed, the scheduler
        #   releases what only that one had asked for, and within 50 ms the task is "cancelled" here
        #   while its thread goes on: nothing can end it from outside. Where a whole machine goes,
        #   sockets tell after 30 s (distributed.comm.timeouts.tcp). Where the scheduler goes, the
        #   task stays as it is, but its result can no longer be told

    with cancellation.cancel_when(unwanted):
        return function(*arguments)
