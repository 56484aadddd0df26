"""Whether a task on a dask worker is still wanted: its client may be gone, or have given it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed

from pipeline import halt

GIVEN_UP = ("cancelled", "released", "forgotten")
"""States of a task that nobody waits for any more, while its thread goes on."""


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do a task's work, unless it is given up meanwhile.

    Raises:
        Halted: nobody waits for it any more.
    """
    worker = distributed.get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        gone = task is None or task.state in GIVEN_UP
        # ^ a scheduler whose client has gone releases what that one had asked for, and tells the
        #   workers; a thread that runs cannot be ended from outside
        return gone or worker.batched_stream.closed()
        # ^ where the scheduler itself has gone, nobody can be told the result any more

    with halt.when(unwanted):
        return work(*arguments)
