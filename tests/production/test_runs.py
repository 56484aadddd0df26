"""Whole runs over an embedded country: finished, resumed, damaged, partial."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import rasterio
import yaml
from rio_cogeo import cog_validate

from catalogs import demo as country
from catalogs.legend import LAND_COVER
from flows.config import job as jobs
from flows.demo import demo
from flows.observe.progress import NullProgress
from flows.orchestration import launch
from flows.run import stored_plan, verify
from pipeline import layer_table
from pipeline.quality import window_agreement
from tests.support import stac_schemas
from tests.support.small_model import CARD

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Build a small country once."""
    folder = tmp_path_factory.mktemp("land") / "country"
    country.build(folder, seed=11, size=512)
    return folder


@pytest.fixture
def job(land, tmp_path):
    """Write a job over a part of the country: six tiles, a network with random weights."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CARD))
    built = country.build(land, seed=11, size=512)
    west, south, east, north = _bounds(built.region)
    part = [
        west + 0.35 * (east - west),
        south + 0.35 * (north - south),
        west + 0.75 * (east - west),
        south + 0.65 * (north - south),
    ]
    values = {
        "name": "part",
        "region": {"bbox": part},
        "period": "2021-05-10/2021-07-10",
        "catalog": {"path": str(built.catalog), "provider": "demo"},
        "inputs": ["S2L2A", "S1RTC", "DEM"],
        "grid": {"crs": f"EPSG:{built.epsg}"},
        "model": {"name": "tiny.yaml", "weights": {"random": 3}},
        "output": {"path": "out", "composites": True, "probabilities": True},
        "execution": {"tile": 160, "device": "cpu"},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _bounds(region):
    points = np.array(region["coordinates"][0])
    return [float(edge) for edge in (*points.min(axis=0), *points.max(axis=0))]


def _change(job, **sections):
    values = yaml.safe_load(job.read_text())
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes if isinstance(changes, dict) else changes
    path = job.with_name(f"job-{len(list(job.parent.glob('job*.yaml')))}.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def _run(job, **options):
    options = {"allow_partial": False, "max_cost": None, "progress": NullProgress()} | options
    return launch.run_file(job, **options).to_dict()


def _rasters(item):
    """Return name and sha256 of every COG of a product."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(item).parent.glob("*/*/*.tif"))
    }


def test_a_run_makes_a_product_that_opens_everywhere(job):
    result = _run(job)
    schema = json.loads((ROOT / "docs" / "json" / "run.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(result)), schema)
    assert result["status"] == "complete"
    assert result["tiles"]["total"] == result["tiles"]["done"] >= 4
    item = json.loads(Path(result["item"]).read_text())
    checker = stac_schemas.validator()
    stac_schemas.check(item, checker)
    collection = Path(result["item"]).parents[1] / "collection.json"
    stac_schemas.check(json.loads(collection.read_text()), checker)
    for key, asset in item["assets"].items():
        assert (Path(result["item"]).parent / asset["href"]).exists(), key
    for key in ("land_cover", "confidence", "observations", "quicklook", "zarr", "report", "style"):
        assert key in item["assets"]
    for path in Path(result["item"]).parent.glob("*/*/*.tif"):
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (path, errors, warnings)
        with rasterio.open(path) as file:
            layer = layer_table.get(path.stem)
            assert f"EPSG:{file.crs.to_epsg()}" == item["properties"]["proj:code"]
            if layer.has_legend:
                assert file.colormap(1)[1][:3] == LAND_COVER.by_code[1].color
            assert file.dtypes[0] == layer.dtype
            assert file.nodata == layer.nodata or np.isnan(file.nodata)
    again = _run(job)
    assert again["status"] == "unchanged"
    assert again["tiles"]["done"] == 0


def test_workers_engines_and_tiles_do_not_change_a_pixel(job):
    first = _rasters(_run(job)["item"])
    for number, execution in enumerate(
        [{"workers": 1}, {"workers": 4}, {"engine": "distributed", "workers": 2}]
    ):
        other = _change(job, execution=execution, output={"path": f"out-{number}"})
        assert _rasters(_run(other)["item"]) == first, execution
    larger = _change(job, execution={"tile": 320}, output={"path": "out-large"})
    for name in first:
        with (
            rasterio.open(_find(_run(larger)["item"], name)) as one,
            rasterio.open(_find(_run(job)["item"], name)) as two,
        ):
            assert np.array_equal(one.read(), two.read(), equal_nan=True), name


def _find(item, name):
    return next(Path(item).parent.glob(f"*/*/{name}"))


