"""Artifacts of a run in Prefect: its plan, the coverage by day, its progress and its quality.

They are numbers and short tables; pixels, tiles and receipts stay in the product's folder.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec
from uuid import UUID

from prefect import artifacts as prefect_artifacts

from flows.observe.formatting import draw_bar, format_cost, format_duration, format_size
from flows.run import cost, run_result
from flows.run.command_results import RunResult
from flows.run.stored_plan import StoredPlan
from flows.series.period_status import PeriodSummary
from pipeline.plan.plan import Plan, from_geojson
from pipeline.quality import coverage
from pipeline.quality.quality_metrics import QualityMetrics

log = logging.getLogger(__name__)

Params = ParamSpec("Params")

UPDATE_INTERVAL = 5.0
"""Seconds between two updates of a run's progress."""

FINISH_TIMEOUT = 10.0
"""Seconds that the end of a stage waits for the last update of its progress."""

MAX_DAYS = 40
"""Largest number of days in the table of the coverage; the product's report has all of them."""

MAX_FAILED_TILES = 20
"""Largest number of failed tiles that are listed."""


def artifact_key(*parts: str) -> str:
    """Return an artifact's key: lower-case letters, digits and dashes.

    Where other characters are replaced, a digest keeps the keys of different names apart.
    """
    text = "-".join(parts)
    key = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return key if key == text else f"{key}-{digest}"


