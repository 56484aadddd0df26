"""How far a run has come: bars on a terminal, one plain line per step elsewhere.

Everything goes to the stream that is given (standard error), never to standard output.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What a flow tells while it works: one stage at a time, from any thread."""

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps, ending the one before it."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` finished steps; the note says which."""

    def finish(self) -> None:
        """End the stage; without one, do nothing."""


class NullProgress:
    """Progress that nobody watches."""

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Begin nothing."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count nothing."""

    def finish(self) -> None:
        """End nothing."""


class LineProgress:
    """One plain line per step, for logs and files."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._name: str | None = None
        self._total: int | None = None
        self._done = 0
        self._stage_started = 0.0

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Write the stage's first line."""
        with self._lock:
            self._end_stage()
            self._name, self._total, self._done = name, total, 0
            self._stage_started = self._clock()
            self._write(name if total is None else f"{name}: {total} to do")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Write how many steps are done, and which one was the last."""
        with self._lock:
            self._done += n
            of = "" if self._total is None else f"/{self._total}"
            self._write(f"{self._name or 'work'} {self._done}{of} {note}".rstrip())

    def finish(self) -> None:
        """Write how long the stage took."""
        with self._lock:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._name is not None:
            self._write(f"{self._name}: {self._clock() - self._stage_started:.1f} s")
            self._name = None

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class BarProgress:
    """A bar per stage, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._display: RichProgress | None = None
        self._task: TaskID | None = None

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Draw a new bar under the finished ones."""
        with self._lock:
            self._end_stage()
            self._display = _create_display(self._stream)
            self._task = self._display.add_task(name, total=total, note="")
            self._display.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move the bar."""
        with self._lock:
            if self._display is not None and self._task is not None:
                self._display.update(self._task, advance=n, note=note)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        with self._lock:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._display is None:
            return
        if self._task is not None and self._display.tasks[0].total is None:
            self._display.update(self._task, total=1, completed=1)
            # ^ a bar without a known length would look unfinished for ever
        self._display.stop()
        self._display = None


def _create_display(stream: TextIO) -> RichProgress:
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    # ^ slow to import, and of use on a terminal only

    return progress.Progress(
        progress.TextColumn("{task.description:<12}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
        redirect_stdout=False,
        redirect_stderr=False,
    )


def create_progress(stream: TextIO) -> Progress:
    """Return bars where the stream is a terminal, lines where it is not."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