def _start(job):
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "run", str(job)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        # ^ a shell without job control starts its background jobs deaf to Ctrl-C
    )


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_and_gives_the_same_bytes(job, kill):
    whole = _rasters(_run(_change(job, output={"path": "whole"}))["item"])
    with _start(job) as process:
        for line in process.stderr:
            if line.startswith("tiles 1/"):
                process.send_signal(kill)
                break
        process.stderr.read()
    assert process.returncode == (-9 if kill == signal.SIGKILL else 130)
    assert not list((job.parent / "out").rglob("item.json"))
    assert not list((job.parent / "out").rglob("*.tif"))
    result = _run(job)
    assert result["tiles"]["skipped"] >= 1
    assert result["tiles"]["done"] >= 1
    assert result["tiles"]["skipped"] + result["tiles"]["done"] == result["tiles"]["total"]
    assert _rasters(result["item"]) == whole


@pytest.fixture
def broken(job, land, tmp_path):
    """Return the job over a copy of the catalog in which one asset cannot be read."""
    copy = tmp_path / "copy"
    shutil.copytree(land, copy)
    job = _change(job, catalog={"path": str(copy / "catalog" / "catalog.json")})
    plan = stored_plan.load_or_create_plan(jobs.load(job), NullProgress())
    counted = [
        (sum(scene in plan.tile_scenes(tile) for tile in plan.tiles), scene)
        for scene in plan.snapshot.scenes
        if scene.modality == "S2L2A"
    ]
    touched, scene = min(
        (pair for pair in counted if pair[0] > 0), key=lambda pair: (pair[0], pair[1].id)
    )
    href = Path(scene.assets["B03"].href)
    href.write_bytes(href.read_bytes()[:2000])
    return job, scene, touched


def test_an_unreadable_asset_fails_its_tiles_and_nothing_else(broken):
    job, scene, touched = broken
    result = _run(job)
    assert result["status"] == "failed"
    assert result["item"] is None
    assert 1 <= len(result["tiles"]["failed"]) <= touched
    assert result["tiles"]["done"] == result["tiles"]["total"] - len(result["tiles"]["failed"]) > 0
    assert all(scene.id in one["reason"] for one in result["tiles"]["failed"])
    assert not list((job.parent / "out").rglob("item.json"))
    assert not list((job.parent / "out").rglob("*.tif"))

    partial = _run(job, allow_partial=True)
    assert partial["status"] == "partial"
    item = json.loads(Path(partial["item"]).read_text())
    holes = {one["tile"] for one in item["properties"]["terramosaic:holes"]}
    assert holes == {one["tile"] for one in result["tiles"]["failed"]}
    plan = stored_plan.load_or_create_plan(jobs.load(job), NullProgress())
    with rasterio.open(_find(partial["item"], "observations.tif")) as file:
        for tile in plan.tiles:
            window = ((tile.row, tile.row + tile.height), (tile.column, tile.column + tile.width))
            unknown = (file.read(1, window=window) == 65535).all()
            assert unknown == (tile.id in holes)
            # ^ a hole is not "seen, and nothing there"
    assert verify.verify(Path(partial["item"]), NullProgress()).ok


