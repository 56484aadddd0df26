"""A thread pool that copies context variables into its threads."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool that runs each task in a copy of the context in which it was submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a task."""
        return super().submit(contextvars.copy_context().run, function, *args, **kwargs)
