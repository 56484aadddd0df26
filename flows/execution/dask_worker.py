"""Code that runs on dask workers: cancellable tasks, and plugins for local workers."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import distributed
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from pipeline.runtime import cancellation


def run_cancellable(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task's function, cancelled when its result is no longer needed.

    Raises:
        Cancelled: The client is gone or has cancelled the task.
    """
    worker = distributed.get_worker()
    task = worker.state.tasks[worker.get_current_task()]

    def is_cancelled() -> bool:
        return task.state != "executing" or worker.batched_stream.closed()
        # ^ distributed 2026.7.1: when a client cancels, closes or is killed, the scheduler releases
        #   its tasks, and within 50 ms their state here is "cancelled" while their threads go on:
        #   they cannot be ended from outside. When a whole machine is lost, sockets time out after
        #   30 s (distributed.comm.timeouts.tcp). When the scheduler is lost, the state of the task
        #   does not change, but the stream to the scheduler is closed

    with cancellation.cancel_when(is_cancelled):
        return function(*arguments)


class CpuAffinityPlugin(WorkerPlugin):
    """Binds each worker of a local cluster to its share of the cores, also after a restart.

    A process computes as many windows in parallel as it has cores: workers that all used the whole
    machine would compete for it, and hold more windows in memory.
    """

    name = "cpu-affinity"

    def __init__(self, workers: int) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._workers = workers

    def setup(self, worker: Worker) -> None:
        """Bind the threads of a worker; dask names the workers of a local cluster 0, 1, 2 …."""
        cores = split_cores(self._cores, int(worker.name), self._workers)
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
            # ^ affinity belongs to threads; new ones inherit it from the thread that starts them


class IgnoreInterruptPlugin(WorkerPlugin):
    """Makes workers ignore Ctrl-C, which a terminal sends to every process of the command."""

    name = "ignore-interrupt"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Ignore the signal in a worker's process."""
        # ^ the argument's name is dask's
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class LostConnectionPlugin(WorkerPlugin):
    """Keeps workers from printing the tracebacks of connections that have been closed.

    When a run ends on a busy machine, a heartbeat may meet a scheduler that has just ended. A
    scheduler that is lost before is reported by the client.
    """

    name = "lost-connection"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Filter the log of a worker's process."""
        # ^ the argument's name is dask's
        logging.getLogger("distributed.worker").addFilter(_has_no_connection_error)


def _has_no_connection_error(record: logging.LogRecord) -> bool:
    """Return whether a log record is not about an OSError, such as dask's CommClosedError."""
    return record.exc_info is None or not isinstance(record.exc_info[1], OSError)


def split_cores(cores: Sequence[int], index: int, count: int) -> Sequence[int]:
    """Return the cores of share ``index`` of ``count``: contiguous, and at least one core."""
    first, stop = (len(cores) * (index + step) // count for step in (0, 1))
    return cores[first:stop] or [cores[index % len(cores)]]
