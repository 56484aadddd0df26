"""Sizes, durations, costs and bars as text, for terminals, messages and Prefect's pages."""

from __future__ import annotations

SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

BAR_WIDTH = 20
"""Characters of a bar that stands for the whole region."""


def format_size(byte_count: float) -> str:
    """Format a number of bytes with a decimal unit, as in 1.5 MB."""
    unit = 0
    while byte_count >= 1000 and unit < len(SIZE_UNITS) - 1:
        byte_count, unit = byte_count / 1000, unit + 1
    return (
        f"{byte_count:.0f} {SIZE_UNITS[unit]}"
        if unit == 0
        else f"{byte_count:.1f} {SIZE_UNITS[unit]}"
    )


def format_duration(seconds: float) -> str:
    """Format seconds as seconds, minutes, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_cost(amount: float, low: float, high: float, currency: str) -> str:
    """Format a cost with its range."""
    return f"{amount:.2f} {currency} ({low:.2f} to {high:.2f})"


def draw_bar(share: float) -> str:
    """Draw a share of the region, 0 to 1, as an ASCII bar."""
    filled = min(max(round(share * BAR_WIDTH), share > 0), BAR_WIDTH - (share < 1))
    # ^ the bar is empty only for 0, and full only for 1
    return "#" * filled + "." * (BAR_WIDTH - filled)
