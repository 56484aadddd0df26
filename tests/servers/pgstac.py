"""The real STAC API: stac-fastapi-pgstac with a separate PostgreSQL and a separate venv."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import database
from tests.servers.process import Process, run

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TERRAMOSAIC_STAC_PYTHON", ROOT / ".venv-stac" / "bin" / "python"))
"""Python of the venv that `make stac-server` creates."""

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
    reason = database.missing()
    if reason:
        return reason
    shared_dir = run([database.binaries() / "pg_config", "--sharedir"]).strip()
    if not (Path(shared_dir) / "extension" / "postgis.control").is_file():
        return "no PostGIS here (Debian: postgresql-postgis)"
    if not PYTHON.is_file():
        return f"no stac-fastapi-pgstac here: `make stac-server` installs it ({PYTHON})"
    return None


@contextlib.contextmanager
def serve(
    collections: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the URL of an API that holds these documents; it is removed at the end."""
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="pgstac-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        server, port = database.create_cluster(home)
        environment = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres",
            "PGPASSWORD": "none", "PGDATABASE": "postgres",
        }  # fmt: skip
        stack.callback(server.stop)
        server.start()
        for name, documents in (("collections", collections), ("items", items)):
            lines = "".join(json.dumps(document) + "\n" for document in documents)
            (home / f"{name}.ndjson").write_text(lines)
        run([PYTHON, "-c", LOAD], cwd=home, env=environment)
        yield _start_api(stack, home, environment)


def _start_api(stack: contextlib.ExitStack, home: Path, environment: Mapping[str, str]) -> str:
    pattern = r"running on (http://127\.0\.0\.1:\d+)"
    api = Process(
        name="api", home=home, environment=environment,
        command=[PYTHON, "-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app",
                 "--host", "127.0.0.1", "--port", 0, "--no-access-log"],
        ready=lambda process: process.find_in_log(pattern) is not None,
    )  # fmt: skip
    # ^ port 0: the system chooses a free port, which uvicorn logs
    stack.callback(api.stop)
    return api.start().find_in_log(pattern)[1]
