"""Output streams and error messages of the command line.

Results go to standard output, everything else to standard error; an error is one message.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from flows.cli import errors
from flows.cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    from flows.observe.progress import Progress


class JsonReady(Protocol):
    """A result that can be printed as JSON: see :class:`flows.run.command_results.Result`."""

    def to_dict(self) -> Mapping[str, Any]:
        """Return the result as JSON-ready values."""


AnyResult = TypeVar("AnyResult", bound=JsonReady)


class Console:
    """Prints a command's result or its error, as text or JSON."""

    def __init__(self, *, as_json: bool, debug: bool) -> None:
        self._as_json = as_json
        self._debug = debug

    def run(self, action: Callable[[], int]) -> int:
        """Run a command; an exception becomes one message and an exit code."""
        try:
            return action()
        except (KeyboardInterrupt, click.Abort):
            return report_interruption()
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001
            # ^ users get a message instead of a traceback, whatever the exception
            return self._report_error(error)

    def run_and_print(
        self,
        work: Callable[[Progress], AnyResult],
        format_result: Callable[[AnyResult], Iterable[str]],
        exit_code_of: Callable[[AnyResult], int] = lambda _: EXIT_OK,
    ) -> int:
        """Run the work with a progress display, print its result, and return its exit code."""
        from flows.observe.progress import create_progress

        progress = create_progress(sys.stderr)
        with _redirect_stdout(self._as_json):
            try:
                result = work(progress)
            finally:
                progress.finish()
        code = exit_code_of(result)
        if self._as_json:
            print(json.dumps(_replace_nan(result.to_dict()), allow_nan=False), flush=True)
        else:
            for line in format_result(result):
                print(line, flush=True)
        return code

    def print_document(self, values: Mapping[str, Any]) -> int:
        """Print a JSON document, indented for people, and return the exit code."""
        indent = None if self._as_json else 2
        print(json.dumps(values, indent=indent, ensure_ascii=False), flush=True)
        return EXIT_OK

    def _report_error(self, error: Exception) -> int:
        if self._debug:
            traceback.print_exc()
        message, code = errors.explain_error(error)
        _print_error(errors.redact_urls(message), code, as_json=self._as_json)
        return code


def report_interruption() -> int:
    """Report an interruption; return the exit code."""
    print("interrupted; run the same command again to resume", file=sys.stderr)
    return EXIT_INTERRUPTED


@contextlib.contextmanager
def _redirect_stdout(enabled: bool) -> Iterator[None]:
    """Send the standard output of libraries and child processes to stderr during a block."""
    if not enabled:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        if sys.__stdout__ is not None and not sys.__stdout__.closed:
            sys.__stdout__.flush()
            stack.enter_context(_redirect_descriptor(1, 2))
            stack.callback(sys.__stdout__.flush)
            # ^ flushed before the descriptor is restored, so that buffered text too goes to stderr
        yield


@contextlib.contextmanager
def _redirect_descriptor(source: int, target: int) -> Iterator[None]:
    saved = os.dup(source)
    try:
        os.dup2(target, source)
        yield
    finally:
        os.dup2(saved, source)
        os.close(saved)


def _replace_nan(value: Any) -> Any:
    """Replace the numbers of JSON-ready values that are not finite, which JSON lacks, by None."""
    if isinstance(value, Mapping):
        return {key: _replace_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_usage_error(error: click.ClickException, arguments: Sequence[str]) -> int:
    """Report an invalid command line; return the exit code."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if context is not None:
        print(f"{context.get_usage()}\nMore: {context.command_path} --help", file=sys.stderr)
    _print_error(message, EXIT_USAGE, as_json="--json" in arguments)
    return EXIT_USAGE


def _print_error(message: str, code: int, *, as_json: bool) -> None:
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit_code": code}), flush=True)
