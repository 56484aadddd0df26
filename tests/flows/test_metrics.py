"""What a run tells of itself: metrics, log lines, and dask's report where tiles fail."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import distributed
import prometheus_client
import promql_parser
import pytest
import yaml
from prometheus_client import parser

from catalogs.errors import AssetReadError, InvalidInputError
from flows.cli import main
from flows.execution import dask_report, tile_scheduler
from flows.observe import metrics as run_metrics
from flows.observe import metrics_destination
from flows.observe.progress import NullProgress
from flows.observe.run_context import RunContext
from flows.orchestration import launch
from flows.run import stages, stored_plan, verify
from flows.run.stored_plan import StoredPlan
from pipeline import tile
from pipeline.plan.plan import Plan
from pipeline.plan.settings import ExecutionSettings, QualityLimits, RunSettings
from pipeline.runtime import atomic_files
from pipeline.storage import plan_file, zarr_store
from pipeline.tile import TileResult
from tests.support import simulated_tiles, small_plan

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
ABOUT = {"product": "test", "period": "2024-06-01_2024-06-30"}


@pytest.fixture
def frozen(tmp_path):
    """Write a plan of composites alone into the folder of its product."""
    plan = small_plan.make_plan(tmp_path, model=None)
    settings = RunSettings(
        output_dir=str(tmp_path / "out"),
        execution=ExecutionSettings(engine="threads", workers=2, device="cpu"),
        quality_limits=QualityLimits(gate="off"),
    )
    return stored_plan.write_plan(dataclasses.replace(plan, settings=settings)).path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, str(tmp_path / "prom"))
    return tmp_path / "prom"


class Told(NullProgress):
    """Calls back after every tile."""

    def __init__(self, call):
        self._call = call
        self._stage = ""

    def start_stage(self, name, total=None):
        self._stage = name

    def advance(self, n=1, note=""):
        if self._stage == "tiles":
            self._call()


def _read(text):
    """Return (name, own labels) -> value, and assert that all are of the plan's product."""
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for one in family.samples:
            own = {name: value for name, value in one.labels.items() if name not in ABOUT}
            assert {name: one.labels[name] for name in ABOUT} == ABOUT
            (*_, value) = own.values() or ("",)
            found[one.name.removeprefix("terramosaic_"), value] = one.value
    return found


def _values(metrics):
    return _read(prometheus_client.generate_latest(metrics.registry).decode())


@pytest.fixture
def metrics(frozen):
    """Return metrics in which every one of them has a value."""
    metrics = run_metrics.ExportedMetrics(frozen)
    metrics.begin_tiles(1, 0)
    metrics.count_tile(TileResult(tile="a", reason=None, seconds={"predict": 1.0}))
    metrics.set_final_status("complete")
    return metrics


def _definitions(metrics):
    """Return name -> (kind, labels, documentation) of all metrics."""
    return {
        sample.name: (family.type, [*sample.labels][2:], family.documentation)
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def _scrape(port, query=""):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics{query}", timeout=10) as answer:
        return answer.read().decode()


def _port(caplog):
    return int(re.findall(r"metrics at http://127.0.0.1:(\d+)/metrics", caplog.text)[-1])


def _run(path, call=lambda: None):
    options = {"allow_partial": False, "max_cost": None, "progress": Told(call)}
    return launch.run_file(path, **options).to_dict()


def _pretend(plan_path, name, beside, processes):
    """Make nothing of a tile, and say what a real one says; the second one fails."""
    if name == "r000c000001":
        return TileResult(tile=name, reason="it cannot be read", seconds={})
    seconds = {"read": 0.25, "predict": 0.5, "write": 0.125, "tile": 1.0}
    traffic = {"bytes": 1000, "requests": 10, "retries": 1, "requests_S2L2A": 10}
    return TileResult(tile=name, reason=None, seconds=seconds, traffic=traffic, km2=0.25)


def _count(path):
    """Count a tile, as a run does."""
    with metrics_destination.export_run(path) as counted:
        counted.begin_tiles(1, 0)
        counted.count_tile(_pretend("", "r000c000000", 1, 1))
        counted.set_final_status("complete", 0)
    assert _values(counted)["tiles_total", "done"] == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9108", ("127.0.0.1", 9108)),
        (":9108", ("127.0.0.1", 9108)),
        (" 0.0.0.0:80 ", ("0.0.0.0", 80)),
        ("[::1]:9108", ("::1", 9108)),
        ("runner-1.example:9108", ("runner-1.example", 9108)),
    ],
)
def test_an_address_is_loopback_unless_a_host_is_named(monkeypatch, text, address):
    monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, text)
    assert metrics_destination.read_destination() == metrics_destination.Address(*address)


