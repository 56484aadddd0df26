"""Work that is stopped ends soon, whoever does it, and leaves nothing half done."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import distributed
import psutil
import pytest

from catalogs.snapshot import Snapshot
from flows.cli.exit_codes import EXIT_INTERRUPTED
from flows.execution import tile_scheduler
from flows.observe.progress import NullProgress
from flows.observe.run_context import RunContext
from flows.orchestration import launch
from flows.run import stages
from flows.run.stored_plan import StoredPlan
from pipeline import tile_layers
from pipeline.plan.settings import ExecutionSettings, RunSettings
from pipeline.quality import radiometry_check
from pipeline.reading import http_ranges, provider_connections
from pipeline.runtime import cancellation
from pipeline.storage import plan_file, receipt, zarr_store
from tests.faults.range_server import serving
from tests.pipeline import test_plan as plans
from tests.support import simulated_tiles

ROOT = Path(__file__).parents[2]
SOON = 20.0
"""Seconds within which work has ended: a minute would be left of it."""

PROVIDER = "demo"

CLIENT = """
import sys
from pathlib import Path
from flows.execution import tile_scheduler, tile_worker
from pipeline.storage import plan_file
from tests.support import simulated_tiles
path, address, kind = sys.argv[1:]
tiles = plan_file.read_plan_file(path).tiles if kind == "real" else simulated_tiles.tiles(4)
tile_function = tile_worker.process_tile if kind == "real" else simulated_tiles.endless
list(tile_scheduler.process_tiles(
    Path(path), tiles, engine=address, workers=2, tile_function=tile_function))
"""

FLOW = """
import sys
from pathlib import Path
from prefect.utilities.engine import capture_sigterm
from flows.observe import progress
from flows.orchestration import launch
with capture_sigterm():
    try:
        launch.run_file(Path(sys.argv[1]), allow_partial=False, max_cost=None,
                        progress=progress.create_progress(sys.stderr))
    except BaseException as error:
        print("left by", type(error).__name__, file=sys.stderr)
        raise
"""
"""What Prefect does with SIGTERM around a flow, without its server."""

STUCK = """
import sys, threading, time
from flows.cli import console, signals
signals.SHUTDOWN_TIMEOUT = 0.5
signals.install_signal_handlers()
threading.Thread(target=time.sleep, args=(60,)).start()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(console.report_interruption())
"""


# -- in one process -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def hearing():
    """Let Ctrl-C be heard: who starts the tests in the background makes them deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def over():
    """Return an event that is set in a moment."""
    found = threading.Event()
    timer = threading.Timer(0.3, found.set)
    timer.start()
    yield found
    timer.cancel()


@contextlib.contextmanager
def _soon():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON


def _until(moment, seconds=SOON):
    end = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "wait", [lambda: cancellation.wait_for_result(Future()), lambda: cancellation.sleep(60)]
)
def test_a_wait_ends_when_the_work_is_given_up(over, wait):
    with _soon(), cancellation.cancel_when(over.is_set), pytest.raises(cancellation.Cancelled):
        wait()


def test_a_wait_that_is_not_given_up_is_a_wait():
    began = time.monotonic()
    cancellation.sleep(0.3)
    assert time.monotonic() - began >= 0.3


def test_what_a_thread_returns_or_raises_comes_out_as_it_is():
    done, failed = Future(), Future()
    threading.Timer(2 * cancellation.POLL_INTERVAL, done.set_result, ["late"]).start()
    assert cancellation.wait_for_result(done) == "late"
    failed.set_exception(TimeoutError("of the work"))
    with pytest.raises(TimeoutError, match="of the work"):
        cancellation.wait_for_result(failed)


def test_work_is_given_up_wherever_it_is_done(over):
    over.wait()
    with cancellation.cancel_when(over.is_set):
        carried = cancellation.with_cancellation(cancellation.check_cancelled)
        with pytest.raises(cancellation.Cancelled):
            contextvars.Context().run(carried)
        with cancellation.cancel_when(lambda: False), pytest.raises(cancellation.Cancelled):
            cancellation.check_cancelled()
            # ^ what an inner block wants does not bring the outer one back
        with (
            cancellation.CancellableThreadPool(1, "test") as pool,
            pytest.raises(cancellation.Cancelled),
        ):
            pool.submit(cancellation.check_cancelled).result()
    contextvars.Context().run(cancellation.check_cancelled)


