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

from pipeline.runtime.context_threads import ContextThreadPool

_T = TypeVar("_T")

POLL_INTERVAL = 0.25
"""Seconds between two looks while something is waited for."""


class Cancelled(Exception):
    """The work was given up, as it was asked for."""


_is_cancelled: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)


@contextmanager
def cancel_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Have the work of a block given up as soon as something holds. Not for generators."""
    before = _is_cancelled.get()
    token = _is_cancelled.set(lambda: condition() or before())
    try:
        yield
    finally:
        _is_cancelled.reset(token)


def check_cancelled() -> None:
    """Go on, or give up.

    Raises:
        Cancelled: the work is no longer wanted.
    """
    if _is_cancelled.get()():
        raise Cancelled("the run was stopped")


def sleep(seconds: float) -> None:
    """Wait, or give up.

    Raises:
        Cancelled: the work is no longer wanted.
    """
    end = time.monotonic() + seconds
    check_cancelled()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, POLL_INTERVAL))
        check_cancelled()


def wait_for_result(future: Future[_T]) -> _T:
    """Return what a thread returns, or give up.

    Raises:
        Cancelled: the work is no longer wanted.
    """
    while not futures.wait([future], POLL_INTERVAL).done:
        check_cancelled()
    return future.result()


def with_cancellation(function: Callable[..., _T]) -> Callable[..., _T]:
    """Return work that is given up wherever it is done when it would be here.

    A thread of a pool, and the context in which GDAL reads, know nothing of who asked them.
    """
    unwanted = _is_cancelled.get()

    def done(*arguments: Any, **named: Any) -> _T:
        token = _is_cancelled.set(unwanted)
        try:
            return function(*arguments, **named)
        finally:
            _is_cancelled.reset(token)

    return done


class CancellableThreadPool(ContextThreadPool):
    """Threads whose work is given up when their lender's is, or when an error ends their block."""

    def __init__(
        self, max_workers: int, thread_name_prefix: str, *, wait_on_error: bool = True
    ) -> None:
        """Begin no thread yet.

        Args:
            max_workers: at most.
            thread_name_prefix: of the threads.
            wait_on_error: whether the end of the block waits for work that is given up.
        """
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix)
        self._aborted, self._wait_on_error = threading.Event(), wait_on_error

    def submit(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Hand out work."""
        return super().submit(self._run_unless_cancelled, function, *args, **kwargs)

    def _run_unless_cancelled(
        self, function: Callable[..., _T], /, *args: Any, **kwargs: Any
    ) -> _T:
        with cancel_when(self._aborted.is_set):
            check_cancelled()
            return function(*args, **kwargs)

    def __exit__(self, exc_type: type[BaseException] | None, *_more: object) -> None:
        if exc_type is not None:
            self._aborted.set()
        self.shutdown(wait=self._wait_on_error or exc_type is None, cancel_futures=True)
