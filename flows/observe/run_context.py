"""Who is told how far a run has come, and what its map is compared with.

Prefect's tasks cannot carry either; both follow the context of the run, so that several periods may
be made side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from flows.observe.progress import NullProgress, Progress
from pipeline.plan.plan import Plan
from pipeline.quality.accuracy import AccuracyMetrics

TruthComparison = Callable[[Path, Plan], AccuracyMetrics | None]
"""Compares a finished store with a known truth."""

_progress: ContextVar[Progress] = ContextVar("progress")
_truth_comparison: ContextVar[TruthComparison | None] = ContextVar("truth", default=None)


def get_progress() -> Progress:
    """Return who is told."""
    return _progress.get(NullProgress())


def get_truth_comparison() -> TruthComparison | None:
    """Return what the map is compared with, if anything."""
    return _truth_comparison.get()


@contextmanager
def activate(progress: Progress, truth_comparison: TruthComparison | None = None) -> Iterator[None]:
    """Tell one, and compare with the other, for the length of a block."""
    tokens = _progress.set(progress), _truth_comparison.set(truth_comparison)
    try:
        yield
    finally:
        _progress.reset(tokens[0])
        _truth_comparison.reset(tokens[1])
