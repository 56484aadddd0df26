"""The real STAC API: stac-fastapi-pgstac on a PostgreSQL of its own, in a venv of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TERRAMOSAIC_STAC_PYTHON", ROOT / ".venv-stac" / "bin" / "python"))
"""Python of the venv that `make stac-server` makes."""

PATIENCE = 60.0
"""Seconds for a server to start or to stop."""

LOAD = """
import sys
from pypgstac.db import PgstacDB
from pypgstac.load import Loader, Methods
from pypgstac.migrate import Migrate
with PgstacDB() as database:
    Migrate(database).run_migration()
    loader = Loader(db=database)
    loader.load_collections("collections.ndjson", insert_mode=Methods.insert)
    loader.load_items("items.ndjson", insert_mode=Methods.insert)
"""


def missing() -> str | None:
    """Return what is not installed, or None."""
    if _binaries() is None:
        return "no PostgreSQL server here (Debian: postgresql and postgresql-postgis)"
    shared = subprocess.run(
        [_binaries() / "pg_config", "--sharedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not (Path(shared) / "extension" / "postgis.control").is_file():
        return "no PostGIS here (Debian: postgresql-postgis)"
    if not PYTHON.is_file():
        return f"no stac-fastapi-pgstac here: `make stac-server` installs it ({PYTHON})"
    return None


@contextlib.contextmanager
def serve(
    collections: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the address of an API that holds these documents; nothing is left of it afterwards."""
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="pgstac-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        port = _free_port()
        environment = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres",
            "PGPASSWORD": "none", "PGDATABASE": "postgres",
        }  # fmt: skip
        _start_database(stack, home, port)
        for name, documents in (("collections", collections), ("items", items)):
            lines = "".join(json.dumps(document) + "\n" for document in documents)
            (home / f"{name}.ndjson").write_text(lines)
        _run([PYTHON, "-c", LOAD], cwd=home, env=environment)
        yield _start_api(stack, home, environment)


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    inside = shutil.which("initdb")
    return Path(inside).parent if inside else None


def _start_database(stack: contextlib.ExitStack, home: Path, port: int) -> None:
    data = home / "database"
    owner = _unprivileged(home)
    initdb, postgres = _binaries() / "initdb", _binaries() / "postgres"
    _run([initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
         cwd=home, **owner)  # fmt: skip
    settings = {
        "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
        "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    log = stack.enter_context((home / "postgres.log").open("w"))
    server = subprocess.Popen([postgres, "-D", data, *options], stdout=log, stderr=log, cwd=home,
                              **owner)  # fmt: skip
    stack.callback(_stop, server)
    _until(lambda: _answers(port), server, home / "postgres.log")


def _start_api(stack: contextlib.ExitStack, home: Path, environment: Mapping[str, str]) -> str:
    log = home / "api.log"
    server = subprocess.Popen(
        [PYTHON, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app",
         "--host", "127.0.0.1", "--port", "0", "--no-access-log"],
        stdout=stack.enter_context(log.open("w")), stderr=subprocess.STDOUT, cwd=home,
        env=dict(environment),
    )  # fmt: skip
    # ^ port 0: the system chooses a free one, and uvicorn says which
    stack.callback(_stop, server)
    pattern = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
    _until(lambda: pattern.search(log.read_text()), server, log)
    return pattern.search(log.read_text())[1]


def _unprivileged(home: Path) -> dict[str, Any]:
    """Return whom to run PostgreSQL as, which refuses to be root; home becomes theirs."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    who = names.get("postgres") or names["nobody"]
    os.chown(home, who.pw_uid, who.pw_gid)
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def _run(command: Sequence[object], **how: Any) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE,
                          check=False, **how)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _until(ready: Any, server: subprocess.Popen[Any], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"The server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _stop(server: subprocess.Popen[Any]) -> None:
    server.terminate()
    # ^ PostgreSQL: waits for its clients to go; the API was stopped before it
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)
