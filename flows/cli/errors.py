"""Messages and exit codes of the errors that end a command."""

from __future__ import annotations

import re
import sys

from catalogs.errors import TerramosaicError
from flows.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, exit_code_for_error


def explain_error(error: Exception) -> tuple[str, int]:
    """Return the message of an error, with what to do next, and the exit code."""
    if isinstance(error, TerramosaicError):
        return str(error), exit_code_for_error(error)
    if _is_model_error(error):
        return str(error), EXIT_USAGE
    if isinstance(error, MemoryError):
        return (
            "out of memory: lower execution.tile, execution.batch or execution.workers.",
            EXIT_FAILED,
        )
    text = str(error) or "no message"
    advice = "run it again with --debug for the traceback, and report it if it is a bug."
    if isinstance(error, OSError):
        advice = "correct this and run the same command again; --debug shows the traceback."
    return f"unexpected {type(error).__name__}: {text}; {advice}", EXIT_FAILED


def _is_model_error(error: Exception) -> bool:
    module = sys.modules.get("model.errors")
    # ^ not imported here: if no command has imported it, it raised nothing
    return module is not None and isinstance(error, module.ModelError)


def redact_urls(text: str) -> str:
    """Remove the query of every URL, which may contain a signature."""
    return re.sub(r"(\b[a-z0-9]+://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)
