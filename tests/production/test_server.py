"""Production on one machine: a server on PostgreSQL, a worker, dask, and whatever of it dies.

Every process is one of its own, on loopback, and nothing is left of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import yaml

from catalogs import demo as country
from flows.demo import demo
from flows.observe.progress import NullProgress
from flows.run import verify
from pipeline.plan.settings import ExecutionSettings, QualityLimits
from pipeline.storage import plan_file
from tests.servers import database, process, production_services
from tests.servers.prefect_client import TERMINAL, wait_until
from tests.support import large_plan

pytestmark = [
    pytest.mark.skipif(
        production_services.missing() is not None, reason=str(production_services.missing())
    ),
    pytest.mark.slow,
]

ROOT = Path(__file__).parents[2]
MONTHS = ["2021-04", "2021-06", "2021-07", "2021-08", "2021-09"]
"""Months with scenes; that of May is of clouds."""


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    return country.build(tmp_path_factory.mktemp("land") / "country", seed=11, size=512)


@pytest.fixture(scope="module")
def world():
    with production_services.serve() as running:
        yield running


@pytest.fixture(scope="module")
def written(world, land, tmp_path_factory):
    """Return what writes a job over a part of the country, on the cluster of the world."""
    folder = tmp_path_factory.mktemp("jobs")
    points = land.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    part = [
        west + 0.4 * (east - west),
        south + 0.4 * (north - south),
        west + 0.6 * (east - west),
        south + 0.6 * (north - south),
    ]

    def write(name, **sections):
        values = {
            "name": name,
            "region": {"bbox": part},
            "catalog": {"path": str(land.catalog), "provider": "demo"},
            "inputs": ["S2L2A"],
            "grid": {"crs": f"EPSG:{land.epsg}"},
            "model": {"name": "none"},
            "radiometry": {"proof": "off"},
            "output": {"path": "out", "composites": True},
            "execution": {"tile": 80, "engine": world.scheduler, "slot": "gpu"},
            "schedule": {"from": "2021-04", "cadence": "P1Y", "cron": "* * * * *"},
        } | sections
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture(scope="module")
def deployed(world, written):
    """Deploy the demo region as a user does; its schedule would fire every minute."""
    path = written("demo-region")
    done = _command(world, "deploy", path, "--paused", "--json")
    return path, json.loads(done.stdout)


def _command(world, *words):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *map(str, words)],
        cwd=ROOT,
        env=os.environ | world.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def _receipts(path, *, name=None):
    """Return every receipt of a job's products and when it was written."""
    found = (path.parent / "out" / (name or path.stem)).glob("*/*/receipts/*.json")
    return {one: one.stat().st_mtime_ns for one in found}


def _backfill(world, path, **parameters):
    given = {"job": str(path), "cadence": "P1M", "first": "2021-04", "last": "2021-09"}
    return world.api.run("backfill/demo-region", **(given | parameters))["id"]


def _months(path):
    """Return the months that have an item."""
    found = (path.parent / "out" / path.stem).glob("*/item.json")
    return sorted(one.parent.name[:7] for one in found)


def _artifacts(world, run):
    """Return the latest artifact of each key."""
    found = sorted(world.api.artifacts(run), key=lambda one: one["created"])
    return {one["key"]: one for one in found if one["key"]}


def test_a_job_is_deployed_with_words_for_each_parameter(world, deployed):
    _, told = deployed
    names = {one["name"]: one for one in told["deployments"]}
    assert set(names) == {f"{flow}/demo-region" for flow in ("land_cover", "backfill", "refresh")}
    assert names["land_cover/demo-region"]["cron"] == "* * * * *"
    assert names["backfill/demo-region"]["cron"] is None
    for name in names:
        schema = world.api.deployment(name)["parameter_openapi_schema"]["properties"]
        assert all(one["description"] for one in schema.values()), name
    order = world.api.deployment("backfill/demo-region")["parameter_openapi_schema"]
    assert order["properties"]["order"]["enum"] == ["oldest", "newest"]
    assert world.api("GET", "/v2/concurrency_limits/terramosaic-gpu")["limit"] == 1
    watchers = world.api("POST", "/automations/filter", {})
    assert [one["trigger"]["posture"] for one in watchers] == ["Proactive"] * 2
    again = json.loads(_command(world, "deploy", deployed[0], "--paused", "--json").stdout)
    assert again == told
    assert len(world.api("POST", "/automations/filter", {})) == 2


