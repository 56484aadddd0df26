"""What a run is planned to take and cost, and what it took: over a web server that counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from catalogs import demo as country
from catalogs.errors import Wrong
from flows import job as jobs
from flows import product
from flows.progress import Silence
from pipeline import estimate, receipt, traffic
from pipeline.threads import Carrying
from tests.faults.server import serving

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


def _run(job, **options):
    options = {"allow_partial": False, "max_cost": None, "progress": Silence()} | options
    return product.run(job, **options)


def _plan(job, period):
    return product.plan(jobs.load(job).over(jobs.periods.parse(period)), Silence(), None)


def test_after_one_run_the_next_is_planned_as_it_comes(web, job):
    _, server = web
    first = _plan(job, "2021-06")
    assert first["basis"] == "table"
    assert first["uncertainty"] == estimate.GUESS
    told = _run(job)
    assert told["planned"]["basis"] == "table"
    for period in ("2021-07", "2021-09"):
        planned = _plan(job, period)
        assert planned["basis"] == "receipts"
        product.frozen(job, period)
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


def test_each_tile_has_its_own_count(web, job):
    _, server = web
    planned = _plan(job, "2021-06")
    server.forget()
    _run(Path(planned["plan"]))
    proofs = list(receipt.all_in(Path(planned["plan"]).parent))
    assert len(proofs) == planned["tiles"]["total"]
    assert all(one.traffic["requests"] > 0 for one in proofs)
    assert sum(one.traffic["requests"] for one in proofs) == server.requests
    # ^ two at a time


def test_repeated_requests_are_counted(web, job):
    _, server = web
    planned = _plan(job, "2021-06")
    server.script = lambda path, start, count: "503" if start == 0 and count == 0 else None
    server.asked.clear()
    try:
        _run(Path(planned["plan"]))
    finally:
        server.script = None
    proofs = list(receipt.all_in(Path(planned["plan"]).parent))
    assert sum(one.traffic["retries"] for one in proofs) > 0


def test_cost_follows_from_the_prices(job):
    told = _plan(job, "2021-06")
    cost = told["cost"]
    assert cost["currency"] == "EUR"
    assert cost["parts"]["read"] == pytest.approx(told["bytes"] / 1e9 * 100, rel=1e-3)
    assert cost["parts"]["requests"] == pytest.approx(told["requests"] / 1000 * 5)
    assert cost["parts"]["cpu"] == pytest.approx(told["cpu_hours"], abs=1e-3)
    assert cost["parts"]["storage"] == 0
    assert cost["amount"] == pytest.approx(sum(cost["parts"].values()), abs=1e-3)
    assert cost["low"] < cost["amount"] < cost["high"]


def test_what_is_too_dear_is_refused_and_nothing_is_written(job):
    with pytest.raises(Wrong, match=r"would cost .* EUR .*, and --max-cost is 0.01: nothing was"):
        _run(job, max_cost=0.01)
    assert not (job.parent / "out").exists()
    told = _run(job, max_cost=1000.0)
    assert told["status"] == "complete"
    assert told["actual"]["cost"] > 0
    values = yaml.safe_load(job.read_text())
    del values["prices"]
    job.write_text(yaml.safe_dump(values | {"period": "2021-07"}))
    with pytest.raises(Wrong, match=r"--max-cost: the job states no prices"):
        _run(job, max_cost=1.0)


def test_prices_of_nothing_are_refused(job):
    values = yaml.safe_load(job.read_text())
    for prices, words in (
        ({"currency": "EUR"}, "name at least one price"),
        ({"cpu_hour": -1}, "prices.cpu_hour is -1"),
        ({"cpu_hour": 1, "currency": "euro"}, "prices.currency is 'euro'"),
    ):
        job.write_text(yaml.safe_dump(values | {"prices": prices}))
        with pytest.raises(Wrong, match=words):
            jobs.load(job)


def test_a_receipt_without_traffic_is_read(web, job):
    planned = _plan(job, "2021-06")
    _run(Path(planned["plan"]))
    for path in Path(planned["plan"]).parent.glob("receipts/*.json"):
        values = json.loads(path.read_text())
        del values["traffic"]
        path.write_text(json.dumps(values))
    told = _plan(job, "2021-07")
    assert told["basis"] == "receipts"
    # ^ seconds are known; bytes are those of the table
    assert _run(job)["status"] == "unchanged"


def test_threads_count_for_whoever_hands_them_work():
    with Carrying(2) as pool:
        with traffic.counted() as one:
            first = pool.submit(lambda: traffic.current().add(requests=1, received=10))
        with traffic.counted() as two:
            second = pool.submit(lambda: traffic.current().add(requests=2, received=20))
        first.result()
        second.result()
    assert (one.requests, one.bytes) == (1, 10)
    assert (two.requests, two.bytes) == (2, 20)
    traffic.current().add(requests=1)
    # ^ of nobody
