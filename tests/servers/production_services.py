"""All services of production on one machine: Prefect's server, PostgreSQL, a worker and dask."""

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
from tests.servers.process import Process, free_port, is_port_open

ROOT = Path(__file__).parents[2]
POOL = "terramosaic"
SECRET = "operator:correct-horse"
MARK = "TERRAMOSAIC_TEST_WORLD"
"""Variable in the environment of every process that identifies the services it belongs to."""

LEASES = "prefect.server.concurrency.lease_storage.filesystem"

SERVER = {
    "PREFECT_SERVER_API_AUTH_STRING": SECRET,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    # ^ not needed, and both take seconds
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    # ^ with the default, in memory, a killed server never releases its slots
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
"""Settings with which a server starts fast and runs its loops every second or two."""

CLIENT = {
    "PREFECT_API_AUTH_STRING": SECRET,
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
    "PREFECT_LOGGING_COLORS": "false",
    "DO_NOT_TRACK": "1",
}


class ProductionServices:
    """The processes by name, and a client of the server's API.

    Names: ``database`` (where there is one), ``server``, ``worker``, ``scheduler``, ``dask-1`` and
    so on.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], port: int) -> None:
        self.home = home
        self.environment = dict(environment)
        """Variables with which a command reaches the server as an operator does."""

        self.processes: dict[str, Process] = {}
        self.api = Api(f"http://127.0.0.1:{port}/api", SECRET)
        self.scheduler = ""
        """Address of dask's scheduler."""

    @property
    def workers(self) -> list[str]:
        """Return the names of dask's workers."""
        return [name for name in self.processes if name.startswith("dask-")]

    def add(self, name: str, command: Sequence[object], **options: object) -> Process:
        """Add a process that runs a module in the test's Python."""
        options.setdefault("environment", self.environment)
        self.processes[name] = Process(
            name=name, command=[sys.executable, "-m", *command], home=self.home, **options
        )
        return self.processes[name]

    def start(self, *names: str) -> None:
        """Start processes together, and wait until all are ready."""
        for name in names:
            self.processes[name].start_without_waiting()
        for name in names:
            self.processes[name].wait_until_ready()

    def kill(self, name: str) -> None:
        """Kill a process, but not its children.

        Workers end by themselves when their scheduler is killed; this waits until they have ended.
        """
        self.processes[name].kill()
        if name == "scheduler":
            for worker in self.workers:
                self.processes[worker].wait_for_end()

    def restart(self) -> None:
        """Restart all processes that have ended, as a process supervisor does."""
        for name, process in self.processes.items():
            if not process.alive:
                self.start(name)

    def list_processes(self) -> list[psutil.Process]:
        """Return all running processes of these services, also those without a parent."""
        return [
            process
            for process in psutil.process_iter()
            if _read_variable(process) == self.environment[MARK]
        ]

    def flow(self, run: str) -> psutil.Process | None:
        """Return the process of a flow run."""
        candidates = [
            process
            for process in self.list_processes()
            if _read_variable(process, "PREFECT__FLOW_RUN_ID") == run
        ]
        return min(candidates, key=psutil.Process.create_time, default=None)
        # ^ the oldest one: its children inherit the variable

    def stop(self) -> None:
        """Stop all processes, the database last."""
        for process in reversed(self.processes.values()):
            process.stop()
        for process in self.list_processes():
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
) -> Iterator[ProductionServices]:
    """Yield running services; all of them are stopped and removed at the end.

    Args:
        path: folders from which flows may be imported, beside the project's.
        dask: number of dask workers; with 0, there is no scheduler either.
        settings: variables of Prefect that replace the defaults here.
        postgresql: whether the server uses PostgreSQL; SQLite otherwise.
    """
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="orchestra-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)
        # ^ the database runs as another user
        port = free_port()
        services = ProductionServices(home, _environment(home, port, path) | (settings or {}), port)
        stack.callback(services.stop)
        _declare(services, port, dask=dask, postgresql=postgresql)
        if postgresql:
            services.start("database")
        services.start("server", *(["scheduler"] if dask else []))
        services.start("worker", *services.workers)
        yield services


def _environment(home: Path, port: int, path: Sequence[Path]) -> dict[str, str]:
    (home / "prefect").mkdir()
    return SERVER | CLIENT | {
        MARK: uuid.uuid4().hex,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        "PYTHONWARNINGS": "default",
    }  # fmt: skip


def _declare(services: ProductionServices, port: int, *, dask: int, postgresql: bool) -> None:
    server = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{services.home}/p.db"}
    if postgresql:
        folder = services.home / "postgresql"
        folder.mkdir()
        services.processes["database"], database_port = database.create_cluster(folder)
        services.processes["database"].environment = {MARK: services.environment[MARK]}
        server = {"PREFECT_SERVER_DATABASE_CONNECTION_URL":
                  f"postgresql+asyncpg://postgres@127.0.0.1:{database_port}/postgres"}  # fmt: skip
    services.add(
        "server",
        ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
        environment=services.environment | server,
        ready=lambda _: services.api.healthy(),
    )
    services.add(
        "worker",
        ["prefect", "worker", "start", "--pool", POOL, "--type", "process"],
        ready=lambda process: process.find_in_log(r"Worker .* started!") is not None,
    )
    if dask:
        _declare_dask(services, dask)


def _declare_dask(services: ProductionServices, workers: int) -> None:
    port = free_port()
    services.scheduler = f"tcp://127.0.0.1:{port}"
    common_options = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    # ^ also without a dashboard they listen for HTTP, by default on all addresses
    services.add(
        "scheduler",
        ["distributed.cli.dask_scheduler", *common_options, "--port", port, "--no-show"],
        ready=lambda _: is_port_open(port),
    )
    for number in range(1, workers + 1):
        name = f"dask-{number}"
        worker_options = [
            "--name",
            name,
            "--nthreads",
            1,
            "--local-directory",
            services.home / "dask",
        ]
        services.add(
            name,
            [
                "distributed.cli.dask_worker",
                services.scheduler,
                *common_options,
                *worker_options,
                "--death-timeout",
                30,
            ],
            ready=lambda process: (
                process.find_in_log("Starting established connection") is not None
            ),
        )


def _read_variable(process: psutil.Process, name: str = MARK) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(name)
    return None
