"""Automations of the Prefect server that mark runs as crashed whose process or machine is gone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

HEARTBEAT_SECONDS = 30
"""Seconds between two heartbeats of a flow run: the smallest value that Prefect accepts."""

HEARTBEAT_TIMEOUT = 3 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat after which a flow run counts as crashed."""

CRASHED_AUTOMATION = "terramosaic: flow runs without a sign of life have crashed"
NEVER_STARTED_AUTOMATION = "terramosaic: flow runs that never began have crashed"
# ^ an automation is found by its name, so that these stay as they are on servers that have them

START_TIMEOUT = 600
"""Seconds that a worker may take to start a run."""


def ensure_crash_automations(client: SyncPrefectClient) -> None:
    """Have the server mark runs as crashed whose heartbeats stop, or which never start."""
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
    # ^ a worker that dies while it starts a run leaves the run pending, before any heartbeat


def _ensure_automation(
    client: SyncPrefectClient,
    name: str,
    *,
    after: Sequence[str],
    expect: Sequence[str],
    within: int,
) -> None:
    """Create an automation that marks runs as crashed when an expected event does not follow.

    Args:
        client: client of the server.
        name: name of the automation; one that exists is left as it is.
        after: flow-run events that start the time.
        expect: flow-run events of which one must follow.
        within: seconds until then.
    """
    if client.read_automations_by_name(name):
        return
    client.create_automation(
        AutomationCore(
            name=name,
            description="Finished tiles of such a run are kept; the next run goes on from there.",
            trigger=EventTrigger(
                after={f"prefect.flow-run.{event}" for event in after},
                expect={f"prefect.flow-run.{event}" for event in expect},
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
                    message="No heartbeat: its process or machine is gone. Finished tiles are "
                    "kept; the next run goes on from there.",
                )
            ],
        )
    )
