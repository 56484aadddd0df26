"""Work that is no longer wanted: noticed in between, and given up without a trace.

A tile that is given up has written no receipt, so that the next run makes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pipeline.threads import Carrying

_T = TypeVar("_T")

STEP = 0.5
"""Seconds between two looks while something is waited for."""


class Halted(Exception):
    """The work was given up, as it was asked for."""


_unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)
_leaving = threading.Event()
# ^ of the whole process: threads that read know no context


@contextmanager
def when(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Have the work of a block given up as soon as something holds."""
    token = _unwanted.set(unwanted)
    try:
        yield
    finally:
        _unwanted.reset(token)


@contextmanager
def at_signals() -> Iterator[None]:
    """Have all that this process waits for given up when a signal ends the block."""
    _leaving.clear()
    try:
        yield
    except Exception:
        raise
    except BaseException:
        # ^ KeyboardInterrupt, SystemExit, and what Prefect raises for a cancelled run
        _leaving.set()
        raise


def leaving() -> bool:
    """Tell whether this process is about to end."""
    return _leaving.is_set()


def look() -> None:
    """Go on, or give up.

    Raises:
        Halted: the work is no longer wanted.
    """
    if leaving() or _unwanted.get()():
        raise Halted("the run was stopped")


def sleep(seconds: float) -> None:
    """Wait, unless this process is about to end."""
    _leaving.wait(seconds)


def result(future: Future[_T]) -> _T:
    """Return what a thread returns, or give up.

    Raises:
        Halted: the work is no longer wanted.
    """
    while not futures.wait([future], STEP).done:
        look()
    return future.result()


@contextmanager
def pool(threads: int, name: str) -> Iterator[Carrying]:
    """Lend threads that are waited for at the end, unless the work is given up."""
    lent = Carrying(threads, thread_name_prefix=name)
    wait = False
    try:
        yield lent
        wait = True
    except (Halted, GeneratorExit):
        raise
        # ^ what a thread still reads comes to nothing by itself
    except BaseException:
        wait = not leaving()
        raise
    finally:
        lent.shutdown(wait=wait, cancel_futures=True)
