"""Production on one machine: Prefect's server on PostgreSQL, a worker, and dask in processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.servers import database
from tests.servers.prefect_client import Api
from tests.servers.process import Process, answers, free_port

ROOT = Path(__file__).parents[2]
POOL = "terramosaic"
SECRET = "operator:correct-horse"
MARK = "TERRAMOSAIC_TEST_WORLD"
"""Names, in the environment of every process here, the world that it belongs to."""

LEASES = "prefect.server.concurrency.lease_storage.filesystem"

SERVER = {
    "PREFECT_SERVER_API_AUTH_STRING": SECRET,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    # ^ neither is asked for, and both take seconds
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    # ^ in memory, where they are by default, a killed server leaves every slot taken for ever
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "2",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
}
"""What makes a server start soon, and look soon at what an hour's schedule would let wait."""

CLIENT = {
    "PREFECT_API_AUTH_STRING": SECRET,
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
    "PREFECT_LOGGING_COLORS": "false",
    "DO_NOT_TRACK": "1",
}


class Orchestra:
    """The processes by their names, and the server's API.

    Names: ``database`` (where there is one), ``server``, ``worker``, ``scheduler``, ``dask-1`` and
    so on.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], port: int) -> None:
        self.home = home
        self.environment = dict(environment)
        """What a command needs to talk to the server as an operator does."""

        self.processes: dict[str, Process] = {}
        self.api = Api(f"http://127.0.0.1:{port}/api", SECRET)
        self.scheduler = ""
        """Address of dask's scheduler."""

    @property
    def workers(self) -> list[str]:
        """Return the names of dask's workers."""
        return [name for name in self.processes if name.startswith("dask-")]

    def add(self, name: str, command: Sequence[object], **how: object) -> Process:
        """Declare a process of the test's own Python."""
        how.setdefault("environment", self.environment)
        self.processes[name] = Process(
            name=name, command=[sys.executable, "-m", *command], home=self.home, **how
        )
        return self.processes[name]

    def start(self, *names: str) -> None:
        """Start processes, all at once, and wait until they are ready."""
        for name in names:
            self.processes[name].begin()
        for name in names:
            self.processes[name].wait()

    def kill(self, name: str) -> None:
        """End a process at once, and only it: what it has started is left to find out.

        The workers of a scheduler that is gone end by themselves, which is waited for.
        """
        self.processes[name].kill()
        if name == "scheduler":
            for worker in self.workers:
                self.processes[worker].gone()

    def revive(self) -> None:
        """Start what is no longer alive, as whoever supervises processes does."""
        for name, process in self.processes.items():
            if not process.alive:
                self.start(name)

    def belonging(self) -> list[psutil.Process]:
        """Return every living process of this world, also those that no longer have a parent."""
        return [one for one in psutil.process_iter() if _mark(one) == self.environment[MARK]]

    def flow(self, run: str) -> psutil.Process | None:
        """Return the process of a flow run."""
        mine = [one for one in self.belonging() if _mark(one, "PREFECT__FLOW_RUN_ID") == run]
        return min(mine, key=psutil.Process.create_time, default=None)
        # ^ its children inherit the variable

    def stop(self) -> None:
        """End everything, the database last."""
        for process in reversed(self.processes.values()):
            process.stop()
        for process in self.belonging():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)


def missing() -> str | None:
    """Return what is not installed, or None."""
    return database.missing()


@contextlib.contextmanager
def serve(
    *,
    path: Sequence[Path] = (),
    dask: int = 2,
    settings: Mapping[str, str] | None = None,
    postgresql: bool = True,
) -> Iterator[Orchestra]:
    """Yield a running world; nothing is left of it afterwards.

    Args:
        path: folders from which flows may be imported, beside the project's.
        dask: its workers; 0 = no scheduler either.
        settings: of Prefect, instead of ours.
        postgresql: whether the server stands on PostgreSQL; else on a file of SQLite.
    """
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="orchestra-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)
        # ^ the database belongs to someone else
        port = free_port()
        world = Orchestra(home, _environment(home, port, path) | (settings or {}), port)
        stack.callback(world.stop)
        _declare(world, port, dask=dask, postgresql=postgresql)
        if postgresql:
            world.start("database")
        world.start("server", *(["scheduler"] if dask else []))
        world.start("worker", *world.workers)
        yield world


def _environment(home: Path, port: int, path: Sequence[Path]) -> dict[str, str]:
    (home / "prefect").mkdir()
    return SERVER | CLIENT | {
        MARK: uuid.uuid4().hex,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        "PYTHONWARNINGS": "default",
    }  # fmt: skip


def _declare(world: Orchestra, port: int, *, dask: int, postgresql: bool) -> None:
    server = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{world.home}/p.db"}
    if postgresql:
        folder = world.home / "postgresql"
        folder.mkdir()
        world.processes["database"], at = database.made(folder)
        world.processes["database"].environment = {MARK: world.environment[MARK]}
        server = {"PREFECT_SERVER_DATABASE_CONNECTION_URL":
                  f"postgresql+asyncpg://postgres@127.0.0.1:{at}/postgres"}  # fmt: skip
    world.add(
        "server",
        ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
        environment=world.environment | server,
        ready=lambda _: world.api.healthy(),
    )
    world.add(
        "worker",
        ["prefect", "worker", "start", "--pool", POOL, "--type", "process"],
        ready=lambda one: one.said(r"Worker .* started!") is not None,
    )
    if dask:
        _declare_dask(world, dask)


def _declare_dask(world: Orchestra, workers: int) -> None:
    at = free_port()
    world.scheduler = f"tcp://127.0.0.1:{at}"
    here = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    # ^ without a dashboard they answer by HTTP all the same, and by default to anybody
    world.add(
        "scheduler",
        ["distributed.cli.dask_scheduler", *here, "--port", at, "--no-show"],
        ready=lambda _: answers(at),
    )
    for number in range(1, workers + 1):
        name = f"dask-{number}"
        own = ["--name", name, "--nthreads", 1, "--local-directory", world.home / "dask"]
        world.add(
            name,
            ["distributed.cli.dask_worker", world.scheduler, *here, *own, "--death-timeout", 30],
            ready=lambda one: one.said("Starting established connection") is not None,
        )


def _mark(process: psutil.Process, name: str = MARK) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(name)
    return None
