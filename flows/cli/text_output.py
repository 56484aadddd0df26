"""Text output of the commands' results; of models: :mod:`flows.cli.model_text_output`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from flows.cli.text_layout import format_optional, format_pairs, format_table, indent
from flows.observe.formatting import draw_bar, format_cost, format_duration, format_size

if TYPE_CHECKING:
    from flows.run.command_results import (
        Accuracy,
        ActualUsage,
        BackfillResult,
        Cost,
        DayCoverage,
        DeployResult,
        PlannedUsage,
        PlanResult,
        Quality,
        RunResult,
        SearchResult,
        TileCounts,
        TileFailure,
        UsedScene,
        VerifyResult,
    )

Value = TypeVar("Value")


def format_run(result: RunResult) -> Iterator[str]:
    """Describe a run: status, files, tiles, times, accuracy and seams."""
    yield _format_headline(result)
    yield from _format_warnings(result.warnings)
    yield from format_pairs(
        ("map", result.map),
        ("quicklook", result.quicklook),
        ("item", result.item),
        ("tiles", _format_tile_counts(result.tiles)),
        ("scenes", result.scenes),
        ("seconds", _format_stage_seconds(result.seconds)),
        ("accuracy", _format_accuracy(result.accuracy)),
        ("seams", _format_seams(result.seam)),
    )
    yield from format_pairs(*_planned_and_actual(result.planned, result.actual))
    yield from _format_failures(result.tiles.failed)


MAX_FAILURES_LISTED = 20
"""Largest number of failed tiles that are listed; --json has all."""


def _format_failures(failures: Sequence[TileFailure]) -> Iterator[str]:
    for failure in failures[:MAX_FAILURES_LISTED]:
        yield f"  failed     {failure.tile}: {failure.reason}"
    if len(failures) > MAX_FAILURES_LISTED:
        yield f"  failed     and {len(failures) - MAX_FAILURES_LISTED} more (--json lists all)"


MAX_WARNINGS_LISTED = 20
"""Largest number of warnings that are listed; --json has all."""


def _format_warnings(warnings: Sequence[str]) -> Iterator[str]:
    for text in warnings[:MAX_WARNINGS_LISTED]:
        yield f"  warning    {text}"
    if len(warnings) > MAX_WARNINGS_LISTED:
        yield f"  warning    and {len(warnings) - MAX_WARNINGS_LISTED} more (--json lists all)"


_ESTIMATE_BASIS_TEXTS = {
    "table": "typical values (the real ones may be half or twice as much)",
    "receipts": "the receipts of earlier runs",
}
"""Basis of an estimate."""


def _planned_and_actual(
    planned: PlannedUsage | None, actual: ActualUsage | None
) -> Iterator[tuple[str, str | None]]:
    """Compare the planned bytes, requests, time and cost with the actual ones."""
    if planned is None or actual is None:
        return
    yield "bytes", _format_both(format_size, planned.bytes, actual.bytes)
    yield "requests", _format_both(str, planned.requests, actual.requests)
    yield "time", _format_both(format_duration, planned.seconds, actual.seconds)
    yield "cost", _format_both(str, planned.cost, actual.cost)


def _format_both(
    formatter: Callable[[Value], str], planned: Value | None, actual: Value | None
) -> str | None:
    if planned is None or actual is None:
        return None
    return f"{formatter(planned)} planned, {formatter(actual)} actual"


def _format_seams(figures: Quality | None) -> str:
    """Format the seam test: z scores of the window, tile and zone lines."""
    if figures is None:
        return ""
    lines = {"window": figures.window, "tile": figures.tile, "zone": figures.zone}
    scores = [f"{kind} {line.z:+.1f}" for kind, line in lines.items() if line is not None]
    return f"z = {', '.join(scores)}" if scores else ""


def _format_headline(result: RunResult) -> str:
    status, tiles = result.status, result.tiles
    failed = len(tiles.failed)
    if status == "refused":
        outcome = (
            "The product that was published before is left as it is."
            if result.item
            else "Nothing is published; finished tiles are kept, and no run computes them again."
        )
        return f"refused: {result.reason} {outcome}"
    if status == "unchanged":
        return (
            "nothing to do: the product is complete, and neither its scenes nor its recipe changed"
        )
    if status == "complete":
        return "complete"
    if result.item:
        return f"{status}: published without {failed} of {tiles.total} tiles, which failed"
    return (
        f"{status}: {failed} of {tiles.total} tiles failed and nothing is published; "
        f"{_advise_on_failures(tiles)}"
    )


def _advise_on_failures(tiles: TileCounts) -> str:
    """Return what to do about failed tiles: try again only what another attempt may change."""
    retryable = sum(failure.retryable for failure in tiles.failed)
    if retryable == len(tiles.failed):
        advice = "run the same command again to retry them"
    elif retryable:
        advice = (
            f"run the same command again to retry {retryable} of them; the others fail again "
            "unless what is named below is changed"
        )
    else:
        advice = "they fail again unless what is named below is changed"
    if len(tiles.failed) < tiles.total:
        advice += ", or publish without them with --allow-partial"
    return advice


def _format_tile_counts(tiles: TileCounts) -> str:
    return (
        f"{tiles.total} ({tiles.done} computed, {tiles.skipped} already there, "
        f"{len(tiles.failed)} failed)"
    )


def _format_stage_seconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())


def _format_accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return ""
    overall, macro_f1 = (
        format_optional("{:.3f}".format, score) or "-"
        for score in (accuracy.overall, accuracy.macro_f1)
    )
    return f"overall {overall}, macro-F1 {macro_f1} on {accuracy.n} reference pixels"


MAX_REASON_LENGTH = 100
"""Largest length of a reason in a table; --json has the whole text."""

MAX_DAYS_LISTED = 60
"""Largest number of days that are listed one per line."""


def format_search(result: SearchResult) -> Iterator[str]:
    """List the scenes, the coverage by date, and the rejected scenes with reasons."""
    used, refused = result.used, result.refused
    yield f"{len(used)} scenes are used, {len(refused)} are left out"
    yield from _format_warnings(result.warnings)
    header = (
        "date",
        "input",
        "scene",
        "platform",
        "tile",
        "baseline",
        "orbit",
        "cloud %",
        "region",
    )
    if used:
        yield from indent(format_table(header, [_scene_row(scene) for scene in used]))
    yield from _format_coverage(result.coverage)
    if refused:
        yield "left out:"
        yield from indent(
            format_table(("scene", "why"), [(scene.id, scene.reason) for scene in refused])
        )
    yield from format_pairs(("report", result.report))


def _scene_row(scene: UsedScene) -> tuple[object, ...]:
    orbit = (scene.relative_orbit, (scene.orbit_state or "")[:4])
    return (
        format_optional(_format_datetime, scene.datetime),
        scene.modality,
        scene.id,
        scene.platform,
        scene.tile,
        scene.baseline,
        " ".join(str(part) for part in orbit if part) or None,
        scene.cloud_cover,
        format_optional(_format_percent, scene.coverage),
    )


def _format_coverage(days: Sequence[DayCoverage]) -> Iterator[str]:
    """Draw a bar for each day with used scenes."""
    shown = [day for day in days if day.used]
    if not shown:
        return
    if len(shown) > MAX_DAYS_LISTED:
        yield f"coverage: {len(shown)} days (use --report FILE for a chart, --json for a list)"
        return
    yield "coverage by date:"
    rows = [
        (day.date, day.modality, draw_bar(day.coverage), _format_percent(day.coverage))
        for day in shown
    ]
    yield from indent(format_table(("date", "input", "share of the region", ""), rows))


def _format_percent(share: float) -> str:
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _format_datetime(moment: str) -> str:
    return moment[:16].replace("T", " ")


def format_plan(result: PlanResult) -> Iterator[str]:
    """Describe a plan: tiles, scenes, bytes, memory, time and cost."""
    tiles = result.tiles
    count = tiles.new + tiles.skip + tiles.recompute
    yield f"{count} tiles: {tiles.new} new, {tiles.skip} done, {tiles.recompute} to redo"
    yield from _format_warnings(result.warnings)
    yield from format_pairs(
        ("scenes", result.scenes),
        ("to read", format_optional(format_size, result.bytes)),
        ("requests", result.requests),
        ("memory", format_optional(format_size, result.peak_memory_bytes)),
        ("time", format_optional(format_duration, result.seconds)),
        ("to store", format_size(result.stored_bytes)),
        ("cost", format_optional(_format_estimated_cost, result.cost)),
        ("based on", _ESTIMATE_BASIS_TEXTS[result.basis]),
        ("plan", result.plan),
    )


def _format_estimated_cost(cost: Cost) -> str:
    return format_cost(cost.amount, cost.low, cost.high, cost.currency)


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_periods(result: BackfillResult) -> Iterator[str]:
    """List periods with their status, scenes and coverage."""
    entries = result.periods
    counts = Counter(entry.status for entry in entries)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    yield f"{_format_count(len(entries), 'period')}: {summary}"
    if result.dry_run:
        pending = counts["ready"] + counts["thin"]
        advice = ": run without --dry-run to process the ready and thin periods" if pending else ""
        yield f"dry run, nothing was processed{advice}"
    header = ("period", "status", "scenes", "covered", "clouds", "why")
    rows = [
        (
            f"{entry.start}/{entry.end}",
            entry.status,
            entry.scenes,
            format_optional(_format_percent, entry.coverage),
            format_optional("{:.0f} %".format, entry.cloud_cover),
            _shorten(entry.reason),
        )
        for entry in entries
    ]
    if rows:
        yield from indent(format_table(header, rows))


def format_deployments(result: DeployResult) -> Iterator[str]:
    """List deployments, and the command that starts a worker for them."""
    rows = [(entry.name, entry.cron, entry.timezone, entry.queue) for entry in result.deployments]
    yield f"{len(rows)} deployments in the work pool {result.pool}"
    yield from indent(format_table(("deployment", "cron", "time zone", "queue"), rows))
    yield f"start a worker with: prefect worker start --pool {result.pool}"


def _shorten(text: str | None) -> str:
    plain = " ".join((text or "").split())
    return plain if len(plain) <= MAX_REASON_LENGTH else f"{plain[: MAX_REASON_LENGTH - 1]}…"


def format_verification(result: VerifyResult) -> Iterator[str]:
    """Describe the result of a verification."""
    damages = result.bad
    if result.ok:
        yield "verified: every tile matches its receipt"
    elif damages:
        count = _format_count(len(damages), "problem")
        yield f"{count}; run the job again to make only these tiles and files:"
        rows = [(entry.tile, entry.file, entry.reason) for entry in damages]
        yield from indent(format_table(("tile", "file", "why"), rows))
    else:
        yield "every tile matches its receipt, but the quality gate is not passed"
    yield from format_pairs(("seams", _format_seams(result.seam)))
