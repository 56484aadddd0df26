"""Connections to the hosts of a provider: so many at once, whoever in this process reads."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter

from catalogs import providers, trust


class _Bare(logging.Filter):
    """Takes the query out of urllib3's own messages: it may be a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                trust.redact(part) if isinstance(part, str) else part for part in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Bare())


class Lane:
    """What all readers of a provider share: connections, and no more threads than connections."""

    def __init__(self, connections: int) -> None:
        self.pool = ThreadPoolExecutor(connections, thread_name_prefix="range")
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