def test_who_has_no_password_sees_nothing(world):
    for path in ("/flow_runs/filter", "/artifacts/filter"):
        assert requests.post(f"{world.api.url}{path}", json={}, timeout=10).status_code == 401


def test_no_process_listens_beyond_this_machine(world):
    listening = [
        (process.name(), one.laddr.ip)
        for process in world.list_processes()
        for one in process.net_connections("inet")
        if one.status == "LISTEN"
    ]
    assert len(listening) >= 5
    assert {address for _, address in listening} == {"127.0.0.1"}


def test_a_schedule_makes_what_is_due_and_then_nothing(world, deployed):
    path, _ = deployed
    _schedule(world, "land_cover/demo-region", "resume")
    made = wait_until(lambda: [one for one in _scheduled(world) if "complete" in one], seconds=240)
    _schedule(world, "land_cover/demo-region", "pause")
    assert made == [["complete"] + ["gap"] * (len(made[0]) - 1)]
    (item,) = (path.parent / "out" / path.stem).glob("*/item.json")
    assert item.parent.name == "2021-04-01_2022-03-31"
    before = _receipts(path)
    run = world.api.run("land_cover/demo-region")
    assert world.api.until(run["id"])["state_type"] == "COMPLETED"
    assert _receipts(path) == before
    assert not world.api.children(run["id"])


def _scheduled(world):
    """Return what became of the periods in each run of the schedule that has ended."""
    found = []
    for one in world.api.flow_runs():
        if one["auto_scheduled"] and one["state_type"] in TERMINAL:
            assert one["state_type"] == "COMPLETED", one["state"]
            rows = json.loads(_artifacts(world, one["id"])["demo-region-periods"]["data"])
            found.append([row["status"] for row in rows])
    # ^ one that fires while another is at it leaves its period alone
    return found


def _schedule(world, name, what):
    """Pause or resume a deployment's schedule, and wait for what it has begun."""
    identity = world.api.deployment(name)["id"]
    world.api("POST", f"/deployments/{identity}/{what}_deployment")
    if what == "pause":
        wait_until(
            lambda: [
                one
                for one in world.api.flow_runs(deployments={"id": {"any_": [identity]}})
                if one["state_type"] not in TERMINAL | {"SCHEDULED"}
            ],
            lambda found: not found,
        )


def test_a_backfill_makes_months_once_and_shows_them(world, land, written, deployed):
    path = written(
        "months",
        inputs=["S2L2A", "S1RTC", "DEM"],
        model={"name": "demo"},
        execution={"tile": 112, "engine": world.scheduler, "slot": "gpu"},
    )
    run = _backfill(world, path, first="2021-05", last="2021-08")
    ended = world.api.until(run, seconds=400)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert ended["name"] == "months 2021-05 to 2021-08"
    assert _months(path) == MONTHS[1:4]
    children = {one["name"]: one["id"] for one in world.api.children(run)}
    assert set(children) == {
        "months 2021-06-01 to 2021-06-30",
        "months 2021-07-01 to 2021-07-31",
        "months 2021-08-01 to 2021-08-31",
    }
    shown = _artifacts(world, run)
    assert [one["status"] for one in json.loads(shown["months-periods"]["data"])] == [
        "gap",
        "complete",
        "complete",
        "complete",
    ]
    of_june = _artifacts(world, children["months 2021-06-01 to 2021-06-30"])
    assert set(of_june) >= {"months-plan", "months-coverage", "months-tiles", "months-product"}
    assert of_june["months-tiles"]["data"] == 100.0
    assert "item.json" in of_june["months-product"]["data"]
    for name in children.values():
        assert len(world.api.task_runs(name)) == 5
    assert verify.verify(path.parent / "out" / "months", NullProgress()).ok
    (made,) = (path.parent / "out" / "months").glob("2021-06*/*/plan.json")
    assert (
        demo.compare_with_truth(land.truth, made.parent, plan_file.read_plan_file(made)).overall
        > 0.8
    )

    before = _receipts(path)
    again = _backfill(world, path, first="2021-05", last="2021-08")
    assert world.api.until(again, seconds=200)["state_type"] == "COMPLETED"
    assert not world.api.children(again)
    assert _receipts(path) == before

    wider = _backfill(world, path)
    assert world.api.until(wider, seconds=400)["state_type"] == "COMPLETED"
    assert {one["name"][7:14] for one in world.api.children(wider)} == {"2021-04", "2021-09"}
    assert _months(path) == MONTHS
    assert before.items() <= _receipts(path).items()


