"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalogs.errors import TerramosaicError

LOCK_FILE_NAME = ".lock"


class FolderLockedError(TerramosaicError):
    """Another run is at work in the folder."""


@contextmanager
def acquire(folder: Path) -> Iterator[None]:
    """Hold the folder for the length of a block; the kernel lets go when the process dies.

    Raises:
        Busy: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK_FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # ^ a run that was killed may still have tiles on workers elsewhere, which give them up
            #   within seconds (flows.execution.dask_worker). Until then they are harmless: whoever makes a tile of
            #   a plan makes the same bytes, and shards and receipts are replaced whole
        except BlockingIOError:
            holder = os.pread(handle, 64, 0).decode() or "unknown"
            raise FolderLockedError(
                f"Another run (process {holder}) is at work in {folder}. Wait for it, or stop it "
                "and run the same command again: what it finished is kept."
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
