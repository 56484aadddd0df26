"""Metrics of a run, counted in its process.

docs/metrics.md lists them; the dashboard and the alert rules of deploy/observability use them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.storage.store import open_store

if TYPE_CHECKING:
    from pipeline.tile import TileResult

COMMON_LABELS = ("product", "period")
"""Labels of every metric."""

STATUSES = ("running", "complete", "partial", "refused", "failed", "interrupted")
"""Status of a run: ``running``, or the final status as in ``run --json``."""

MetricValues = Mapping[str, Mapping[tuple[str, ...], float]]
"""Name of a metric → values of its labels beside :data:`COMMON_LABELS` → value."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as it is documented in docs/metrics.md."""

    name: str
    kind: Literal["counter", "gauge"]
    documentation: str
    labels: tuple[str, ...] = ()
    """Labels beside :data:`COMMON_LABELS`."""


METRICS = (
    Metric(
        "terramosaic_run_info",
        "gauge",
        "Always 1; plan and version are in the labels.",
        ("plan", "version"),
    ),
    Metric(
        "terramosaic_run_status",
        "gauge",
        "1 for the current status of the run, 0 for the others.",
        ("status",),
    ),
    Metric("terramosaic_run_started_timestamp_seconds", "gauge", "Start of the run."),
    Metric(
        "terramosaic_last_success_timestamp_seconds",
        "gauge",
        "Time at which the product was last published or found complete.",
    ),
    Metric("terramosaic_tiles_planned", "gauge", "Tiles of the plan."),
    Metric("terramosaic_tiles_total", "counter", "Tiles by outcome.", ("outcome",)),
    Metric("terramosaic_tiles_waiting", "gauge", "Tiles that have not been started."),
    Metric("terramosaic_tiles_working", "gauge", "Tiles in progress."),
    Metric(
        "terramosaic_last_tile_timestamp_seconds",
        "gauge",
        "End of the last finished tile; before that, start of the first tiles.",
    ),
    Metric("terramosaic_mapped_square_meters_total", "counter", "Area of the tiles computed."),
    Metric("terramosaic_read_bytes_total", "counter", "Bytes read from scenes."),
    Metric("terramosaic_read_requests_total", "counter", "Requests for scenes."),
    Metric("terramosaic_read_retries_total", "counter", "Requests that were retried."),
    Metric(
        "terramosaic_tile_seconds_total",
        "counter",
        "Seconds spent on tiles, by stage; the stage tile is the total.",
        ("stage",),
    ),
    Metric(
        "terramosaic_device_busy_ratio",
        "gauge",
        "Share of the time since the first tile in which the device of a process ran the model.",
    ),
)


def labels_from_path(plan_path: Path) -> tuple[str, str]:
    """Return product and period of a plan file, from its path."""
    return plan_path.parents[2].name, plan_path.parents[1].name


@functools.cache
def _installed_version() -> str:
    return importlib.metadata.version("terramosaic")


@dataclass(slots=True, kw_only=True)
class RunMetrics:
    """Metrics of one run; an exporter may read them from another thread."""

    product: str
    period: str
    plan: str
    on_change: Callable[[], None] = lambda: None
    """Called after every change."""

    last_success: float | None = None
    """Unix time of the last success."""

    _status: str = "running"
    _started: float = field(default_factory=time.time)
    _planned_tiles: int = 0
    _tile_counts: Counter[str] = field(default_factory=lambda: Counter(done=0, failed=0, skipped=0))
    _last_tile_ended: float | None = None
    """Unix time of the last tile."""

    _tiles_began: float = 0.0
    _tiles_elapsed: float = 0.0
    """Seconds from the first tile to the last one."""

    _parallel_tiles: int = 0
    _processes: int = 1
    _mapped_km2: float = 0.0
    _io_counts: Counter[str] = field(default_factory=Counter)
    _stage_seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def for_plan(plan_path: Path) -> RunMetrics:
        """Return the metrics of a plan's run, before it starts."""
        product, period = labels_from_path(plan_path)
        item = open_store(plan_path.parents[1]).info("item.json")
        return RunMetrics(
            product=product,
            period=period,
            plan=plan_path.parent.name,
            last_success=None if item is None else item.modified,
        )

    def begin_tiles(self, planned: int, skipped: int) -> None:
        """Start counting tiles.

        Args:
            planned: Number of tiles of the plan.
            skipped: Number of those that were finished before the run.
        """
        with self._lock:
            self._planned_tiles, self._tile_counts["skipped"] = planned, skipped
            self._last_tile_ended, self._tiles_began = time.time(), time.monotonic()
        self.on_change()

    def set_capacity(self, *, processes: int, parallel_tiles: int) -> None:
        """Record the number of processes and of parallel tiles in all of them."""
        with self._lock:
            self._parallel_tiles, self._processes = parallel_tiles, processes

    def count_tile(self, result: TileResult) -> None:
        """Count one tile."""
        with self._lock:
            self._tile_counts["failed" if result.reason else "done"] += 1
            self._mapped_km2 += result.km2
            self._io_counts.update(result.traffic)
            for stage, seconds in result.seconds.items():
                self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds
            self._last_tile_ended, self._tiles_elapsed = (
                time.time(),
                time.monotonic() - self._tiles_began,
            )
        self.on_change()

    def set_final_status(self, status: str, failed: int | None = None) -> None:
        """Set the final status, and the number of failed tiles if verification found more."""
        with self._lock:
            self._status = status
            if failed is not None:
                self._tile_counts["failed"] = failed
            if status in ("complete", "partial"):
                self.last_success = time.time()

    def values(self) -> MetricValues:
        """Return the current values of all metrics."""
        with self._lock:
            return {
                "terramosaic_run_info": {(self.plan, _installed_version()): 1.0},
                "terramosaic_run_status": {
                    (status,): status == self._status for status in STATUSES
                },
                "terramosaic_run_started_timestamp_seconds": {(): self._started},
                "terramosaic_last_success_timestamp_seconds": _optional_value(self.last_success),
                "terramosaic_tiles_planned": {(): self._planned_tiles},
                "terramosaic_tiles_total": {
                    (outcome,): count for outcome, count in self._tile_counts.items()
                },
                **self._queue_values(),
                "terramosaic_last_tile_timestamp_seconds": _optional_value(self._last_tile_ended),
                "terramosaic_mapped_square_meters_total": {(): self._mapped_km2 * 1e6},
                **{
                    f"terramosaic_read_{name}_total": {(): self._io_counts[name]}
                    for name in ("bytes", "requests", "retries")
                },
                "terramosaic_tile_seconds_total": {
                    (stage,): seconds for stage, seconds in self._stage_seconds.items()
                },
                "terramosaic_device_busy_ratio": _optional_value(self._device_busy_ratio()),
            }

    def _queue_values(self) -> MetricValues:
        is_running = self._status == "running"
        remaining = self._planned_tiles - self._tile_counts.total() if is_running else 0
        working = max(min(self._parallel_tiles, remaining), 0)
        return {
            "terramosaic_tiles_waiting": {(): max(remaining - working, 0)},
            "terramosaic_tiles_working": {(): working},
        }

    def _device_busy_ratio(self) -> float | None:
        """Return the share of time in which devices ran the model; None before any prediction."""
        predict_seconds = self._stage_seconds.get("predict", 0.0)
        if not predict_seconds or not self._tiles_elapsed:
            return None
        return min(predict_seconds / (self._tiles_elapsed * self._processes), 1.0)
        # ^ parallel tiles of a process may use the device at the same time


def _optional_value(value: float | None) -> dict[tuple[str, ...], float]:
    return {} if value is None else {(): value}
