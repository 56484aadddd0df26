"""The log of a run, kept beside its receipts: a line per stage and per tile, and every warning.

Prefect's database is not made for a hundred thousand lines a run, and the stream of a process that
a worker has started ends with that worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pipeline.storage.store import open_store

FILE_NAME = "run.log"
LOGGER_NAMES = ("flows", "pipeline", "catalogs")

_current_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


class _RunFilter(logging.Filter):
    """Passes the lines of one run among several of a process, and those that belong to none."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        # ^ logging names the argument
        return _current_folder.get() in {None, self._folder}


@contextmanager
def capture_records(folder: Path) -> Iterator[None]:
    """Append what is said during a block to the log in a plan's folder."""
    token = _current_folder.set(folder)
    stream = open_store(folder).open_append(FILE_NAME)
    handler = logging.StreamHandler(stream)
    lines = logging.Formatter("%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    lines.converter = time.gmtime
    handler.setFormatter(lines)
    handler.addFilter(_RunFilter(folder))
    names = [logging.getLogger(name) for name in LOGGER_NAMES]
    before = [one.level for one in names]
    for one in names:
        one.addHandler(handler)
        one.setLevel(min(one.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        for one, level in zip(names, before, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
        handler.close()
        stream.close()
        _current_folder.reset(token)