def test_threads_end_with_the_block_that_an_error_ends():
    begun, ended = threading.Event(), []

    def work():
        begun.set()
        with pytest.raises(cancellation.Cancelled):
            cancellation.sleep(60)
        ended.append(1)

    waiting = []

    def lend():
        with cancellation.CancellableThreadPool(1, "test") as pool:
            waiting.extend(pool.submit(work) for _ in range(3))
            begun.wait()
            raise ZeroDivisionError

    with _soon(), pytest.raises(ZeroDivisionError):
        lend()
    assert ended == [1]
    assert all(one.cancelled() for one in waiting[1:])


def test_threads_that_cannot_end_are_left_behind_where_that_is_wanted():
    stuck = threading.Event()

    def lend():
        with cancellation.CancellableThreadPool(1, "test", wait_on_error=False) as pool:
            pool.submit(stuck.wait, 60)
            raise ZeroDivisionError

    with _soon(), pytest.raises(ZeroDivisionError):
        lend()
    stuck.set()


def _interrupted(work, *arguments, **named):
    """Do work, and press Ctrl-C in the middle of it."""
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    work(*arguments, **named)


def test_scenes_that_are_looked_at_are_given_up_with_the_plan(tmp_path):
    def read(href, asset, *, size):
        cancellation.sleep(60)

    scenes = plans.make(tmp_path, model=None).snapshot.scenes
    with _soon(), pytest.raises(KeyboardInterrupt):
        _interrupted(radiometry_check.check_scenes, scenes, threads=2, read_thumbnail=read)


# -- reading ------------------------------------------------------------------------------------


