"""What the verbs over many periods do: backfill a range, refresh what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.config import job as jobs
from flows.config.cadence import Range
from flows.config.period import Period
from flows.observe.progress import Progress, Silence
from flows.run import cost, product
from flows.series import inspection, outdated
from flows.series.inspection import Entry


def backfill(
    path: Path,
    wanted: Range,
    *,
    dry_run: bool,
    at_once: int,
    allow_partial: bool,
    max_cost: float | None,
    progress: Progress,
) -> dict[str, Any]:
    """Make a job's product for every period of a range; finished ones are skipped.

    Args:
        path: the job file.
        wanted: which periods.
        dry_run: only look.
        at_once: periods at a time.
        allow_partial: publish with failed tiles declared as holes.
        max_cost: refuse what all of them would cost above it.
        progress: who is told how far it has come.

    Raises:
        Wrong: the range cannot be read, or a limit cannot be kept.
    """
    job = jobs.load(path)
    cost.priced(job, max_cost, at_once)
    entries = inspection.ranged(job, wanted, progress)
    if not dry_run:
        entries = all_made(path, entries, at_once, allow_partial, progress, max_cost)
    return inspection.told(job, entries, dry_run=dry_run)


def refresh(
    path: Path, *, dry_run: bool, at_once: int, allow_partial: bool, progress: Progress
) -> dict[str, Any]:
    """Make those finished periods of a job anew that have other scenes, or another model, now.

    Args:
        path: the job file.
        dry_run: only look.
        at_once: periods at a time.
        allow_partial: publish with failed tiles declared as holes.
        progress: who is told how far it has come.
    """
    job = jobs.load(path)
    entries = outdated.survey(job, progress)
    if not dry_run:
        entries = all_made(path, entries, at_once, allow_partial, progress)
    return inspection.told(job, entries, dry_run=dry_run)


def all_made(
    path: Path,
    entries: Sequence[Entry],
    at_once: int,
    allow_partial: bool,
    progress: Progress,
    max_cost: float | None = None,
) -> list[Entry]:
    """Make the periods of a job that can be made; one that fails does not stop the others."""
    purse = cost.Purse(max_cost)

    def one(period: Period) -> dict[str, Any]:
        shown = Silence() if at_once > 1 else progress
        # ^ bars of several periods would write over each other
        result = product.run(
            path,
            allow_partial=allow_partial,
            max_cost=purse.left,
            progress=shown,
            period=str(period),
        )
        purse.pay(result)
        return result

    return inspection.make(entries, one, at_once=at_once)