def test_a_path_is_one_file_or_a_folder_of_them(monkeypatch, tmp_path):
    for text in ("new/folder", "new/run.prom"):
        monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, f"{tmp_path}/{text}")
        assert metrics_destination.read_destination() == tmp_path / text
    assert not list((tmp_path / "new").glob("*.prom"))
    for text in ("", "  "):
        monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, text)
        assert metrics_destination.read_destination() is None


@pytest.mark.parametrize(
    "text", ["on", "127.0.0.1:http", "::1:9108", "1:70000", "http://a/b", "/proc/none", "{file}/x"]
)
def test_what_is_no_place_is_refused_before_anything_runs(monkeypatch, tmp_path, capsys, text):
    (tmp_path / "file").touch()
    monkeypatch.setenv(
        metrics_destination.ENVIRONMENT_VARIABLE, text.format(file=tmp_path / "file")
    )
    with pytest.raises(InvalidInputError, match=metrics_destination.ENVIRONMENT_VARIABLE):
        stages.run(None, False, RunContext(), None)
    (tmp_path / "plan.json").touch()
    assert main.main(["run", str(tmp_path / "plan.json")]) == 2
    assert f"error: {metrics_destination.ENVIRONMENT_VARIABLE}=" in capsys.readouterr().err


def test_a_run_is_scraped_while_it_lasts(frozen, monkeypatch, caplog):
    caplog.set_level("INFO", "flows.observe.metrics_destination")
    monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, "0")
    monkeypatch.setattr(
        tile_scheduler,
        "process_tiles",
        functools.partial(tile_scheduler.process_tiles, tile_function=_pretend),
    )
    names = [one.id for one in simulated_tiles.create_tiles(40)]
    monkeypatch.setattr(
        stages.receipt, "read_finished", lambda _, plan: {one.id: None for one in plan.tiles[40:]}
    )
    monkeypatch.setattr(
        Plan,
        "tiles",
        property(lambda _: simulated_tiles.create_tiles(43)),
    )
    monkeypatch.setattr(zarr_store, "create", lambda *_: None)
    texts = []
    told = Told(lambda: texts.append(_scrape(_port(caplog))))
    with metrics_destination.export_run(frozen) as metrics:
        context = RunContext(progress=told, metrics=metrics)
        tiles = stages.map_tiles(
            StoredPlan(plan=plan_file.read_plan_file(frozen), path=frozen), context
        )
    counts = tiles.counts
    seen = [_read(text) for text in texts]
    assert len(seen) == len(names)
    for number, one in enumerate(seen, 1):
        assert one["tiles_total", "done"] + one["tiles_total", "failed"] == number
        left = one["tiles_waiting", ""] + one["tiles_working", ""]
        assert left == 40 - number
        assert one["tiles_working", ""] == min(2, left)
        assert one["run_status", "running"] == 1
    last = seen[-1]
    assert last["tiles_planned", ""] == counts.total == 43
    assert last["tiles_total", "done"] == counts.done == 39
    assert last["tiles_total", "skipped"] == counts.skipped == 3
    assert last["tiles_total", "failed"] == len(counts.failed) == 1
    for stage, seconds in tiles.seconds.items():
        assert last["tile_seconds_total", stage] == pytest.approx(seconds)
    assert last["mapped_square_meters_total", ""] == 39 * 0.25e6
    read = [last[f"read_{one}_total", ""] for one in ("bytes", "requests", "retries")]
    assert read == [39_000, 390, 39]
    assert last["device_busy_ratio", ""] == 1.0
    # ^ the pretended model took more seconds than there were
    with pytest.raises(OSError, match="refused"):
        _scrape(_port(caplog))


