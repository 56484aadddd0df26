"""Jobs as deployments of Prefect: a schedule, a backfill and a refresh for each."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.config.job import Job
from flows.observe.progress import Progress
from flows.orchestration import server

server.prepare_environment()

from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.client.schemas.objects import StateType  # noqa: E402
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.events.actions import ChangeFlowRunState  # noqa: E402
from prefect.events.schemas.automations import (  # noqa: E402
    AutomationCore,
    EventTrigger,
    Posture,
)
from prefect.events.schemas.events import ResourceSpecification  # noqa: E402
from prefect.exceptions import (  # noqa: E402
    ObjectAlreadyExists,
    ObjectNotFound,
    PrefectHTTPStatusError,
)
from prefect.schedules import Cron  # noqa: E402
from prefect.types.entrypoint import EntrypointType  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

from flows.orchestration import concurrency  # noqa: E402
from flows.orchestration.backfill import backfill  # noqa: E402
from flows.orchestration.land_cover import DUE, land_cover  # noqa: E402
from flows.orchestration.refresh import refresh  # noqa: E402

# ^ Prefect's settings are read when it is imported

QUEUES = {concurrency.SCHEDULED: 1, concurrency.BACKFILL: 10}
"""Work queues by priority: a worker that may take only so many runs takes scheduled ones first."""

HEARTBEAT_SECONDS = 30
"""Seconds between two signs of life of a flow run: the least that Prefect takes."""

HEARTBEAT_TIMEOUT = 3 * HEARTBEAT_SECONDS
"""Seconds of silence after which a flow run counts as crashed."""

CRASHED_AUTOMATION = "terramosaic: flow runs without a sign of life have crashed"
NEVER_STARTED_AUTOMATION = "terramosaic: flow runs that never began have crashed"

START_TIMEOUT = 600
"""Seconds that a worker may take to start a run."""

ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    # ^ four minutes: a server that is upgraded meanwhile still hears how a run has ended
}


def deploy(
    job_paths: Sequence[Path], *, pool: str, limit: int, paused: bool, progress: Progress
) -> dict[str, Any]:
    """Register the deployments of jobs, and what they need on the server; again changes them.

    Args:
        job_paths: job files, at the place where the workers see them too.
        pool: name of the work pool; a pool of processes is made where there is none.
        limit: runs that may hold one slot, as that of a GPU, at a time.
        paused: register schedules that do not fire yet.
        progress: who is told how far it has come.

    Returns:
        What ``terramosaic deploy --json`` prints.

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
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInputError(
            f"Two jobs are named {twice[0]}: products and deployments need names apart."
        )
    progress.start_stage("deploy", len(loaded))
    planned = [(job, tuple(_build_deployments(path, job, pool, paused))) for path, job in loaded]
    # ^ all of them, before any is registered
    found: list[dict[str, Any]] = []
    with _explain_auth_errors(), get_client(sync_client=True) as client:
        _ensure_work_pool(client, pool)
        _ensure_crash_automations(client)
        for slot in sorted({_job_slot(job) for _, job in loaded}):
            client.upsert_global_concurrency_limit_by_name(concurrency.limit_name(slot), limit)
        for job, ready in planned:
            found += _register(job, ready)
            progress.advance(1, job.name)
    progress.finish()
    return {"pool": pool, "deployments": found}


def _job_slot(job: Job) -> str:
    return job.execution.slot or concurrency.GPU_SLOT


