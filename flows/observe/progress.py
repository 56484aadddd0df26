"""Progress of a run: bars on a terminal, one plain line per step elsewhere.

Progress is written to the stream of the caller (standard error), never to standard output.
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
    """Display of one stage at a time; methods may be called from any thread."""

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Start a stage of ``total`` steps, and end the previous one."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` finished steps; ``note`` describes the last one."""

    def finish(self) -> None:
        """End the stage, if there is one."""


class NullProgress:
    """Progress that is not displayed."""

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class LineProgress:
    """Progress as one plain line per step, for logs and files."""

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
        """Write the number of finished steps and the note."""
        with self._lock:
            self._done += n
            total = "" if self._total is None else f"/{self._total}"
            self._write(f"{self._name or 'work'} {self._done}{total} {note}".rstrip())

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
    """Progress as one bar per stage, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._display: RichProgress | None = None
        self._task: TaskID | None = None

    def start_stage(self, name: str, total: int | None = None) -> None:
        """Draw a new bar below the finished ones."""
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
        """Stop redrawing the bar."""
        with self._lock:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._display is None:
            return
        if self._task is not None and self._display.tasks[0].total is None:
            self._display.update(self._task, total=1, completed=1)
            # ^ a bar without a total would look unfinished
        self._display.stop()
        self._display = None


def _create_display(stream: TextIO) -> RichProgress:
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    # ^ slow to import, and needed on a terminal only

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
    """Return bars if the stream is a terminal, lines otherwise."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
