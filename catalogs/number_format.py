"""Numbers in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DIGITS = 17
"""Significant digits that tell any two numbers of 64 bits apart."""


def format_numbers(values: Sequence[float], digits: int = 10) -> str:
    """Return numbers in brackets, with some significant digits."""
    return f"[{', '.join(f'{value:.{digits}g}' for value in values)}]"


def format_lists_apart(
    first: Sequence[float], second: Sequence[float], digits: int
) -> tuple[str, str]:
    """Return two lists of numbers in brackets, with as many digits as show that they differ.

    Args:
        first: some numbers.
        second: as many numbers.
        digits: significant digits if they show it, or if nothing differs.
    """
    for count in range(digits, MAX_DIGITS + 1):
        texts = format_numbers(first, count), format_numbers(second, count)
        if texts[0] != texts[1]:
            return texts
    return format_numbers(first, digits), format_numbers(second, digits)


def format_apart(first: float, second: float, digits: int = 6) -> tuple[str, str]:
    """Return two numbers with as many significant digits as show that they differ."""
    texts = format_lists_apart((first,), (second,), digits)
    return texts[0][1:-1], texts[1][1:-1]


def format_length(length: float) -> str:
    """Return a length with at least three significant digits, and without an exponent."""
    return f"{length:.0f}" if length >= 100 else f"{length:.3g}"
