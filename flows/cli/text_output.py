"""Text output of the commands' results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.observe.formatting import draw_bar, format_cost, format_duration, format_size


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


def format_run(result: Mapping[str, Any]) -> Iterator[str]:
    """Describe a run: status, files, tiles, times, accuracy and seams."""
    tiles, status = result["tiles"], result["status"]
    yield _format_headline(status, result.get("item"), tiles)
    yield from (f"  warning    {text}" for text in result.get("warnings", ()))
    yield from _format_pairs(
        ("map", result.get("map")),
        ("quicklook", result.get("quicklook")),
        ("item", result.get("item")),
        ("tiles", _format_tile_counts(tiles)),
        ("scenes", result.get("scenes")),
        ("seconds", _format_stage_seconds(result.get("seconds") or {})),
        ("accuracy", _format_accuracy(result.get("accuracy"))),
        ("seams", _format_seams(result.get("seam"))),
    )
    yield from _format_pairs(*_planned_and_actual(result.get("planned"), result.get("actual")))
    for failed in tiles["failed"]:
        yield f"  failed     {failed['tile']}: {failed['reason']}"


_ESTIMATE_BASIS_TEXTS = {
    "table": "typical values (the real ones may be half or twice as much)",
    "receipts": "the receipts of earlier runs",
}
"""Basis of an estimate."""


def _planned_and_actual(
    planned: Mapping[str, Any] | None, actual: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    """Compare the planned bytes, requests, time and cost with the actual ones."""
    for name, formatter in (
        ("bytes", format_size),
        ("requests", str),
        ("seconds", format_duration),
        ("cost", str),
    ):
        if planned and actual and None not in {planned[name], actual[name]}:
            yield (
                "time" if name == "seconds" else name,
                f"{formatter(planned[name])} planned, {formatter(actual[name])} actual",
            )


def _format_seams(figures: Mapping[str, Any] | None) -> str:
    """Format the seam test: z scores of the window, tile and zone lines."""
    scores = [
        f"{kind} {figures[kind]['z']:+.1f}"
        for kind in ("window", "tile", "zone")
        if figures and figures.get(kind)
    ]
    return f"z = {', '.join(scores)}" if scores else ""


def _format_headline(status: str, item: object, tiles: Mapping[str, Any]) -> str:
    failed = len(tiles["failed"])
    if status == "refused":
        return (
            "refused: the map does not pass the job's quality gate and nothing is published; the "
            "tiles are kept, so that a run with another qc section computes none of them again"
        )
    if status == "unchanged":
        return (
            "nothing to do: the product is complete, and neither its scenes nor its recipe changed"
        )
    if status == "complete":
        return "complete"
    if item:
        return f"{status}: published without {failed} of {tiles['total']} tiles, which failed"
    return (
        f"{status}: {failed} of {tiles['total']} tiles failed and nothing is published; run the "
        "same command again to retry them, or publish without them with --allow-partial"
    )


def _format_pairs(*pairs: tuple[str, object]) -> Iterator[str]:
    for name, value in pairs:
        if value not in (None, ""):
            yield f"  {name:<10} {value}"


def _format_tile_counts(tiles: Mapping[str, Any]) -> str:
    return (
        f"{tiles['total']} ({tiles['done']} computed, {tiles['skipped']} already there, "
        f"{len(tiles['failed'])} failed)"
    )


def _format_stage_seconds(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())


def _format_accuracy(accuracy: Mapping[str, Any] | None) -> str:
    if not accuracy:
        return ""
    return (
        f"overall {accuracy['overall']:.3f}, macro-F1 {accuracy['macro_f1']:.3f} "
        f"on {accuracy['n']} reference pixels"
    )


MAX_REASON_LENGTH = 100
"""Largest length of a reason in a table; --json has the whole text."""

MAX_DAYS_LISTED = 60
"""Largest number of days that are listed one per line."""


def format_search(result: Mapping[str, Any]) -> Iterator[str]:
    """List the scenes, the coverage by date, and the rejected scenes with reasons."""
    used, refused = result["used"], result["refused"]
    yield f"{len(used)} scenes are used, {len(refused)} are left out"
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
    yield from _format_coverage(result.get("coverage") or ())
    if refused:
        yield "left out:"
        yield from _indent(
            format_table(("scene", "why"), [(scene["id"], scene["reason"]) for scene in refused])
        )
    yield from _format_pairs(("report", result.get("report")))


def _scene_row(scene: Mapping[str, Any]) -> tuple[object, ...]:
    orbit = (scene.get("relative_orbit"), (scene.get("orbit_state") or "")[:4])
    return (
        _format_datetime(scene.get("datetime")),
        scene.get("modality"),
        scene["id"],
        scene.get("platform"),
        scene.get("tile"),
        scene.get("baseline"),
        " ".join(str(part) for part in orbit if part) or None,
        scene.get("cloud_cover"),
        _format_optional(_format_percent, scene.get("coverage")),
    )


def _format_coverage(days: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Draw a bar for each day with used scenes."""
    shown = [day for day in days if day["used"]]
    if not shown:
        return
    if len(shown) > MAX_DAYS_LISTED:
        yield f"coverage: {len(shown)} days (use --report FILE for a chart, --json for a list)"
        return
    yield "coverage by date:"
    rows = [
        (day["date"], day["modality"], draw_bar(day["coverage"]), _format_percent(day["coverage"]))
        for day in shown
    ]
    yield from _indent(format_table(("date", "input", "share of the region", ""), rows))


