"""A file lock that allows one run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalogs.errors import TerramosaicError

LOCK_FILE_NAME = ".lock"


class FolderLockedError(TerramosaicError):
    """Another process holds the lock of the folder."""


@contextmanager
def acquire(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder for the length of a ``with`` block.

    The kernel releases the lock when the process ends, however it ends.

    Raises:
        FolderLockedError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # ^ a killed run may still have tiles on remote workers, which cancel them within
            #   seconds (flows.execution.dask_worker). Until then they do no harm: every
            #   process writes the same bytes for a tile, and shards and receipts are replaced
            #   atomically
        except BlockingIOError:
            holder = os.pread(handle, 64, 0).decode() or "unknown"
            raise FolderLockedError(
                f"Another run (process {holder}) is working in {folder}. Wait until it ends, or "
                "stop it and run the same command again: finished tiles are kept."
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
