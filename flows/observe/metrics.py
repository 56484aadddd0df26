"""Metrics of a run, counted in its process.

docs/metrics.md lists them; the dashboard and the alert rules of deploy/observability use them.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.storage.store import open_store

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

    from pipeline.tile import TileResult

_Kind = TypeVar("_Kind", "Counter", "Gauge")

COMMON_LABELS = ("product", "period")
"""Labels of every metric."""

STATUSES = ("running", "complete", "partial", "refused", "failed", "interrupted")
"""Status of a run: ``running``, or the final status as in ``run --json``."""


class RunMetrics:
    """Metrics of a run that are not exported: nothing is counted."""

    def begin_tiles(self, planned: int, skipped: int) -> None:
        """Start counting tiles.

        Args:
            planned: Number of tiles of the plan.
            skipped: Number of those that were finished before the run.
        """

    def set_capacity(self, *, processes: int, parallel_tiles: int) -> None:
        """Record the number of processes and of parallel tiles in all of them."""

    def count_tile(self, result: TileResult) -> None:
        """Count one tile."""

    def set_final_status(self, status: str, damaged: int = 0) -> None:
        """Set the final status, and count the tiles that verification found damaged as failed."""


class ExportedMetrics(RunMetrics):
    """Metrics of a run, in a registry that an exporter may read from another thread.

    The global registry is not used: it also has metrics of the process and of dask.
    """

    def __init__(self, plan_path: Path) -> None:
        from prometheus_client import (  # noqa: PLC0415
            CollectorRegistry,
            Counter,
            Gauge,
            disable_created_metrics,
        )

        # ^ imported only if metrics are exported
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # ^ in the whole process: a registry has no such option
        self.product, self.period = plan_path.parents[2].name, plan_path.parents[1].name
        self.registry = CollectorRegistry()
        self.on_change: Callable[[], None] = lambda: None
        """Called when tiles begin, and after each of them."""

        self._remaining_tiles = 0
        self._parallel_tiles = 0
        self._processes = 1
        self._predict_seconds = 0.0
        self._tiles_began = 0.0
        self._tiles_elapsed = 0.0
        """Seconds from the first tile to the last one."""

        self._add(
            Gauge,
            "terramosaic_run_info",
            "Always 1; plan and version are in the labels.",
            *("plan", "version"),
        )(plan_path.parent.name, importlib.metadata.version("terramosaic")).set(1)
        self._status = self._add(
            Gauge,
            "terramosaic_run_status",
            "1 for the current status of the run, 0 for the others.",
            "status",
        )
        self._set_status("running")
        self._add(
            Gauge, "terramosaic_run_started_timestamp_seconds", "Start of the run."
        )().set_to_current_time()
        self._last_success = self._add(
            Gauge,
            "terramosaic_last_success_timestamp_seconds",
            "Time at which the product was last published or found complete.",
        )
        item = open_store(plan_path.parents[1]).info("item.json")
        if item is not None:
            self._last_success().set(item.modified)
        self._planned = self._add(Gauge, "terramosaic_tiles_planned", "Tiles of the plan.")()
        self._tiles = self._add(Counter, "terramosaic_tiles_total", "Tiles by outcome.", "outcome")
        for outcome in ("done", "failed", "skipped"):
            self._tiles(outcome)
        self._waiting = self._add(
            Gauge, "terramosaic_tiles_waiting", "Tiles that have not been started."
        )()
        self._working = self._add(Gauge, "terramosaic_tiles_working", "Tiles in progress.")()
        self._last_tile_ended = self._add(
            Gauge,
            "terramosaic_last_tile_timestamp_seconds",
            "End of the last finished tile; before that, start of the first tiles.",
        )
        self._mapped_area = self._add(
            Counter, "terramosaic_mapped_square_meters_total", "Area of the tiles computed."
        )()
        self._traffic = {
            name: self._add(Counter, f"terramosaic_read_{name}_total", documentation)()
            for name, documentation in (
                ("bytes", "Bytes read from scenes."),
                ("requests", "Requests for scenes."),
                ("retries", "Requests that were retried."),
            )
        }
        self._stage_seconds = self._add(
            Counter,
            "terramosaic_tile_seconds_total",
            "Seconds spent on tiles, by stage; the stage tile is the total.",
            "stage",
        )
        self._device_busy_ratio = self._add(
            Gauge,
            "terramosaic_device_busy_ratio",
            "Share of the time since the first tile in which the device of a process ran "
            "the model.",
        )

    def _add(
        self, kind: type[_Kind], name: str, documentation: str, *labels: str
    ) -> Callable[..., _Kind]:
        """Add a metric, and return a function from values of its own labels to their series.

        A series is exported, with the value 0, from the first call for it.
        """
        metric = kind(name, documentation, (*COMMON_LABELS, *labels), registry=self.registry)
        return partial(metric.labels, self.product, self.period)

    def begin_tiles(self, planned: int, skipped: int) -> None:
        """Start counting tiles."""
        self._planned.set(planned)
        self._tiles("skipped").inc(skipped)
        self._last_tile_ended().set_to_current_time()
        self._remaining_tiles, self._tiles_began = planned - skipped, time.monotonic()
        self._set_queue()
        self.on_change()

    def set_capacity(self, *, processes: int, parallel_tiles: int) -> None:
        """Record the number of processes and of parallel tiles in all of them."""
        self._parallel_tiles, self._processes = parallel_tiles, processes
        self._set_queue()
        self._set_device_busy_ratio()

    def count_tile(self, result: TileResult) -> None:
        """Count one tile."""
        self._last_tile_ended().set_to_current_time()
        self._tiles("failed" if result.reason else "done").inc()
        self._mapped_area.inc(result.km2 * 1e6)
        for name, counter in self._traffic.items():
            counter.inc(result.traffic.get(name, 0))
        # ^ other counts of the traffic are those of single modalities
        for stage, seconds in result.seconds.items():
            self._stage_seconds(stage).inc(seconds)
        self._remaining_tiles -= 1
        self._tiles_elapsed = time.monotonic() - self._tiles_began
        self._predict_seconds += result.seconds.get("predict", 0.0)
        self._set_queue()
        self._set_device_busy_ratio()
        self.on_change()

    def set_final_status(self, status: str, damaged: int = 0) -> None:
        """Set the final status, and count the tiles that verification found damaged as failed."""
        self._tiles("failed").inc(damaged)
        self._remaining_tiles = 0
        self._set_queue()
        self._set_status(status)
        if status in ("complete", "partial"):
            self._last_success().set_to_current_time()

    def _set_status(self, current: str) -> None:
        for status in STATUSES:
            self._status(status).set(status == current)

    def _set_queue(self) -> None:
        working = max(min(self._parallel_tiles, self._remaining_tiles), 0)
        self._working.set(working)
        self._waiting.set(max(self._remaining_tiles - working, 0))

    def _set_device_busy_ratio(self) -> None:
        """Set the share of time in which devices ran the model; absent before any prediction."""
        if self._predict_seconds and self._tiles_elapsed:
            ratio = self._predict_seconds / (self._tiles_elapsed * self._processes)
            self._device_busy_ratio().set(min(ratio, 1.0))
            # ^ parallel tiles of a process may use the device at the same time
