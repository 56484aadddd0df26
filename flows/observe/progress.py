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

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps, ending the one before it."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` finished steps; the note says which."""

    def finish(self) -> None:
        """End the stage; without one, do nothing."""


class Silence:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin nothing."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count nothing."""

    def finish(self) -> None:
        """End nothing."""


class Lines:
    """One plain line per step, for logs and files."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._name: str | None = None
        self._total: int | None = None
        self._done = 0
        self._began = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        """Write the stage's first line."""
        with self._lock:
            self._end()
            self._name, self._total, self._done = name, total, 0
            self._began = self._clock()
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
            self._end()

    def _end(self) -> None:
        if self._name is not None:
            self._write(f"{self._name}: {self._clock() - self._began:.1f} s")
            self._name = None

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class Bars:
    """A bar per stage, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None = None) -> None:
        """Draw a new bar under the finished ones."""
        with self._lock:
            self._end()
            self._bars = _bars(self._stream)
            self._task = self._bars.add_task(name, total=total, note="")
            self._bars.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move the bar."""
        with self._lock:
            if self._bars is not None and self._task is not None:
                self._bars.update(self._task, advance=n, note=note)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._bars is None:
            return
        if self._task is not None and self._bars.tasks[0].total is None:
            self._bars.update(self._task, total=1, completed=1)
            # ^ a bar without a known length would look unfinished for ever
        self._bars.stop()
        self._bars = None


def _bars(stream: TextIO) -> RichProgress:
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


def watch(stream: TextIO) -> Progress:
    """Return bars where the stream is a terminal, lines where it is not."""
    return Bars(stream) if stream.isatty() else Lines(stream)
