"""Prefect without a server to set up: quiet settings, and a temporary server that dies with us."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    # ^ nothing is sent anywhere, and nothing waits for an answer on an offline machine
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # ^ the first start on a machine makes a database: 16 s on two idle cores
}

ALONE = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""Without a server of the user's own nobody reads those logs, and stderr is for people."""

_MOURNER = """
import contextlib, os, sys
sys.stdin.read()
with contextlib.suppress(ProcessLookupError):
    os.kill(int(sys.argv[1]), 15)
"""


def prepare() -> None:
    """Set what the user has not set. Call it before Prefect is imported."""
    settings = QUIET if os.environ.get("PREFECT_API_URL") else QUIET | ALONE
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def bind() -> None:
    """Tie the temporary server, where there is one, to the life of this process.

    Prefect stops it at a normal exit. Killed by SIGKILL, it would be left running for ever: a
    child that waits for the end of a pipe, which the kernel closes in any case, ends it then.
    """
    from prefect.server.api.server import SubprocessASGIServer  # noqa: PLC0415

    # ^ Prefect is slow to import
    for server in SubprocessASGIServer._instances.values():  # noqa: SLF001
        # ^ there is no public way to learn the process; tests hold this
        process = server.server_process
        if process is None or hasattr(server, "_bound"):
            continue
        mourned, pipe = os.pipe()
        mourner = subprocess.Popen(  # noqa: S603
            [sys.executable, "-S", "-c", _MOURNER, str(process.pid)],
            stdin=mourned,
            start_new_session=True,
            # ^ Ctrl-C is for us, not for it
        )
        os.close(mourned)
        atexit.register(_part, mourner, pipe)
        server._bound = True  # type: ignore[attr-defined]  # noqa: SLF001


def _part(mourner: subprocess.Popen[bytes], pipe: int) -> None:
    os.close(pipe)
    mourner.wait()
