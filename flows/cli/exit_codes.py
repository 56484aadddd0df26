"""Exit codes of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from catalogs.errors import InvalidInputError, NothingFoundError, TerramosaicError

if TYPE_CHECKING:
    from flows.run.command_results import BackfillResult, RunResult

EXIT_OK = 0

EXIT_FAILED = 1
"""Something failed that may succeed at another attempt, or the product is not complete."""

EXIT_USAGE = 2
"""The command line, the job or another input is invalid."""

EXIT_NOTHING_FOUND = 3
"""There are no scenes, or no product, to work on."""

EXIT_INTERRUPTED = 130
"""Ctrl-C or SIGTERM."""


def exit_code_for_error(error: TerramosaicError) -> int:
    """Return the exit code of a command that an error has ended."""
    if isinstance(error, NothingFoundError):
        return EXIT_NOTHING_FOUND
    return EXIT_USAGE if isinstance(error, InvalidInputError) else EXIT_FAILED


def exit_code_for_run(*, allow_partial: bool) -> Callable[[RunResult], int]:
    """Return the function that gives the exit code of a run.

    Args:
        allow_partial: whether a product without all of its tiles counts as success.
    """

    def exit_code(result: RunResult) -> int:
        accepted = allow_partial and result.status == "partial" and result.item
        return EXIT_OK if result.status in ("complete", "unchanged") or accepted else EXIT_FAILED

    return exit_code


def exit_code_for_periods(result: BackfillResult) -> int:
    """Return the exit code of a backfill or a refresh."""
    statuses = {entry.status for entry in result.periods}
    if statuses & {"failed", "refused", "busy"}:
        return EXIT_FAILED
    return EXIT_NOTHING_FOUND if statuses <= {"gap"} else EXIT_OK
