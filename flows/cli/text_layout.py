"""Layout of text output: aligned tables, pairs of a name and a value, indentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

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


def format_pairs(*pairs: tuple[str, object]) -> Iterator[str]:
    """Format pairs of a name and a value as indented lines; an empty value has none."""
    for name, value in pairs:
        if value not in (None, ""):
            yield f"  {name:<10} {value}"


def join_pairs(values: Mapping[str, object]) -> str:
    """Join names and values with commas."""
    return ", ".join(f"{key} {_format_cell(value)}" for key, value in values.items())


def indent(lines: Sequence[str]) -> Iterator[str]:
    """Indent lines by two blanks."""
    return ("  " + line for line in lines)


def format_optional(formatter: Callable[[Value], str], value: Value | None) -> str | None:
    """Format a value; None stays None."""
    return None if value is None else formatter(value)
