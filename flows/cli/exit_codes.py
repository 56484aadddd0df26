"""Exit codes of the command line."""

EXIT_OK = 0

EXIT_FAILED = 1
"""Something failed that may succeed at another attempt, or the product is not complete."""

EXIT_USAGE = 2
"""The command line, the job or another input is invalid."""

EXIT_NOTHING_FOUND = 3
"""There are no scenes, or no product, to work on."""

EXIT_INTERRUPTED = 130
"""Ctrl-C or SIGTERM."""
