"""Planned and actual requests, bytes, time and cost of a run, read from a counting web server."""

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
def served_country(tmp_path_factory):
    """Serve a small country with its catalog, whose items have relative hrefs."""
    folder = tmp_path_factory.mktemp("land") / "country"
    land = country.build(folder, seed=11, size=512)
    with serving(folder) as server:
        yield land, server


@pytest.fixture
def job(served_country, tmp_path):
    """Write a job of composites over a part of the served country."""
    land, server = served_country
    points = land.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    catalog_path = land.catalog.relative_to(server.folder).as_posix()
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
        "catalog": {"url": f"{server.address}/{catalog_path}", "provider": "demo"},
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
def small_job(job):
    """Reduce the job to two bands and four tiles, which take a second."""
    values = yaml.safe_load(job.read_text())
    values |= {"inputs": ["S2L2A"], "bands": {"S2L2A": ["B04", "B08"]}}
    values["execution"]["tile"] = 256
    job.write_text(yaml.safe_dump(values))
    return job


def _run(job, **options):
    options = {"allow_partial": False, "max_cost": None, "progress": NullProgress()} | options
    return launch.run_file(job, **options).to_dict()


def _plan(job, period):
    return stored_plan.make_plan(_load_job(job, period), NullProgress()).to_dict()


def _load_job(job, period):
    return jobs.load(job).with_period(jobs.periods.parse(period))


def test_estimates_are_calibrated_by_an_earlier_run(served_country, job):
    _, server = served_country
    table_estimate = _plan(job, "2021-06")
    assert table_estimate["basis"] == "table"
    assert table_estimate["uncertainty"] == resource_estimate.TABLE_UNCERTAINTY
    result = _run(job)
    assert result["planned"]["basis"] == "table"
    for period in ("2021-07", "2021-09"):
        planned = _plan(job, period)
        assert planned["basis"] == "receipts"
        stored_plan.load_or_create_plan(_load_job(job, period), NullProgress())
        server.reset_counts()
        # ^ requests of the search and the plan do not belong to the tiles
        result = _run(Path(planned["plan"]))
        assert result["planned"]["bytes"] == planned["bytes"]
        for name in ("bytes", "requests"):
            assert result["planned"][name] == pytest.approx(result["actual"][name], rel=0.2), name
        assert result["actual"]["requests"] == server.requests
        assert result["actual"]["bytes"] == server.sent
        assert result["planned"]["seconds"] > 0
        assert result["actual"]["seconds"] > 0
    unchanged = _run(job)
    assert (unchanged["planned"], unchanged["actual"]) == (None, None)


def test_requests_are_counted_for_each_tile(served_country, small_job):
    _, server = served_country
    planned = _plan(small_job, "2021-06")
    server.reset_counts()
    _run(Path(planned["plan"]))
    receipts = list(receipt.read_all(Path(planned["plan"]).parent))
    assert len(receipts) == planned["tiles"]["total"]
    assert all(tile_receipt.traffic["requests"] > 0 for tile_receipt in receipts)
    assert sum(tile_receipt.traffic["requests"] for tile_receipt in receipts) == server.requests
    # ^ also with two tiles at a time


def test_repeated_requests_are_counted(served_country, small_job):
    _, server = served_country
    planned = _plan(small_job, "2021-06")
    server.script = lambda path, start, count: "503" if start == 0 and count == 0 else None
    server.request_counts.clear()
    try:
        _run(Path(planned["plan"]))
    finally:
        server.script = None
    receipts = list(receipt.read_all(Path(planned["plan"]).parent))
    assert sum(tile_receipt.traffic["retries"] for tile_receipt in receipts) > 0


def test_cost_is_computed_from_the_prices(small_job):
    result = _plan(small_job, "2021-06")
    cost = result["cost"]
    assert cost["currency"] == "EUR"
    assert cost["parts"]["read"] == pytest.approx(result["bytes"] / 1e9 * 100, rel=1e-3)
    assert cost["parts"]["requests"] == pytest.approx(result["requests"] / 1000 * 5)
    assert cost["parts"]["cpu"] == pytest.approx(result["cpu_hours"], abs=1e-3)
    assert cost["parts"]["storage"] == 0
    assert cost["amount"] == pytest.approx(sum(cost["parts"].values()), abs=1e-3)
    assert cost["low"] < cost["amount"] < cost["high"]


def test_a_run_above_the_limit_of_cost_is_refused(small_job):
    with pytest.raises(
        InvalidInputError, match=r"would cost .* EUR .*, and --max-cost leaves 0.01 for"
    ):
        _run(small_job, max_cost=0.01)
    assert not (small_job.parent / "out").exists()
    result = _run(small_job, max_cost=1000.0)
    assert result["status"] == "complete"
    assert result["actual"]["cost"] > 0
    values = yaml.safe_load(small_job.read_text())
    del values["prices"]
    small_job.write_text(yaml.safe_dump(values | {"period": "2021-07"}))
    with pytest.raises(InvalidInputError, match=r"--max-cost: the job states no prices"):
        _run(small_job, max_cost=1.0)


def test_a_limit_without_prices_is_refused_before_the_search(served_country, small_job):
    _, server = served_country
    values = yaml.safe_load(small_job.read_text())
    del values["prices"]
    small_job.write_text(yaml.safe_dump(values))
    server.reset_counts()
    with pytest.raises(InvalidInputError, match="states no prices"):
        _run(small_job, max_cost=1.0)
    assert server.requests == 0