def test_runs_of_one_process_are_seen_side_by_side(frozen, monkeypatch, caplog):
    caplog.set_level("INFO", "flows.observe.metrics_destination")
    monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, "127.0.0.1:0")
    other = frozen.parents[2] / "2024-07-01_2024-07-31" / "abc" / "plan.json"
    with metrics_destination.export_run(frozen):
        with metrics_destination.export_run(other):
            both = _scrape(_port(caplog))
            by_name = _scrape(_port(caplog), "?name[]=terramosaic_tiles_planned")
        one = _scrape(_port(caplog))
    assert both.count("terramosaic_run_info{") == 2
    assert one.count("terramosaic_run_info{") == 1
    assert both.count("# TYPE terramosaic_run_info ") == 1
    assert {line.split()[2] for line in by_name.splitlines() if line[0] == "#"} == {
        "terramosaic_tiles_planned"
    }


def test_a_port_in_use_costs_one_warning(frozen, monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, f"127.0.0.1:{port}")
        _count(frozen)
    (warning,) = [one for one in caplog.records if one.name == "flows.observe.metrics_destination"]
    assert f"127.0.0.1:{port}" in warning.getMessage()


def test_a_file_says_what_the_json_says(frozen, folder, caplog, monkeypatch):
    caplog.set_level("INFO", "flows.run.stages")
    monkeypatch.setattr(metrics_destination, "WRITE_INTERVAL", 3600.0)
    (page,) = [folder / "terramosaic_test_2024-06-01_2024-06-30.prom"]
    during = []
    result = _run(frozen, lambda: during.append(page.read_text()))
    found = _read(page.read_text())
    _agree(found, result)
    assert found["run_status", "complete"] == 1
    assert found["last_success_timestamp_seconds", ""] > found["run_started_timestamp_seconds", ""]
    assert ("device_busy_ratio", "") not in found
    assert len({*during}) == 1
    # ^ the file is not written anew for every tile
    first = _read(during[0])
    assert first["tiles_total", "done"] == 0
    assert first["run_status", "running"] == 1
    assert list(folder.iterdir()) == [page]
    said = [one.getMessage() for one in caplog.records if one.name == "flows.run.stages"]
    lines = [line for line in said if not line.startswith("tile=")]
    assert len(said) == len(lines) + result["tiles"]["total"]
    assert [re.match(r"stage=(\w+) ", line)[1] for line in lines] == [
        *("plan", "tiles", "verify", "quality", "publish")
    ]
    for line in lines:
        assert " product=test period=2024-06-01_2024-06-30 done seconds=" in line
    again = _run(frozen)
    assert again["status"] == "unchanged"
    found = _read(page.read_text())
    _agree(found, again)
    assert found["run_status", "complete"] == 1


def _agree(found, result):
    tiles = result["tiles"]
    assert found["tiles_planned", ""] == tiles["total"]
    assert found["tiles_total", "done"] == tiles["done"]
    assert found["tiles_total", "skipped"] == tiles["skipped"]
    assert found["tiles_total", "failed"] == len(tiles["failed"])
    assert found["tiles_waiting", ""] == found["tiles_working", ""] == 0
    for stage in ("read", "write", "tile"):
        assert found.get(("tile_seconds_total", stage), 0.0) == pytest.approx(
            result["seconds"].get(stage, 0.0)
        )


def test_a_file_keeps_up_with_the_tiles_where_there_is_time(frozen, folder, monkeypatch):
    monkeypatch.setattr(metrics_destination, "WRITE_INTERVAL", 0.0)
    (page,) = [folder / "terramosaic_test_2024-06-01_2024-06-30.prom"]
    done = []
    result = _run(frozen, lambda: done.append(_read(page.read_text())["tiles_total", "done"]))
    assert done == [*range(1, result["tiles"]["done"] + 1)]


