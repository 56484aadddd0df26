"""Numbers of workers that compute tiles at the same time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

WorkerCount = int | Mapping[str, int] | Literal["auto"]
"""``execution.workers`` of a job: a number, ``{min: 1, max: 8}``, or auto."""

CORES_PER_TILE = 4
"""Cores per tile with ``workers: auto``; a tile computes one window per core in parallel."""


def worker_range(workers: WorkerCount) -> tuple[int, int]:
    """Return the smallest and the largest number of workers of a job on this machine."""
    if isinstance(workers, Mapping):
        return workers["min"], workers["max"]
    count = max(len(os.sched_getaffinity(0)) // CORES_PER_TILE, 1) if workers == "auto" else workers
    return count, count