def test_requests_of_a_failed_tile_are_counted(served_country, small_job):
    _, server = served_country
    planned = _plan(small_job, "2021-06")
    server.reset_counts()
    server.script = lambda path, start, _count: "404" if "B08" in path else None
    try:
        stored = stored_plan.write_plan(plan_file.read_plan_file(planned["plan"]))
        result = stages.map_tiles(stored, RunContext())
    finally:
        server.script = None
    assert len(result.counts.failed) == planned["tiles"]["total"]
    assert result.traffic["requests"] == pytest.approx(server.requests, abs=2)
    # ^ a request that is cut off because its tile has failed may not reach the server
    assert server.requests > len(result.counts.failed)
    assert result.traffic["bytes"] > 0


def test_seconds_of_another_model_are_not_used(served_country, small_job):
    _run(small_job)
    planned = _plan(small_job, "2021-07")
    home = Path(planned["plan"]).parents[2]
    model_spec = plan_file.read_plan_file(planned["plan"]).model
    assert model_spec is None
    assert resource_estimate.calibrate_factors(home, None).seconds != 1.0
    factors = resource_estimate.calibrate_factors(home, large_plan.MODEL)
    assert factors.seconds == 1.0
    assert factors.runs == 1
    assert factors.uncertainty == resource_estimate.SINGLE_RUN_UNCERTAINTY
    assert factors.requests == resource_estimate.calibrate_factors(home, None).requests
    assert factors.requests.keys() == {"", "S2L2A"}


def test_each_modality_is_calibrated_separately(served_country, job):
    """Radar and reflectance compress differently, and their shares differ between periods."""
    _run(job)
    planned = _plan(job, "2021-06")
    plan = plan_file.read_plan_file(planned["plan"])
    receipts = list(receipt.read_all(Path(planned["plan"]).parent))
    rates = resource_estimate.calibrate_factors(Path(planned["plan"]).parents[2], None)
    modalities = {"S2L2A", "S1RTC", "DEM"}
    for name, factors in (("bytes", rates.bytes), ("requests", rates.requests)):
        actual = {
            modality: sum(tile_receipt.traffic[f"{name}_{modality}"] for tile_receipt in receipts)
            for modality in modalities
        }
        assert sum(actual.values()) == sum(tile_receipt.traffic[name] for tile_receipt in receipts)
        assert set(factors) == {"", *modalities}
        uncalibrated = getattr(resource_estimate.estimate_resources(plan, workers=1), name)
        calibrated = getattr(
            resource_estimate.estimate_resources(plan, workers=1, factors=rates), name
        )
        assert calibrated == pytest.approx(sum(actual.values()), rel=1e-6)
        assert calibrated != uncalibrated
    assert rates.bytes["S1RTC"] != pytest.approx(rates.bytes["S2L2A"], rel=0.1)


def test_strips_beside_a_scene_need_no_requests(tmp_path):
    """Of a tile that is higher than its scenes, each strip reads only the scenes it intersects."""
    wide_plan = dataclasses.replace(large_plan.plan(tmp_path, 64, days=1), tile_size=2048)
    tile = max(wide_plan.tiles, key=lambda candidate: candidate.height * candidate.width)
    area = wide_plan.context_grid(tile)
    optical_scene = next(
        scene for scene in wide_plan.tile_scenes(tile) if scene.modality == "S2L2A"
    )

    def estimate_requests(rows):
        """Return the requests of the tile with a scene that ends ``rows`` below the tile's top."""
        left, top = area.left, area.bounds[3] - 10 * (rows - 1024)
        assets = {
            "B02": dataclasses.replace(
                optical_scene.assets["B02"],
                transform=(10, 0, left, 0, -10, top),
                shape=(1024, 2048),
            )
        }
        scene = dataclasses.replace(optical_scene, assets=assets)
        snapshot = dataclasses.replace(wide_plan.snapshot, scenes=(scene,))
        recipe = dataclasses.replace(wide_plan.recipe, inputs=("S2L2A",))
        plan = dataclasses.replace(wide_plan, snapshot=snapshot, recipe=recipe)
        return resource_estimate.estimate_resources(plan, workers=1, tiles=[tile]).requests

    assert min(area.shape) > 2000
    assert estimate_requests(-10) == 0
    assert estimate_requests(100) == 2 + 1
    # ^ a header and a row of blocks, and a header for the strip that begins where the scene ends


def test_invalid_prices_are_refused(small_job):
    values = yaml.safe_load(small_job.read_text())
    for prices, message in (
        ({"currency": "EUR"}, "name at least one price"),
        ({"cpu_hour": -1}, "prices.cpu_hour is -1"),
        ({"cpu_hour": 1, "currency": "euro"}, "prices.currency is 'euro'"),
    ):
        small_job.write_text(yaml.safe_dump(values | {"prices": prices}))
        with pytest.raises(InvalidInputError, match=message):
            jobs.load(small_job)


def test_a_receipt_without_traffic_is_read(served_country, small_job):
    planned = _plan(small_job, "2021-06")
    _run(Path(planned["plan"]))
    for path in Path(planned["plan"]).parent.glob("receipts/*.json"):
        values = json.loads(path.read_text())
        del values["traffic"]
        path.write_text(json.dumps(values))
    result = _plan(small_job, "2021-07")
    assert result["basis"] == "receipts"
    # ^ seconds are known; bytes are those of the table
    assert _run(small_job)["status"] == "unchanged"


def test_requests_in_threads_are_counted_for_their_submitter():
    with CancellableThreadPool(2, "read") as pool:
        with io_statistics.collect() as first_count:
            first = pool.submit(lambda: io_statistics.current().add(requests=1, num_bytes=10))
        with io_statistics.collect() as second_count:
            second = pool.submit(lambda: io_statistics.current().add(requests=2, num_bytes=20))
        first.result()
        second.result()
    assert (first_count.requests, first_count.bytes) == (1, 10)
    assert (second_count.requests, second_count.bytes) == (2, 20)
    io_statistics.current().add(requests=1)
    # ^ outside of any collection
