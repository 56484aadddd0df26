"""Cancelled work ends soon, in threads, workers and processes, and leaves no partial files."""

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
from pipeline.reading import http_connections, http_ranges
from pipeline.runtime import cancellation
from pipeline.storage import plan_file, receipt, zarr_store
from tests.faults.range_server import serving
from tests.support import simulated_tiles, small_plan

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 20.0
"""Seconds within which work must have ended; without cancellation it would take a minute."""

PROVIDER = "demo"

CLIENT = """
import sys
from pathlib import Path
from flows.execution import tile_scheduler, tile_worker
from pipeline.storage import plan_file
from tests.support import simulated_tiles
path, address, kind = sys.argv[1:]
tiles = plan_file.read_plan_file(path).tiles if kind == "real" else simulated_tiles.create_tiles(4)
tile_function = tile_worker.process_tile if kind == "real" else simulated_tiles.write_for_a_minute
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

PROCESS_WITH_THREAD = """
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
def restore_sigint_handler():
    """Restore the handler of SIGINT, which a shell disables for processes in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cancel_event():
    """Yield an event that is set after 0.3 s."""
    event = threading.Event()
    timer = threading.Timer(0.3, event.set)
    timer.start()
    yield event
    timer.cancel()


@contextlib.contextmanager
def _assert_ends_soon():
    start = time.monotonic()
    yield
    assert time.monotonic() - start < MAX_SECONDS


def _wait_until(condition, seconds=MAX_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "wait", [lambda: cancellation.wait_for_result(Future()), lambda: cancellation.sleep(60)]
)
def test_a_wait_ends_when_the_work_is_cancelled(cancel_event, wait):
    with (
        _assert_ends_soon(),
        cancellation.cancel_when(cancel_event.is_set),
        pytest.raises(cancellation.Cancelled),
    ):
        wait()


def test_a_wait_without_cancellation_takes_its_time():
    start = time.monotonic()
    cancellation.sleep(0.3)
    assert time.monotonic() - start >= 0.3


def test_the_result_or_error_of_a_thread_is_returned_unchanged():
    successful, failed = Future(), Future()
    threading.Timer(2 * cancellation.POLL_INTERVAL, successful.set_result, ["late"]).start()
    assert cancellation.wait_for_result(successful) == "late"
    failed.set_exception(TimeoutError("of the work"))
    with pytest.raises(TimeoutError, match="of the work"):
        cancellation.wait_for_result(failed)


def test_work_is_cancelled_in_contexts_blocks_and_threads(cancel_event):
    cancel_event.wait()
    with cancellation.cancel_when(cancel_event.is_set):
        check = cancellation.with_cancellation(cancellation.check_cancelled)
        with pytest.raises(cancellation.Cancelled):
            contextvars.Context().run(check)
        with cancellation.cancel_when(lambda: False), pytest.raises(cancellation.Cancelled):
            cancellation.check_cancelled()
            # ^ an inner block cannot undo the cancellation of the outer one
        with (
            cancellation.CancellableThreadPool(1, "test") as pool,
            pytest.raises(cancellation.Cancelled),
        ):
            pool.submit(cancellation.check_cancelled).result()
    contextvars.Context().run(cancellation.check_cancelled)


def test_threads_end_when_their_block_ends_with_an_error():
    started, ended = threading.Event(), []

    def work():
        started.set()
        with pytest.raises(cancellation.Cancelled):
            cancellation.sleep(60)
        ended.append(1)

    futures = []

    def fail_while_running():
        with cancellation.CancellableThreadPool(1, "test") as pool:
            futures.extend(pool.submit(work) for _ in range(3))
            started.wait()
            raise ZeroDivisionError

    with _assert_ends_soon(), pytest.raises(ZeroDivisionError):
        fail_while_running()
    assert ended == [1]
    assert all(future.cancelled() for future in futures[1:])


def test_threads_are_not_waited_for_without_wait_on_error():
    release = threading.Event()

    def fail_while_running():
        with cancellation.CancellableThreadPool(1, "test", wait_on_error=False) as pool:
            pool.submit(release.wait, 60)
            raise ZeroDivisionError

    with _assert_ends_soon(), pytest.raises(ZeroDivisionError):
        fail_while_running()
    release.set()


def _call_with_sigint(function, *arguments, **keywords):
    """Call a function and send SIGINT to this process after one second."""
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    function(*arguments, **keywords)


def test_checks_of_scenes_are_cancelled_by_sigint(tmp_path):
    def read(href, asset, *, size):
        cancellation.sleep(60)

    scenes = small_plan.make_plan(tmp_path, model=None).snapshot.scenes
    with _assert_ends_soon(), pytest.raises(KeyboardInterrupt):
        _call_with_sigint(radiometry_check.check_scenes, scenes, threads=2, read_thumbnail=read)


# -- reading ------------------------------------------------------------------------------------


def test_a_pause_between_requests_ends_when_the_work_is_cancelled(tmp_path, cancel_event):
    (tmp_path / "a.tif").write_bytes(b"x" * 100)
    with serving(tmp_path, script=lambda *_: "503", retry_after="100") as web:
        file = http_ranges.RangeFile(f"{web.address}/a.tif", PROVIDER, time.monotonic() + 300)
        with (
            _assert_ends_soon(),
            cancellation.cancel_when(cancel_event.is_set),
            pytest.raises(cancellation.Cancelled),
        ):
            file.open()
        assert web.requests == 1


@pytest.fixture(scope="module")
def served_plan(tmp_path_factory):
    """Serve the scenes of a plan of nine tiles; return the server and the plan."""
    folder = tmp_path_factory.mktemp("far")
    plan = small_plan.make_plan(folder, scenes=3, tile=24, model=None)
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
            for scene in plan.snapshot.scenes
        )
        yield web, dataclasses.replace(plan, snapshot=Snapshot(scenes=scenes))


@pytest.fixture
def working_server(served_plan):
    """Return the server, without faults, and the plan."""
    web, plan = served_plan
    web.script = None
    http_connections.divide_connections(2)
    http_connections.divide_connections(1)
    # ^ threads of an earlier test may still wait for its answers
    yield web, plan
    web.script = None


def _write_plan(plan, folder, engine, **execution_settings):
    """Write a plan with the settings of a job; return its path."""
    settings = RunSettings(
        output_dir=str(folder / "out"),
        execution=ExecutionSettings(engine=engine, workers=2, device="cpu", **execution_settings),
        quality_limits=plan.settings.quality_limits,
    )
    path = folder / "plan.json"
    plan_file.write_plan_file(path, dataclasses.replace(plan, settings=settings))
    return path


@pytest.fixture
def stored_plan_path(working_server, tmp_path):
    """Return the path of the plan, whose store has been created."""
    plan = working_server[1]
    path = tmp_path / "plan.json"
    plan_file.write_plan_file(path, plan)
    zarr_store.create(tmp_path, plan, tile_layers.list_layer_bands(plan))
    return path


def _is_without_requests(web):
    """Return whether no more requests arrive; a reader that goes on repeats one every second."""
    before = web.requests
    time.sleep(2)
    return web.requests == before


@pytest.mark.parametrize("fault", ["503", "silent"])
def test_a_cancelled_tile_sends_no_more_requests(working_server, stored_plan_path, fault):
    web, plan = working_server
    web.script, web.retry_after = lambda *_: fault, "1"
    web.reset_counts()
    with (
        _assert_ends_soon(),
        cancellation.cancel_when(lambda: web.requests > 1),
        pytest.raises(cancellation.Cancelled),
    ):
        list(
            tile_scheduler.process_tiles(stored_plan_path, plan.tiles, engine="threads", workers=2)
        )
    assert not receipt.read_finished(stored_plan_path.parent, plan)
    _wait_until(lambda: not [thread for thread in threading.enumerate() if "strip" in thread.name])
    _wait_until(lambda: _is_without_requests(web))


def test_a_run_is_stopped_at_its_time_limit(working_server, tmp_path):
    web, plan = working_server
    path = _write_plan(plan, tmp_path, "threads", max_hours=1 / 3600)
    web.script, web.retry_after = lambda *_: "silent", "1"
    with (
        _assert_ends_soon(),
        pytest.raises(stages.TimeLimitExceeded, match=r"hours of execution\.max_hours"),
    ):
        _map_tiles(path)
    assert not receipt.read_finished(path.parent, plan)
    web.script = None
    path = _write_plan(plan, tmp_path, "threads", max_hours=1)
    assert _map_tiles(path).counts.done == len(plan.tiles)


def _map_tiles(path):
    return stages.map_tiles(
        StoredPlan(plan=plan_file.read_plan_file(path), path=path), RunContext()
    )


# -- threads ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    (tmp_path / simulated_tiles.RECORDS).mkdir()
    return tmp_path / "plan.json"


def _count_bytes(path):
    """Return the number of bytes that the tiles have written."""
    return sum(file.stat().st_size for file in (path.parent / simulated_tiles.RECORDS).iterdir())


def _is_without_writes(path):
    """Return whether nothing more is written."""
    before = _count_bytes(path)
    time.sleep(0.5)
    return _count_bytes(path) == before


def _process_endless_tiles(path):
    return tile_scheduler.process_tiles(
        path,
        simulated_tiles.create_tiles(4),
        engine="threads",
        workers=2,
        tile_function=simulated_tiles.write_for_a_minute,
    )


def test_tiles_in_threads_are_cancelled_by_sigint(path):
    with _assert_ends_soon(), pytest.raises(KeyboardInterrupt):
        _call_with_sigint(list, _process_endless_tiles(path))
    assert _is_without_writes(path)


def test_a_cancelled_run_stops_its_tiles(path, cancel_event):
    with (
        _assert_ends_soon(),
        cancellation.cancel_when(cancel_event.is_set),
        pytest.raises(cancellation.Cancelled),
    ):
        list(_process_endless_tiles(path))
    assert _is_without_writes(path)


def test_closing_a_run_cancels_its_tiles(path):
    def process_tile(plan_path, tile_id, *arguments):
        tile_function = (
            simulated_tiles.return_at_once
            if tile_id.endswith("0")
            else simulated_tiles.write_for_a_minute
        )
        return tile_function(plan_path, tile_id, *arguments)

    run = tile_scheduler.process_tiles(
        path,
        simulated_tiles.create_tiles(4),
        engine="threads",
        workers=2,
        tile_function=process_tile,
    )
    assert next(run).tile.endswith("0")
    with _assert_ends_soon():
        run.close()
    assert _is_without_writes(path)


# -- workers of a cluster -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    ) as local_cluster:
        yield local_cluster


@contextlib.contextmanager
def _run_client(*arguments):
    """Run tiles from another process; it is killed at the end of the block."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], cwd=ROOT)
    try:
        yield
    finally:
        client.kill()
        client.wait()


