"""What is kept of a cluster's work where tiles failed: dask's own performance report."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from pipeline.storage.store import open_store

log = logging.getLogger(__name__)

FILE_NAME = "dask-report.html"

REPORT_TIMEOUT = 60.0
"""Seconds that a scheduler may take to write it."""

CLOCK_SKEW = 60.0
"""Seconds by which the clocks of client, scheduler and workers may differ."""


def remove(plan_dir: Path) -> None:
    """Remove the report of an earlier run from a plan's folder."""
    open_store(plan_dir).delete(FILE_NAME)


def start_recording(client: Any) -> float:
    """Have a scheduler keep the times of its tasks from now on; return since when."""
    client.get_task_stream(start=0, stop=0)
    # ^ a scheduler without a dashboard keeps none until somebody asks
    return time.time() - CLOCK_SKEW


def write(client: Any, start: float, plan_dir: Path) -> None:
    """Write the report of what a scheduler did into a plan's folder; without one the run ends too.

    Args:
        client: of the scheduler.
        start: what :func:`start_recording` returned.
        plan_dir: the plan's folder.
    """
    try:
        page = client.sync(
            client.scheduler.performance_report,
            start=start,
            last_count=0,
            mode="inline",
            # ^ it must open where there is no network
            callback_timeout=REPORT_TIMEOUT,
        )
        open_store(plan_dir).write(FILE_NAME, page.encode())
    except ImportError:
        log.warning(
            "dask's report on the failed tiles needs bokeh where the scheduler runs: "
            "pip install 'terramosaic[observe]'"
        )
    except Exception as error:  # noqa: BLE001
        # ^ whatever has become of the scheduler: the tiles are told of already
        log.warning("dask's report on the failed tiles could not be written: %s", error)
    else:
        log.info("report=%s", plan_dir / FILE_NAME)
