"""Context of a run: its progress display, and the comparison of its map with a known truth.

Prefect tasks cannot take either as an argument. Context variables keep them apart when several
periods run in parallel.
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
"""Computes the accuracy of a finished store against a known truth."""

_progress: ContextVar[Progress] = ContextVar("progress")
_truth_comparison: ContextVar[TruthComparison | None] = ContextVar("truth", default=None)


def get_progress() -> Progress:
    """Return the progress display of the current run."""
    return _progress.get(NullProgress())


def get_truth_comparison() -> TruthComparison | None:
    """Return the comparison with a known truth, if there is one."""
    return _truth_comparison.get()


@contextmanager
def activate(progress: Progress, truth_comparison: TruthComparison | None = None) -> Iterator[None]:
    """Set the progress display and the comparison with a known truth for a block."""
    tokens = _progress.set(progress), _truth_comparison.set(truth_comparison)
    try:
        yield
    finally:
        _progress.reset(tokens[0])
        _truth_comparison.reset(tokens[1])