def test_workers_cancel_the_tiles_of_a_killed_client(cluster, path, working_server):
    address = cluster.scheduler_address
    with _run_client(path, address, "endless"):
        _wait_until(lambda: len(list((path.parent / simulated_tiles.RECORDS).iterdir())) == 2, 60)
    _wait_until(lambda: _is_without_writes(path))
    results = tile_scheduler.process_tiles(
        path,
        simulated_tiles.create_tiles(4),
        engine=address,
        workers=2,
        tile_function=simulated_tiles.return_at_once,
    )
    assert len([*results]) == 4
    # ^ the workers are free again


def test_workers_send_no_more_requests_for_a_killed_client(
    cluster, working_server, stored_plan_path
):
    web, plan = working_server
    web.script, web.retry_after = lambda *_: "503", "1"
    web.reset_counts()
    with _run_client(stored_plan_path, cluster.scheduler_address, "real"):
        _wait_until(lambda: web.requests > 2, 60)
    _wait_until(lambda: _is_without_requests(web))
    web.script = None
    results = list(
        tile_scheduler.process_tiles(
            stored_plan_path, plan.tiles, engine=cluster.scheduler_address, workers=2
        )
    )
    assert not [result.reason for result in results if result.reason]
    assert len(receipt.read_finished(stored_plan_path.parent, plan)) == len(plan.tiles)


