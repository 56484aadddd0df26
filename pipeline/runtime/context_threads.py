"""Threads that know what whoever hands them work knows: which tile it is for, and for how long."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class ContextThreadPool(ThreadPoolExecutor):
    """A pool of threads that do work in the context in which it was handed out."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand out work."""
        return super().submit(contextvars.copy_context().run, function, *args, **kwargs)