@contextmanager
def _explain_auth_errors() -> Iterator[None]:
    """Say what to do where the server does not let us in."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise InvalidInputError(
            f"The Prefect server at {server.resolve_api_url()} refuses the password: set "
            "PREFECT_API_AUTH_STRING=user:password as the server has it (docs/operate.md)."
        ) from error


def _register(job: Job, deployments: Sequence[RunnerDeployment]) -> Iterator[dict[str, Any]]:
    for one in deployments:
        identity = one.apply()
        schedule = next(iter(one.schedules or ()), None)
        yield {
            "name": f"{one.flow_name}/{one.name}",
            "id": str(identity),
            "cron": job.schedule.cron if schedule else None,
            "timezone": job.schedule.timezone if schedule else None,
            "queue": one.work_queue_name,
        }


def _build_deployments(path: Path, job: Job, pool: str, paused: bool) -> Iterator[RunnerDeployment]:
    scheduled = job.schedule.since is not None
    common: dict[str, Any] = {
        "work_pool_name": pool,
        "entrypoint_type": EntrypointType.MODULE_PATH,
        # ^ no limit of runs: where its lease cannot be renewed, because the server is away for some
        #   minutes, Prefect ends a run that is well. A second run of a job leaves alone what the
        #   first one is at (pipeline.runtime.lock)
        "job_variables": {
            "env": ENVIRONMENT | _forwarded_environment(),
            "working_dir": str(path.parent),
            "stream_output": False,
            # ^ whoever writes to a worker that is gone is ended by Prefect's own console; the log
            #   of a run lies beside its receipts
        },
    }
    tags = ["terramosaic", job.name, concurrency.limit_name(_job_slot(job))]
    try:
        schedule = Cron(job.schedule.cron, timezone=job.schedule.timezone)
        yield RunnerDeployment.from_flow(
            land_cover,
            name=job.name,
            schedules=[schedule] if scheduled else [],
            paused=paused if scheduled else None,
            parameters={"job": str(path), "period": DUE if scheduled else None},
            description=f"The periods of {path} that are due, or one that you name.",
            tags=[*tags, concurrency.SCHEDULED],
            work_queue_name=concurrency.SCHEDULED,
            **common,
        )
    except ValueError as error:
        raise InvalidInputError(f"{path}: schedule.cron {job.schedule.cron!r}: {error}") from error
    for flow, words in ((backfill, "A range of periods"), (refresh, "Finished periods")):
        yield RunnerDeployment.from_flow(
            flow,
            name=job.name,
            parameters={"job": str(path)},
            description=f"{words} of {path}.",
            tags=tags,
            work_queue_name=concurrency.BACKFILL,
            **common,
        )


def _forwarded_environment() -> dict[str, str]:
    """Return what of this environment a run needs too; no secret is among it."""
    names = ("TERRAMOSAIC_HOME", "TERRAMOSAIC_WEIGHTS", "TERRAMOSAIC_METRICS")
    return {name: os.environ[name] for name in names if name in os.environ}


def _ensure_work_pool(client: SyncPrefectClient, name: str) -> None:
    """Find the work pool, or make one of processes; and its two queues."""
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
            known = client.read_work_queue_by_name(queue, work_pool_name=name)
            client.update_work_queue(known.id, priority=priority)


def _ensure_crash_automations(client: SyncPrefectClient) -> None:
    """Have the server call crashed what no longer gives a sign of life, its process being gone."""
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    later = ("Running", "Cancelling", "AwaitingConcurrencySlot", "Scheduled", "heartbeat")
    _ensure_automation(
        client,
        CRASHED_AUTOMATION,
        after=("heartbeat",),
        expect=("heartbeat", *ends),
        within=HEARTBEAT_TIMEOUT,
    )
    _ensure_automation(
        client,
        NEVER_STARTED_AUTOMATION,
        after=("Pending", "Submitting"),
        expect=(*later, *ends),
        within=START_TIMEOUT,
    )
    # ^ a worker that dies while it starts a run leaves it pending, without any heartbeat yet


def _ensure_automation(
    client: SyncPrefectClient,
    name: str,
    *,
    after: Sequence[str],
    expect: Sequence[str],
    within: int,
) -> None:
    """Have runs called crashed of which, after some events, none of others is heard in time."""
    if client.read_automations_by_name(name):
        return
    client.create_automation(
        AutomationCore(
            name=name,
            description="What such a run has finished is kept; the next one goes on from there.",
            trigger=EventTrigger(
                after={f"prefect.flow-run.{one}" for one in after},
                expect={f"prefect.flow-run.{one}" for one in expect},
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=dt.timedelta(seconds=within),
            ),
            actions=[
                ChangeFlowRunState(
                    force=False,
                    state=StateType.CRASHED,
                    name="Crashed",
                    message="No sign of life: its process or machine is gone. What is finished is "
                    "kept; the next run goes on from there.",
                )
            ],
        )
    )
