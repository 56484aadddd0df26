"""Backfills and refreshes: which periods are made, which are left, what is taken over."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from catalogs import demo as country
from catalogs.errors import InvalidInputError
from flows.cli import main
from flows.config import job as jobs
from flows.config import period as periods
from flows.config.cadence import PeriodRange
from flows.observe.progress import NullProgress
from flows.orchestration import launch
from flows.run import search_report, stored_plan
from flows.series import backfill, due_periods, latest_period, period_runs
from flows.series.refresh import run_refresh
from pipeline.runtime import lock
from pipeline.storage import plan_file, receipt

ROOT = Path(__file__).parents[2]
MONTHS = ["2021-04", "2021-05", "2021-06", "2021-07", "2021-08", "2021-09"]
RANGE = {"first": "2021-04", "last": "2021-09", "length": "P1M", "newest_first": False}
OPTIONS = {"dry_run": False, "at_once": 1, "allow_partial": False, "max_cost": None}


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Build a small country once."""
    folder = tmp_path_factory.mktemp("land") / "country"
    return country.build(folder, seed=11, size=512)


@pytest.fixture
def job(land, tmp_path):
    """Write a job of composites over a part of the country: four tiles."""
    points = land.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    part = [
        west + 0.3 * (east - west),
        south + 0.3 * (north - south),
        west + 0.7 * (east - west),
        south + 0.7 * (north - south),
    ]
    return _written(
        tmp_path / "job.yaml",
        {
            "name": "part",
            "region": {"bbox": part},
            "period": "2021",
            "catalog": {"path": str(land.catalog), "provider": "demo"},
            "inputs": ["S2L2A"],
            "bands": {"S2L2A": ["B04", "B08"]},
            "grid": {"crs": f"EPSG:{land.epsg}"},
            "model": {"name": "none"},
            "output": {"path": "out", "composites": True, "formats": ["zarr"]},
            "execution": {"tile": 160, "workers": 1},
            "schedule": {"min_coverage": 0.9},
        },
    )