def _best_effort(publish: Callable[Params, None]) -> Callable[Params, None]:
    """Turn the errors of a function that shows something into warnings: no run may end by them."""

    @functools.wraps(publish)
    def attempt(*arguments: Params.args, **keywords: Params.kwargs) -> None:
        try:
            publish(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001
            # ^ Prefect raises errors of many types where its server is away
            log.warning("%s could not be shown in Prefect: %s", publish.__name__, error)

    return attempt


@_best_effort
def show_plan(stored: StoredPlan) -> None:
    """Show the estimate of a run, its warnings, and the coverage of its region by day."""
    plan = stored.plan
    missing, _ = cost.find_missing_tiles(plan, stored.folder)
    estimate = cost.estimate_resources(plan, stored.folder, missing)
    price = cost.estimate_cost(plan, estimate)
    price_text = (
        format_cost(price.amount, price.low, price.high, price.currency)
        if price
        else "no prices in the job"
    )
    rows = [
        ("plan", plan.short_digest),
        ("scenes", len(plan.snapshot.scenes)),
        ("left out", len(plan.snapshot.refused)),
        ("tiles", len(plan.tiles)),
        ("to make", len(missing)),
        ("to read", format_size(estimate.bytes)),
        ("requests", estimate.requests),
        ("memory", format_size(estimate.peak_memory_bytes)),
        ("time", format_duration(estimate.seconds)),
        ("cost", price_text),
        ("folder", str(stored.folder)),
    ]
    prefect_artifacts.create_table_artifact(
        [{"what": name, "value": value} for name, value in rows],
        key=artifact_key(plan.name, "plan"),
        description=f"Estimate for the run of {_format_title(plan)}",
    )
    days = coverage.group_by_day(
        plan.snapshot.scenes, plan.snapshot.refused, from_geojson(plan.region)
    )
    warnings = [f"* warning: {text}" for text in run_result.list_plan_warnings(plan)]
    prefect_artifacts.create_markdown_artifact(
        "\n".join([*warnings, *([""] if warnings else []), *_coverage_table(days)]),
        key=artifact_key(plan.name, "coverage"),
        description=f"Coverage by day, {_format_title(plan)}",
    )


def _coverage_table(days: Sequence[coverage.DayCoverage]) -> list[str]:
    lines = ["| day | input | share of the region | scenes |", "|---|---|---|---|"]
    lines += [
        f"| {day.date or 'any'} | {day.modality} | `{draw_bar(day.share)}` {day.share:.0%} "
        f"| {len(day.scenes)} used, {len(day.refused)} left out |"
        for day in days[:MAX_DAYS]
    ]
    if len(days) > MAX_DAYS:
        lines.append(f"\n{len(days) - MAX_DAYS} more days are in the product's report.")
    return lines


@_best_effort
def show_quality(plan: Plan, quality: QualityMetrics) -> None:
    """Show the quality figures of a map."""
    rows: list[dict[str, str | float]] = [
        {"line": kind, "z": seam.z, "excess": seam.excess} for kind, seam in quality.seams().items()
    ]
    if quality.disagreement:
        rows.append({"line": "windows half a stride off", "share": quality.disagreement.share})
    if rows:
        prefect_artifacts.create_table_artifact(
            rows,
            key=artifact_key(plan.name, "quality"),
            description=f"Seams, {_format_title(plan)}",
        )


@_best_effort
def show_product(name: str, result: RunResult) -> None:
    """Show where the files of a product are, and the tiles by their outcome."""
    tiles = result.tiles
    counts = f"{tiles.done} tiles made, {tiles.skipped} finished before"
    paths = {"item": result.item, "map": result.map, "quicklook": result.quicklook}
    lines = [
        f"**{result.status}**: {counts}, {len(tiles.failed)} failed",
        "",
        *([f"* reason: {result.reason}"] if result.reason else []),
        *(f"* {label}: `{path}`" for label, path in paths.items() if path),
        *(f"* warning: {text}" for text in result.warnings),
        *(
            f"* failed: {failure.tile}, {failure.reason}"
            for failure in tiles.failed[:MAX_FAILED_TILES]
        ),
    ]
    prefect_artifacts.create_markdown_artifact(
        "\n".join(lines), key=artifact_key(name, "product"), description=f"The product of {name}"
    )


@_best_effort
def show_periods(name: str, description: str, entries: Sequence[PeriodSummary]) -> None:
    """Show the periods of a series."""
    columns = {"start", "end", "status", "scenes", "coverage", "reason"}
    prefect_artifacts.create_table_artifact(
        [entry.to_result().model_dump(mode="json", include=columns) for entry in entries],
        key=artifact_key(name, "periods"),
        description=description,
    )


def _format_title(plan: Plan) -> str:
    return f"{plan.name} over {plan.period[0]} to {plan.period[1]}"


class PrefectProgress:
    """Progress of the tiles as a progress artifact, which is updated every few seconds."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the product."""
        self._name, self._clock = name, clock
        self._artifact_id: UUID | None = None
        self._total = self._done = 0
        self._updated_at = 0.0
        self._update_thread = threading.Thread()

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; only that of the tiles has an artifact."""
        self.finish()
        if name == "tiles" and total:
            self._total, self._done = total, 0
            self._create_artifact()

    def advance(self, n: int = 1, note: str = "") -> None:  # noqa: ARG002
        """Count finished tiles."""
        # ^ the protocol has a note; an artifact cannot show it
        self._done += n
        if self._artifact_id is not None and self._clock() > self._updated_at + UPDATE_INTERVAL:
            self._update_artifact()

    def finish(self) -> None:
        """Update the artifact a last time."""
        if self._artifact_id is not None:
            self._join_update()
            self._update_artifact()
            self._join_update()
        self._artifact_id = None

    def _join_update(self) -> None:
        if self._update_thread.is_alive():
            self._update_thread.join(FINISH_TIMEOUT)

    def _create_artifact(self) -> None:
        try:
            artifact_id = prefect_artifacts.create_progress_artifact(
                0.0,
                key=artifact_key(self._name, "tiles"),
                description=f"{self._total} tiles to make",
            )
            self._artifact_id = artifact_id if isinstance(artifact_id, UUID) else None
        except Exception as error:  # noqa: BLE001
            # ^ as above
            log.warning("progress could not be shown in Prefect: %s", error)
        self._updated_at = self._clock()

    def _update_artifact(self) -> None:
        """Update the artifact in a thread: Prefect retries for minutes if its server is away."""
        self._updated_at = self._clock()
        if self._artifact_id is None or self._update_thread.is_alive():
            return
        share = 100.0 * self._done / max(self._total, 1)
        update = functools.partial(update_progress, self._artifact_id, share)
        context = contextvars.copy_context()
        self._update_thread = threading.Thread(target=context.run, args=(update,), daemon=True)
        self._update_thread.start()


@_best_effort
def update_progress(artifact_id: UUID, share: float) -> None:
    """Set a progress artifact to a share in percent."""
    prefect_artifacts.update_progress_artifact(artifact_id, progress=share)
