"""The engine processes every tile once, in threads and on clusters, also when workers die."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import random
import re
import signal
import sys
import threading
import time
import types
from typing import ClassVar

import dask
import distributed
import pytest
from distributed.comm.core import CommClosedError
from hypothesis import given
from hypothesis import strategies as st

from catalogs.errors import InvalidInputError, TerramosaicError
from flows.execution import dask_executor as clusters
from flows.execution import dask_worker, executors, tile_scheduler, tile_worker
from pipeline import tile, tile_layers
from pipeline.storage import plan_file, receipt, zarr_store
from tests.support import simulated_tiles, small_plan
from tests.support.fake_predictors import Brightness

QUIET = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


@contextlib.contextmanager
def _start_cluster(count, deaths):
    """Start a cluster whose scheduler gives up a task after more than ``deaths`` worker deaths."""
    with dask.config.set({"distributed.scheduler.allowed-failures": deaths}):
        cluster = distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            scheduler_kwargs=QUIET,
            memory_limit=0,
        )
        try:
            yield cluster
        finally:
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=30)
                # ^ a worker that is being started again when its cluster closes may never end;
                # it ends with this process


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of two workers."""
    with _start_cluster(2, deaths=1) as cluster:
        yield cluster


@pytest.fixture
def path(tmp_path):
    (tmp_path / simulated_tiles.RECORDS).mkdir()
    return tmp_path / "plan.json"


def _read_records(path):
    return {
        file.name: file.read_text().split()
        for file in (path.parent / simulated_tiles.RECORDS).iterdir()
    }


def _run(path, count, **options):
    """Run simulated tiles; return tile id -> result."""
    outcomes_by_tile = collections.defaultdict(list)
    options = {
        "engine": "threads",
        "workers": 2,
        "tile_function": simulated_tiles.record_process,
    } | options
    for result in tile_scheduler.process_tiles(
        path, simulated_tiles.create_tiles(count), **options
    ):
        outcomes_by_tile[result.tile].append(result)
    assert {len(results) for results in outcomes_by_tile.values()} <= {1}
    return {tile_id: results[0] for tile_id, results in outcomes_by_tile.items()}


@pytest.mark.parametrize("count", [0, 1, 2, 3000])
@pytest.mark.parametrize("workers", [1, 4, "auto", {"min": 1, "max": 3}])
def test_threads_process_every_tile_once(path, count, workers):
    results = _run(path, count, workers=workers)
    assert len(results) == count == len(_read_records(path))
    assert not [result for result in results.values() if result.reason]


def test_slow_tiles_are_tasks_of_one_tile(path):
    """A task with many slow tiles would keep other workers idle at the end."""
    sizes = []

    class Counted(executors.ThreadExecutor):
        def submit(self, function, tile_function, plan_path, tile_ids, *arguments):
            sizes.append(len(tile_ids))
            return super().submit(function, tile_function, plan_path, tile_ids, *arguments)

    def process_tile(plan_path, tile_id, tiles_per_process, processes):
        time.sleep(0.3 if int(tile_id[-6:]) < 6 else 0.0)
        return simulated_tiles.return_at_once(plan_path, tile_id, tiles_per_process, processes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "ThreadExecutor", Counted)
        assert len(_run(path, 4000, tile_function=process_tile)) == 4000
    assert set(sizes[:6]) == {1}
    assert max(sizes) == tile_scheduler.MAX_TILES_PER_TASK
    assert sizes[-1] < tile_scheduler.MAX_TILES_PER_TASK / 4
    assert len(sizes) < 400


def test_tiles_that_a_task_did_not_begin_are_submitted_again(path, monkeypatch):
    monkeypatch.setattr(tile_scheduler, "TASK_SECONDS", 0.02)
    order = []

    def process_tile(plan_path, tile_id, tiles_per_process, processes):
        order.append(tile_id)
        time.sleep(0.03 if int(tile_id[-6:]) % 50 == 49 else 0.0)
        return simulated_tiles.return_at_once(plan_path, tile_id, tiles_per_process, processes)

    assert len(_run(path, 600, tile_function=process_tile)) == 600
    assert len(order) == 600


