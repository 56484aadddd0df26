"""The flow of a refresh: finished periods with newer scenes or a newer model are made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.config import job as jobs
from flows.observe import run_context
from flows.orchestration import server
from flows.orchestration.land_cover import raise_on_failure
from flows.series import backfill, inspection, outdated

server.prepare_environment()

import prefect  # noqa: E402
from prefect import runtime  # noqa: E402

from flows.orchestration import artifacts, cancellation, concurrency  # noqa: E402

# ^ Prefect's settings are read when it is imported


@prefect.flow(
    name="refresh",
    persist_result=False,
    result_serializer="json",
    flow_run_name=lambda: Path(runtime.flow_run.parameters["job"]).stem,
)
def refresh(
    job: str, at_once: int = 1, dry_run: bool = False, allow_partial: bool = False
) -> dict[str, Any]:
    """Make those finished periods anew that have newer scenes or a newer model.

    Tiles that nothing has changed for are taken over.

    Args:
        job: Path of a job file.
        at_once: Periods side by side, 1 to 64.
        dry_run: Only look.
        allow_partial: Publish with failed tiles declared as holes.

    Returns:
        What ``terramosaic refresh --json`` prints.
    """
    server.enable_info_logging()
    found: dict[str, Any] = cancellation.run_cancellable(
        _run_refresh, Path(job), at_once, dry_run, allow_partial
    )
    return found


def _run_refresh(
    job_path: Path, at_once: int, dry_run: bool, allow_partial: bool
) -> dict[str, Any]:
    asked = jobs.load(job_path)
    with prefect.tags(concurrency.BACKFILL):
        # ^ what is there already can wait as well
        entries = outdated.find_outdated(asked, run_context.get_progress())
        if not dry_run:
            entries = backfill.run_periods(
                job_path, entries, at_once, allow_partial, run_context.get_progress()
            )
    result = inspection.build_result(asked, entries, dry_run=dry_run)
    artifacts.show_periods(asked.name, "Finished periods, and what is newer", result["periods"])
    return raise_on_failure(result)
