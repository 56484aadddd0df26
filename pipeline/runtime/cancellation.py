"""Work that is no longer wanted: noticed in between, and given up without a trace.

A tile that is given up has written no receipt, so that the next run makes it. Whoever works asks,
between two steps, whether the work is still wanted; what answers follows the work into the threads
that it is handed to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pipeline.runtime.context_threads import Carrying

_T = TypeVar("_T")

STEP = 0.25
"""Seconds between two looks while something is waited for."""


class Halted(Exception):
    """The work was given up, as it was asked for."""


_unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)


@contextmanager
def when(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Have the work of a block given up as soon as something holds. Not for generators."""
    before = _unwanted.get()
    token = _unwanted.set(lambda: unwanted() or before())
    try:
        yield
    finally:
        _unwanted.reset(token)


def look() -> None:
    """Go on, or give up.

    Raises:
        Halted: the work is no longer wanted.
    """
    if _unwanted.get()():
        raise Halted("the run was stopped")


def sleep(seconds: float) -> None:
    """Wait, or give up.

    Raises:
        Halted: the work is no longer wanted.
    """
    end = time.monotonic() + seconds
    look()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP))
        look()


def result(future: Future[_T]) -> _T:
    """Return what a thread returns, or give up.

    Raises:
        Halted: the work is no longer wanted.
    """
    while not futures.wait([future], STEP).done:
        look()
    return future.result()


def carried(work: Callable[..., _T]) -> Callable[..., _T]:
    """Return work that is given up wherever it is done when it would be here.

    A thread of a pool, and the context in which GDAL reads, know nothing of who asked them.
    """
    unwanted = _unwanted.get()

    def done(*arguments: Any, **named: Any) -> _T:
        token = _unwanted.set(unwanted)
        try:
            return work(*arguments, **named)
        finally:
            _unwanted.reset(token)

    return done


class Pool(Carrying):
    """Threads whose work is given up when their lender's is, or when an error ends their block."""

    def __init__(self, threads: int, name: str, *, patient: bool = True) -> None:
        """Begin no thread yet.

        Args:
            threads: at most.
            name: of the threads.
            patient: whether the end of the block waits for work that is given up.
        """
        super().__init__(threads, thread_name_prefix=name)
        self._over, self._patient = threading.Event(), patient

    def submit(self, work: Callable[..., _T], /, *arguments: Any, **named: Any) -> Future[_T]:
        """Hand out work."""
        return super().submit(self._attempt, work, *arguments, **named)

    def _attempt(self, work: Callable[..., _T], /, *arguments: Any, **named: Any) -> _T:
        with when(self._over.is_set):
            look()
            return work(*arguments, **named)

    def __exit__(self, error: type[BaseException] | None, *_more: object) -> None:
        if error is not None:
            self._over.set()
        self.shutdown(wait=self._patient or error is None, cancel_futures=True)