def test_tiles_of_killed_workers_are_processed(path, cluster):
    rng = random.Random(5)
    finished = threading.Event()
    killed = []

    def kill():
        while not finished.wait(0.7):
            nanny = rng.choice(list(cluster.workers.values()))
            if nanny.process is not None and nanny.process.pid and len(killed) < 3:
                killed.append(nanny.process.pid)
                os.kill(nanny.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    port = cluster.scheduler.http_server.port
    try:
        with simulated_tiles.poll_health(port) as health:
            results = _run(
                path,
                160,
                engine=cluster.scheduler_address,
                tile_function=simulated_tiles.record_slowly,
            )
    finally:
        finished.set()
        killer.join()
        cluster.sync(cluster._correct_state)
        # ^ the next test wants its workers
    assert killed
    assert not [result.reason for result in results.values() if result.reason]
    assert (
        set(results)
        == set(_read_records(path))
        == {tile.id for tile in simulated_tiles.create_tiles(160)}
    )
    assert all(len(times) <= 1 for times in _read_records(path).values())
    assert health.seconds
    assert not health.failures
    # ^ it always answers; tests.benchmarks.scheduling measures how fast


def test_a_tile_that_kills_its_workers_fails_alone(path, cluster, monkeypatch):
    results = _run(
        path,
        12,
        engine=cluster.scheduler_address,
        tile_function=simulated_tiles.kill_worker,
        workers="auto",
    )
    failed = {tile_id for tile_id, result in results.items() if result.reason}
    assert failed == {"r000c000007"}
    assert "died repeatedly" in results["r000c000007"].reason
    assert set(_read_records(path)) == set(results) - failed


def test_tiles_queued_behind_a_deadly_one_are_processed(path):
    """With one worker, tiles queued behind the deadly one lose their worker as often."""
    with _start_cluster(1, deaths=0) as cluster:
        results = _run(
            path,
            14,
            engine=cluster.scheduler_address,
            tile_function=simulated_tiles.kill_worker,
            workers="auto",
        )
    assert {tile_id for tile_id, result in results.items() if result.reason} == {"r000c000007"}
    assert len(_read_records(path)) == 13


def test_tiles_of_a_plan_for_gpus_run_on_workers_with_a_gpu(path, cluster):
    client = distributed.Client(cluster, set_as_default=False)
    with client:
        client.wait_for_workers(2, timeout=60)
        pids = client.run(os.getpid)
        gpu_worker = min(pids)
        client.run(_equip, workers=[gpu_worker])
        results = _run(path, 50, engine=cluster.scheduler_address, device="cuda")
        assert len(results) == 50
        assert {int(pid) for (pid,) in _read_records(path).values()} == {pids[gpu_worker]}
        executor = clusters.DaskExecutor(client, "auto", is_local=False, wants_gpu=True)
        assert executor.capacity() == executor.tiles_per_process == executor.processes == 1
        executor = clusters.DaskExecutor(client, "auto", is_local=False, wants_gpu=False)
        assert (executor.capacity(), executor.processes) == (2, 2)
        assert clusters.DaskExecutor(client, 1, is_local=False, wants_gpu=False).capacity() == 1
        assert (
            clusters.DaskExecutor(
                client, {"min": 1, "max": 9}, is_local=False, wants_gpu=False
            ).capacity()
            == 9
        )


async def _equip(dask_worker):
    await dask_worker.set_resources(GPU=1)


def test_a_local_cluster_divides_the_cores_and_replaces_workers(path, caplog, monkeypatch):
    caplog.set_level("INFO", "flows.execution.dask_executor")
    monkeypatch.setattr(clusters, "POLL_INTERVAL", 0.5)
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        clusters.open_dask_executor("distributed", 2) as executor,
    ):
        (port,) = [int(match[1]) for match in re.finditer(r":(\d+)/health", caplog.text)]
        with simulated_tiles.poll_health(port) as health:
            futures = [executor.submit(_get_affinity, number) for number in range(40)]
            before = dict(future.result() for future in futures)
            time.sleep(0.2)
        assert health.seconds
        assert not health.failures
        assert executor.submit(_count_log_filters).result() == 1
        assert executor.capacity() == executor.processes == 2
        cluster = executor._client.cluster
        cluster.sync(cluster.workers[0].close)
        # ^ as a nanny ends whose worker could not be restarted
        for count in (1, 2):
            _wait_for_processes(executor, count)
        futures = [executor.submit(_get_affinity, number) for number in range(40)]
        after = dict(future.result() for future in futures)
        assert len(set(after) - set(before)) == 1
    cores = sorted(os.sched_getaffinity(0))
    halves = [set(dask_worker.split_cores(cores, number, 2)) for number in (0, 1)]
    for affinities in (before, after):
        assert sorted(affinities.values(), key=min) == sorted(halves, key=min)


def _count_log_filters():
    return len(logging.getLogger("distributed.worker").filters)


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [
        (CommClosedError("Stream is closed"), False),
        (OSError("Timed out trying to connect"), False),
        (ValueError("of the task"), True),
        (None, True),
    ],
)
def test_a_worker_logs_no_traceback_of_a_closed_connection(caplog, error, is_logged):
    logger = logging.getLogger("distributed.worker")
    filters = list(logger.filters)
    try:
        dask_worker.LostConnectionPlugin().setup(None)
        logger.error("failed", exc_info=error)
    finally:
        logger.filters[:] = filters
    assert ("failed" in caplog.text) is is_logged


def _wait_for_processes(executor, processes):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        executor.capacity()
        if executor.processes == processes == len(executor._client.scheduler_info()["workers"]):
            return
        time.sleep(0.1)
    raise AssertionError(f"there never were {processes} workers")


def _get_affinity(number):
    time.sleep(0.05)
    return os.getpid(), os.sched_getaffinity(0)


def test_a_local_cluster_grows_with_the_work(path):
    with dask.config.set({"distributed.adaptive.target-duration": "100ms"}):
        # ^ the default is seconds: work that is done sooner starts no second worker
        options = {"workers": {"min": 1, "max": 2}, "tile_function": simulated_tiles.record_slowly}
        results = _run(path, 150, engine="distributed", **options)
    assert len(results) == 150
    assert len({pid for (pid,) in _read_records(path).values()}) == 2


