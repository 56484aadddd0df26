"""dask's performance report of a run with failed tiles."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from pipeline.storage.store import open_store

log = logging.getLogger(__name__)

FILE_NAME = "dask-report.html"

REPORT_TIMEOUT = 60.0
"""Seconds that a scheduler may take to write the report."""

CLOCK_SKEW = 60.0
"""Largest difference, seconds, between the clocks of client, scheduler and workers."""


def remove(plan_dir: Path) -> None:
    """Remove the report of an earlier run from a plan's folder."""
    open_store(plan_dir).delete(FILE_NAME)


def start_recording(client: Any) -> float:
    """Make a scheduler record the times of its tasks; return the start, Unix time."""
    client.get_task_stream(start=0, stop=0)
    # ^ a scheduler without a dashboard records tasks only after the first request
    return time.time() - CLOCK_SKEW


def write(client: Any, start: float, plan_dir: Path) -> None:
    """Write a scheduler's report into a plan's folder; a failure is logged as a warning.

    Args:
        client: Client of the scheduler.
        start: Start of the recording, from :func:`start_recording`.
        plan_dir: Folder of the plan.
    """
    try:
        page = client.sync(
            client.scheduler.performance_report,
            start=start,
            last_count=0,
            mode="inline",
            # ^ the page must open without network access
            callback_timeout=REPORT_TIMEOUT,
        )
        open_store(plan_dir).write(FILE_NAME, page.encode())
    except ImportError:
        log.warning(
            "dask's performance report of the failed tiles needs bokeh on the scheduler: "
            "pip install 'terramosaic[observe]'"
        )
    except Exception as error:  # noqa: BLE001
        # ^ the scheduler may be in any state; the failed tiles have been reported already
        log.warning("dask's performance report of the failed tiles could not be written: %s", error)
    else:
        log.info("report=%s", plan_dir / FILE_NAME)
