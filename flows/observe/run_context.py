"""Who is told how far a run has come, and what its map is compared with.

Prefect's tasks cannot carry either; both follow the context of the run, so that several periods may
be made side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from flows.observe.progress import Progress, Silence
from pipeline.plan.plan import Plan
from pipeline.quality.accuracy import Agreement

Truth = Callable[[Path, Plan], Agreement | None]
"""Compares a finished store with a known truth."""

_progress: ContextVar[Progress] = ContextVar("progress")
_truth: ContextVar[Truth | None] = ContextVar("truth", default=None)


def progress() -> Progress:
    """Return who is told."""
    return _progress.get(Silence())


def truth() -> Truth | None:
    """Return what the map is compared with, if anything."""
    return _truth.get()


@contextmanager
def watched(told: Progress, compared: Truth | None = None) -> Iterator[None]:
    """Tell one, and compare with the other, for the length of a block."""
    tokens = _progress.set(told), _truth.set(compared)
    try:
        yield
    finally:
        _progress.reset(tokens[0])
        _truth.reset(tokens[1])
