"""Context of a run: its progress, its metrics, and the truth that its map is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.observe.metrics import RunMetrics
from flows.observe.progress import NullProgress, Progress
from pipeline.plan.plan import Plan
from pipeline.quality.accuracy import AccuracyMetrics

TruthComparison = Callable[[Path, Plan], AccuracyMetrics | None]
"""Compares the store in a plan's folder with a known truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run needs beside its plan; it is handed from stage to stage."""

    progress: Progress = field(default_factory=NullProgress)
    truth_comparison: TruthComparison | None = None
    metrics: RunMetrics = field(default_factory=RunMetrics)
    """Metrics of the run; nothing is counted where they are not exported."""