def test_a_pause_between_requests_ends_when_the_work_is_given_up(tmp_path, over):
    (tmp_path / "a.tif").write_bytes(b"x" * 100)
    with serving(tmp_path, script=lambda *_: "503", retry_after="100") as web:
        file = http_ranges.RangeFile(f"{web.address}/a.tif", PROVIDER, time.monotonic() + 300)
        with _soon(), cancellation.cancel_when(over.is_set), pytest.raises(cancellation.Cancelled):
            file.open()
        assert web.requests == 1


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Serve the scenes of a plan of nine tiles; return the server and the plan."""
    folder = tmp_path_factory.mktemp("far")
    near = plans.make(folder, scenes=3, tile=24, model=None)
    with serving(folder, stall=60.0) as web:
        scenes = tuple(
            dataclasses.replace(
                scene,
                provider=PROVIDER,
                assets={
                    band: dataclasses.replace(
                        asset, href=f"{web.address}/{Path(asset.href).relative_to(folder)}"
                    )
                    for band, asset in scene.assets.items()
                },
            )
            for scene in near.snapshot.scenes
        )
        yield web, dataclasses.replace(near, snapshot=Snapshot(scenes=scenes))


@pytest.fixture
def world(far):
    """Return the server, well again, and the plan."""
    web, plan = far
    web.script = None
    provider_connections.divide_connections(2)
    provider_connections.divide_connections(1)
    # ^ threads of an earlier test may still wait for its answers
    yield web, plan
    web.script = None


def _planned(plan, folder, engine, **more):
    """Write a plan as a job would have it; return its path."""
    settings = RunSettings(
        output_dir=str(folder / "out"),
        execution=ExecutionSettings(engine=engine, workers=2, device="cpu", **more),
        quality_limits=plan.settings.quality_limits,
    )
    path = folder / "plan.json"
    plan_file.write_plan_file(path, dataclasses.replace(plan, settings=settings))
    return path


@pytest.fixture
def stored(world, tmp_path):
    """Return the path of the plan; its store is there."""
    plan = world[1]
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, plan)
    zarr_store.create(tmp_path, plan, tile_layers.list_layer_bands(plan))
    return path


def _quiet(web):
    """Tell whether the server is left alone; a reader that goes on asks again after a second."""
    before = web.requests
    time.sleep(2)
    return web.requests == before


@pytest.mark.parametrize("fault", ["503", "silent"])
def test_a_tile_that_is_read_is_given_up_and_asks_for_nothing_more(world, stored, fault):
    web, plan = world
    web.script, web.retry_after = lambda *_: fault, "1"
    web.forget()
    with (
        _soon(),
        cancellation.cancel_when(lambda: web.requests > 1),
        pytest.raises(cancellation.Cancelled),
    ):
        list(tile_scheduler.process_tiles(stored, plan.tiles, engine="threads", workers=2))
    assert not receipt.read_finished(stored.parent, plan)
    _until(lambda: not [one for one in threading.enumerate() if "strip" in one.name])
    _until(lambda: _quiet(web))


def test_a_run_that_takes_longer_than_its_job_allows_is_stopped(world, tmp_path):
    web, plan = world
    path = _planned(plan, tmp_path, "threads", max_hours=1 / 3600)
    web.script, web.retry_after = lambda *_: "silent", "1"
    with _soon(), pytest.raises(stages.TimeLimitExceeded, match=r"hours of execution\.max_hours"):
        _map_tiles(path)
    assert not receipt.read_finished(path.parent, plan)
    web.script = None
    path = _planned(plan, tmp_path, "threads", max_hours=1)
    assert _map_tiles(path).counts.done == len(plan.tiles)


def _map_tiles(path):
    return stages.map_tiles(
        StoredPlan(plan=plan_file.read_plan_file(path), path=path), RunContext()
    )


# -- threads ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    (tmp_path / simulated_tiles.MADE).mkdir()
    return tmp_path / "plan.json"


def _size(path):
    """Return how much the tiles in hand have written."""
    return sum(one.stat().st_size for one in (path.parent / simulated_tiles.MADE).iterdir())


def _still(path):
    """Tell whether nothing is written any more."""
    before = _size(path)
    time.sleep(0.5)
    return _size(path) == before


def _endless(path):
    return tile_scheduler.process_tiles(
        path,
        simulated_tiles.tiles(4),
        engine="threads",
        workers=2,
        tile_function=simulated_tiles.endless,
    )


def test_tiles_in_threads_are_given_up_with_the_run(path):
    with _soon(), pytest.raises(KeyboardInterrupt):
        _interrupted(list, _endless(path))
    assert _still(path)


def test_a_run_among_several_stops_where_it_is_no_longer_wanted(path, over):
    with _soon(), cancellation.cancel_when(over.is_set), pytest.raises(cancellation.Cancelled):
        list(_endless(path))
    assert _still(path)


def test_tiles_are_given_up_by_whoever_closes_the_run(path):
    def first(plan_path, name, *rest):
        made = simulated_tiles.nothing if name.endswith("0") else simulated_tiles.endless
        return made(plan_path, name, *rest)

    run = tile_scheduler.process_tiles(
        path, simulated_tiles.tiles(4), engine="threads", workers=2, tile_function=first
    )
    assert next(run).tile.endswith("0")
    with _soon():
        run.close()
    assert _still(path)


# -- workers elsewhere --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    ) as running:
        yield running


@contextlib.contextmanager
def _client(*arguments):
    """Run tiles from another process; it is killed at the end of the block."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], cwd=ROOT)
    try:
        yield
    finally:
        client.kill()
        client.wait()


def test_workers_elsewhere_give_up_what_a_killed_client_wanted(cluster, path, world):
    address = cluster.scheduler_address
    with _client(path, address, "endless"):
        _until(lambda: len(list((path.parent / simulated_tiles.MADE).iterdir())) == 2, 60)
    _until(lambda: _still(path))
    told = tile_scheduler.process_tiles(
        path,
        simulated_tiles.tiles(4),
        engine=address,
        workers=2,
        tile_function=simulated_tiles.nothing,
    )
    assert len([*told]) == 4
    # ^ the workers are free again