def _written(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def _changed(job, **sections):
    values = yaml.safe_load(job.read_text())
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes if isinstance(changes, dict) else changes
    return _written(job, values)


def _backfill(job, **changes):
    wanted = PeriodRange(**{name: changes.get(name, value) for name, value in RANGE.items()})
    options = OPTIONS | {name: value for name, value in changes.items() if name not in RANGE}
    told = backfill.run_backfill(
        job, wanted, progress=NullProgress(), **{"run_job": launch.run_job, **options}
    ).to_dict()
    _fits("backfill", told)
    return told


def _refresh(job, **changes):
    options = {"dry_run": False, "at_once": 1, "allow_partial": False} | changes
    told = run_refresh(job, progress=NullProgress(), run_job=launch.run_job, **options).to_dict()
    _fits("refresh", told)
    return told


def _fits(name, told):
    schema = json.loads((ROOT / "docs" / "json" / f"{name}.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(told)), schema)


def _statuses(told):
    return {entry["start"][:7]: entry["status"] for entry in told["periods"]}


def _written_when(job):
    return {
        path: path.stat().st_mtime_ns for path in job.parent.glob("out/part/*/*/receipts/*.json")
    }


def test_a_period_that_the_range_cuts_says_so(job):
    listed = _backfill(job, first="2021-06", last="2021-09", length="season", dry_run=True)
    summer, autumn = listed["periods"]
    assert summer["reason"] is None
    assert 0 <= summer["cloud_cover"] <= 100
    assert "a part of 2021-09-01/2021-11-30, which the range cuts" in autumn["reason"]
    (whole,) = _backfill(job, first="2021", last="2021", length="P1Y", dry_run=True)["periods"]
    assert whole["reason"] is None


def test_a_range_wants_no_period_in_the_job(job):
    values = yaml.safe_load(job.read_text())
    values.pop("period", None)
    values.pop("schedule", None)
    _written(job, values)
    assert _statuses(_backfill(job, first="2021-07", last="2021-07")) == {"2021-07": "complete"}
    options = {"allow_partial": False, "max_cost": None, "progress": NullProgress()}
    with pytest.raises(
        InvalidInputError,
        match=r"neither a period nor a day.*period: 2024-05-01/2024-09-30 or --period",
    ):
        launch.run_file(job, **options)
    assert launch.run_file(job, period="2021-07", **options).status == "unchanged"


def test_periods_are_made_until_the_money_is_spent(job):
    _changed(job, prices={"currency": "EUR", "gb_month": 1e6, "months": 1})
    # ^ what is stored is known exactly before it is made
    month = jobs.load(job).with_period(periods.parse("2021-07"))
    each = stored_plan.make_plan(month, NullProgress()).cost.amount
    some = _backfill(job, first="2021-07", last="2021-09", max_cost=1.5 * each)
    assert _statuses(some) == {"2021-07": "complete", "2021-08": "failed", "2021-09": "failed"}
    left = float(re.search(r"--max-cost leaves (\S+) for it", some["periods"][1]["reason"])[1])
    assert left == pytest.approx(0.5 * each, rel=0.01)
    assert set(_statuses(_backfill(job, first="2021-07", last="2021-08")).values()) == {
        "complete",
        "finished",
    }
    with pytest.raises(InvalidInputError, match="2 periods at once begin before it is known"):
        _backfill(job, max_cost=1.0, at_once=2)
    _changed(job, prices=None)
    with pytest.raises(InvalidInputError, match="states no prices"):
        _backfill(job, max_cost=1.0)


def test_a_backfill_makes_each_month_once(job):
    listed = _backfill(job, dry_run=True)
    assert not (job.parent / "out").exists()
    assert [*_statuses(listed)] == MONTHS
    assert _statuses(listed)["2021-05"] == "gap"
    # ^ its only pass is of clouds
    assert "max_cloud_cover" in listed["periods"][1]["reason"]
    ready = {month for month, status in _statuses(listed).items() if status in period_runs.RUNNABLE}
    assert len(ready) >= 4

    first = _backfill(job, first="2021-06", last="2021-07")
    assert _statuses(first) == {"2021-06": "complete", "2021-07": "complete"}
    before = _written_when(job)
    wider = _backfill(job)
    made = {month for month, status in _statuses(wider).items() if status == "complete"}
    assert made == ready - {"2021-06", "2021-07"}
    assert _statuses(wider)["2021-06"] == "finished"
    after = _written_when(job)
    assert before.items() <= after.items()

    again = _backfill(job)
    assert set(_statuses(again).values()) == {"finished", "gap"}
    assert _written_when(job) == after
    for entry in again["periods"]:
        if entry["status"] == "finished":
            folder = Path(entry["item"]).parent
            assert folder.name == f"{entry['start']}_{entry['end']}"


def test_two_periods_at_once_are_the_same_products(job):
    _backfill(job, first="2021-06", last="2021-07")
    one = _digests(job)
    (job.parent / "out").rename(job.parent / "before")
    told = _backfill(job, first="2021-06", last="2021-07", at_once=2, newest_first=True)
    assert [entry["start"] for entry in told["periods"]] == ["2021-07-01", "2021-06-01"]
    assert _digests(job) == one


def _digests(job):
    return {
        (path.parents[2].name, path.stem): json.loads(path.read_text())["digests"]
        for path in job.parent.glob("out/part/*/*/receipts/*.json")
    }


def test_a_month_that_fails_does_not_stop_the_others(job):
    def run_job(job, **options):
        if job.period.start.month == 6:
            raise OSError("No space left on device")
        return launch.run_job(job, **options)

    told = _backfill(job, first="2021-06", last="2021-07", run_job=run_job)
    assert _statuses(told) == {"2021-06": "failed", "2021-07": "complete"}
    assert told["periods"][0]["reason"] == "No space left on device"
    assert _statuses(_backfill(job, first="2021-06", last="2021-07")) == {
        "2021-06": "complete",
        "2021-07": "finished",
    }


def test_a_month_that_another_run_is_at_is_left_to_it(job):
    june = {"first": "2021-06", "last": "2021-06"}
    month = jobs.load(job).with_period(periods.parse("2021-06"))
    stored = stored_plan.write_plan(stored_plan.load_or_create_plan(month, NullProgress()))
    with lock.acquire(stored.folder):
        assert _statuses(_backfill(job, **june)) == {"2021-06": "busy"}
        assert main.main(["backfill", str(job), "--from", "2021-06", "--to", "2021-06"]) == 1
    assert _statuses(_backfill(job, **june)) == {"2021-06": "complete"}


def test_another_recipe_is_another_product(job):
    _backfill(job, first="2021-06", last="2021-06")
    _changed(job, mask={"dilate_m": 80})
    assert _statuses(_backfill(job, first="2021-06", last="2021-06", dry_run=True)) == {
        "2021-06": "ready"
    }
    _changed(job, mask={"dilate_m": 40}, execution={"workers": 2})
    assert _statuses(_backfill(job, first="2021-06", last="2021-06", dry_run=True)) == {
        "2021-06": "finished"
    }
    # ^ who computes it does not matter


class Hidden:
    """A catalog without one of its items, until it comes."""

    def __init__(self, catalog, identity):
        self._files = {}
        (self._item,) = catalog.parent.rglob(f"{identity}.json")
        for path in catalog.parent.rglob("collection.json"):
            values = json.loads(path.read_text())
            kept = [one for one in values["links"] if not one["href"].endswith(self._item.name)]
            if len(kept) < len(values["links"]):
                self._files[path] = path.read_text()
                path.write_text(json.dumps(values | {"links": kept}))
        assert self._files

    def comes(self):
        for path, text in self._files.items():
            path.write_text(text)


def test_a_newer_scene_recomputes_the_tiles_that_it_touches(job, land):
    listed = search_report.search(
        jobs.load(_changed(job, period="2021-06")), NullProgress()
    ).to_dict()
    newest = min((one for one in listed["used"]), key=lambda one: (one["coverage"], one["id"]))
    assert newest["coverage"] < 0.9
    hidden = Hidden(land.catalog, newest["id"])
    try:
        _backfill(job, first="2021-06", last="2021-06")
        assert _statuses(_refresh(job)) == {"2021-06": "finished"}
    finally:
        hidden.comes()
    seen = _refresh(job, dry_run=True)
    assert _statuses(seen) == {"2021-06": "ready"}
    assert seen["periods"][0]["reason"] == f"1 newer scenes ({newest['id']})"
    (entry,) = _refresh(job)["periods"]
    assert entry["status"] == "complete"
    assert entry["tiles"]["done"] > 0
    assert entry["tiles"]["skipped"] > 0
    assert entry["tiles"]["done"] + entry["tiles"]["skipped"] == entry["tiles"]["total"]
    refreshed = _digests_of(entry["item"])
    assert _statuses(_refresh(job)) == {"2021-06": "finished"}
    (job.parent / "out").rename(job.parent / "before")
    (fresh,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert _digests_of(fresh["item"]) == refreshed
    # ^ a map does not tell how it came about


def _digests_of(item):
    values = json.loads(Path(item).read_text())
    path = Path(item).parent / values["assets"]["plan"]["href"]
    plan = plan_file.read_plan_file(path)
    found = receipt.read_finished(path.parent, plan)
    assert len(found) == len(plan.tiles)
    return {name: dict(one.digests) for name, one in found.items()}


def test_a_damaged_tile_is_not_taken_over(job):
    _changed(job, period="2021-06")
    (entry,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    whole = _digests_of(entry["item"])
    plan_path = next(Path(entry["item"]).parent.glob("*/plan.json"))
    for file in plan_path.parent.glob("cube.zarr/observations/c/0/0"):
        file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    _changed(job, mask={"dilate_m": 41}, schedule={"min_coverage": 0.8})
    # ^ not the same tiles: nothing is taken over
    (other,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert other["tiles"]["skipped"] == 0
    _changed(job, mask={"dilate_m": 40})
    (plan_path.parent / "receipts").rename(plan_path.parent / "kept")
    copy = plan_path.parent.with_name("0123456789ab")
    plan_path.parent.rename(copy)
    (copy / "kept").rename(copy / "receipts")
    (again,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert again["tiles"]["done"] == 1
    assert again["tiles"]["skipped"] == again["tiles"]["total"] - 1
    assert _digests_of(again["item"]) == whole


def test_a_schedule_makes_what_is_due_and_waits_for_what_is_thin(job, monkeypatch):
    _changed(job, schedule={"from": "2021-04", "latency_days": 5, "max_wait_days": 30})
    monkeypatch.setattr(due_periods, "today", lambda: dt.date(2021, 6, 10))
    looked = due_periods.inspect_due(jobs.load(job), NullProgress())
    assert {str(one.period.start)[:7]: one.status for one in looked} == {
        "2021-04": "ready",
        "2021-05": "waiting",
    }
    monkeypatch.setattr(due_periods, "today", lambda: dt.date(2021, 7, 10))
    looked = due_periods.inspect_due(jobs.load(job), NullProgress())
    assert [one.status for one in looked] == ["ready", "gap", "ready"]
    assert str(latest_period.find_latest(jobs.load(job), NullProgress()).start) == "2021-06-01"
    told = launch.run_file(
        job, allow_partial=False, max_cost=None, progress=NullProgress(), period="latest"
    )
    assert "2021-06-01_2021-06-30" in told.item
    told = _backfill(job, first=None, last=None, length=None)
    assert [*_statuses(told).values()] == ["complete", "gap", "finished"]


def test_where_to_begin_must_be_said(job):
    with pytest.raises(InvalidInputError, match="--from 2023-01"):
        _backfill(job, first=None)
    with pytest.raises(InvalidInputError, match="is over by 5 days"):
        _backfill(job, first="2999-01", last=None)
    with pytest.raises(InvalidInputError, match=r"ends .* before it starts"):
        _backfill(job, first="2021-06", last="2021-05")
    plan = stored_plan.make_plan(jobs.load(_changed(job, period="2021-06")), NullProgress())
    with pytest.raises(InvalidInputError, match="is a plan, whose period is fixed"):
        launch.run_file(
            Path(plan.plan),
            allow_partial=False,
            max_cost=None,
            progress=NullProgress(),
            period="2021",
        )