def test_a_failed_tile_and_what_verification_finds_are_told(frozen, folder, monkeypatch):
    original, check = tile.build_tile, zarr_store.check_tile
    bad = plan_file.read_plan_file(frozen).tiles[1].id
    damaged = plan_file.read_plan_file(frozen).tiles[2].id

    def finish(plan, unit, *rest, **options):
        if unit.id == bad:
            raise AssetReadError("gone")
        return original(plan, unit, *rest, **options)

    def look(folder, plan, one, digests):
        return [("cube.zarr", "bits")] if one.id == damaged else check(folder, plan, one, digests)

    monkeypatch.setattr(tile, "build_tile", finish)
    monkeypatch.setattr(zarr_store, "check_tile", look)
    result = _run(frozen)
    assert result["status"] == "failed"
    assert {one["tile"] for one in result["tiles"]["failed"]} == {bad, damaged}
    (page,) = folder.iterdir()
    found = _read(page.read_text())
    _agree(found, result)
    assert found["run_status", "failed"] == 1
    assert ("last_success_timestamp_seconds", "") not in found


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")]
)
def test_a_run_that_is_cut_short_says_so(frozen, monkeypatch, tmp_path, error, status):
    monkeypatch.setenv(metrics_destination.ENVIRONMENT_VARIABLE, str(tmp_path / "run.prom"))

    def stop():
        raise error

    with pytest.raises(error):
        _run(frozen, stop)
    found = _read((tmp_path / "run.prom").read_text())
    assert found["run_status", status] == 1
    assert found["tiles_total", "done"] == 1
    assert found["tiles_waiting", ""] == 0


def test_a_full_disk_costs_one_warning(frozen, folder, monkeypatch, caplog):
    original = atomic_files.write_atomic

    def write(path, data):
        if path.suffix == ".prom":
            raise OSError(28, "No space left on device")
        original(path, data)

    monkeypatch.setattr(atomic_files, "write_atomic", write)
    monkeypatch.setattr(metrics_destination, "WRITE_INTERVAL", 0.0)
    _count(frozen)
    (warning,) = [one for one in caplog.records if one.name == "flows.observe.metrics_destination"]
    assert "No space left" in warning.getMessage()


def test_nobody_asks_and_nothing_is_imported(frozen):
    code = (
        "import sys; from pathlib import Path\n"
        "from flows.observe import metrics_destination; from flows.run import stages\n"
        "with metrics_destination.export_run(Path(sys.argv[1])) as run:\n"
        " run.begin_tiles(1, 0); run.set_final_status('complete')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, frozen], capture_output=True, text=True, check=True
    )
    assert "flows.observe.metrics" in done.stdout
    assert not {"prometheus_client", "distributed", "prefect"} & {*done.stdout.split()}


def test_the_device_is_counted_for_each_process(monkeypatch, frozen):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(run_metrics.time, "monotonic", lambda: next(clock))
    one = run_metrics.ExportedMetrics(frozen)
    one.begin_tiles(9, 0)
    one.set_capacity(processes=2, parallel_tiles=4)
    for _ in range(2):
        one.count_tile(TileResult(tile="a", reason=None, seconds={"predict": 15.0}))
    values = _values(one)
    assert values["device_busy_ratio", ""] == 30 / (20 * 2)
    assert values["tiles_working", ""] == 4
    # ^ workers that may yet join make no tile


def test_the_page_lists_the_metrics(metrics):
    rows = re.findall(
        r"^\| `(terramosaic_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*) \|$",
        (ROOT / "docs" / "metrics.md").read_text(),
        flags=re.MULTILINE,
    )
    assert [(name, kind, labels, meaning) for name, kind, labels, _, meaning in rows] == [
        (name, kind, ", ".join(f"`{label}`" for label in labels), documentation)
        for name, (kind, labels, documentation) in _definitions(metrics).items()
    ]
    assert all(unit for *_, unit, _ in rows)


def test_names_are_as_prometheus_wants_them(metrics):
    for name, (kind, *_) in _definitions(metrics).items():
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|km|kb|mb|minutes|hours|days|percent)(_|$)", name)
    for family in metrics.registry.collect():
        for sample in family.samples:
            assert tuple(sample.labels)[:2] == run_metrics.COMMON_LABELS


