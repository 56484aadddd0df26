"""Cooperative cancellation: long work checks between two steps whether it was cancelled.

The condition lives in a context variable, because the code that has to check it (GDAL callbacks,
dask tasks, readers) is far from the code that sets it; the thread pools of this package carry it
into their threads. A cancelled tile has no receipt, so the next run builds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

_T = TypeVar("_T")

POLL_INTERVAL = 0.25
"""Seconds between two checks while waiting."""


class Cancelled(Exception):
    """The work was cancelled."""


_is_cancelled: ContextVar[Callable[[], bool]] = ContextVar("is_cancelled", default=lambda: False)


@contextmanager
def cancel_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Cancel the work inside a ``with`` block as soon as a condition holds.

    Conditions of enclosing blocks stay in force. Not for use around a ``yield``: a generator
    would leak the condition into its caller.

    Args:
        condition: called often and from several threads; returns whether to cancel.
    """
    outer_condition = _is_cancelled.get()
    token = _is_cancelled.set(lambda: condition() or outer_condition())
    try:
        yield
    finally:
        _is_cancelled.reset(token)


def check_cancelled() -> None:
    """Raise if the current work was cancelled.

    Raises:
        Cancelled: a condition of :func:`cancel_when` holds.
    """
    if _is_cancelled.get()():
        raise Cancelled("the run was stopped")


def sleep(seconds: float) -> None:
    """Sleep, but no longer than until the work is cancelled.

    Raises:
        Cancelled: a condition of :func:`cancel_when` holds.
    """
    end = time.monotonic() + seconds
    check_cancelled()
    while (remaining := end - time.monotonic()) > 0:
        time.sleep(min(remaining, POLL_INTERVAL))
        check_cancelled()


def wait_for_result(future: Future[_T]) -> _T:
    """Return the result of a future, but wait no longer than until the work is cancelled.

    Raises:
        Cancelled: a condition of :func:`cancel_when` holds.
    """
    while not futures.wait([future], POLL_INTERVAL).done:
        check_cancelled()
    return future.result()


def with_cancellation(function: Callable[..., _T]) -> Callable[..., _T]:
    """Bind the current cancellation condition to a function.

    For code that is called outside of this context: in a thread of a foreign pool, or from
    within GDAL.
    """
    condition = _is_cancelled.get()

    def bound(*args: Any, **kwargs: Any) -> _T:
        token = _is_cancelled.set(condition)
        try:
            return function(*args, **kwargs)
        finally:
            _is_cancelled.reset(token)

    return bound


class CancellableThreadPool(ThreadPoolExecutor):
    """A thread pool whose tasks run in the context of the work that submitted them.

    So they are cancelled with it, and their reads are counted with it.

    They are also cancelled when the ``with`` block of the pool ends with an exception.
    """

    def __init__(
        self, max_workers: int, thread_name_prefix: str, *, wait_on_error: bool = True
    ) -> None:
        """Create the pool; threads start with the first task.

        Args:
            max_workers: the largest number of threads.
            thread_name_prefix: prefix of the threads' names.
            wait_on_error: whether a ``with`` block that ends with an exception waits for tasks
                that are still running.
        """
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix)
        self._aborted, self._wait_on_error = threading.Event(), wait_on_error

    def submit(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Submit a task."""
        run = copy_context().run
        return super().submit(run, self._run_unless_cancelled, function, *args, **kwargs)

    def _run_unless_cancelled(
        self, function: Callable[..., _T], /, *args: Any, **kwargs: Any
    ) -> _T:
        with cancel_when(self._aborted.is_set):
            check_cancelled()
            return function(*args, **kwargs)

    def __exit__(self, exc_type: type[BaseException] | None, *_details: object) -> None:
        if exc_type is not None:
            self._aborted.set()
        self.shutdown(wait=self._wait_on_error or exc_type is None, cancel_futures=True)