@given(count=st.integers(1, 200), workers=st.integers(1, 70))
def test_cores_are_split_without_loss(count, workers):
    cores = list(range(100, 100 + count))
    parts = [list(dask_worker.split_cores(cores, number, workers)) for number in range(workers)]
    assert min(map(len, parts)) >= 1
    if workers <= count:
        assert [core for part in parts for core in part] == cores
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert {core for part in parts for core in part} == set(cores)


class Gpus(distributed.LocalCluster):
    """Stand-in for dask-cuda's cluster on a machine with two GPUs."""

    options: ClassVar[list[dict]] = []

    def __init__(self, n_workers=None, **options):
        type(self).options.append({"n_workers": n_workers, **options})
        if n_workers and n_workers > 2:
            raise ValueError("Can not scale beyond visible devices")
        super().__init__(n_workers=n_workers or 2, **options)


def test_each_gpu_has_a_worker_of_its_own(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=Gpus))
    Gpus.options.clear()
    with clusters.open_dask_executor("distributed", "auto", device="cuda") as executor:
        assert (executor.processes, executor.tiles_per_process, executor.capacity()) == (2, 2, 4)
        futures = [executor.submit(_count_running) for _ in range(12)]
        counts = [future.result() for future in futures]
    assert max(counts) <= clusters.TILES_PER_GPU
    (options,) = Gpus.options
    assert options["n_workers"] is None
    assert (options["threads_per_worker"], options["resources"]) == (2, {"GPU": 1})
    with (
        pytest.raises(InvalidInputError, match=r"3 workers with one GPU each.*beyond visible"),
        clusters.open_dask_executor("distributed", 3, device="cuda"),
    ):
        pass


_running = []


def _count_running():
    _running.append(1)
    time.sleep(0.1)
    count = len(_running)
    _running.pop()
    return count


@pytest.mark.parametrize("gpu", ["cuda", "cuda:1"])
def test_without_dask_cuda_one_worker_has_the_gpu(monkeypatch, gpu):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(InvalidInputError, match="dask-cuda"),
        clusters.open_dask_executor("distributed", 2, device=gpu),
    ):
        pass
    options = clusters._choose_cluster("auto", gpu).keywords
    assert options == {"n_workers": 1, "threads_per_worker": 2, "resources": {"GPU": 1}}


def test_an_unreachable_scheduler_is_named(path, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", "1s")
    with pytest.raises(TerramosaicError, match=r"No scheduler answers at tcp://127.0.0.1:9"):
        _run(path, 3, engine="tcp://127.0.0.1:9")


def test_a_scheduler_that_ends_is_an_error(path):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", scheduler_kwargs=QUIET
    ) as cluster:
        run = tile_scheduler.process_tiles(
            path,
            simulated_tiles.create_tiles(400),
            engine=cluster.scheduler_address,
            workers=1,
            tile_function=simulated_tiles.record_slowly,
        )
        next(run)
        cluster.close()
        with pytest.raises(TerramosaicError, match="run the same command"):
            list(run)


@pytest.fixture
def stored_plan(tmp_path):
    """Write a plan of a few tiles, and create its store."""
    plan = small_plan.make_plan(tmp_path)
    plan_file.write_plan_file(tmp_path / "plan.json", plan)
    zarr_store.create(tmp_path, plan, tile_layers.list_layer_bands(plan))
    return plan, tmp_path / "plan.json"


def test_threads_that_start_together_load_the_model_once(stored_plan, monkeypatch):
    plan, path = stored_plan
    loaded = []

    def load(_plan):
        loaded.append(1)
        time.sleep(0.1)
        return Brightness()

    monkeypatch.setattr(tile_worker, "_load_predictor", load)
    tile_worker._cached_predictor.cache_clear()
    results = list(tile_scheduler.process_tiles(path, plan.tiles, engine="threads", workers=4))
    tile_worker._cached_predictor.cache_clear()
    assert not [result.reason for result in results if result.reason]
    assert loaded == [1]
    assert set(receipt.read_finished(path.parent, plan)) == {tile.id for tile in plan.tiles}


def test_a_tile_with_a_receipt_is_not_processed_again(stored_plan, monkeypatch):
    plan, path = stored_plan
    first, second, *_ = plan.tiles
    tile_receipt = tile.build_tile(plan, first, Brightness(), path.parent, threads=1)
    built = []
    monkeypatch.setattr(tile_worker, "_cached_predictor", lambda *_: None)
    monkeypatch.setattr(
        tile,
        "build_tile",
        lambda _, plan_tile, *arguments, **options: built.append(plan_tile) or tile_receipt,
    )
    for plan_tile in (first, second):
        result = tile_worker.process_tile(str(path), plan_tile.id, 1, 1)
        assert (result.tile, result.reason) == (plan_tile.id, None)
        assert result.seconds == dict(tile_receipt.seconds)
        assert (result.km2 > 0) == (plan_tile is second)
        # ^ the area of an existing tile is not counted again
    assert built == [second]