# -- whole processes ----------------------------------------------------------------------------


def _check_receipts(folder, plan):
    """Check the finished tiles against their receipts; return the time of each receipt."""
    receipts = receipt.read_finished(folder, plan)
    for tile in plan.tiles:
        if tile.id in receipts:
            assert not zarr_store.check_tile(folder, plan, tile, receipts[tile.id].digests)
    return {
        tile.id: (folder / receipt.receipt_name(tile)).stat().st_mtime_ns
        for tile in plan.tiles
        if tile.id in receipts
    }


def _compute_raster_digests(result):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(result["item"]).parent.glob("*/*/*.tif"))
    }


def _run(path):
    return launch.run_file(
        path, allow_partial=False, max_cost=None, progress=NullProgress()
    ).to_dict()


@pytest.fixture(scope="module")
def expected_rasters(served_plan, tmp_path_factory):
    """Return the digests of the rasters of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    result = _run(_write_plan(served_plan[1], folder, "threads"))
    assert result["status"] == "complete"
    return _compute_raster_digests(result)


FINISHED_TILES = 4
"""Number of the nine tiles that are finished before the server falls silent."""


@pytest.mark.parametrize(
    ("program", "engine_name", "signal_number", "signal_group"),
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
def test_a_stopped_run_continues_to_the_same_product(
    working_server, expected_rasters, tmp_path, program, engine_name, signal_number, signal_group
):
    web, plan = working_server
    web.reset_counts()
    web.script = lambda _path, _start, count: "silent" if count >= FINISHED_TILES else None
    # ^ every tile asks for the same small files
    path = _write_plan(plan, tmp_path, engine_name)
    folder = tmp_path / "out" / plan.name / "_".join(plan.period) / plan.short_digest
    command = ["-c", FLOW] if program == "flow" else ["-m", "flows.cli.main", "run"]
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
        _wait_until(lambda: len(receipt.read_finished(folder, plan)) == FINISHED_TILES, 120)
        _wait_until(lambda: max(web.request_counts.values()) > FINISHED_TILES, 120)
        children = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if signal_group else os.kill)(process.pid, signal_number)
        _, stderr = process.communicate(timeout=MAX_SECONDS)
        assert not psutil.wait_procs(children, timeout=MAX_SECONDS)[1]
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if program == "command":
        assert process.returncode == EXIT_INTERRUPTED
        assert stderr.count("run the same command again") == 1, stderr
        assert "stopped before" not in stderr
        # ^ it ended without being killed
    else:
        assert "left by TerminationSignal" in stderr
        assert process.returncode == -signal.SIGTERM
        # ^ Prefect re-raises a signal that its runner has not announced
    assert "Traceback" not in stderr or engine_name == "distributed"
    # ^ there a worker may log a traceback because it has lost its scheduler
    receipts = _check_receipts(folder, plan)
    assert len(receipts) == FINISHED_TILES
    assert not list(tmp_path.rglob("item.json"))
    assert not [*tmp_path.rglob(".tmp-*"), *tmp_path.rglob("*.partial")]

    web.script = None
    result = _run(_write_plan(plan, tmp_path, "threads"))
    # ^ the engine is not part of the plan's hash
    assert result["status"] == "complete"
    assert result["tiles"]["skipped"] == FINISHED_TILES
    assert _compute_raster_digests(result) == expected_rasters
    assert receipts.items() <= _check_receipts(folder, plan).items()


def test_a_process_with_a_running_thread_is_ended():
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS_WITH_THREAD],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        # ^ a second one changes nothing
        _, stderr = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == EXIT_INTERRUPTED
    assert stderr.count(b"run the same command again") == 2
    assert b"Traceback" not in stderr
