"""Ways of doing the same, timed in turns: a busy neighbour slows all of them alike."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Way = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Medians over the rounds."""

    wall: float
    """Seconds."""

    cpu: float
    """Seconds of all cores together: what a neighbour hardly changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast one way is as another."""

    what: str
    ours: str
    theirs: str
    ours_seconds: float
    theirs_seconds: float
    ratio: float
    """Of the medians of wall time."""

    rounds: float
    """Median of the ratios within each round."""

    cpu: float
    """Of the medians of the cores' time."""

    wanted: float | None

    def line(self) -> str:
        """Return a row of the table."""
        wanted = "" if self.wanted is None else f"{self.wanted:.2f}"
        return (
            f"| {self.what} | {self.ours} {self.ours_seconds:.3f} | "
            f"{self.theirs} {self.theirs_seconds:.3f} | **{self.ratio:.2f}** | {self.rounds:.2f} | "
            f"{self.cpu:.2f} | {wanted} |"
        )


HEAD = (
    "| what | ours, s | theirs, s | ratio | by round | of core time | wanted |",
    "|---|---|---|---|---|---|---|",
)


class Race:
    """Several ways of doing the same, each run once in every round."""

    def __init__(self, what: str, ways: Mapping[str, Way], rounds: int) -> None:
        self.what = what
        self.taken: dict[str, list[Timed]] = {name: [] for name in ways}
        names = list(ways)
        for name in names:
            ways[name]()
            # ^ warms up: kernels are chosen, tables are made
        for turn in range(rounds):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                # ^ nobody always comes after the same one
                self.taken[name].append(_timed(ways[name]))
        gc.collect()

    def median(self, name: str) -> Timed:
        """Return the medians of one way."""
        return Timed(
            wall=statistics.median(each.wall for each in self.taken[name]),
            cpu=statistics.median(each.cpu for each in self.taken[name]),
        )

    def ratio(self, ours: str, theirs: str, wanted: float | None = None) -> Ratio:
        """Compare two of the ways."""
        mine, other = self.median(ours), self.median(theirs)
        pairs = zip(self.taken[ours], self.taken[theirs], strict=True)
        return Ratio(
            what=self.what,
            ours=ours,
            theirs=theirs,
            ours_seconds=mine.wall,
            theirs_seconds=other.wall,
            ratio=other.wall / mine.wall,
            rounds=statistics.median(b.wall / a.wall for a, b in pairs),
            cpu=other.cpu / mine.cpu,
            wanted=wanted,
        )


def _timed(way: Way) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return Timed(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def circumstances(packages: Sequence[str] = ("torch", "terratorch", "diffusers")) -> dict[str, Any]:
    """Return what a figure depends on beside the code."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def told(circumstances: Mapping[str, Any]) -> Iterator[str]:
    """Yield the circumstances as a line."""
    yield ", ".join(f"{name} {value}" for name, value in circumstances.items() if value)


def as_plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return dataclasses as JSON takes them."""
    return [asdict(row) for row in rows]


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
