"""What a run is planned to take and cost, and what it took: over a web server that counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from catalogs import demo as country
from catalogs.errors import InvalidInputError
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.observe.run_context import RunContext
from flows.orchestration import launch
from flows.run import stages, stored_plan
from pipeline import resource_estimate
from pipeline.runtime import io_statistics
from pipeline.runtime.cancellation import CancellableThreadPool
from pipeline.storage import plan_file, receipt
from tests.faults.range_server import serving
from tests.support import large_plan

PRICES = {"currency": "EUR", "cpu_hour": 1.0, "gb_read": 100.0, "thousand_requests": 5.0}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Serve a small country; its catalog lies beside, as its items name files relative to it."""
    folder = tmp_path_factory.mktemp("land") / "country"
    land = country.build(folder, seed=11, size=512)
    with serving(folder) as server:
        yield land, server


@pytest.fixture
def job(web, tmp_path):
    """Write a job of composites over a part of the served country."""
    land, server = web
    points = land.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    where = land.catalog.relative_to(server.folder).as_posix()
    values = {
        "name": "part",
        "region": {
            "bbox": [
                west + 0.3 * (east - west),
                south + 0.3 * (north - south),
                west + 0.7 * (east - west),
                south + 0.7 * (north - south),
            ]
        },
        "period": "2021-06",
        "catalog": {"url": f"{server.address}/{where}", "provider": "demo"},
        "inputs": ["S2L2A", "S1RTC", "DEM"],
        "grid": {"crs": f"EPSG:{land.epsg}"},
        "model": {"name": "none"},
        "radiometry": {"proof": "off"},
        "output": {"path": "out", "composites": True, "formats": ["zarr"]},
        "execution": {"tile": 160, "workers": 2},
        "prices": PRICES,
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def little(job):
    """Leave of the job what takes a second: two bands, and four tiles."""
    values = yaml.safe_load(job.read_text())
    values |= {"inputs": ["S2L2A"], "bands": {"S2L2A": ["B04", "B08"]}}
    values["execution"]["tile"] = 256
    job.write_text(yaml.safe_dump(values))
    return job


def _run(job, **options):
    options = {"allow_partial": False, "max_cost": None, "progress": NullProgress()} | options
    return launch.run_file(job, **options).to_dict()


def _plan(job, period):
    return stored_plan.make_plan(_month(job, period), NullProgress()).to_dict()


def _month(job, period):
    return jobs.load(job).with_period(jobs.periods.parse(period))


def test_after_one_run_the_next_is_planned_as_it_comes(web, job):
    _, server = web
    first = _plan(job, "2021-06")
    assert first["basis"] == "table"
    assert first["uncertainty"] == resource_estimate.TABLE_UNCERTAINTY
    told = _run(job)
    assert told["planned"]["basis"] == "table"
    for period in ("2021-07", "2021-09"):
        planned = _plan(job, period)
        assert planned["basis"] == "receipts"
        stored_plan.load_or_create_plan(_month(job, period), NullProgress())
        server.forget()
        # ^ what the search and the plan have asked for is not of the tiles
        told = _run(Path(planned["plan"]))
        assert told["planned"]["bytes"] == planned["bytes"]
        for name in ("bytes", "requests"):
            assert told["planned"][name] == pytest.approx(told["actual"][name], rel=0.2), name
        assert told["actual"]["requests"] == server.requests
        assert told["actual"]["bytes"] == server.sent
        assert told["planned"]["seconds"] > 0
        assert told["actual"]["seconds"] > 0
    again = _run(job)
    assert (again["planned"], again["actual"]) == (None, None)


def test_each_tile_has_its_own_count(web, little):
    _, server = web
    planned = _plan(little, "2021-06")
    server.forget()
    _run(Path(planned["plan"]))
    proofs = list(receipt.read_all(Path(planned["plan"]).parent))
    assert len(proofs) == planned["tiles"]["total"]
    assert all(one.traffic["requests"] > 0 for one in proofs)
    assert sum(one.traffic["requests"] for one in proofs) == server.requests
    # ^ two at a time


def test_repeated_requests_are_counted(web, little):
    _, server = web
    planned = _plan(little, "2021-06")
    server.script = lambda path, start, count: "503" if start == 0 and count == 0 else None
    server.asked.clear()
    try:
        _run(Path(planned["plan"]))
    finally:
        server.script = None
    proofs = list(receipt.read_all(Path(planned["plan"]).parent))
    assert sum(one.traffic["retries"] for one in proofs) > 0


def test_cost_follows_from_the_prices(little):
    told = _plan(little, "2021-06")
    cost = told["cost"]
    assert cost["currency"] == "EUR"
    assert cost["parts"]["read"] == pytest.approx(told["bytes"] / 1e9 * 100, rel=1e-3)
    assert cost["parts"]["requests"] == pytest.approx(told["requests"] / 1000 * 5)
    assert cost["parts"]["cpu"] == pytest.approx(told["cpu_hours"], abs=1e-3)
    assert cost["parts"]["storage"] == 0
    assert cost["amount"] == pytest.approx(sum(cost["parts"].values()), abs=1e-3)
    assert cost["low"] < cost["amount"] < cost["high"]


def test_what_is_too_dear_is_refused_and_nothing_is_written(little):
    with pytest.raises(
        InvalidInputError, match=r"would cost .* EUR .*, and --max-cost leaves 0.01 for"
    ):
        _run(little, max_cost=0.01)
    assert not (little.parent / "out").exists()
    told = _run(little, max_cost=1000.0)
    assert told["status"] == "complete"
    assert told["actual"]["cost"] > 0
    values = yaml.safe_load(little.read_text())
    del values["prices"]
    little.write_text(yaml.safe_dump(values | {"period": "2021-07"}))
    with pytest.raises(InvalidInputError, match=r"--max-cost: the job states no prices"):
        _run(little, max_cost=1.0)


def test_a_limit_without_prices_is_refused_before_anything_is_searched(web, little):
    _, server = web
    values = yaml.safe_load(little.read_text())
    del values["prices"]
    little.write_text(yaml.safe_dump(values))
    server.forget()
    with pytest.raises(InvalidInputError, match="states no prices"):
        _run(little, max_cost=1.0)
    assert server.requests == 0


def test_what_a_failed_tile_has_read_counts(web, little):
    _, server = web
    planned = _plan(little, "2021-06")
    server.forget()
    server.script = lambda path, start, _count: "404" if "B08" in path else None
    try:
        stored = stored_plan.write_plan(plan_file.read_plan_file(planned["plan"]))
        told = stages.map_tiles(stored, RunContext())
    finally:
        server.script = None
    assert len(told.counts.failed) == planned["tiles"]["total"]
    assert told.traffic["requests"] == pytest.approx(server.requests, abs=2)
    # ^ a request that is cut off because its tile has failed may not reach the server
    assert server.requests > len(told.counts.failed)
    assert told.traffic["bytes"] > 0


def test_seconds_of_another_model_say_nothing(web, little):
    _run(little)
    planned = _plan(little, "2021-07")
    home = Path(planned["plan"]).parents[2]
    known = plan_file.read_plan_file(planned["plan"]).model
    assert known is None
    assert resource_estimate.calibrate_factors(home, None).seconds != 1.0
    other = resource_estimate.calibrate_factors(home, large_plan.MODEL)
    assert other.seconds == 1.0
    assert other.runs == 1
    assert other.uncertainty == resource_estimate.SINGLE_RUN_UNCERTAINTY
    assert other.requests == resource_estimate.calibrate_factors(home, None).requests
    assert other.requests.keys() == {"", "S2L2A"}


def test_each_modality_is_known_by_itself(web, job):
    """Radar of floats is packed otherwise than reflectance, and periods differ in their mix."""
    _run(job)
    planned = _plan(job, "2021-06")
    plan = plan_file.read_plan_file(planned["plan"])
    proofs = list(receipt.read_all(Path(planned["plan"]).parent))
    rates = resource_estimate.calibrate_factors(Path(planned["plan"]).parents[2], None)
    kinds = {"S2L2A", "S1RTC", "DEM"}
    for name, factors in (("bytes", rates.bytes), ("requests", rates.requests)):
        took = {kind: sum(one.traffic[f"{name}_{kind}"] for one in proofs) for kind in kinds}
        assert sum(took.values()) == sum(one.traffic[name] for one in proofs)
        assert set(factors) == {"", *kinds}
        table = getattr(resource_estimate.estimate_resources(plan, workers=1), name)
        known = getattr(resource_estimate.estimate_resources(plan, workers=1, factors=rates), name)
        assert known == pytest.approx(sum(took.values()), rel=1e-6)
        assert known != table
    assert rates.bytes["S1RTC"] != pytest.approx(rates.bytes["S2L2A"], rel=0.1)


def test_strips_beside_a_scene_ask_it_for_nothing(tmp_path):
    """A tile higher than its scenes is read strip by strip, each of the scenes that it meets."""
    wide = dataclasses.replace(large_plan.plan(tmp_path, 64, days=1), tile_size=2048)
    one = max(wide.tiles, key=lambda tile: tile.height * tile.width)
    area = wide.context_grid(one)
    met = next(scene for scene in wide.tile_scenes(one) if scene.modality == "S2L2A")

    def asked(rows):
        """Plan with a scene that ends so many rows below the tile's first."""
        left, top = area.left, area.bounds[3] - 10 * (rows - 1024)
        assets = {
            "B02": dataclasses.replace(
                met.assets["B02"], transform=(10, 0, left, 0, -10, top), shape=(1024, 2048)
            )
        }
        scene = dataclasses.replace(met, assets=assets)
        snapshot = dataclasses.replace(wide.snapshot, scenes=(scene,))
        recipe = dataclasses.replace(wide.recipe, inputs=("S2L2A",))
        plan = dataclasses.replace(wide, snapshot=snapshot, recipe=recipe)
        return resource_estimate.estimate_resources(plan, workers=1, tiles=[one]).requests

    assert min(area.shape) > 2000
    assert asked(-10) == 0
    assert asked(100) == 2 + 1
    # ^ a header and a row of blocks, and a header for the strip that begins where the scene ends


def test_prices_of_nothing_are_refused(little):
    values = yaml.safe_load(little.read_text())
    for prices, words in (
        ({"currency": "EUR"}, "name at least one price"),
        ({"cpu_hour": -1}, "prices.cpu_hour is -1"),
        ({"cpu_hour": 1, "currency": "euro"}, "prices.currency is 'euro'"),
    ):
        little.write_text(yaml.safe_dump(values | {"prices": prices}))
        with pytest.raises(InvalidInputError, match=words):
            jobs.load(little)


def test_a_receipt_without_traffic_is_read(web, little):
    planned = _plan(little, "2021-06")
    _run(Path(planned["plan"]))
    for path in Path(planned["plan"]).parent.glob("receipts/*.json"):
        values = json.loads(path.read_text())
        del values["traffic"]
        path.write_text(json.dumps(values))
    told = _plan(little, "2021-07")
    assert told["basis"] == "receipts"
    # ^ seconds are known; bytes are those of the table
    assert _run(little)["status"] == "unchanged"


def test_threads_count_for_whoever_hands_them_work():
    with CancellableThreadPool(2, "read") as pool:
        with io_statistics.collect() as one:
            first = pool.submit(lambda: io_statistics.current().add(requests=1, num_bytes=10))
        with io_statistics.collect() as two:
            second = pool.submit(lambda: io_statistics.current().add(requests=2, num_bytes=20))
        first.result()
        second.result()
    assert (one.requests, one.bytes) == (1, 10)
    assert (two.requests, two.bytes) == (2, 20)
    io_statistics.current().add(requests=1)
    # ^ of nobody