def test_what_the_gate_refuses_is_not_published_and_its_tiles_stay(job, monkeypatch):
    monkeypatch.setattr(window_agreement, "SAMPLE_INTERVAL", 1)
    # ^ the country is smaller than 65 windows
    values = yaml.safe_load(job.read_text())
    narrow = yaml.safe_dump(values | {"qc": {"gate": "refuse", "max_disagreement": 0.0}})
    job.write_text(narrow)
    refused = _run(job)
    assert refused["status"] == "refused"
    assert refused["item"] is None
    assert refused["seam"]["disagreement"]["share"] > 0
    assert "qc.max_disagreement" in refused["reason"]
    assert not list(job.parent.rglob("item.json"))
    job.write_text(yaml.safe_dump(values))
    taken = _run(job)
    assert taken["status"] == "complete"
    assert taken["tiles"]["skipped"] == taken["tiles"]["total"]
    assert taken["seam"] == refused["seam"]
    properties = json.loads(Path(taken["item"]).read_text())["properties"]
    assert properties["terramosaic:seam"] == taken["seam"]
    assert _run(job)["seam"] == taken["seam"]
    # ^ unchanged: what the item says
    job.write_text(narrow)
    late = _run(job)
    assert (late["status"], late["tiles"]["done"]) == ("refused", 0)
    assert late["item"] == taken["item"]


def test_verify_names_the_damage_and_the_next_run_repairs_it(job):
    result = _run(job)
    before = _rasters(result["item"])
    out = job.parent / "out"
    sound = verify.verify(out, NullProgress()).to_dict()
    assert (sound["ok"], sound["bad"]) == (True, [])
    assert sound["seam"] == {"item": result["item"], **result["seam"]}
    shard = next(iter(sorted(out.rglob("cube.zarr/land_cover/c/0/1"))))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(bytes(data))
    cog = _find(result["item"], "confidence.tif")
    cog.write_bytes(cog.read_bytes()[:-1] + b"!")
    shard = next(iter(sorted(out.rglob("cube.zarr/land_cover/c/1/0"))))
    shard.write_bytes(shard.read_bytes()[:-9])
    for _ in range(2):
        found = verify.verify(out, NullProgress()).to_dict()
        assert not found["ok"]
        assert {one["tile"] for one in found["bad"]} == {"r000c001", "r001c000", ""}
    repaired = _run(job)
    assert repaired["tiles"]["done"] == 2
    assert _rasters(repaired["item"]) == before
    assert verify.verify(out, NullProgress()).ok


def test_verify_goes_on_after_a_product_that_it_cannot_read(job):
    result = _run(job)
    out = job.parent / "out"
    other = out / "a-product-of-another-version"
    shutil.copytree(Path(result["item"]).parent, other)
    plan = next(other.rglob("plan.json"))
    plan.write_text(plan.read_text().replace('"format": ', '"format": 9'))
    found = verify.verify(out, NullProgress()).to_dict()
    unreadable, changed = found["bad"]
    assert str(plan) in unreadable["reason"]
    assert changed["reason"] == "the file differs from the published one"
    assert found["seam"]["item"] == result["item"]


def test_a_plan_runs_as_it_was_frozen(job, tmp_path):
    made = stored_plan.make_plan(jobs.load(job), NullProgress(), tmp_path / "plan.json")
    assert made.tiles.new == made.tiles.total
    job.unlink()
    result = _run(tmp_path / "plan.json")
    assert result["status"] == "complete"


