"""Backfills and refreshes: which periods are computed or skipped, and which tiles are reused."""

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
def demo_country(tmp_path_factory):
    """Build a small country once."""
    folder = tmp_path_factory.mktemp("land") / "country"
    return country.build(folder, seed=11, size=512)


@pytest.fixture
def job(demo_country, tmp_path):
    """Write a job of composites over a part of the country: four tiles."""
    points = demo_country.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    bbox = [
        west + 0.3 * (east - west),
        south + 0.3 * (north - south),
        west + 0.7 * (east - west),
        south + 0.7 * (north - south),
    ]
    return _write_job(
        tmp_path / "job.yaml",
        {
            "name": "part",
            "region": {"bbox": bbox},
            "period": "2021",
            "catalog": {"path": str(demo_country.catalog), "provider": "demo"},
            "inputs": ["S2L2A"],
            "bands": {"S2L2A": ["B04", "B08"]},
            "grid": {"crs": f"EPSG:{demo_country.epsg}"},
            "model": {"name": "none"},
            "output": {"path": "out", "composites": True, "formats": ["zarr"]},
            "execution": {"tile": 160, "workers": 1},
            "schedule": {"min_coverage": 0.9},
        },
    )


def _write_job(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def _change_job(job, **sections):
    values = yaml.safe_load(job.read_text())
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes if isinstance(changes, dict) else changes
    return _write_job(job, values)


def _backfill(job, **changes):
    period_range = PeriodRange(**{name: changes.get(name, value) for name, value in RANGE.items()})
    options = OPTIONS | {name: value for name, value in changes.items() if name not in RANGE}
    result = backfill.run_backfill(
        job, period_range, progress=NullProgress(), **{"run_job": launch.run_job, **options}
    ).to_dict()
    _validate("backfill", result)
    return result


def _refresh(job, **changes):
    options = {"dry_run": False, "at_once": 1, "allow_partial": False} | changes
    result = run_refresh(job, progress=NullProgress(), run_job=launch.run_job, **options).to_dict()
    _validate("refresh", result)
    return result


def _validate(name, result):
    schema = json.loads((ROOT / "docs" / "json" / f"{name}.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(result)), schema)


def _get_statuses(result):
    return {entry["start"][:7]: entry["status"] for entry in result["periods"]}


def _list_receipt_times(job):
    return {
        path: path.stat().st_mtime_ns for path in job.parent.glob("out/part/*/*/receipts/*.json")
    }


def test_a_period_cut_by_the_range_has_a_reason(job):
    listed = _backfill(job, first="2021-06", last="2021-09", length="season", dry_run=True)
    summer, autumn = listed["periods"]
    assert summer["reason"] is None
    assert 0 <= summer["cloud_cover"] <= 100
    assert "a part of 2021-09-01/2021-11-30, which the range cuts" in autumn["reason"]
    (year,) = _backfill(job, first="2021", last="2021", length="P1Y", dry_run=True)["periods"]
    assert year["reason"] is None


def test_a_range_needs_no_period_in_the_job(job):
    values = yaml.safe_load(job.read_text())
    values.pop("period", None)
    values.pop("schedule", None)
    _write_job(job, values)
    assert _get_statuses(_backfill(job, first="2021-07", last="2021-07")) == {"2021-07": "complete"}
    options = {"allow_partial": False, "max_cost": None, "progress": NullProgress()}
    with pytest.raises(
        InvalidInputError,
        match=r"neither a period nor a day.*period: 2024-05-01/2024-09-30 or --period",
    ):
        launch.run_file(job, **options)
    assert launch.run_file(job, period="2021-07", **options).status == "unchanged"


def test_periods_are_computed_until_the_limit_of_cost(job):
    _change_job(job, prices={"currency": "EUR", "gb_month": 1e6, "months": 1})
    # ^ the cost of storage is known exactly in advance
    month = jobs.load(job).with_period(periods.parse("2021-07"))
    amount = stored_plan.make_plan(month, NullProgress()).cost.amount
    result = _backfill(job, first="2021-07", last="2021-09", max_cost=1.5 * amount)
    assert _get_statuses(result) == {
        "2021-07": "complete",
        "2021-08": "failed",
        "2021-09": "failed",
    }
    remaining = float(
        re.search(r"--max-cost leaves (\S+) for it", result["periods"][1]["reason"])[1]
    )
    assert remaining == pytest.approx(0.5 * amount, rel=0.01)
    assert set(_get_statuses(_backfill(job, first="2021-07", last="2021-08")).values()) == {
        "complete",
        "finished",
    }
    with pytest.raises(InvalidInputError, match="2 periods at once begin before it is known"):
        _backfill(job, max_cost=1.0, at_once=2)
    _change_job(job, prices=None)
    with pytest.raises(InvalidInputError, match="states no prices"):
        _backfill(job, max_cost=1.0)


def test_a_backfill_computes_each_month_once(job):
    listed = _backfill(job, dry_run=True)
    assert not (job.parent / "out").exists()
    assert [*_get_statuses(listed)] == MONTHS
    assert _get_statuses(listed)["2021-05"] == "gap"
    # ^ its only pass is of clouds
    assert "max_cloud_cover" in listed["periods"][1]["reason"]
    ready = {
        month for month, status in _get_statuses(listed).items() if status in period_runs.RUNNABLE
    }
    assert len(ready) >= 4

    first_result = _backfill(job, first="2021-06", last="2021-07")
    assert _get_statuses(first_result) == {"2021-06": "complete", "2021-07": "complete"}
    before = _list_receipt_times(job)
    second_result = _backfill(job)
    computed = {
        month for month, status in _get_statuses(second_result).items() if status == "complete"
    }
    assert computed == ready - {"2021-06", "2021-07"}
    assert _get_statuses(second_result)["2021-06"] == "finished"
    after = _list_receipt_times(job)
    assert before.items() <= after.items()

    third_result = _backfill(job)
    assert set(_get_statuses(third_result).values()) == {"finished", "gap"}
    assert _list_receipt_times(job) == after
    for entry in third_result["periods"]:
        if entry["status"] == "finished":
            folder = Path(entry["item"]).parent
            assert folder.name == f"{entry['start']}_{entry['end']}"


def test_two_periods_at_once_give_the_same_products(job):
    _backfill(job, first="2021-06", last="2021-07")
    expected = _read_digests(job)
    (job.parent / "out").rename(job.parent / "before")
    result = _backfill(job, first="2021-06", last="2021-07", at_once=2, newest_first=True)
    assert [entry["start"] for entry in result["periods"]] == ["2021-07-01", "2021-06-01"]
    assert _read_digests(job) == expected


def _read_digests(job):
    return {
        (path.parents[2].name, path.stem): json.loads(path.read_text())["digests"]
        for path in job.parent.glob("out/part/*/*/receipts/*.json")
    }


def test_a_month_that_fails_does_not_stop_the_others(job):
    def run_job(job, **options):
        if job.period.start.month == 6:
            raise OSError("No space left on device")
        return launch.run_job(job, **options)

    result = _backfill(job, first="2021-06", last="2021-07", run_job=run_job)
    assert _get_statuses(result) == {"2021-06": "failed", "2021-07": "complete"}
    assert result["periods"][0]["reason"] == "No space left on device"
    assert _get_statuses(_backfill(job, first="2021-06", last="2021-07")) == {
        "2021-06": "complete",
        "2021-07": "finished",
    }


def test_a_month_locked_by_another_run_is_busy(job):
    june = {"first": "2021-06", "last": "2021-06"}
    month = jobs.load(job).with_period(periods.parse("2021-06"))
    stored = stored_plan.write_plan(stored_plan.load_or_create_plan(month, NullProgress()))
    with lock.acquire(stored.folder):
        assert _get_statuses(_backfill(job, **june)) == {"2021-06": "busy"}
        assert main.main(["backfill", str(job), "--from", "2021-06", "--to", "2021-06"]) == 1
    assert _get_statuses(_backfill(job, **june)) == {"2021-06": "complete"}


def test_another_recipe_is_another_product(job):
    _backfill(job, first="2021-06", last="2021-06")
    _change_job(job, mask={"dilate_m": 80})
    assert _get_statuses(_backfill(job, first="2021-06", last="2021-06", dry_run=True)) == {
        "2021-06": "ready"
    }
    _change_job(job, mask={"dilate_m": 40}, execution={"workers": 2})
    assert _get_statuses(_backfill(job, first="2021-06", last="2021-06", dry_run=True)) == {
        "2021-06": "finished"
    }
    # ^ the number of workers does not change the product


class HiddenItem:
    """A catalog without one of its items, until the item is restored."""

    def __init__(self, catalog, identity):
        self._files = {}
        (self._item,) = catalog.parent.rglob(f"{identity}.json")
        for path in catalog.parent.rglob("collection.json"):
            values = json.loads(path.read_text())
            links = [link for link in values["links"] if not link["href"].endswith(self._item.name)]
            if len(links) < len(values["links"]):
                self._files[path] = path.read_text()
                path.write_text(json.dumps(values | {"links": links}))
        assert self._files

    def restore(self):
        for path, text in self._files.items():
            path.write_text(text)


def test_a_newer_scene_recomputes_the_tiles_that_it_intersects(job, demo_country):
    listed = search_report.search(
        jobs.load(_change_job(job, period="2021-06")), NullProgress()
    ).to_dict()
    newest = min(
        (scene for scene in listed["used"]), key=lambda scene: (scene["coverage"], scene["id"])
    )
    assert newest["coverage"] < 0.9
    assert all(scene["datetime"].endswith("Z") for scene in listed["used"])
    # ^ jq's fromdateiso8601 takes no other form
    hidden = HiddenItem(demo_country.catalog, newest["id"])
    try:
        _backfill(job, first="2021-06", last="2021-06")
        assert _get_statuses(_refresh(job)) == {"2021-06": "finished"}
    finally:
        hidden.restore()
    dry_run = _refresh(job, dry_run=True)
    assert _get_statuses(dry_run) == {"2021-06": "ready"}
    assert dry_run["periods"][0]["reason"] == f"1 newer scenes ({newest['id']})"
    (entry,) = _refresh(job)["periods"]
    assert entry["status"] == "complete"
    assert entry["tiles"]["done"] > 0
    assert entry["tiles"]["skipped"] > 0
    assert entry["tiles"]["done"] + entry["tiles"]["skipped"] == entry["tiles"]["total"]
    refreshed = _read_verified_digests(entry["item"])
    assert _get_statuses(_refresh(job)) == {"2021-06": "finished"}
    (job.parent / "out").rename(job.parent / "before")
    (fresh,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert _read_verified_digests(fresh["item"]) == refreshed
    # ^ the refreshed product equals one that is computed at once


def _read_verified_digests(item):
    values = json.loads(Path(item).read_text())
    path = Path(item).parent / values["assets"]["plan"]["href"]
    plan = plan_file.read_plan_file(path)
    receipts = receipt.read_finished(path.parent, plan)
    assert len(receipts) == len(plan.tiles)
    return {tile_id: dict(tile_receipt.digests) for tile_id, tile_receipt in receipts.items()}


def test_a_damaged_tile_is_not_reused(job):
    _change_job(job, period="2021-06")
    (entry,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    expected = _read_verified_digests(entry["item"])
    plan_path = next(Path(entry["item"]).parent.glob("*/plan.json"))
    for file in plan_path.parent.glob("cube.zarr/observations/c/0/0"):
        file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    _change_job(job, mask={"dilate_m": 41}, schedule={"min_coverage": 0.8})
    # ^ the recipe differs: no tile is reused
    (changed,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert changed["tiles"]["skipped"] == 0
    _change_job(job, mask={"dilate_m": 40})
    (plan_path.parent / "receipts").rename(plan_path.parent / "kept")
    copy = plan_path.parent.with_name("0123456789ab")
    plan_path.parent.rename(copy)
    (copy / "kept").rename(copy / "receipts")
    (repaired,) = _backfill(job, first="2021-06", last="2021-06")["periods"]
    assert repaired["tiles"]["done"] == 1
    assert repaired["tiles"]["skipped"] == repaired["tiles"]["total"] - 1
    assert _read_verified_digests(repaired["item"]) == expected


def test_a_schedule_waits_for_periods_with_low_coverage(job, monkeypatch):
    _change_job(job, schedule={"from": "2021-04", "latency_days": 5, "max_wait_days": 30})
    monkeypatch.setattr(due_periods, "today", lambda: dt.date(2021, 6, 10))
    due = due_periods.inspect_due(jobs.load(job), NullProgress())
    assert {str(status.period.start)[:7]: status.status for status in due} == {
        "2021-04": "ready",
        "2021-05": "waiting",
    }
    monkeypatch.setattr(due_periods, "today", lambda: dt.date(2021, 7, 10))
    due = due_periods.inspect_due(jobs.load(job), NullProgress())
    assert [status.status for status in due] == ["ready", "gap", "ready"]
    assert str(latest_period.find_latest(jobs.load(job), NullProgress()).start) == "2021-06-01"
    result = launch.run_file(
        job, allow_partial=False, max_cost=None, progress=NullProgress(), period="latest"
    )
    assert "2021-06-01_2021-06-30" in result.item
    result = _backfill(job, first=None, last=None, length=None)
    assert [*_get_statuses(result).values()] == ["complete", "gap", "finished"]


def test_invalid_ranges_are_refused(job):
    with pytest.raises(InvalidInputError, match="--from 2023-01"):
        _backfill(job, first=None)
    with pytest.raises(InvalidInputError, match="is over by 5 days"):
        _backfill(job, first="2999-01", last=None)
    with pytest.raises(InvalidInputError, match=r"ends .* before it starts"):
        _backfill(job, first="2021-06", last="2021-05")
    plan = stored_plan.make_plan(jobs.load(_change_job(job, period="2021-06")), NullProgress())
    with pytest.raises(InvalidInputError, match="is a plan, whose period is fixed"):
        launch.run_file(
            Path(plan.plan),
            allow_partial=False,
            max_cost=None,
            progress=NullProgress(),
            period="2021",
        )
