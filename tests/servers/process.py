"""A process on this machine that a test starts, kills and starts again; what it says is kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

PATIENCE = 90.0
"""Seconds for a process to be ready or to be gone."""


@dataclass(kw_only=True)
class Process:
    """One process, alive or not; started again it is the same one to whoever talks to it."""

    name: str
    command: Sequence[object]
    home: Path
    """Its working directory; the log lies there."""

    ready: Callable[[Process], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    """All of it, beside what the test's process has."""

    owner: Mapping[str, Any] = field(default_factory=dict)
    """Who runs it, in the words of subprocess."""

    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _heard: int = field(default=0, init=False)

    @property
    def log(self) -> Path:
        """Return the file of all that it has said."""
        return self.home / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Return the id of the living process."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Return whether it runs."""
        return self._child is not None and self._child.poll() is None

    def said(self, pattern: str) -> re.Match[str] | None:
        """Find a pattern in what it has said since it was started last."""
        return re.search(pattern, self.log.read_bytes()[self._heard :].decode(errors="replace"))

    def start(self) -> Self:
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        return self.begin().wait()

    def begin(self) -> Self:
        """Start it without waiting: several may become ready together."""
        assert not self.alive, f"{self.name} runs already"
        self._heard = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*map(str, self.command)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.home, env=os.environ | self.environment, start_new_session=True,
                **self.owner,
            )  # fmt: skip
            # ^ a session of its own: a signal for the test's group does not reach it
        return self

    def wait(self) -> Self:
        """Wait until it is ready."""
        end = time.monotonic() + PATIENCE
        while not self.ready(self):
            if not self.alive or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        return self

    def gone(self) -> None:
        """Wait until it has ended by itself."""
        if self._child is not None:
            self._child.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once, as the kernel does when memory runs out; its children stay."""
        assert self._child is not None, f"{self.name} is not running"
        self._child.kill()
        self._child.wait(PATIENCE)

    def stop(self) -> None:
        """Ask it to end, and end it where it does not; nothing of its session is left."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)


def run(command: Sequence[object], **how: Any) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE,
                          check=False, **how)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def answers(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
