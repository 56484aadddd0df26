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
class Traffic:
    """A count that several threads add to."""

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """``bytes_S2L2A``, ``requests_DEM`` …: of what is told of which modality it is."""

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self, *, requests: int = 0, received: int = 0, retries: int = 0, kind: str = ""
    ) -> None:
        """Count what happened, for a modality where it is known."""
        with self._lock:
            self.requests += requests
            self.bytes += received
            self.retries += retries
            if kind:
                self.kinds[f"requests_{kind}"] += requests
                self.kinds[f"bytes_{kind}"] += received

    def include(self, other: Traffic) -> None:
        """Count what another count holds, too."""
        self.add(requests=other.requests, received=other.bytes, retries=other.retries)
        with self._lock:
            self.kinds.update(other.kinds)

    def to_dict(self) -> dict[str, int]:
        """Return the count as a receipt holds it."""
        whole = {"bytes": self.bytes, "requests": self.requests, "retries": self.retries}
        return whole | dict(sorted(self.kinds.items()))


_counted: ContextVar[Traffic | None] = ContextVar("traffic", default=None)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Count what is read for the work of a block, also by threads that carry its context.

    Whoever counts around it has it counted as well.
    """
    count, around = Traffic(), _counted.get()
    token = _counted.set(count)
    try:
        yield count
    finally:
        _counted.reset(token)
        if around is not None:
            around.include(count)


def current() -> Traffic:
    """Return the count of the work at hand; one that nobody reads where none is kept."""
    return _counted.get() or Traffic()