def test_a_plan_whose_weights_changed_is_refused_before_any_tile(job, tmp_path, capfd):
    from flows.cli import main

    made = tmp_path / "plan.json"
    stored_plan.make_plan(jobs.load(job), NullProgress(), made)
    card = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(card | {"width": 16}))
    assert main.main(["run", str(made)]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "Plan again, or restore the weights" in told[0]
    assert not list(tmp_path.rglob("cube.zarr"))


def test_the_demo_leaves_what_it_promises(tmp_path):
    folder = tmp_path / "demo"
    result = demo.run(folder, seed=11, size=512, tile_size=512, progress=NullProgress()).to_dict()
    assert result["status"] == "complete"
    for name in ("catalog/catalog.json", "truth.tif", "job.yaml"):
        assert (folder / name).exists()
    assert result["accuracy"]["n"] > 100_000
    assert result["accuracy"]["overall"] >= 0.85
    assert result["accuracy"]["macro_f1"] >= 0.75
    again = demo.run(folder, seed=11, size=512, tile_size=512, progress=NullProgress()).to_dict()
    assert again["status"] == "unchanged"
    assert again["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"region": {"bbox": [100.0, 10.0, 100.1, 10.1]}}, 3, "region"),
        ({"period": "1999-01-01/1999-12-31"}, 3, "1999"),
        ({"composite": {"max_cloud_cover": 0.0}}, 3, "cloud"),
        ({"allow": [], "catalog": {"provider": "nowhere"}}, 2, "nowhere"),
        ({"catalog": {"path": "missing.json"}}, 2, "missing.json"),
        ({"model": {"name": "demo", "weights": {"path": "w.safetensors"}}}, 2, "w.safetensors"),
        (
            {"model": {"name": "tiny.yaml", "weights": {"path": "w.bin", "sha256": "0" * 64}}},
            2,
            "sha256",
        ),
    ],
)
def test_what_cannot_be_is_said_once_and_clearly(job, capfd, changes, code, said):
    from flows.cli import main

    (job.parent / "w.bin").write_bytes(b"not these weights")
    assert main.main(["run", str(_change(job, **changes))]) == code
    out, error = capfd.readouterr()
    assert out == ""
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert said in told[0]
    assert "Traceback" not in error
    assert not (job.parent / "out").exists()


def test_a_wrong_hash_is_refused(job, capfd):
    from flows.cli import main
    from model.predictor import registry

    shipped = Path(registry.DEMO_CARD_PATH).with_name("weights.safetensors")
    pinned = {"path": str(shipped), "sha256": "0" * 64}
    wrong = _change(job, model={"name": "demo", "weights": pinned})
    assert main.main(["run", str(wrong)]) == 2
    assert "sha256" in capfd.readouterr().err


@contextlib.contextmanager
def _served(home):
    """Start a server of Prefect's on loopback, as a user does; lend its environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    named = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=home
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(f"{named}/health"):
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.2)
        yield env | {"PREFECT_API_URL": named}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _asked(env, kind):
    request = urllib.request.Request(
        f"{env['PREFECT_API_URL']}/{kind}/filter",
        data=b"{}",
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_server_at_hand_is_told_of_the_run(job, tmp_path):
    plain = _rasters(_run(_change(job, output={"path": "plain"}))["item"])
    command = [sys.executable, "-m", "flows.cli.main", "run", "--json"]
    with _served(tmp_path) as env:
        for status in ("complete", "unchanged"):
            done = subprocess.run(
                [*command, str(job)], cwd=ROOT, env=env, capture_output=True, text=True, check=True
            )
            told = json.loads(done.stdout)
            assert told["status"] == status
        assert _rasters(told["item"]) == plain
        (flow,) = _asked(env, "flow_runs")
        assert flow["state_type"] == "COMPLETED"
        names = sorted(one["name"].rpartition("-")[0] for one in _asked(env, "task_runs"))
        assert names == ["map tiles", "plan", "publish", "quality", "verify"]


def test_a_server_that_does_not_answer_is_named(job):
    from flows.cli import main

    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "run", str(job)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == main.EXIT_FAILED
    assert "Prefect's server at http://127.0.0.1:9/api does not answer" in done.stderr
    assert "unset PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_prefect_can_serve_the_flow():
    from flows.orchestration.land_cover_flow import land_cover

    deployment = land_cover.to_deployment(name="region", parameters={"job": "region.yaml"})
    assert deployment.entrypoint.endswith("land_cover_flow.py:land_cover")
    assert set(deployment._parameter_openapi_schema.model_dump()["properties"]) == {
        "job",
        "period",
        "allow_partial",
    }
