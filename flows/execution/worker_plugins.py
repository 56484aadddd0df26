"""What a worker of this machine does at its start: takes its cores, and leaves Ctrl-C to others."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin


class CpuAffinityPlugin(WorkerPlugin):
    """Keeps each worker of this machine on its own cores, also after it was started again.

    A model computes as many windows side by side as it has cores: workers that all see the whole
    machine would wait for each other, and hold the windows of all of them in memory.
    """

    name = "share-of-cores"

    def __init__(self, workers: int) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._workers = workers

    def setup(self, worker: Worker) -> None:
        """Confine the process of a worker; dask numbers those of a local cluster from zero."""
        mine = split_cores(self._cores, int(worker.name), self._workers)
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), mine)
            # ^ the kernel binds threads; those to come are born where their parents are


class IgnoreInterruptPlugin(WorkerPlugin):
    """Leaves Ctrl-C to the process that started the workers: a terminal sends it to them all."""

    name = "deaf-to-ctrl-c"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Ignore the signal in a worker's process."""
        # ^ dask names the argument
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def split_cores(cores: Sequence[int], index: int, count: int) -> Sequence[int]:
    """Return the cores of one of so many shares: neighbours, and one where there are too few."""
    first, stop = (len(cores) * (index + step) // count for step in (0, 1))
    return cores[first:stop] or [cores[index % len(cores)]]