@pytest.mark.parametrize("victim", ["scheduler", "dask-1", "worker", "server", "flow"])
def test_whatever_dies_the_backfill_is_finished_or_can_go_on(world, written, deployed, victim):
    path = written(f"without-{victim}")
    run = _backfill(world, path, first="2021-06", last="2021-07")
    wait_until(lambda: len(_receipts(path)) > 11, seconds=300)
    # ^ within the second month of nine tiles
    if victim == "flow":
        wait_until(lambda: world.flow(run), seconds=10).kill()
    else:
        world.kill(victim)
    finished = _receipts(path)
    if victim != "flow":
        time.sleep(2)
        world.restart()
    wait_until(
        lambda: world.flow(run) is None or world.api.flow_run(run)["state_type"] in TERMINAL,
        seconds=400,
    )
    assert "2021-06" in _months(path)
    after = _backfill(world, path, first="2021-06", last="2021-07")
    assert world.api.until(after, seconds=400)["state_type"] == "COMPLETED"
    assert _months(path) == ["2021-06", "2021-07"]
    assert finished.items() <= _receipts(path).items()
    # ^ nothing that was finished was made again
    assert verify.verify(path.parent / "out" / path.stem, NullProgress()).ok


def test_a_run_without_a_sign_of_life_has_crashed(world, written, deployed):
    path = written("silent")
    run = _backfill(world, path, first="2021-06", last="2021-06")
    wait_until(lambda: _receipts(path), seconds=300)
    world.kill("worker")
    world.flow(run).kill()
    # ^ as when the machine of both is gone
    ended = world.api.until(run, seconds=200)
    world.start("worker")
    assert ended["state_type"] == "CRASHED"
    assert "No heartbeat" in ended["state"]["message"]


def test_a_cancelled_run_stops_its_work_and_can_go_on(world, written, deployed):
    path = written("cancelled")
    run = _backfill(world, path)
    wait_until(lambda: len(_receipts(path)) > 2, seconds=300)
    began = time.monotonic()
    world.api.set_state(run, "CANCELLING")
    wait_until(lambda: world.flow(run) is None, seconds=30)
    wait_until(lambda: _quiet(world), seconds=30 - (time.monotonic() - began))
    assert world.api.until(run, seconds=60)["state_type"] == "CANCELLED"
    finished = _receipts(path)
    time.sleep(3)
    assert _receipts(path) == finished
    after = _backfill(world, path, first="2021-04", last="2021-04")
    assert world.api.until(after, seconds=400)["state_type"] == "COMPLETED"
    assert finished.items() <= _receipts(path).items()


def test_a_run_whose_worker_was_replaced_can_be_cancelled(world, written, deployed):
    path = written("orphaned")
    run = _backfill(world, path)
    wait_until(lambda: len(_receipts(path)) > 2, seconds=300)
    world.kill("worker")
    world.start("worker")
    world.api.set_state(run, "CANCELLING")
    wait_until(lambda: world.flow(run) is None, seconds=30)
    assert world.api.until(run, seconds=60)["state_type"] == "CANCELLED"
    finished = _receipts(path)
    time.sleep(3)
    assert _receipts(path) == finished


def test_a_run_that_is_wrongly_called_crashed_says_that_it_is_well(world, written, deployed):
    """As after a server that was away for longer than a run may be silent."""
    path = written("well")
    run = _backfill(world, path, first="2021-06", last="2021-07")
    wait_until(lambda: len(_receipts(path)) > 2, seconds=300)
    world.api.set_state(run, "CRASHED")
    wait_until(lambda: world.api.flow_run(run)["state_type"] == "RUNNING", seconds=30)
    assert world.api.until(run, seconds=400)["state_type"] == "COMPLETED"
    assert _months(path) == ["2021-06", "2021-07"]


def test_what_cannot_be_deployed_is_said_and_nothing_is_registered(world, written, deployed):
    good = written("good")
    wrong = written("wrong", schedule={"from": "2021-04", "cron": "99 * * * *"})
    told = _refused(world.environment, "deploy", good, wrong)
    assert "99 * * * *" in told
    assert str(wrong) in told
    names = {one["name"] for one in world.api("POST", "/deployments/filter", {})}
    assert "good" not in names
    stranger = world.environment | {"PREFECT_API_AUTH_STRING": "operator:guessed"}
    assert "PREFECT_API_AUTH_STRING" in _refused(stranger, "deploy", good)


