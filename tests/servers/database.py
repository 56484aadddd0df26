"""A PostgreSQL cluster in a folder of this machine, for one test module."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

from tests.servers.process import Process, free_port, is_port_open, run

SETTINGS = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
}  # fmt: skip
# ^ a killed process loses no data without fsync; only a power failure would


def missing() -> str | None:
    """Return what is not installed, or None."""
    if binaries() is None:
        return "no PostgreSQL server here (Debian: postgresql)"
    return None


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL on this machine."""
    paths = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if paths:
        return paths[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def create_cluster(home: Path) -> tuple[Process, int]:
    """Create an empty cluster in a folder; return its process, not started, and its port.

    Args:
        home: an empty folder, whose owner becomes the user of the database.
    """
    data, owner, port = home / "database", _unprivileged(home), free_port()
    run([binaries() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
         "--no-locale", "-N"], cwd=home, **owner)  # fmt: skip
    options = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    command = [binaries() / "postgres", "-D", data, "-p", port, *options]
    process = Process(
        name="database", command=command, home=home, owner=owner,
        ready=lambda started: (
            is_port_open(port) and started.find_in_log("ready to accept connections") is not None
        ),
    )  # fmt: skip
    # ^ after a crash, the port is open before recovery has ended
    return process, port


def _unprivileged(home: Path) -> dict[str, Any]:
    """Return the user for PostgreSQL, which refuses to run as root; home becomes theirs."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = names.get("postgres") or names["nobody"]
    os.chown(home, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
