"""Signals of the command line: Ctrl-C and SIGTERM end a command in order, or at last by force."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from flows.cli.exit_codes import EXIT_INTERRUPTED

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that an interrupted command may take to end before the process is ended."""


def install_signal_handlers() -> None:
    """Make SIGTERM raise KeyboardInterrupt as Ctrl-C does, and end the process if that takes long.

    While a flow runs, Prefect handles SIGTERM itself and restores this handler afterwards.
    """
    interrupted, is_first = threading.Lock(), [True]
    interrupted.acquire()
    threading.Thread(
        target=_exit_after_timeout, args=(interrupted,), name="shutdown", daemon=True
    ).start()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if is_first:
            is_first.clear()
            interrupted.release()
            # ^ not an Event: its lock may be held by this thread when the signal arrives
            raise KeyboardInterrupt
        # ^ a second signal must not interrupt the shutdown

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            # ^ a shell starts background processes with SIGINT ignored
            signal.signal(number, interrupt)


def _exit_after_timeout(shutdown_lock: threading.Lock) -> NoReturn:
    """End the process :data:`SHUTDOWN_TIMEOUT` seconds after the first signal.

    GDAL cannot be interrupted while it waits for a server or writes a large COG. No data is lost:
    a tile without a receipt is computed again, and files are renamed only when they are complete.
    """
    shutdown_lock.acquire()
    time.sleep(SHUTDOWN_TIMEOUT)
    os.write(2, b"stopped before the work had ended; run the same command again to resume\n")
    # ^ not print: a blocked thread may hold the lock of stderr
    os._exit(EXIT_INTERRUPTED)
