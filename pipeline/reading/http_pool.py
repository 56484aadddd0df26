"""Connections to the hosts of a provider: so many at once, whoever in this process reads."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter

from catalogs import href_policy, providers

_T = TypeVar("_T")


class _Bare(logging.Filter):
    """Takes the query out of urllib3's own messages: it may be a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                href_policy.redact(part) if isinstance(part, str) else part for part in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Bare())


class Threads:
    """Threads that wait for servers, and that nobody waits for.

    Those of a ``ThreadPoolExecutor`` keep their process alive, and a server that has fallen silent
    would keep them for half a minute.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(
                target=_serve, args=(self._tasks,), name=f"range_{number}", daemon=True
            ).start()
        weakref.finalize(self, _dismiss, self._tasks, count)

    def submit(self, work: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Hand out work."""
        future: Future[_T] = Future()
        self._tasks.put(functools.partial(_do, future, work, arguments))
        return future


def _serve(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task
        # ^ it may hold megabytes, and the next one may be long in coming


def _do(future: Future[_T], work: Callable[..., _T], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work(*arguments))
    except BaseException as error:  # noqa: BLE001
        # ^ whoever waits for the result is told
        future.set_exception(error)
        del future
        # ^ it would be held by its own error's traceback


def _dismiss(tasks: SimpleQueue[Callable[[], None] | None], count: int) -> None:
    for _ in range(count):
        tasks.put(None)


class Lane:
    """What all readers of a provider share: connections, and no more threads than connections."""

    def __init__(self, connections: int) -> None:
        self.pool = Threads(connections)
        self.turns = threading.BoundedSemaphore(connections)
        self.session = requests.Session()
        for scheme in ("https://", "http://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))


_lanes: dict[str, Lane] = {}
_lock = threading.Lock()
_processes = 1


def divide(processes: int) -> None:
    """Say among how many processes each provider's connections are divided; before any read."""
    global _processes  # noqa: PLW0603
    with _lock:
        if processes != _processes:
            _processes = processes
            _lanes.clear()


def allowed(provider: str) -> int:
    """Return how many requests of a provider this process may have under way at once."""
    return max(1, providers.get(provider).connections // _processes)


def lane(provider: str) -> Lane:
    """Return what the readers of a provider share in this process."""
    with _lock:
        if provider not in _lanes:
            _lanes[provider] = Lane(allowed(provider))
        return _lanes[provider]
