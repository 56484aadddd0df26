"""Connection limits per provider, shared by all readers of this process."""

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


class _RedactQueryFilter(logging.Filter):
    """Remove query strings from urllib3's log messages: they may hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                href_policy.redact(part) if isinstance(part, str) else part for part in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_RedactQueryFilter())


class DaemonThreadPool:
    """Daemon threads for network requests.

    The threads of a ``ThreadPoolExecutor`` keep the process alive until they end, and a server that
    no longer responds would keep them for half a minute.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(
                target=_run_tasks, args=(self._tasks,), name=f"range_{number}", daemon=True
            ).start()
        weakref.finalize(self, _stop_threads, self._tasks, count)

    def submit(self, function: Callable[..., _T], *args: Any) -> Future[_T]:
        """Run a function in one of the threads."""
        future: Future[_T] = Future()
        self._tasks.put(functools.partial(_run_task, future, function, args))
        return future


def _run_tasks(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task
        # ^ it may hold megabytes until the next task arrives


def _run_task(future: Future[_T], function: Callable[..., _T], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*args))
    except BaseException as error:  # noqa: BLE001
        # ^ raised again by future.result()
        future.set_exception(error)
        del future
        # ^ the error's traceback would keep it alive


def _stop_threads(tasks: SimpleQueue[Callable[[], None] | None], count: int) -> None:
    for _ in range(count):
        tasks.put(None)


class ProviderConnections:
    """HTTP session, threads and connection limit shared by all readers of a provider."""

    def __init__(self, connections: int) -> None:
        self.pool = DaemonThreadPool(connections)
        self.semaphore = threading.BoundedSemaphore(connections)
        self.session = requests.Session()
        for scheme in ("https://", "http://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))


_connections_by_provider: dict[str, ProviderConnections] = {}
_lock = threading.Lock()
_process_count = 1


def divide_connections(process_count: int) -> None:
    """Divide each provider's connections among a number of processes.

    Call it before the first read: connections that exist already are not changed.
    """
    global _process_count  # noqa: PLW0603
    # ^ a fact about the process
    with _lock:
        if process_count != _process_count:
            _process_count = process_count
            _connections_by_provider.clear()


def max_connections(provider: str) -> int:
    """Return how many requests to a provider this process may make at the same time."""
    return max(1, providers.get(provider).connections // _process_count)


def get_connections(provider: str) -> ProviderConnections:
    """Return the connections to a provider of this process."""
    with _lock:
        if provider not in _connections_by_provider:
            _connections_by_provider[provider] = ProviderConnections(max_connections(provider))
        return _connections_by_provider[provider]