def _format_percent(share: float) -> str:
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _indent(lines: Sequence[str]) -> Iterator[str]:
    return ("  " + line for line in lines)


def _format_datetime(moment: object) -> str | None:
    return None if moment is None else str(moment)[:16].replace("T", " ")


def format_plan(result: Mapping[str, Any]) -> Iterator[str]:
    """Describe a plan: tiles, scenes, bytes, memory, time and cost."""
    tiles = result["tiles"]
    count = sum(tiles[key] for key in ("new", "skip", "recompute"))
    yield f"{count} tiles: {tiles['new']} new, {tiles['skip']} done, {tiles['recompute']} to redo"
    yield from _format_pairs(
        ("scenes", result.get("scenes")),
        ("to read", _format_optional(format_size, result.get("bytes"))),
        ("requests", result.get("requests")),
        ("memory", _format_optional(format_size, result.get("peak_memory_bytes"))),
        ("time", _format_optional(format_duration, result.get("seconds"))),
        ("to store", _format_optional(format_size, result.get("stored_bytes"))),
        ("cost", _format_optional(format_cost, result.get("cost"))),
        ("based on", _ESTIMATE_BASIS_TEXTS.get(result.get("basis", ""), "")),
        ("plan", result.get("plan")),
    )


def _format_optional(formatter: Any, value: Any) -> str | None:
    return None if value is None else str(formatter(value))


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_periods(result: Mapping[str, Any]) -> Iterator[str]:
    """List periods with their status, scenes and coverage."""
    entries = result["periods"]
    counts = Counter(entry["status"] for entry in entries)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    yield f"{_format_count(len(entries), 'period')}: {summary}"
    if result["dry_run"]:
        pending = counts["ready"] + counts["thin"]
        advice = ": run without --dry-run to process the ready and thin periods" if pending else ""
        yield f"dry run, nothing was processed{advice}"
    header = ("period", "status", "scenes", "covered", "clouds", "why")
    rows = [
        (
            f"{entry['start']}/{entry['end']}",
            entry["status"],
            entry["scenes"],
            _format_optional(_format_percent, entry["coverage"]),
            _format_optional("{:.0f} %".format, entry["cloud_cover"]),
            _shorten(entry["reason"]),
        )
        for entry in entries
    ]
    if rows:
        yield from _indent(format_table(header, rows))


def format_deployments(result: Mapping[str, Any]) -> Iterator[str]:
    """List deployments, and the command that starts a worker for them."""
    rows = [
        (entry["name"], entry["cron"], entry["timezone"], entry["queue"])
        for entry in result["deployments"]
    ]
    yield f"{len(rows)} deployments in the work pool {result['pool']}"
    yield from _indent(format_table(("deployment", "cron", "time zone", "queue"), rows))
    yield f"start a worker with: prefect worker start --pool {result['pool']}"