def _panels():
    return json.loads((FOLDER / "dashboard.json").read_text())["panels"]


def _rules():
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return group["rules"]


def _queries():
    """Yield every query, with Grafana's variables as it would fill them in."""
    for panel in _panels():
        for target in panel.get("targets", ()):
            text = target["expr"]
            for name, value in (("$product", "a|b"), ("$period", ".*"), ("$__range", "6h")):
                text = text.replace(name, value)
            yield text
    for rule in _rules():
        yield rule["expr"]


def _names(query):
    bare = re.sub(r'"[^"]*"', "", query)
    return set(re.findall(r"\b(?:terramosaic|dask|up|node|process)_\w+|\bup\b", bare))


def test_every_query_is_one():
    queries = list(_queries())
    assert len(queries) > 20
    for query in queries:
        assert "$" not in query
        promql_parser.parse(query)
        assert _names(query), query
    with pytest.raises(ValueError, match="invalid"):
        promql_parser.parse("rate(terramosaic_tiles_total) > ")


def test_queries_ask_for_metrics_and_labels_that_there_are(metrics):
    ours = {name: labels for name, (_, labels, _) in _definitions(metrics).items()}
    for query in _queries():
        for name in _names(query):
            assert name in ours or name.startswith("dask_"), name
            for matchers in re.findall(rf"{name}\{{([^}}]*)\}}", query):
                labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
                if name in ours:
                    assert labels <= {*run_metrics.COMMON_LABELS, *ours[name]}, query
    asked = set().union(*map(_names, _queries()))
    assert {one for one in asked if one.startswith("terramosaic_")} >= (
        ours.keys() - {"terramosaic_run_info", "terramosaic_run_started_timestamp_seconds"}
    )
    statuses = re.findall(r'status=~"([^"]+)"', " ".join(_queries()))
    assert {one for text in statuses for one in text.split("|")} <= {*run_metrics.STATUSES}


def test_panels_can_be_imported():
    board = json.loads((FOLDER / "dashboard.json").read_text())
    panels = _panels()
    assert len({one["id"] for one in panels}) == len(panels)
    taken = set()
    for one in panels:
        assert one["title"]
        place = one["gridPos"]
        cells = {
            (row, column)
            for row in range(place["y"], place["y"] + place["h"])
            for column in range(place["x"], place["x"] + place["w"])
        }
        assert not cells & taken, one["title"]
        assert max(column for _, column in cells) < 24
        taken |= cells
        for target in one.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert labels or target["legendFormat"]
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board)))
    assert used <= variables | {"__all", "__range"}
    assert {"datasource", "product", "period"} == variables


def test_rules_say_how_bad_it_is_and_what_to_do():
    anchors = {"a-run-is-stuck", "a-month-is-thin", "a-provider-changed", "a-new-model"}
    anchors |= {"tiles-fail"}
    rules = _rules()
    assert len({one["alert"] for one in rules}) == len(rules)
    for one in rules:
        assert set(one) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smhd]", one.get("for", "1m"))
        assert one["labels"]["severity"] in {"critical", "warning", "info"}
        said = one["annotations"]
        assert set(said) == {"summary", "description", "runbook_url"}
        page, anchor = said["runbook_url"].split("#")
        assert page == "docs/operate.md"
        assert anchor in anchors


def test_prometheus_is_told_of_loopback_alone():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert all((FOLDER / name).is_file() for name in config["rule_files"])
    targets = [
        target
        for scrape in config["scrape_configs"]
        for static in scrape["static_configs"]
        for target in static["targets"]
    ]
    assert {target.split(":")[0] for target in targets} == {metrics_destination.LOOPBACK}
    assert len({one["job_name"] for one in config["scrape_configs"]}) == 4


@pytest.fixture(scope="module")
def cluster():
    """Lend a worker, and the ports at which it and its scheduler tell their metrics."""
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
    ) as cluster:
        yield cluster


