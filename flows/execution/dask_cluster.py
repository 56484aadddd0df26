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

from catalogs.errors import Transient, Wrong
from flows.execution import dask_report, task_cancellation
from flows.execution.executors import ON_A_GPU, Crew, Workers, span
from flows.execution.worker_plugins import Deaf, Share

log = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds after which the workers of a scheduler are counted again."""

PATIENCE = "30s"
"""How long a scheduler may take to answer at first."""

CLOSING = 10.0
"""Seconds that the processes of this machine may take to end; dask kills them after five."""


@contextmanager
def gathered(engine: str, workers: Workers, gpu: str | None = None) -> Iterator[Crew]:
    """Lend the workers of a scheduler for the length of a block.

    Args:
        engine: ``distributed`` (processes of this machine) or the address of a dask scheduler.
        workers: how many.
        gpu: the device that the tiles are made on, ``cuda`` or ``cuda:N``; None = CPUs.

    Raises:
        Transient: no scheduler answers at the address, or none does any longer.
        Wrong: this machine has not the GPUs that are asked for.
    """
    for name in ("distributed.client", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
        # ^ tracebacks of a scheduler that went, of which we say so ourselves
    with contextlib.ExitStack() as stack:
        own = engine == "distributed"
        place = stack.enter_context(_local(workers, gpu)) if own else engine
        try:
            client = distributed.Client(place, timeout=PATIENCE, set_as_default=False)
        except OSError as error:
            raise Transient(
                f"No scheduler answers at {engine} ({error}). Start one there with: dask "
                "scheduler; or name another execution.engine."
            ) from error
        stack.enter_context(client)
        stack.enter_context(client.as_current())
        if own:
            client.register_plugin(Deaf())
        if own and gpu is None and not isinstance(workers, Mapping):
            client.register_plugin(Share(span(workers)[1]))
            # ^ not where workers come and go: two could meet on the cores of one
        try:
            yield Cluster(client, workers, own=own, gpu=gpu is not None)
        except (futures.CancelledError, CommClosedError) as error:
            raise Transient(
                f"The scheduler of {engine} no longer answers. Start it again and run the same "
                "command: what is finished is kept."
            ) from error


class Cluster:
    """The workers of a dask scheduler, as many as it has at the moment."""

    def __init__(self, client: Any, workers: Workers, *, own: bool, gpu: bool) -> None:
        """Count the workers.

        Args:
            client: of the scheduler.
            workers: as the job says it.
            own: whether the cluster was started for this run.
            gpu: whether tiles want a worker with a GPU, where there is one.
        """
        self._client, self._gpu = client, gpu
        self._most = None if own or workers == "auto" else span(workers)[1]
        self._grows = span(workers)[1] if isinstance(workers, Mapping) else None
        self._resources: dict[str, float] | None = None
        self._whole = 0
        self._since = dask_report.remember(client)
        self._count()
        if own and self._grows is None:
            self._whole = self.processes
        log.info("scheduler %s, its health at %s", client.scheduler.address, _health(client))

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out one task; it is begun again where its worker dies."""
        return self._client.submit(
            task_cancellation.attempt,
            work,
            *arguments,
            key=f"map_tiles-{uuid.uuid4().hex}",
            pure=False,
            retries=1,
            resources=self._resources,
        )

    def first(self, waiting: Collection[Any]) -> Collection[Any]:
        """Return the futures that are done; none where none is for :data:`LOOK` seconds."""
        try:
            done: Collection[Any] = distributed.wait(
                list(waiting), timeout=LOOK, return_when="FIRST_COMPLETED"
            ).done
        except TimeoutError:
            return ()
        return done

    def places(self) -> int:
        """Return how many tasks the workers can work on, counted now and then."""
        if time.monotonic() > self._counted + LOOK:
            self._count()
        return self._places

    def explain(self, folder: Path) -> None:
        """Leave dask's performance report."""
        dask_report.write(self._client, self._since, folder)

    def _count(self) -> None:
        workers = list(self._client.scheduler_info()["workers"].values())
        equipped = [one for one in workers if one["resources"].get("GPU", 0) > 0]
        self._resources = None
        if self._gpu and equipped:
            workers, self._resources = equipped, {"GPU": 1 / ON_A_GPU}
            # ^ the others are left to those who need no GPU
        if len(workers) < self._whole:
            self._client.cluster.scale(self._whole)
            # ^ dask starts a dead worker again, but not for ever: then its place stays empty
        if not workers:
            log.warning("no worker has joined the scheduler: the tiles wait for one")
        threads = [self._threads(one) for one in workers]
        self.processes, self.beside = max(len(threads), 1), max(threads, default=1)
        self._places = max(sum(threads), 1)
        if self._grows is not None:
            self._places = self._grows * self.beside
            # ^ who waits for more work before it grows must see it waiting
        elif self._most is not None:
            self._places = min(self._places, self._most)
        self._counted = time.monotonic()

    def _threads(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        if self._resources is None:
            return threads
        return min(threads, int(ON_A_GPU * worker["resources"]["GPU"]))


def _health(client: Any) -> str:
    """Return the address at which a scheduler says whether it is well."""
    about = client.scheduler_info()
    host = about["address"].rpartition(":")[0].rpartition("/")[2]
    return f"http://{host}:{about['services'].get('dashboard')}/health"


@contextmanager
def _local(workers: Workers, gpu: str | None) -> Iterator[Any]:
    """Lend a cluster of processes on this machine, which nobody else can reach."""
    least, most = span(workers)
    make, options = _kind(workers, gpu)
    options |= {
        "host": "127.0.0.1",
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        # ^ a dashboard shows what it should not, and is not opened; /health answers on loopback
    }
    try:
        cluster = make(**options)
    except ValueError as error:
        raise Wrong(
            f"No {most} workers with a GPU each can be had on this machine ({error}). "
            "Make execution.workers smaller."
        ) from error
    try:
        if most > least:
            cluster.adapt(minimum=least, maximum=most)
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):
            cluster.close(timeout=CLOSING)
            # ^ on a busy machine a worker may be slow to die; it does so with this process


def _kind(workers: Workers, gpu: str | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return what makes a cluster: a process for each share of the cores, or for each GPU."""
    least, most = span(workers)
    if gpu is None:
        return distributed.LocalCluster, {"n_workers": least, "threads_per_worker": 1}
    options = {"threads_per_worker": ON_A_GPU, "resources": {"GPU": 1}}
    if gpu == "cuda":
        with contextlib.suppress(ModuleNotFoundError):
            make = importlib.import_module("dask_cuda").LocalCUDACluster
            count = None if workers == "auto" else least
            # ^ None: as many as there are GPUs
            return make, {"n_workers": count, **options}
    if most > 1 and workers != "auto":
        raise Wrong(
            f"execution asks for {most} workers on {gpu}, and each wants a GPU of its own: "
            "install dask-cuda and write device: cuda, or write workers: 1."
        )
    return distributed.LocalCluster, {"n_workers": 1, **options}