def _refused(environment, *words):
    """Return the message of a command that is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *map(str, words)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "unexpected" not in done.stderr
    return " ".join(done.stderr.split())


def _quiet(world):
    """Tell whether no task is on the dask workers."""
    import distributed

    with distributed.Client(world.scheduler, set_as_default=False) as client:
        return not any(client.processing().values())


def test_two_runs_on_one_slot_take_turns(world, written, deployed):
    one, two = written("turn-one"), written("turn-two")
    names = {_backfill(world, path, first="2021-06", last="2021-06"): path for path in (one,)}
    names |= {world.api.run("land_cover/demo-region", job=str(two), period="2021-06")["id"]: two}
    for run in names:
        assert world.api.until(run, seconds=400)["state_type"] == "COMPLETED"
    spans = sorted(
        (task["start_time"], task["end_time"]) for path in (one, two) for task in _held(path)
    )
    assert len(spans) == 2
    assert spans[0][1] <= spans[1][0]


def _held(path):
    """Return when the tiles of a job's only product were made, by their receipts."""
    times = sorted(_receipts(path).values())
    return [{"start_time": times[0], "end_time": times[-1]}]


MANY = """
import dataclasses
import sys
from pathlib import Path

from flows.execution import tile_scheduler
from flows.orchestration import land_cover_flow
from flows.run import cost, stored_plan
from flows.run.stored_plan import StoredPlan
from pipeline import reuse
from pipeline.product import published_item
from pipeline.quality.quality_metrics import QualityMetrics
from pipeline.storage import receipt, zarr_store
from tests.support import simulated_tiles

path = Path(sys.argv[1])
stored_plan.write_plan = lambda plan: StoredPlan(plan=plan, path=path)
cost.get_planned_usage = lambda *_: None
reuse.find_reusable_tiles = lambda *_: {}
receipt.read_finished = lambda *_: {}
zarr_store.create = lambda *_: None
published_item.main_dir_name = lambda _: "32633"
tile_scheduler.process_tiles.__kwdefaults__["tile_function"] = simulated_tiles.return_at_once
land_cover_flow.TASKS = dataclasses.replace(
    land_cover_flow.TASKS,
    verify_tiles=land_cover_flow.as_task(lambda *_: [], "verify"),
    measure_quality=land_cover_flow.as_task(lambda *_: QualityMetrics(), "quality"),
    publish=land_cover_flow.as_task(lambda *_: Path("item.json"), "publish"),
)
result = land_cover_flow.land_cover(job=str(path))
assert result["tiles"]["done"] > 40_000, result
"""


def test_forty_thousand_tiles_are_a_few_rows(world, tmp_path):
    """Of everything that this module does in Prefect's database, too."""
    folder = tmp_path / "expanse" / "2024-06-01_2024-06-30" / "plan"
    plan = large_plan.plan(tmp_path, 41_000, days=1)
    settings = replace(
        plan.settings,
        execution=ExecutionSettings(engine="threads", workers=2),
        quality_limits=QualityLimits(min_observed=0.0),
        # ^ simulated tiles observe nothing
    )
    plan_file.write_plan_file(folder / "plan.json", replace(plan, settings=settings))
    before = {one["id"] for one in world.api.flow_runs()}
    subprocess.run(
        [sys.executable, "-c", MANY, folder / "plan.json"],
        cwd=ROOT,
        env=os.environ | world.environment,
        timeout=300,
        check=True,
    )
    (run,) = [one["id"] for one in world.api.flow_runs() if one["id"] not in before]
    wait_until(lambda: len(world.api.task_runs(run)) == 5)
    assert len(world.api.logs(run)) < 50
    assert _artifacts(world, run)["expanse-tiles"]["data"] == 100.0
    assert _bytes_in(world) < 50e6


def _bytes_in(world):
    """Return the size of Prefect's database."""
    url = world.processes["server"].environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    port = re.search(r"@127\.0\.0\.1:(\d+)/", url)[1]
    asked = "select pg_database_size('postgres')"
    psql = [database.binaries() / "psql", "-h", "127.0.0.1", "-p", port, "-U", "postgres"]
    return int(process.run([*psql, "-tAc", asked]))