def _shorten(text: str | None) -> str:
    plain = " ".join((text or "").split())
    return plain if len(plain) <= MAX_REASON_LENGTH else f"{plain[: MAX_REASON_LENGTH - 1]}…"


def format_verification(result: Mapping[str, Any]) -> Iterator[str]:
    """Describe the result of a verification."""
    damages = result["bad"]
    if result["ok"]:
        yield "verified: every tile matches its receipt"
    elif damages:
        count = _format_count(len(damages), "problem")
        yield f"{count}; run the job again to recompute only these tiles:"
        rows = [(entry["tile"], entry["file"], entry["reason"]) for entry in damages]
        yield from _indent(format_table(("tile", "file", "why"), rows))
    else:
        yield "every tile matches its receipt, but the quality gate is not passed"
    yield from _format_pairs(("seams", _format_seams(result.get("seam"))))


def _join_pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {_format_cell(value)}" for key, value in (values or {}).items())


def format_models(result: Mapping[str, Any]) -> Iterator[str]:
    """List the known models."""
    rows = [
        (
            entry["name"],
            _format_optional(_format_parameter_count, entry["parameters"]),
            entry["about"],
            entry["weights"],
        )
        for entry in result["models"]
    ]
    yield from format_table(("name", "parameters", "description", "weights"), rows)


def _format_parameter_count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def format_fetched_files(result: Mapping[str, Any]) -> Iterator[str]:
    """List fetched files with their checksums."""
    for row in result["fetched"]:
        yield f"{row['name']}: {row['path']}"
        yield from _format_pairs(
            ("size", format_size(row["bytes"])),
            ("commit", row["commit"]),
            ("sha256", f"{row['sha256']} (pinned {row['pinned']})"),
        )


def format_weights_check(result: Mapping[str, Any]) -> Iterator[str]:
    """Describe a weights file and the models that it fits, or the keys that do not match."""
    fits = result["fits"]
    parameters = _format_parameter_count(result["parameters"])
    yield f"{result['path']}: {result['kind']}, {parameters} parameters"
    yield from _format_pairs(
        ("size", format_size(result["bytes"])),
        ("sha256", result["sha256"]),
        ("dtypes", _join_pairs(result["dtypes"])),
        (
            "parts",
            _join_pairs({part: _format_parameter_count(n) for part, n in result["parts"].items()}),
        ),
        ("inputs", _format_modalities(result["inputs"])),
        ("outputs", _format_modalities(result["outputs"])),
        ("positions", result["image_size"] and f"for {result['image_size']} px"),
        ("fits", ", ".join(fits)),
    )
    if not fits:
        yield f"it does not fit {result['nearest'] or 'any known model'}:"
    for kind in ("missing", "unexpected", "differing", "not_finite"):
        yield from _format_keys(kind.replace("_", " "), result[kind])


def _format_modalities(entries: Sequence[Mapping[str, Any]]) -> str:
    unit = {"pixels": "channels", "tokens": "tokens"}
    return ", ".join(
        f"{entry['name']} ({unit[entry['form']]}: {entry['size']})" for entry in entries
    )


def _format_keys(label: str, keys: Sequence[str], max_listed: int = 8) -> Iterator[str]:
    if keys:
        yield f"  {len(keys)} {label}:"
        yield from (f"    {key}" for key in keys[:max_listed])
    if len(keys) > max_listed:
        yield f"    and {len(keys) - max_listed} more (--json lists all)"


def format_conversion(result: Mapping[str, Any]) -> Iterator[str]:
    """Describe a converted weights file."""
    yield f"wrote {result['path']}"
    yield from _format_pairs(
        ("size", format_size(result["bytes"])),
        ("tensors", result["tensors"]),
        ("dtypes", _join_pairs(result["dtypes"])),
        ("sha256", result["sha256"]),
    )


def format_mapping(result: Mapping[str, Any]) -> Iterator[str]:
    """List keys and values."""
    for key, value in result.items():
        text = _join_pairs(value) if isinstance(value, Mapping) else _format_cell(value)
        yield f"{key:<12} {text}"
