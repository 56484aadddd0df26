"""What is read over the network for a tile: requests, bytes, and requests that were repeated.

Files of this machine are not counted: GDAL does not tell how much of them it reads.
"""

from __future__ import annotations

import threading
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
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, requests: int = 0, received: int = 0, retries: int = 0) -> None:
        """Count what happened."""
        with self._lock:
            self.requests += requests
            self.bytes += received
            self.retries += retries

    def to_dict(self) -> dict[str, int]:
        """Return the count as a receipt holds it."""
        return {"bytes": self.bytes, "requests": self.requests, "retries": self.retries}


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
            around.add(requests=count.requests, received=count.bytes, retries=count.retries)


def current() -> Traffic:
    """Return the count of the work at hand; one that nobody reads where none is kept."""
    return _counted.get() or Traffic()
