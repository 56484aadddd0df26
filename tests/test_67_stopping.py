"""Work that is stopped ends soon, whoever does it, and leaves nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import distributed
import pytest

from flows import engine
from pipeline import halt
from tests import simulated
from tests.faults.server import serving

ROOT = Path(__file__).parents[1]
SOON = 20.0
"""Seconds within which work has ended: a minute would be left of it."""

CLIENT = """
import sys
from pathlib import Path
from flows import engine
from tests import simulated
plan, address = sys.argv[1:]
for _ in engine.run(Path(plan), simulated.tiles(4), engine=address, workers=2,
                    make=simulated.endless):
    pass
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / simulated.MADE).mkdir()
    return tmp_path / "plan.json"


def _size(path):
    """Return how much the tiles in hand have written."""
    return sum(one.stat().st_size for one in (path.parent / simulated.MADE).iterdir())


def _until(moment, seconds=SOON):
    end = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < end
        time.sleep(0.05)


def _still(path):
    """Tell whether nothing is written any more."""
    before = _size(path)
    time.sleep(0.5)
    return _size(path) == before


def test_tiles_in_threads_are_given_up_with_the_run(path):
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _interrupted(path)
    assert time.monotonic() - began < SOON
    assert _still(path)


def _interrupted(path):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    for _ in engine.run(
        path, simulated.tiles(4), engine="threads", workers=2, make=simulated.endless
    ):
        pass


def test_a_run_among_several_stops_where_it_is_no_longer_wanted(path):
    over = threading.Event()
    threading.Timer(1.0, over.set).start()
    with halt.when(over.is_set), pytest.raises(halt.Halted):
        list(
            engine.run(
                path, simulated.tiles(4), engine="threads", workers=2, make=simulated.endless
            )
        )
    assert _still(path)


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    ) as running:
        yield running


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_workers_elsewhere_give_up_what_a_dead_client_wanted(path, cluster, kill):
    address = cluster.scheduler_address
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, path, address], cwd=ROOT, start_new_session=True
    )
    try:
        _until(lambda: len(list((path.parent / simulated.MADE).iterdir())) == 2, 60)
        client.send_signal(kill)
        client.wait(SOON)
        _until(lambda: _still(path))
    finally:
        client.kill()
        client.wait()
    told = engine.run(path, simulated.tiles(4), engine=address, workers=2, make=simulated.nothing)
    assert len([*told]) == 4
    # ^ the workers are free again


def test_a_wait_ends_when_the_work_is_given_up():
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    began = time.monotonic()
    with halt.when(over.is_set), pytest.raises(halt.Halted):
        halt.result(Future())
    assert time.monotonic() - began < SOON


def test_a_thread_that_times_out_by_itself_says_so():
    failed: Future[None] = Future()
    failed.set_exception(TimeoutError("of the work"))
    with pytest.raises(TimeoutError, match="of the work"):
        halt.result(failed)


def test_a_pause_between_requests_ends_with_the_process(tmp_path, monkeypatch):
    from pipeline import ranges

    (tmp_path / "a.tif").write_bytes(b"x" * 100)
    with serving(tmp_path, script=lambda *_: "503", retry_after="100") as server:
        file = ranges.RangeFile(
            f"{server.address}/a.tif", "planetary-computer", time.monotonic() + 300
        )
        threading.Timer(0.5, _leave).start()
        began = time.monotonic()
        try:
            with pytest.raises(ranges.Failed, match="the run was stopped"):
                file.open()
        finally:
            with halt.at_signals():
                pass
        assert time.monotonic() - began < SOON
    assert not halt.leaving()


def _leave():
    with pytest.raises(SystemExit), halt.at_signals():
        raise SystemExit
