"""PostgreSQL on this machine: a cluster of its own in a folder, for one test module."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

from tests.servers.process import Process, answers, free_port, run

SETTINGS = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
}  # fmt: skip
# ^ a killed process loses nothing by that; only a machine without power would


def missing() -> str | None:
    """Return what is not installed, or None."""
    if binaries() is None:
        return "no PostgreSQL server here (Debian: postgresql)"
    return None


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    inside = shutil.which("initdb")
    return Path(inside).parent if inside else None


def made(home: Path) -> tuple[Process, int]:
    """Make an empty cluster under a folder; return its process, not started, and its port.

    Args:
        home: an empty folder, which becomes the database's own.
    """
    data, owner, port = home / "database", _unprivileged(home), free_port()
    run([binaries() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
         "--no-locale", "-N"], cwd=home, **owner)  # fmt: skip
    options = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    command = [binaries() / "postgres", "-D", data, "-p", port, *options]
    process = Process(
        name="database", command=command, home=home, owner=owner,
        ready=lambda one: answers(port) and one.said("ready to accept connections") is not None,
    )  # fmt: skip
    # ^ after a crash it listens while it still recovers
    return process, port


def _unprivileged(home: Path) -> dict[str, Any]:
    """Return whom to run PostgreSQL as, which refuses to be root; home becomes theirs."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    who = names.get("postgres") or names["nobody"]
    os.chown(home, who.pw_uid, who.pw_gid)
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
