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
from pipeline.plan.plan import Plan, geometry
from pipeline.quality import coverage

server.prepare()

from prefect import artifacts as prefect_artifacts  # noqa: E402

# ^ Prefect's settings are read when it is imported

log = logging.getLogger(__name__)

Given = ParamSpec("Given")

EVERY = 5.0
"""Seconds between two updates of a run's progress."""

PATIENCE = 10.0
"""Seconds that the end of a stage waits until its bar is drawn."""

MOST_DAYS = 40
"""Days in the table of what was seen; the report has all of them."""


def key(*parts: str) -> str:
    """Return an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _at_best(publish: Callable[Given, None]) -> Callable[Given, None]:
    """Let no run end because something could not be shown."""

    @functools.wraps(publish)
    def attempt(*given: Given.args, **more: Given.kwargs) -> None:
        try:
            publish(*given, **more)
        except Exception as error:  # noqa: BLE001
            # ^ whatever Prefect raises where its server is away
            log.warning("%s could not be shown in Prefect: %s", publish.__name__, error)

    return attempt


@_at_best
def planned(plan: Plan, folder: Path) -> None:
    """Show what a run will do, and what was seen on which day."""
    tiles, _ = cost.to_make(plan, folder)
    need = cost.need(plan, folder, tiles)
    priced = cost.cost(plan, need)
    rows = [
        ("plan", plan.short),
        ("scenes", len(plan.snapshot.scenes)),
        ("left out", len(plan.snapshot.refused)),
        ("tiles", len(plan.tiles)),
        ("to make", len(tiles)),
        ("to read", summary.size(need.bytes)),
        ("requests", need.requests),
        ("memory", summary.size(need.peak_memory_bytes)),
        ("time", summary.duration(need.seconds)),
        ("cost", summary.money(priced) if priced else "no prices in the job"),
        ("folder", str(folder)),
    ]
    prefect_artifacts.create_table_artifact(
        [{"what": what, "value": value} for what, value in rows],
        key=key(plan.name, "plan"),
        description=f"What the run of {_over(plan)} does",
    )
    days = coverage.by_day(plan.snapshot.scenes, plan.snapshot.refused, geometry(plan.region))
    prefect_artifacts.create_markdown_artifact(
        "\n".join(_drawn(days)),
        key=key(plan.name, "coverage"),
        description=f"What was in view, {_over(plan)}",
    )


def _drawn(days: Sequence[coverage.Day]) -> list[str]:
    lines = ["| day | input | share of the region | scenes |", "|---|---|---|---|"]
    lines += [
        f"| {day.date or 'any'} | {day.modality} | `{summary.bar(day.share)}` {day.share:.0%} "
        f"| {len(day.scenes)} used, {len(day.refused)} left out |"
        for day in days[:MOST_DAYS]
    ]
    if len(days) > MOST_DAYS:
        lines.append(f"\n{len(days) - MOST_DAYS} more days are in the product's report.")
    return lines


@_at_best
def measured(plan: Plan, figures: Mapping[str, Any]) -> None:
    """Show the figures of a map's quality."""
    rows = [
        {"line": kind, "z": figures[kind]["z"], "excess": figures[kind]["excess"]}
        for kind in ("window", "tile", "zone")
        if figures.get(kind)
    ]
    other = figures.get("disagreement")
    if other:
        rows.append({"line": "windows half a stride off", "share": other["share"]})
    if rows:
        prefect_artifacts.create_table_artifact(
            rows, key=key(plan.name, "quality"), description=f"Seams, {_over(plan)}"
        )


@_at_best
def published(name: str, result: Mapping[str, Any]) -> None:
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
        "\n".join(lines), key=key(name, "product"), description=f"The product of {name}"
    )


@_at_best
def listed(name: str, what: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show the periods of a series: before anything is made, and after."""
    shown = ("start", "end", "status", "scenes", "coverage", "reason")
    prefect_artifacts.create_table_artifact(
        [{name: row[name] for name in shown} for row in rows],
        key=key(name, "periods"),
        description=what,
    )


def _over(plan: Plan) -> str:
    return f"{plan.name} over {plan.period[0]} to {plan.period[1]}"


class Board:
    """Progress of the tiles, in Prefect: a bar that moves now and then."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the product."""
        self._name, self._clock = name, clock
        self._shown: UUID | None = None
        self._total = self._done = 0
        self._told = 0.0
        self._telling = threading.Thread()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; only that of the tiles is drawn."""
        self.finish()
        if name == "tiles" and total:
            self._total, self._done = total, 0
            self._begin()

    def advance(self, n: int = 1, note: str = "") -> None:  # noqa: ARG002
        """Count finished tiles."""
        # ^ every progress takes a note; a bar has no place for it
        self._done += n
        if self._shown is not None and self._clock() > self._told + EVERY:
            self._tell()

    def finish(self) -> None:
        """Draw what was reached."""
        if self._shown is not None:
            self._wait()
            self._tell()
            self._wait()
        self._shown = None

    def _wait(self) -> None:
        if self._telling.is_alive():
            self._telling.join(PATIENCE)

    def _begin(self) -> None:
        try:
            made = prefect_artifacts.create_progress_artifact(
                0.0, key=key(self._name, "tiles"), description=f"{self._total} tiles to make"
            )
            self._shown = made if isinstance(made, UUID) else None
        except Exception as error:  # noqa: BLE001
            # ^ as above
            log.warning("progress could not be shown in Prefect: %s", error)
        self._told = self._clock()

    def _tell(self) -> None:
        """Move the bar, beside the work: a server that is away is asked for minutes."""
        self._told = self._clock()
        if self._shown is None or self._telling.is_alive():
            return
        share = 100.0 * self._done / max(self._total, 1)
        told = functools.partial(bar, self._shown, share)
        context = contextvars.copy_context()
        self._telling = threading.Thread(target=context.run, args=(told,), daemon=True)
        self._telling.start()


@_at_best
def bar(identity: UUID, share: float) -> None:
    """Move a bar of progress."""
    prefect_artifacts.update_progress_artifact(identity, progress=share)
