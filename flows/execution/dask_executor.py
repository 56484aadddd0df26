"""Executor on the workers of a dask scheduler: a local cluster, or one at an address."""

from __future__ import annotations

import contextlib
import functools
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
from flows.execution import dask_report, dask_worker
from flows.execution.dask_worker import (
    CpuAffinityPlugin,
    IgnoreInterruptPlugin,
    LostConnectionPlugin,
)
from flows.execution.executors import TILES_PER_GPU, Executor
from pipeline.runtime.worker_count import WorkerCount, worker_range

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0
"""Seconds between two counts of a scheduler's workers."""

CONNECT_TIMEOUT = "30s"
"""Timeout of the first connection to a scheduler."""

CLOSE_TIMEOUT = 10.0
"""Seconds that local workers may take to end; dask kills them after five."""


@contextmanager
def open_dask_executor(
    engine: str, workers: WorkerCount, device: str | None = None
) -> Iterator[Executor]:
    """Open an executor on a local cluster or on a running scheduler.

    Args:
        engine: ``distributed`` (processes of this machine) or the address of a dask scheduler.
        workers: Number of workers.
        device: Device of the model, ``cuda`` or ``cuda:N``; None = CPUs.

    Raises:
        TransientError: The scheduler cannot be reached, or the connection was lost.
        InvalidInputError: This machine has fewer GPUs than workers.
    """
    for name in ("distributed.client", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
        # ^ their tracebacks of a lost scheduler; the error below reports it
    with contextlib.ExitStack() as stack:
        is_local = engine == "distributed"
        address = stack.enter_context(_open_local_cluster(workers, device)) if is_local else engine
        try:
            client = distributed.Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except OSError as error:
            raise TransientError(
                f"No scheduler answers at {engine} ({error}). Start one there with `dask "
                "scheduler`, or write another execution.engine."
            ) from error
        stack.enter_context(client)
        stack.enter_context(client.as_current())
        if is_local:
            client.register_plugin(IgnoreInterruptPlugin())
            client.register_plugin(LostConnectionPlugin())
        if is_local and device is None and not isinstance(workers, Mapping):
            client.register_plugin(CpuAffinityPlugin(worker_range(workers)[1]))
            # ^ not with an adaptive number of workers: two could get the same cores
        try:
            yield DaskExecutor(client, workers, is_local=is_local, wants_gpu=device is not None)
        except (futures.CancelledError, CommClosedError) as error:
            raise TransientError(
                f"The connection to the scheduler of {engine} was lost. Start it again and run the "
                "same command: finished tiles are kept."
            ) from error


class DaskExecutor:
    """Executor on the current workers of a dask scheduler."""

    def __init__(
        self, client: Any, workers: WorkerCount, *, is_local: bool, wants_gpu: bool
    ) -> None:
        """Count the workers and start recording for the performance report.

        Args:
            client: Client of the scheduler.
            workers: ``execution.workers`` of the job.
            is_local: Whether the cluster was started for this run.
            wants_gpu: Whether tiles go to workers with a GPU, if there are any.
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
        """Submit one task; one that raises an exception is tried once more.

        A task whose worker dies is started on another one, as often as the scheduler allows
        (``distributed.scheduler.allowed-failures``); then its future raises KilledWorker.
        """
        return self._client.submit(
            dask_worker.run_cancellable,
            function,
            *arguments,
            key=f"map_tiles-{uuid.uuid4().hex}",
            pure=False,
            retries=1,
            resources=self._resources,
        )

    def wait_any(self, pending: Collection[Any]) -> Collection[Any]:
        """Wait up to :data:`POLL_INTERVAL` seconds and return the futures that are done."""
        try:
            done: Collection[Any] = distributed.wait(
                list(pending), timeout=POLL_INTERVAL, return_when="FIRST_COMPLETED"
            ).done
        except TimeoutError:
            return ()
        return done

    def capacity(self) -> int:
        """Return how many tasks run in parallel, counted every :data:`POLL_INTERVAL` seconds."""
        if time.monotonic() > self._counted_at + POLL_INTERVAL:
            self._count_workers()
        return self._capacity

    def save_report(self, plan_dir: Path) -> None:
        """Write dask's performance report."""
        dask_report.write(self._client, self._report_start, plan_dir)

    def _count_workers(self) -> None:
        workers = list(self._client.scheduler_info()["workers"].values())
        gpu_workers = [worker for worker in workers if worker["resources"].get("GPU", 0) > 0]
        self._resources = None
        if self._wants_gpu and gpu_workers:
            workers, self._resources = gpu_workers, {"GPU": 1 / TILES_PER_GPU}
            # ^ the other workers are left to runs without a GPU
        if len(workers) < self._expected_workers:
            self._client.cluster.scale(self._expected_workers)
            # ^ dask restarts a dead worker a few times only; this starts a new one
        if not workers:
            log.warning("the scheduler has no workers: the tiles wait for one to connect")
        threads = [self._worker_threads(worker) for worker in workers]
        self.processes, self.tiles_per_process = max(len(threads), 1), max(threads, default=1)
        self._capacity = max(sum(threads), 1)
        if self._adaptive_maximum is not None:
            self._capacity = self._adaptive_maximum * self.tiles_per_process
            # ^ dask adds workers only while tasks are queued
        elif self._max_tasks is not None:
            self._capacity = min(self._capacity, self._max_tasks)
        self._counted_at = time.monotonic()

    def _worker_threads(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        if self._resources is None:
            return threads
        return min(threads, int(TILES_PER_GPU * worker["resources"]["GPU"]))


def _health_url(client: Any) -> str:
    """Return the URL of a scheduler's health check."""
    info = client.scheduler_info()
    host = info["address"].rpartition(":")[0].rpartition("/")[2]
    return f"http://{host}:{info['services'].get('dashboard')}/health"


@contextmanager
def _open_local_cluster(workers: WorkerCount, device: str | None) -> Iterator[Any]:
    """Start a cluster of processes on this machine, reachable from this machine only."""
    minimum, maximum = worker_range(workers)
    create_cluster = _choose_cluster(workers, device)
    try:
        cluster = create_cluster(
            host="127.0.0.1",
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            # ^ no dashboard, which would show paths and addresses; /health answers on loopback
        )
    except ValueError as error:
        raise InvalidInputError(
            f"This machine cannot run {maximum} workers with one GPU each ({error}): "
            "lower execution.workers."
        ) from error
    try:
        if maximum > minimum:
            cluster.adapt(minimum=minimum, maximum=maximum)
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):
            cluster.close(timeout=CLOSE_TIMEOUT)
            # ^ on a busy machine a worker may end late; it ends with this process


def _choose_cluster(workers: WorkerCount, device: str | None) -> functools.partial[Any]:
    """Return the class of a cluster with its workers: a process per share of cores, or per GPU."""
    minimum, maximum = worker_range(workers)
    if device is None:
        return functools.partial(distributed.LocalCluster, n_workers=minimum, threads_per_worker=1)
    gpu_worker = {"threads_per_worker": TILES_PER_GPU, "resources": {"GPU": 1}}
    if device == "cuda":
        with contextlib.suppress(ModuleNotFoundError):
            cluster_class = importlib.import_module("dask_cuda").LocalCUDACluster
            count = None if workers == "auto" else minimum
            # ^ None = one per GPU
            return functools.partial(cluster_class, n_workers=count, **gpu_worker)
    if maximum > 1 and workers != "auto":
        raise InvalidInputError(
            f"execution.workers is {maximum}, and each worker on {device} needs its own GPU: "
            "install dask-cuda and write device: cuda, or write workers: 1."
        )
    return functools.partial(distributed.LocalCluster, n_workers=1, **gpu_worker)
