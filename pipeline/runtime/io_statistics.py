"""What is read over the network for a tile: requests, bytes, and requests that were repeated.

Files of this machine are not counted: GDAL does not tell how much of them it reads.
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
    """A count that several threads add to."""

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    by_modality: Counter[str] = field(default_factory=Counter)
    """``bytes_S2L2A``, ``requests_DEM`` …: of what is told of which modality it is."""

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self, *, requests: int = 0, num_bytes: int = 0, retries: int = 0, modality: str = ""
    ) -> None:
        """Count what happened, for a modality where it is known."""
        with self._lock:
            self.requests += requests
            self.bytes += num_bytes
            self.retries += retries
            if modality:
                self.by_modality[f"requests_{modality}"] += requests
                self.by_modality[f"bytes_{modality}"] += num_bytes

    def merge(self, other: IoStatistics) -> None:
        """Count what another count holds, too."""
        self.add(requests=other.requests, num_bytes=other.bytes, retries=other.retries)
        with self._lock:
            self.by_modality.update(other.by_modality)

    def to_dict(self) -> dict[str, int]:
        """Return the count as a receipt holds it."""
        whole = {"bytes": self.bytes, "requests": self.requests, "retries": self.retries}
        return whole | dict(sorted(self.by_modality.items()))


_current_statistics: ContextVar[IoStatistics | None] = ContextVar("traffic", default=None)


@contextmanager
def collect() -> Iterator[IoStatistics]:
    """Count what is read for the work of a block, also by threads that carry its context.

    Whoever counts around it has it counted as well.
    """
    count, around = IoStatistics(), _current_statistics.get()
    token = _current_statistics.set(count)
    try:
        yield count
    finally:
        _current_statistics.reset(token)
        if around is not None:
            around.merge(count)


def current() -> IoStatistics:
    """Return the count of the work at hand; one that nobody reads where none is kept."""
    return _current_statistics.get() or IoStatistics()
