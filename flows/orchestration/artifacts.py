"""What people see of a run in Prefect: its plan, what was seen when, how far it is, how good it is.

Numbers and short tables only; pixels, tiles and receipts stay in the product's folder.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec
from uuid import UUID

from flows.cli import summary
from flows.orchestration import server
from flows.run import cost
from pipeline.plan.plan import Plan, from_geojson
from pipeline.quality import coverage

server.prepare_environment()

from prefect import artifacts as prefect_artifacts  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

Params = ParamSpec("Params")

UPDATE_INTERVAL = 5.0
"""Seconds between two updates of a run's progress."""

FINISH_TIMEOUT = 10.0
"""Seconds that the end of a stage waits until its bar is drawn."""

MAX_DAYS = 40
"""Days in the table of what was seen; the report has all of them."""


def artifact_key(*parts: str) -> str:
    """Return an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _best_effort(publish: Callable[Params, None]) -> Callable[Params, None]:
    """Let no run end because something could not be shown."""

    @functools.wraps(publish)
    def attempt(*given: Params.args, **more: Params.kwargs) -> None:
        try:
            publish(*given, **more)
        except Exception as error:  # noqa: BLE001
            # ^ whatever Prefect raises where its server is away
            log.warning("%s could not be shown in Prefect: %s", publish.__name__, error)

    return attempt


@_best_effort
def show_plan(plan: Plan, plan_dir: Path) -> None:
    """Show what a run will do, and what was seen on which day."""
    tiles, _ = cost.find_missing_tiles(plan, plan_dir)
    need = cost.estimate_resources(plan, plan_dir, tiles)
    priced = cost.estimate_cost(plan, need)
    rows = [
        ("plan", plan.short_digest),
        ("scenes", len(plan.snapshot.scenes)),
        ("left out", len(plan.snapshot.refused)),
        ("tiles", len(plan.tiles)),
        ("to make", len(tiles)),
        ("to read", summary.format_size(need.bytes)),
        ("requests", need.requests),
        ("memory", summary.format_size(need.peak_memory_bytes)),
        ("time", summary.format_duration(need.seconds)),
        ("cost", summary.format_cost(priced) if priced else "no prices in the job"),
        ("folder", str(plan_dir)),
    ]
    prefect_artifacts.create_table_artifact(
        [{"what": what, "value": value} for what, value in rows],
        key=artifact_key(plan.name, "plan"),
        description=f"What the run of {_format_title(plan)} does",
    )
    days = coverage.group_by_day(
        plan.snapshot.scenes, plan.snapshot.refused, from_geojson(plan.region)
    )
    prefect_artifacts.create_markdown_artifact(
        "\n".join(_coverage_table(days)),
        key=artifact_key(plan.name, "coverage"),
        description=f"What was in view, {_format_title(plan)}",
    )


def _coverage_table(days: Sequence[coverage.DayCoverage]) -> list[str]:
    lines = ["| day | input | share of the region | scenes |", "|---|---|---|---|"]
    lines += [
        f"| {day.date or 'any'} | {day.modality} | `{summary.draw_bar(day.share)}` {day.share:.0%} "
        f"| {len(day.scenes)} used, {len(day.refused)} left out |"
        for day in days[:MAX_DAYS]
    ]
    if len(days) > MAX_DAYS:
        lines.append(f"\n{len(days) - MAX_DAYS} more days are in the product's report.")
    return lines


@_best_effort
def show_quality(plan: Plan, quality: Mapping[str, Any]) -> None:
    """Show the figures of a map's quality."""
    rows = [
        {"line": kind, "z": quality[kind]["z"], "excess": quality[kind]["excess"]}
        for kind in ("window", "tile", "zone")
        if quality.get(kind)
    ]
    other = quality.get("disagreement")
    if other:
        rows.append({"line": "windows half a stride off", "share": other["share"]})
    if rows:
        prefect_artifacts.create_table_artifact(
            rows,
            key=artifact_key(plan.name, "quality"),
            description=f"Seams, {_format_title(plan)}",
        )


@_best_effort
def show_product(name: str, result: Mapping[str, Any]) -> None:
    """Show where a product lies, and what became of its tiles."""
    tiles = result["tiles"]
    counts = f"{tiles['done']} tiles made, {tiles['skipped']} were there"
    lines = [
        f"**{result['status']}**: {counts}, {len(tiles['failed'])} failed",
        "",
        *(f"* {what}: `{result[what]}`" for what in ("item", "map", "quicklook") if result[what]),
        *(f"* warning: {text}" for text in result["warnings"]),
        *(f"* failed: {one['tile']}, {one['reason']}" for one in tiles["failed"][:20]),
    ]
    prefect_artifacts.create_markdown_artifact(
        "\n".join(lines), key=artifact_key(name, "product"), description=f"The product of {name}"
    )


@_best_effort
def show_periods(name: str, description: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show the periods of a series: before anything is made, and after."""
    shown = ("start", "end", "status", "scenes", "coverage", "reason")
    prefect_artifacts.create_table_artifact(
        [{name: row[name] for name in shown} for row in rows],
        key=artifact_key(name, "periods"),
        description=description,
    )


def _format_title(plan: Plan) -> str:
    return f"{plan.name} over {plan.period[0]} to {plan.period[1]}"


class PrefectProgress:
    """Progress of the tiles, in Prefect: a bar that moves now and then."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the product."""
        self._name, self._clock = name, clock
        self._artifact_id: UUID | None = None
        self._total = self._done = 0
        self._updated_at = 0.0
        self._update_thread = threading.Thread()

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; only that of the tiles is drawn."""
        self.finish()
        if name == "tiles" and total:
            self._total, self._done = total, 0
            self._create_artifact()

    def advance(self, n: int = 1, note: str = "") -> None:  # noqa: ARG002
        """Count finished tiles."""
        # ^ every progress takes a note; a bar has no place for it
        self._done += n
        if self._artifact_id is not None and self._clock() > self._updated_at + UPDATE_INTERVAL:
            self._update_artifact()

    def finish(self) -> None:
        """Draw what was reached."""
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
            made = prefect_artifacts.create_progress_artifact(
                0.0,
                key=artifact_key(self._name, "tiles"),
                description=f"{self._total} tiles to make",
            )
            self._artifact_id = made if isinstance(made, UUID) else None
        except Exception as error:  # noqa: BLE001
            # ^ as above
            log.warning("progress could not be shown in Prefect: %s", error)
        self._updated_at = self._clock()

    def _update_artifact(self) -> None:
        """Move the bar, beside the work: a server that is away is asked for minutes."""
        self._updated_at = self._clock()
        if self._artifact_id is None or self._update_thread.is_alive():
            return
        share = 100.0 * self._done / max(self._total, 1)
        told = functools.partial(update_progress, self._artifact_id, share)
        context = contextvars.copy_context()
        self._update_thread = threading.Thread(target=context.run, args=(told,), daemon=True)
        self._update_thread.start()


@_best_effort
def update_progress(artifact_id: UUID, share: float) -> None:
    """Move a bar of progress."""
    prefect_artifacts.update_progress_artifact(artifact_id, progress=share)
