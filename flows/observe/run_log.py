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

NAME = "run.log"
LOGGERS = ("flows", "pipeline", "catalogs")

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


class _Own(logging.Filter):
    """Passes the lines of one run among several of a process, and those that belong to none."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        # ^ logging names the argument
        return _folder.get() in {None, self._folder}


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Append what is said during a block to the log in a plan's folder."""
    token = _folder.set(folder)
    handler = logging.FileHandler(folder / NAME, encoding="utf-8")
    lines = logging.Formatter("%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    lines.converter = time.gmtime
    handler.setFormatter(lines)
    handler.addFilter(_Own(folder))
    names = [logging.getLogger(name) for name in LOGGERS]
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
        _folder.reset(token)
