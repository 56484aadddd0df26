"""Log file of a run, beside its receipts: a line per stage and per tile, and all warnings.

Prefect's database is not made for a hundred thousand lines per run, and the output of a process
that a Prefect worker has started is lost when the worker ends.
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
    """Passes the records of one of the runs of a process, and those that belong to no run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        # ^ the argument's name is logging's
        return _current_folder.get() in {None, self._folder}


@contextmanager
def capture_records(folder: Path) -> Iterator[None]:
    """Append the log records of a block to the log file in a plan's folder."""
    token = _current_folder.set(folder)
    stream = open_store(folder).open_append(FILE_NAME)
    handler = logging.StreamHandler(stream)
    formatter = logging.Formatter(
        "%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_RunFilter(folder))
    loggers = [logging.getLogger(name) for name in LOGGER_NAMES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
        stream.close()
        _current_folder.reset(token)