def test_workers_elsewhere_read_nothing_more_for_a_killed_client(cluster, world, stored):
    web, plan = world
    web.script, web.retry_after = lambda *_: "503", "1"
    web.forget()
    with _client(stored, cluster.scheduler_address, "real"):
        _until(lambda: web.requests > 2, 60)
    _until(lambda: _quiet(web))
    web.script = None
    told = list(
        tile_scheduler.process_tiles(
            stored, plan.tiles, engine=cluster.scheduler_address, workers=2
        )
    )
    assert not [one.reason for one in told if one.reason]
    assert len(receipt.read_finished(stored.parent, plan)) == len(plan.tiles)


# -- whole processes ----------------------------------------------------------------------------


def _state(folder, plan):
    """Return receipts and the time of each; every one of them must hold."""
    done = receipt.read_finished(folder, plan)
    for one in plan.tiles:
        if one.id in done:
            assert not zarr_store.check_tile(folder, plan, one, done[one.id].digests)
    return {
        one.id: (folder / receipt.receipt_name(one)).stat().st_mtime_ns
        for one in plan.tiles
        if one.id in done
    }


def _rasters(result):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(result["item"]).parent.glob("*/*/*.tif"))
    }


def _run(path):
    return launch.run_file(
        path, allow_partial=False, max_cost=None, progress=NullProgress()
    ).to_dict()


@pytest.fixture(scope="module")
def whole(far, tmp_path_factory):
    """Return the rasters of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    result = _run(_planned(far[1], folder, "threads"))
    assert result["status"] == "complete"
    return _rasters(result)


SOME = 4
"""Of nine tiles: so many are made before the server falls silent."""


@pytest.mark.parametrize(
    ("how", "name", "number", "everyone"),
    [
        ("command", "threads", signal.SIGTERM, False),
        ("command", "threads", signal.SIGINT, False),
        ("command", "distributed", signal.SIGTERM, False),
        ("command", "distributed", signal.SIGINT, True),
        # ^ as a terminal sends it: to all of the group
        ("flow", "distributed", signal.SIGTERM, True),
        # ^ as a process worker of Prefect sends it
    ],
)
def test_a_stopped_run_ends_and_goes_on_as_if_nothing_had_been(
    world, whole, tmp_path, how, name, number, everyone
):
    web, plan = world
    web.forget()
    web.script = lambda _path, _start, count: "silent" if count >= SOME else None
    # ^ every tile asks for the same small files
    path = _planned(plan, tmp_path, name)
    folder = tmp_path / "out" / plan.name / "_".join(plan.period) / plan.short_digest
    command = ["-c", FLOW] if how == "flow" else ["-m", "flows.cli.main", "run"]
    process = subprocess.Popen(
        [sys.executable, *command, path],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        _until(lambda: len(receipt.read_finished(folder, plan)) == SOME, 120)
        _until(lambda: max(web.asked.values()) > SOME, 120)
        others = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if everyone else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=SOON)
        assert not psutil.wait_procs(others, timeout=SOON)[1]
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if how == "command":
        assert process.returncode == EXIT_INTERRUPTED
        assert said.count("run the same command again") == 1, said
        assert "stopped before" not in said
        # ^ it need not be forced
    else:
        assert "left by TerminationSignal" in said
        assert process.returncode == -signal.SIGTERM
        # ^ Prefect hands on what its runner has not announced
    assert "Traceback" not in said or name == "distributed"
    # ^ there a worker may tell at length that it has lost its scheduler
    kept = _state(folder, plan)
    assert len(kept) == SOME
    assert not list(tmp_path.rglob("item.json"))
    assert not [*tmp_path.rglob(".tmp-*"), *tmp_path.rglob("*.partial")]

    web.script = None
    result = _run(_planned(plan, tmp_path, "threads"))
    # ^ who computes is not in the plan's hash
    assert result["status"] == "complete"
    assert result["tiles"]["skipped"] == SOME
    assert _rasters(result) == whole
    assert kept.items() <= _state(folder, plan).items()


def test_a_process_that_cannot_end_is_ended():
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        # ^ a second one changes nothing
        _, said = process.communicate(timeout=SOON)
    assert process.returncode == EXIT_INTERRUPTED
    assert said.count(b"run the same command again") == 2
    assert b"Traceback" not in said
