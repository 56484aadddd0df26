"""Text output of the commands' results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from flows.observe.formatting import draw_bar, format_cost, format_duration, format_size

if TYPE_CHECKING:
    from flows.run.model_results import (
        CheckResult,
        ConvertResult,
        FetchResult,
        HeldModality,
    )
    from flows.run.results import (
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
        TrainResult,
        UsedScene,
        VerifyResult,
    )
    from model.tools.model_list import ListedModel

Value = TypeVar("Value")


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Format rows as aligned columns: numbers to the right, text to the left."""
    columns = list(zip(*([header, *rows]), strict=True))
    widths = [max(len(_format_cell(value)) for value in column) for column in columns]
    right = [bool(rows) and all(_is_number(value) for value in column[1:]) for column in columns]
    return [
        "  ".join(
            _format_cell(value).rjust(width) if is_right else _format_cell(value).ljust(width)
            for value, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]


def _format_cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def format_run(result: RunResult) -> Iterator[str]:
    """Describe a run: status, files, tiles, times, accuracy and seams."""
    yield _format_headline(result)
    yield from _format_warnings(result.warnings)
    yield from _format_pairs(
        ("map", result.map),
        ("quicklook", result.quicklook),
        ("item", result.item),
        ("tiles", _format_tile_counts(result.tiles)),
        ("scenes", result.scenes),
        ("seconds", _format_stage_seconds(result.seconds)),
        ("accuracy", _format_accuracy(result.accuracy)),
        ("seams", _format_seams(result.seam)),
    )
    yield from _format_pairs(*_planned_and_actual(result.planned, result.actual))
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


def _format_pairs(*pairs: tuple[str, object]) -> Iterator[str]:
    for name, value in pairs:
        if value not in (None, ""):
            yield f"  {name:<10} {value}"


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
        _format_optional("{:.3f}".format, score) or "-"
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
        yield from _indent(format_table(header, [_scene_row(scene) for scene in used]))
    yield from _format_coverage(result.coverage)
    if refused:
        yield "left out:"
        yield from _indent(
            format_table(("scene", "why"), [(scene.id, scene.reason) for scene in refused])
        )
    yield from _format_pairs(("report", result.report))


def _scene_row(scene: UsedScene) -> tuple[object, ...]:
    orbit = (scene.relative_orbit, (scene.orbit_state or "")[:4])
    return (
        _format_optional(_format_datetime, scene.datetime),
        scene.modality,
        scene.id,
        scene.platform,
        scene.tile,
        scene.baseline,
        " ".join(str(part) for part in orbit if part) or None,
        scene.cloud_cover,
        _format_optional(_format_percent, scene.coverage),
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
    yield from _indent(format_table(("date", "input", "share of the region", ""), rows))


def _format_percent(share: float) -> str:
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _indent(lines: Sequence[str]) -> Iterator[str]:
    return ("  " + line for line in lines)


def _format_datetime(moment: str) -> str:
    return moment[:16].replace("T", " ")


def format_plan(result: PlanResult) -> Iterator[str]:
    """Describe a plan: tiles, scenes, bytes, memory, time and cost."""
    tiles = result.tiles
    count = tiles.new + tiles.skip + tiles.recompute
    yield f"{count} tiles: {tiles.new} new, {tiles.skip} done, {tiles.recompute} to redo"
    yield from _format_warnings(result.warnings)
    yield from _format_pairs(
        ("scenes", result.scenes),
        ("to read", _format_optional(format_size, result.bytes)),
        ("requests", result.requests),
        ("memory", _format_optional(format_size, result.peak_memory_bytes)),
        ("time", _format_optional(format_duration, result.seconds)),
        ("to store", format_size(result.stored_bytes)),
        ("cost", _format_optional(_format_estimated_cost, result.cost)),
        ("based on", _ESTIMATE_BASIS_TEXTS[result.basis]),
        ("plan", result.plan),
    )


def _format_estimated_cost(cost: Cost) -> str:
    return format_cost(cost.amount, cost.low, cost.high, cost.currency)


def _format_optional(formatter: Callable[[Value], str], value: Value | None) -> str | None:
    return None if value is None else formatter(value)


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
            _format_optional(_format_percent, entry.coverage),
            _format_optional("{:.0f} %".format, entry.cloud_cover),
            _shorten(entry.reason),
        )
        for entry in entries
    ]
    if rows:
        yield from _indent(format_table(header, rows))


