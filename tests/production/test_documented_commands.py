"""The commands of the pages, as they are written, in fresh processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers.process import free_port

ROOT = Path(__file__).parents[2]
MARK = "TERRAMOSAIC_TEST_COMMANDS"


def _block(page):
    """Return the commands of a page that are marked to be run."""
    (block,) = re.findall(r"<!-- run -->\n```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return block


@pytest.fixture
def home(tmp_path):
    """Lend a home and a path with the project's own commands; nothing is left running."""
    folder = tmp_path / "bin"
    folder.mkdir()
    modules = {"terramosaic": "flows.cli.main", "prefect": "prefect"}
    for name, module in modules.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (folder / name).chmod(0o755)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")
    }
    yield (
        tmp_path,
        environment
        | {
            MARK: str(tmp_path),
            "HOME": str(tmp_path),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DO_NOT_TRACK": "1",
        },
    )
    for one in psutil.process_iter():
        try:
            if one.environ().get(MARK) == str(tmp_path):
                one.kill()
        except psutil.Error:
            continue


@pytest.mark.slow
def test_a_look_at_prefect_works_as_it_is_written(home):
    folder, environment = home
    commands = _block(ROOT / "deploy" / "README.md").replace("4200", str(free_port()))
    # ^ the one thing that a busy machine may have otherwise
    done = subprocess.run(
        ["bash", "-e", "-u", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "verified: every tile matches its receipt" in done.stdout
    months = {one.parent.name for one in folder.glob("country/out/demo/*/item.json")}
    assert months >= {"2021-06-01_2021-06-30", "2021-07-01_2021-07-31"}
