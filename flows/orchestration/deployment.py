"""Deployments on a Prefect server: for each job a scheduled run, a backfill and a refresh."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import (
    ObjectAlreadyExists,
    ObjectNotFound,
    PrefectHTTPStatusError,
)
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.orchestration import concurrency, crash_automations, server
from flows.orchestration.backfill_flow import backfill
from flows.orchestration.land_cover_flow import DUE, land_cover
from flows.orchestration.refresh_flow import refresh
from flows.run.command_results import Deployment, DeployResult

QUEUES = {concurrency.SCHEDULED: 1, concurrency.BACKFILL: 10}
"""Priority of the work queues: a worker with a limit of runs takes scheduled runs first."""

ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(crash_automations.HEARTBEAT_SECONDS),
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    # ^ four minutes of retries: the end of a run reaches a server that is being upgraded
}


def deploy(
    job_paths: Sequence[Path], *, pool: str, limit: int, paused: bool, progress: Progress
) -> DeployResult:
    """Register or update the deployments of jobs, and what they need on the server.

    Args:
        job_paths: job files, at a path that the workers see too.
        pool: name of the work pool; a pool of processes is created where there is none.
        limit: runs that may hold one slot, as that of a GPU, at a time.
        paused: register schedules that do not fire yet.
        progress: a step per job.

    Raises:
        InvalidInputError: no server is named, two jobs have one name, or a schedule cannot be read.
    """
    if server.resolve_api_url() is None:
        raise InvalidInputError(
            "No Prefect server is named: set PREFECT_API_URL, as in "
            "http://127.0.0.1:4200/api (docs/operate.md)."
        )
    loaded = [(path.resolve(), jobs.load(path)) for path in job_paths]
    names = [job.name for _, job in loaded]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise InvalidInputError(
            f"Two jobs are named {duplicates[0]}. Give each job a name of its own: products and "
            "deployments are named after it."
        )
    progress.start_stage("deploy", len(loaded))
    prepared = [(job, tuple(_build_deployments(path, job, pool, paused))) for path, job in loaded]
    # ^ errors in any of them are found before any is registered
    registered: list[Deployment] = []
    with _explain_auth_errors(), get_client(sync_client=True) as client:
        _ensure_work_pool(client, pool)
        crash_automations.ensure_crash_automations(client)
        concurrency.ensure_limits(client, [job for _, job in loaded], limit)
        for job, deployments in prepared:
            registered += _register(job, deployments)
            progress.advance(1, job.name)
    progress.finish()
    return DeployResult(pool=pool, deployments=tuple(registered))


@contextmanager
def _explain_auth_errors() -> Iterator[None]:
    """Turn the server's 401 and 403 into an error that says what to do."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise InvalidInputError(
            "The Prefect server refuses the password. Set PREFECT_API_AUTH_STRING=user:password "
            "to the server's own (docs/operate.md)."
        ) from error


def _register(job: Job, deployments: Sequence[RunnerDeployment]) -> Iterator[Deployment]:
    for deployment in deployments:
        deployment_id = deployment.apply()
        yield Deployment(
            name=f"{deployment.flow_name}/{deployment.name}",
            id=str(deployment_id),
            cron=job.schedule.cron if deployment.schedules else None,
            timezone=job.schedule.timezone if deployment.schedules else None,
            queue=deployment.work_queue_name or "default",
        )


def _build_deployments(path: Path, job: Job, pool: str, paused: bool) -> Iterator[RunnerDeployment]:
    scheduled = job.schedule.since is not None
    deploy = functools.partial(
        RunnerDeployment.from_flow,
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        # ^ no limit of concurrent runs: where its lease cannot be renewed, because the server is
        #   away for some minutes, Prefect ends a healthy run. A second run of a job skips the
        #   products that the first one is making (pipeline.runtime.lock)
        job_variables={
            "env": ENVIRONMENT | _forwarded_environment(),
            "working_dir": str(path.parent),
            "stream_output": False,
            # ^ a run that writes to a worker that is gone is ended by Prefect's console; the log of
            #   a run is a file beside its receipts
        },
    )
    tags = ["terramosaic", job.name, concurrency.limit_name(concurrency.get_job_slot(job))]
    try:
        schedule = Cron(job.schedule.cron, timezone=job.schedule.timezone)
        yield deploy(
            land_cover,
            name=job.name,
            schedules=[schedule] if scheduled else [],
            paused=paused if scheduled else None,
            parameters={"job": str(path), "period": DUE if scheduled else None},
            description=f"The periods of {path} that are due, or one that you name.",
            tags=[*tags, concurrency.SCHEDULED],
            work_queue_name=concurrency.SCHEDULED,
        )
    except ValueError as error:
        raise InvalidInputError(f"{path}: schedule.cron {job.schedule.cron!r}: {error}") from error
    for flow, scope in ((backfill, "A range of periods"), (refresh, "Finished periods")):
        yield deploy(
            flow,
            name=job.name,
            parameters={"job": str(path)},
            description=f"{scope} of {path}.",
            tags=tags,
            work_queue_name=concurrency.BACKFILL,
        )


def _forwarded_environment() -> dict[str, str]:
    """Return the variables of this environment that a run needs too; none of them is a secret."""
    names = ("TERRAMOSAIC_HOME", "TERRAMOSAIC_WEIGHTS", "TERRAMOSAIC_METRICS")
    return {name: os.environ[name] for name in names if name in os.environ}


def _ensure_work_pool(client: SyncPrefectClient, name: str) -> None:
    """Create the work pool (of processes) and its two queues, unless they exist."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template)
        )
    for queue, priority in QUEUES.items():
        try:
            client.create_work_queue(name=queue, work_pool_name=name, priority=priority)
        except ObjectAlreadyExists:
            existing = client.read_work_queue_by_name(queue, work_pool_name=name)
            client.update_work_queue(existing.id, priority=priority)
