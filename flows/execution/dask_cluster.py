"""The processes of a dask scheduler: on this machine, or wherever they have joined it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
from distributed.comm.core import CommClosedError

from catalogs.errors import InvalidInputError, TransientError
from flows.execution import dask_report, task_cancellation
from flows.execution.executors import TILES_PER_GPU, Executor, WorkerCount, worker_range
from flows.execution.worker_plugins import CpuAffinityPlugin, IgnoreInterruptPlugin

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0
"""Seconds after which the workers of a scheduler are counted again."""

CONNECT_TIMEOUT = "30s"
"""How long a scheduler may take to answer at first."""

CLOSE_TIMEOUT = 10.0
"""Seconds that the processes of this machine may take to end; dask kills them after five."""


@contextmanager
def open_dask_executor(
    engine: str, workers: WorkerCount, device: str | None = None
) -> Iterator[Executor]:
    """Lend the workers of a scheduler for the length of a block.

    Args:
        engine: ``distributed`` (processes of this machine) or the address of a dask scheduler.
        workers: how many.
        device: the device that the tiles are made on, ``cuda`` or ``cuda:N``; None = CPUs.

    Raises:
        TransientError: no scheduler answers at the address, or none does any longer.
        InvalidInputError: this machine has not the GPUs that are asked for.
    """
    for name in ("distributed.client", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
        # ^ tracebacks of a scheduler that went, of which we say so ourselves
    with contextlib.ExitStack() as stack:
        own = engine == "distributed"
        place = stack.enter_context(_open_local_cluster(workers, device)) if own else engine
        try:
            client = distributed.Client(place, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except OSError as error:
            raise TransientError(
                f"No scheduler answers at {engine} ({error}). Start one there with: dask "
                "scheduler; or name another execution.engine."
            ) from error
        stack.enter_context(client)
        stack.enter_context(client.as_current())
        if own:
            client.register_plugin(IgnoreInterruptPlugin())
        if own and device is None and not isinstance(workers, Mapping):
            client.register_plugin(CpuAffinityPlugin(worker_range(workers)[1]))
            # ^ not where workers come and go: two could meet on the cores of one
        try:
            yield DaskExecutor(client, workers, is_local=own, wants_gpu=device is not None)
        except (futures.CancelledError, CommClosedError) as error:
            raise TransientError(
                f"The scheduler of {engine} no longer answers. Start it again and run the same "
                "command: what is finished is kept."
            ) from error


class DaskExecutor:
    """The workers of a dask scheduler, as many as it has at the moment."""

    def __init__(
        self, client: Any, workers: WorkerCount, *, is_local: bool, wants_gpu: bool
    ) -> None:
        """Count the workers.

        Args:
            client: of the scheduler.
            workers: as the job says it.
            is_local: whether the cluster was started for this run.
            wants_gpu: whether tiles want a worker with a GPU, where there is one.
        """
        self._client, self._wants_gpu = client, wants_gpu
        self._max_tasks = None if is_local or workers == "auto" else worker_range(workers)[1]
        self._adaptive_maximum = worker_range(workers)[1] if isinstance(workers, Mapping) else None
        self._resources: dict[str, float] | None = None
        self._expected_workers = 0
        self._report_start = dask_report.start_recording(client)
        self._count_workers()
        if is_local and self._adaptive_maximum is None:
            self._expected_workers = self.processes
        log.info("scheduler %s, its health at %s", client.scheduler.address, _health_url(client))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task; it is begun again where its worker dies."""
        return self._client.submit(
            task_cancellation.run_cancellable,
            function,
            *arguments,
            key=f"map_tiles-{uuid.uuid4().hex}",
            pure=False,
            retries=1,
            resources=self._resources,
        )

    def wait_any(self, pending: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done; none where none is for :data:`POLL_INTERVAL` seconds."""
        try:
            done: Collection[Any] = distributed.wait(
                list(pending), timeout=POLL_INTERVAL, return_when="FIRST_COMPLETED"
            ).done
        except TimeoutError:
            return ()
        return done

    def capacity(self) -> int:
        """Return how many tasks the workers can work on, counted now and then."""
        if time.monotonic() > self._counted_at + POLL_INTERVAL:
            self._count_workers()
        return self._capacity

    def save_report(self, plan_dir: Path) -> None:
        """Leave dask's performance report."""
        dask_report.write(self._client, self._report_start, plan_dir)

    def _count_workers(self) -> None:
        workers = list(self._client.scheduler_info()["workers"].values())
        equipped = [one for one in workers if one["resources"].get("GPU", 0) > 0]
        self._resources = None
        if self._wants_gpu and equipped:
            workers, self._resources = equipped, {"GPU": 1 / TILES_PER_GPU}
            # ^ the others are left to those who need no GPU
        if len(workers) < self._expected_workers:
            self._client.cluster.scale(self._expected_workers)
            # ^ dask starts a dead worker again, but not for ever: then its place stays empty
        if not workers:
            log.warning("no worker has joined the scheduler: the tiles wait for one")
        threads = [self._worker_threads(one) for one in workers]
        self.processes, self.tiles_per_process = max(len(threads), 1), max(threads, default=1)
        self._capacity = max(sum(threads), 1)
        if self._adaptive_maximum is not None:
            self._capacity = self._adaptive_maximum * self.tiles_per_process
            # ^ who waits for more work before it grows must see it waiting
        elif self._max_tasks is not None:
            self._capacity = min(self._capacity, self._max_tasks)
        self._counted_at = time.monotonic()

    def _worker_threads(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        if self._resources is None:
            return threads
        return min(threads, int(TILES_PER_GPU * worker["resources"]["GPU"]))


def _health_url(client: Any) -> str:
    """Return the address at which a scheduler says whether it is well."""
    about = client.scheduler_info()
    host = about["address"].rpartition(":")[0].rpartition("/")[2]
    return f"http://{host}:{about['services'].get('dashboard')}/health"


@contextmanager
def _open_local_cluster(workers: WorkerCount, device: str | None) -> Iterator[Any]:
    """Lend a cluster of processes on this machine, which nobody else can reach."""
    least, most = worker_range(workers)
    make, options = _choose_cluster_factory(workers, device)
    options |= {
        "host": "127.0.0.1",
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        # ^ a dashboard shows what it should not, and is not opened; /health answers on loopback
    }
    try:
        cluster = make(**options)
    except ValueError as error:
        raise InvalidInputError(
            f"No {most} workers with a GPU each can be had on this machine ({error}). "
            "Make execution.workers smaller."
        ) from error
    try:
        if most > least:
            cluster.adapt(minimum=least, maximum=most)
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):
            cluster.close(timeout=CLOSE_TIMEOUT)
            # ^ on a busy machine a worker may be slow to die; it does so with this process


def _choose_cluster_factory(
    workers: WorkerCount, device: str | None
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return what makes a cluster: a process for each share of the cores, or for each GPU."""
    least, most = worker_range(workers)
    if device is None:
        return distributed.LocalCluster, {"n_workers": least, "threads_per_worker": 1}
    options = {"threads_per_worker": TILES_PER_GPU, "resources": {"GPU": 1}}
    if device == "cuda":
        with contextlib.suppress(ModuleNotFoundError):
            make = importlib.import_module("dask_cuda").LocalCUDACluster
            count = None if workers == "auto" else least
            # ^ None: as many as there are GPUs
            return make, {"n_workers": count, **options}
    if most > 1 and workers != "auto":
        raise InvalidInputError(
            f"execution asks for {most} workers on {device}, and each wants a GPU of its own: "
            "install dask-cuda and write device: cuda, or write workers: 1."
        )
    return distributed.LocalCluster, {"n_workers": 1, **options}