def format_deployments(result: DeployResult) -> Iterator[str]:
    """List deployments, and the command that starts a worker for them."""
    rows = [(entry.name, entry.cron, entry.timezone, entry.queue) for entry in result.deployments]
    yield f"{len(rows)} deployments in the work pool {result.pool}"
    yield from _indent(format_table(("deployment", "cron", "time zone", "queue"), rows))
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
        yield from _indent(format_table(("tile", "file", "why"), rows))
    else:
        yield "every tile matches its receipt, but the quality gate is not passed"
    yield from _format_pairs(("seams", _format_seams(result.seam)))


def _join_pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_format_cell(value)}" for key, value in values.items())


def format_models(models: Sequence[ListedModel]) -> Iterator[str]:
    """List the known models."""
    rows = [
        (
            entry.name,
            _format_optional(_format_parameter_count, entry.parameters),
            entry.about,
            entry.weights,
        )
        for entry in models
    ]
    yield from format_table(("name", "parameters", "description", "weights"), rows)


def _format_parameter_count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def format_fetched_files(result: FetchResult) -> Iterator[str]:
    """List fetched files with their checksums."""
    for file in result.fetched:
        yield f"{file.name}: {file.path}"
        yield from _format_pairs(
            ("size", format_size(file.bytes)),
            ("commit", file.commit),
            ("sha256", f"{file.sha256} (pinned {file.pinned})"),
        )


def format_weights_check(result: CheckResult) -> Iterator[str]:
    """Describe a weights file and the models that it fits, or the keys that do not match."""
    parameters = _format_parameter_count(result.parameters)
    yield f"{result.path}: {result.kind}, {parameters} parameters"
    yield from _format_pairs(
        ("size", format_size(result.bytes)),
        ("sha256", result.sha256),
        ("dtypes", _join_pairs(result.dtypes)),
        (
            "parts",
            _join_pairs({part: _format_parameter_count(n) for part, n in result.parts.items()}),
        ),
        ("inputs", _format_modalities(result.inputs)),
        ("outputs", _format_modalities(result.outputs)),
        ("positions", _format_optional("for {} px".format, result.image_size)),
        ("fits", ", ".join(result.fits)),
    )
    if not result.fits:
        yield f"it does not fit {result.nearest or 'any known model'}:"
    yield from _format_keys("missing", result.missing)
    yield from _format_keys("unexpected", result.unexpected)
    yield from _format_keys("differing", result.differing)
    yield from _format_keys("not finite", result.not_finite)


def _format_modalities(entries: Sequence[HeldModality]) -> str:
    unit = {"pixels": "channels", "tokens": "tokens"}
    return ", ".join(f"{entry.name} ({unit[entry.form]}: {entry.size})" for entry in entries)


def _format_keys(label: str, keys: Sequence[str], max_listed: int = 8) -> Iterator[str]:
    if keys:
        yield f"  {len(keys)} {label}:"
        yield from (f"    {key}" for key in keys[:max_listed])
    if len(keys) > max_listed:
        yield f"    and {len(keys) - max_listed} more (--json lists all)"


def format_conversion(result: ConvertResult) -> Iterator[str]:
    """Describe a converted weights file."""
    yield f"wrote {result.path}"
    yield from _format_pairs(
        ("size", format_size(result.bytes)),
        ("tensors", result.tensors),
        ("dtypes", _join_pairs(result.dtypes)),
        ("sha256", result.sha256),
    )


def format_training(result: TrainResult) -> Iterator[str]:
    """Describe a training: files, time, and accuracy on countries that it was not trained on."""
    yield f"wrote {result.weights}"
    yield from _format_pairs(
        ("size", format_size(result.bytes)),
        ("sha256", result.sha256),
        ("card", result.card),
        ("time", format_duration(result.seconds)),
    )
    yield "overall accuracy on countries that it was not trained on:"
    header = ("seed", "model", "without tokens", "single pixels")
    rows = [
        (
            seed,
            *(
                f"{score:.3f}"
                for score in (accuracy.model, accuracy.model_without_tokens, accuracy.per_pixel_qda)
            ),
        )
        for seed, accuracy in result.test_countries.items()
    ]
    yield from _indent(format_table(header, rows))