def _made(cluster, path, count, tile_function=simulated_tiles.return_at_once):
    options = {"engine": cluster.scheduler_address, "workers": 1, "tile_function": tile_function}
    return [
        one.reason
        for one in tile_scheduler.process_tiles(
            path, simulated_tiles.create_tiles(count), **options
        )
    ]


def test_dask_has_the_metrics_that_are_asked_for(cluster, tmp_path):
    assert _made(cluster, tmp_path / "plan.json", 3) == [None] * 3
    info = next(iter(cluster.scheduler_info["workers"].values()))
    ports = (cluster.scheduler.http_server.port, info["services"]["dashboard"])
    told = {}
    for port in ports:
        for family in parser.text_string_to_metric_families(_scrape(port)):
            for one in family.samples:
                told.setdefault(one.name, set()).update(one.labels)
                told.setdefault((one.name, "state"), set()).add(one.labels.get("state"))
    for query in _queries():
        for name in _names(query):
            if not name.startswith("dask_"):
                continue
            assert name in told, name
            for state in re.findall(rf'{name}\{{state=~?"([^"]*)"', query):
                assert set(state.split("|")) <= told[name, "state"]
            for labels in re.findall(r"by \(([^)]*)\)", query):
                assert set(re.split(r",\s*", labels)) <= told[name] | {"instance"}


def test_a_failed_run_leaves_the_report_and_a_sound_one_none(cluster, tmp_path):
    path, page = tmp_path / "plan.json", tmp_path / dask_report.FILE_NAME
    assert _made(cluster, path, 3) == [None] * 3
    assert not page.exists()
    assert _made(cluster, path, 3, _pretend) == [None, "it cannot be read", None]
    text = page.read_text()
    assert "Dask Performance Report" in text
    assert "map_tiles" in text
    assert not re.search(r"<(script|link rel=\W?(style|module))[^>]+(src|href)=", text)
    # ^ it opens without a network
    assert [one.name for one in tmp_path.iterdir()] == [dask_report.FILE_NAME]
    assert _made(cluster, path, 3) == [None] * 3
    assert not page.exists()


def test_without_bokeh_the_run_says_what_it_needs(cluster, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "bokeh.models", None)
    assert None in _made(cluster, tmp_path / "plan.json", 4, _pretend)
    (warning,) = [one for one in caplog.records if one.name == "flows.execution.dask_report"]
    assert "terramosaic[observe]" in warning.getMessage()
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_gone_writes_no_report(tmp_path, monkeypatch, caplog):
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    monkeypatch.setattr(dask_report, "REPORT_TIMEOUT", 2.0)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=0,
                host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
        )
        client = stack.enter_context(
            distributed.Client(cluster.scheduler_address, set_as_default=False)
        )
        since = dask_report.start_recording(client)
        cluster.close()
        dask_report.write(client, since, tmp_path)
    (warning,) = [one for one in caplog.records if one.name == "flows.execution.dask_report"]
    assert "could not be written" in warning.getMessage()
    assert not list(tmp_path.iterdir())


def test_a_report_is_no_damage(frozen, tmp_path):
    _run(frozen)
    (frozen.parent / dask_report.FILE_NAME).write_text("<html>")
    found = verify.verify(tmp_path / "out", NullProgress()).to_dict()
    assert found["ok"]
    assert (frozen.parent / dask_report.FILE_NAME).exists()


def test_no_line_of_a_tile_goes_to_the_server_of_prefect():
    code = (
        "import logging; from flows.orchestration import land_cover_flow\n"
        "from prefect.logging import handlers, configuration\n"
        "from prefect.settings import get_current_settings as settings\n"
        "configuration.setup_logging()\n"
        "assert not settings().logging.extra_loggers\n"
        "names = 'flows.execution.tile_scheduler', 'flows.run.stages', 'pipeline', 'catalogs'\n"
        "for name in names:\n"
        "    one = logging.getLogger(name)\n"
        "    while one:\n"
        "        print(name, one.name, [type(held).__name__ for held in one.handlers])\n"
        "        one = one.propagate and one.parent\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "root ['PrefectConsoleHandler']" in done.stdout
    assert "API" not in done.stdout
