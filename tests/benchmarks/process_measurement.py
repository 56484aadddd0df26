"""Whole processes, measured from outside: seconds, and the peak of memory of all they start."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

EVERY = 0.5
"""Seconds between two looks at the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a process."""

    seconds: float
    peak: float
    """Highest sum of the proportional set sizes of the process and all below it, MiB: what they
    share counts once."""

    main: float
    """Highest resident memory of the process itself, as the kernel marks it, MiB."""

    out: str


def mapped(job: Path) -> Ended:
    """Run a job as a user does."""
    return watched([sys.executable, "-m", "flows.cli.main", "run", str(job), "--json"])


def watched(command: Sequence[str]) -> Ended:
    """Run a command to its end, in the root of the checkout.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak, main, over = 0.0, 0.0, threading.Event()

    def look() -> None:
        nonlocal peak, main
        while not over.wait(EVERY):
            peak = max(peak, sum(_size(one, "smaps_rollup", "Pss:") for one in _tree(process.pid)))
            main = max(main, _size(process.pid, "status", "VmHWM:"))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    out, said = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said[-2000:]}")
    return Ended(seconds=seconds, peak=peak, main=main, out=out)


def _tree(root: int) -> list[int]:
    """Return a process and all that it started, and those in turn."""
    found = [root]
    for one in found:
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, _text(path).split())
    return found


def _size(process: int, file: str, mark: str) -> float:
    """Return a line of what the kernel says of a process, MiB."""
    lines = _text(Path(f"/proc/{process}/{file}")).splitlines()
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(mark)), 0.0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # ^ it has ended meanwhile
        return ""
