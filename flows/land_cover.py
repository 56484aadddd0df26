"""The flow that Prefect knows: the stages of a run as five coarse tasks; tiles are dask's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from catalogs.errors import Transient
from flows import server, stages

server.prepare()

import prefect  # noqa: E402

# ^ its settings are read when it is imported


def _again(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may be gone at the next attempt, and nothing else."""
    return isinstance(state.result(raise_on_failure=False), Transient)


_TASKS: dict[Callable[..., Any], Callable[..., Any]] = {
    stages.freeze: prefect.task(
        name="plan", retries=2, retry_delay_seconds=10, retry_condition_fn=_again
    )(stages.freeze),
    stages.map_tiles: prefect.task(name="map tiles")(stages.map_tiles),
    stages.check: prefect.task(name="verify")(stages.check),
    stages.measure: prefect.task(name="quality")(stages.measure),
    stages.publish: prefect.task(name="publish")(stages.publish),
}


@prefect.flow(name="land_cover", persist_result=False, flow_run_name="{job}")
def land_cover(job: str, allow_partial: bool = False) -> dict[str, Any]:
    """Map one region and period.

    Args:
        job: path of a job file, or of a plan.
        allow_partial: publish with failed tiles declared as holes.

    Returns:
        What ``terramosaic run --json`` prints.
    """
    return stages.run(job, allow_partial, lambda stage, *given: _TASKS[stage](*given))
