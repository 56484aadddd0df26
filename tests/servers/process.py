"""A process on this machine that a test starts, kills and restarts, with its log in a file."""

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

TIMEOUT = 90.0
"""Seconds within which a process must be ready or must have ended."""


@dataclass(kw_only=True)
class Process:
    """A process, running or not, that can be restarted with the same command and environment."""

    name: str
    command: Sequence[object]
    home: Path
    """Its working directory, which also holds the log."""

    ready: Callable[[Process], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to those of the test's process."""

    owner: Mapping[str, Any] = field(default_factory=dict)
    """User and groups of the process, as arguments of subprocess.Popen."""

    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    @property
    def log(self) -> Path:
        """Return the path of the log with all output."""
        return self.home / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._child is not None and self._child.poll() is None

    def find_in_log(self, pattern: str) -> re.Match[str] | None:
        """Find a pattern in the log since the last start."""
        return re.search(pattern, self.log.read_bytes()[self._log_start :].decode(errors="replace"))

    def start(self) -> Self:
        """Start the process and wait until it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time; the message holds the end of its log.
        """
        return self.start_without_waiting().wait_until_ready()

    def start_without_waiting(self) -> Self:
        """Start the process without waiting, so that several can start together."""
        assert not self.alive, f"{self.name} runs already"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*map(str, self.command)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.home, env=os.environ | self.environment, start_new_session=True,
                **self.owner,
            )  # fmt: skip
            # ^ in a new session, so that a signal to the test's process group does not reach it
        return self

    def wait_until_ready(self) -> Self:
        """Wait until the process is ready."""
        end = time.monotonic() + TIMEOUT
        while not self.ready(self):
            if not self.alive or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        return self

    def wait_for_end(self) -> None:
        """Wait until the process has ended by itself."""
        if self._child is not None:
            self._child.wait(TIMEOUT)

    def kill(self) -> None:
        """Send SIGKILL, as the kernel does when memory runs out; children of the process stay."""
        assert self._child is not None, f"{self.name} is not running"
        self._child.kill()
        self._child.wait(TIMEOUT)

    def stop(self) -> None:
        """Terminate the process, kill it where it does not end, and kill all of its session."""
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


def run(command: Sequence[object], **options: Any) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **options,
    )
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed: {process.stdout[-2000:]}{process.stderr[-2000:]}")
    return process.stdout


def is_port_open(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
