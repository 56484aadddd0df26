"""The numbers of a run, as they are counted in its own process, and what each of them is called.

docs/metrics.md lists them; the dashboard and the rules of deploy/observability read them.
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

if TYPE_CHECKING:
    from flows.execution.engine import Outcome
    from flows.execution.executors import Crew

LABELS = ("product", "period")
"""What every metric is told apart by."""

STATUSES = ("running", "complete", "partial", "refused", "failed", "interrupted")
"""What a run is, or how it ended: as ``run --json`` says it, where it could say it."""

Values = Mapping[str, Mapping[tuple[str, ...], float]]
"""Name of a metric → values of its own labels → number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as Prometheus and docs/metrics.md name it."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()
    """Those that it has beside :data:`LABELS`."""


METRICS = (
    Metric("terramosaic_run_info", "gauge", "Always 1; says what runs.", ("plan", "version")),
    Metric("terramosaic_run_status", "gauge", "1 for what the run is, 0 otherwise.", ("status",)),
    Metric("terramosaic_run_started_timestamp_seconds", "gauge", "When the run began."),
    Metric(
        "terramosaic_last_success_timestamp_seconds",
        "gauge",
        "When the product was last published, or found to be finished.",
    ),
    Metric("terramosaic_tiles_planned", "gauge", "Tiles of the plan."),
    Metric("terramosaic_tiles_total", "counter", "Tiles by what became of them.", ("outcome",)),
    Metric("terramosaic_tiles_waiting", "gauge", "Tiles that nobody has begun."),
    Metric("terramosaic_tiles_working", "gauge", "Tiles that are being made."),
    Metric(
        "terramosaic_last_tile_timestamp_seconds",
        "gauge",
        "When the last tile ended; until then, when the first ones were begun.",
    ),
    Metric("terramosaic_mapped_square_meters_total", "counter", "Ground of the tiles made."),
    Metric("terramosaic_read_bytes_total", "counter", "Bytes read of the scenes."),
    Metric("terramosaic_read_requests_total", "counter", "Requests for them."),
    Metric("terramosaic_read_retries_total", "counter", "Requests that had to be repeated."),
    Metric(
        "terramosaic_tile_seconds_total",
        "counter",
        "Seconds that the tiles took, by stage; tile is all of them together.",
        ("stage",),
    ),
    Metric(
        "terramosaic_device_busy_ratio",
        "gauge",
        "Share of the time since the first tile in which a process's device was at the model.",
    ),
)


def labels(plan_path: Path) -> tuple[str, str]:
    """Return product and period of a plan file that lies in its plan's folder."""
    return plan_path.parents[2].name, plan_path.parents[1].name


@functools.cache
def _version() -> str:
    return importlib.metadata.version("terramosaic")


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts what a run does; whoever shows it may ask from another thread."""

    product: str
    period: str
    plan: str
    changed: Callable[[], None] = lambda: None
    """Called after every change."""

    succeeded: float | None = None
    """Unix time of the last success."""

    _status: str = "running"
    _started: float = field(default_factory=time.time)
    _planned: int = 0
    _tiles: Counter[str] = field(default_factory=lambda: Counter(done=0, failed=0, skipped=0))
    _ended: float | None = None
    """Unix time of the last tile."""

    _began: float = 0.0
    _wall: float = 0.0
    """Seconds from the first tile to the last one."""

    _places: int = 0
    _processes: int = 1
    _km2: float = 0.0
    _traffic: Counter[str] = field(default_factory=Counter)
    _seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(plan_path: Path) -> Meter:
        """Return the meter of a run that begins."""
        product, period = labels(plan_path)
        item = plan_path.parents[1] / "item.json"
        return Meter(
            product=product,
            period=period,
            plan=plan_path.parent.name,
            succeeded=item.stat().st_mtime if item.exists() else None,
        )

    def begin(self, planned: int, skipped: int) -> None:
        """Begin with the tiles: so many has the plan, so many of them are finished already."""
        with self._lock:
            self._planned, self._tiles["skipped"] = planned, skipped
            self._ended, self._began = time.time(), time.monotonic()
        self.changed()

    def crew(self, hands: Crew) -> None:
        """Take note of who computes."""
        places = min(hands.places(), hands.processes * hands.beside)
        # ^ who could grow has more places than there are at this moment
        with self._lock:
            self._places, self._processes = places, hands.processes

    def tile(self, outcome: Outcome) -> None:
        """Count one tile."""
        with self._lock:
            self._tiles["failed" if outcome.reason else "done"] += 1
            self._km2 += outcome.km2
            self._traffic.update(outcome.traffic)
            for stage, seconds in outcome.seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
            self._ended, self._wall = time.time(), time.monotonic() - self._began
        self.changed()

    def end(self, status: str, failed: int | None = None) -> None:
        """Say how the run ended, and how many tiles are not sound in the end."""
        with self._lock:
            self._status = status
            if failed is not None:
                self._tiles["failed"] = failed
                # ^ verification may have found more
            if status in ("complete", "partial"):
                self.succeeded = time.time()

    def values(self) -> Values:
        """Return all numbers of this moment."""
        with self._lock:
            return {
                "terramosaic_run_info": {(self.plan, _version()): 1.0},
                "terramosaic_run_status": {(one,): one == self._status for one in STATUSES},
                "terramosaic_run_started_timestamp_seconds": {(): self._started},
                "terramosaic_last_success_timestamp_seconds": _known(self.succeeded),
                "terramosaic_tiles_planned": {(): self._planned},
                "terramosaic_tiles_total": {(one,): count for one, count in self._tiles.items()},
                **self._queue(),
                "terramosaic_last_tile_timestamp_seconds": _known(self._ended),
                "terramosaic_mapped_square_meters_total": {(): self._km2 * 1e6},
                **{
                    f"terramosaic_read_{one}_total": {(): self._traffic[one]}
                    for one in ("bytes", "requests", "retries")
                },
                "terramosaic_tile_seconds_total": {
                    (stage,): seconds for stage, seconds in self._seconds.items()
                },
                "terramosaic_device_busy_ratio": _known(self._busy()),
            }

    def _queue(self) -> Values:
        left = self._planned - self._tiles.total() if self._status == "running" else 0
        working = max(min(self._places, left), 0)
        return {
            "terramosaic_tiles_waiting": {(): max(left - working, 0)},
            "terramosaic_tiles_working": {(): working},
        }

    def _busy(self) -> float | None:
        """Return the device's share; None where no model was asked."""
        asked = self._seconds.get("predict", 0.0)
        if not asked or not self._wall:
            return None
        return min(asked / (self._wall * self._processes), 1.0)
        # ^ two tiles of a process may be at the same device at once


def _known(value: float | None) -> dict[tuple[str, ...], float]:
    return {} if value is None else {(): value}
