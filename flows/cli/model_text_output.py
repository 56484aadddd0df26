"""Text output of the results of ``terramosaic models`` and ``terramosaic train``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flows.cli.text_layout import format_optional, format_pairs, format_table, indent, join_pairs
from flows.observe.formatting import format_duration, format_size

if TYPE_CHECKING:
    from flows.run.command_results import TrainResult
    from flows.run.model_results import CheckResult, ConvertResult, FetchResult, HeldModality
    from model.tools.model_list import ListedModel


def format_models(models: Sequence[ListedModel]) -> Iterator[str]:
    """List the known models."""
    rows = [
        (
            entry.name,
            format_optional(_format_parameter_count, entry.parameters),
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
        yield from format_pairs(
            ("size", format_size(file.bytes)),
            ("commit", file.commit),
            ("sha256", f"{file.sha256} (pinned {file.pinned})"),
        )


def format_weights_check(result: CheckResult) -> Iterator[str]:
    """Describe a weights file and the models that it fits, or the keys that do not match."""
    parameters = _format_parameter_count(result.parameters)
    yield f"{result.path}: {result.kind}, {parameters} parameters"
    yield from format_pairs(
        ("size", format_size(result.bytes)),
        ("sha256", result.sha256),
        ("dtypes", join_pairs(result.dtypes)),
        (
            "parts",
            join_pairs({part: _format_parameter_count(n) for part, n in result.parts.items()}),
        ),
        ("inputs", _format_modalities(result.inputs)),
        ("outputs", _format_modalities(result.outputs)),
        ("positions", format_optional("for {} px".format, result.image_size)),
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
    yield from format_pairs(
        ("size", format_size(result.bytes)),
        ("tensors", result.tensors),
        ("dtypes", join_pairs(result.dtypes)),
        ("sha256", result.sha256),
    )


def format_training(result: TrainResult) -> Iterator[str]:
    """Describe a training: files, time, and accuracy on countries that it was not trained on."""
    yield f"wrote {result.weights}"
    yield from format_pairs(
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
    yield from indent(format_table(header, rows))
