"""I/O statistics: requests, bytes and retries of reads over the network.

Local files are not counted: GDAL does not report how much of them it reads. The counter lives in
a context variable, because readers deep inside GDAL and dask tasks add to it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class IoStatistics:
    """Counts of network reads; several threads may add to them."""

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    by_modality: Counter[str] = field(default_factory=Counter)
    """``bytes_S2L2A``, ``requests_DEM`` …: bytes and requests of reads whose modality is known."""

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self, *, requests: int = 0, num_bytes: int = 0, retries: int = 0, modality: str = ""
    ) -> None:
        """Add to the counts, and to those of a modality where one is named."""
        with self._lock:
            self.requests += requests
            self.bytes += num_bytes
            self.retries += retries
            if modality:
                self.by_modality[f"requests_{modality}"] += requests
                self.by_modality[f"bytes_{modality}"] += num_bytes

    def merge(self, other: IoStatistics) -> None:
        """Add the counts of other statistics."""
        self.add(requests=other.requests, num_bytes=other.bytes, retries=other.retries)
        with self._lock:
            self.by_modality.update(other.by_modality)

    def to_dict(self) -> dict[str, int]:
        """Return the counts as a receipt stores them."""
        totals = {"bytes": self.bytes, "requests": self.requests, "retries": self.retries}
        return totals | dict(sorted(self.by_modality.items()))


_current_statistics: ContextVar[IoStatistics | None] = ContextVar(
    "current_statistics", default=None
)


@contextmanager
def collect() -> Iterator[IoStatistics]:
    """Collect statistics of reads inside a ``with`` block, also in threads with its context.

    At the end the counts are added to those of the enclosing block, if there is one.
    """
    statistics, outer_statistics = IoStatistics(), _current_statistics.get()
    token = _current_statistics.set(statistics)
    try:
        yield statistics
    finally:
        _current_statistics.reset(token)
        if outer_statistics is not None:
            outer_statistics.merge(statistics)


def current() -> IoStatistics:
    """Return the statistics of the innermost :func:`collect`; discarded ones outside of any."""
    return _current_statistics.get() or IoStatistics()
