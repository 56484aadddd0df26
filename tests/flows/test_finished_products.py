"""A finished product is found without planning, unless job, catalog or model have changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pystac
import pytest
import yaml
import zarr

from catalogs import demo as country
from catalogs.errors import InvalidInputError
from catalogs.scene import Caveat
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.observe.run_context import RunContext
from flows.orchestration import launch
from flows.run import finished_products, model_spec_cache, planning, stages, stored_plan, verify
from flows.run.model_spec_cache import PlannedModel
from flows.series import outdated_products
from model.weights import checksums, hub
from pipeline.plan.settings import ModelOptions
from pipeline.storage import plan_file
from tests.support import large_plan

PERIOD = "2021-06"


@pytest.fixture(scope="module")
def job_path(tmp_path_factory):
    """Make a small country and a product of composites over a part of it."""
    folder = tmp_path_factory.mktemp("land")
    land = country.build(folder / "country", seed=11, size=512)
    points = land.region["coordinates"][0]
    west, east = (edge(x for x, _ in points) for edge in (min, max))
    south, north = (edge(y for _, y in points) for edge in (min, max))
    path = folder / "job.yaml"
    values = {
        "name": "part",
        "region": {
            "bbox": [
                west + 0.4 * (east - west),
                south + 0.4 * (north - south),
                west + 0.6 * (east - west),
                south + 0.6 * (north - south),
            ]
        },
        "period": PERIOD,
        "catalog": {"path": str(land.catalog), "provider": "demo"},
        "inputs": ["S2L2A"],
        "bands": {"S2L2A": ["B04"]},
        "grid": {"crs": f"EPSG:{land.epsg}"},
        "model": {"name": "none"},
        "output": {"path": "out", "composites": True, "formats": ["zarr"]},
        "execution": {"tile": 512, "workers": 1},
    }
    path.write_text(yaml.safe_dump(values))
    assert _run(path).status == "complete"
    return path


def _run(path):
    return launch.run_file(path, allow_partial=False, max_cost=None, progress=NullProgress())


def _load_changed(path, **sections):
    values = yaml.safe_load(path.read_text())
    copy = path.with_name("changed.yaml")
    copy.write_text(yaml.safe_dump(values | sections))
    return jobs.load(copy)


def test_a_finished_product_is_found_without_planning(job_path, monkeypatch):
    monkeypatch.setattr(planning, "create_plan", lambda *_: pytest.fail("the job was planned"))
    result = _run(job_path)
    assert result.status == "unchanged"
    assert result.tiles.skipped == result.tiles.total
    assert result.item is not None


def test_the_item_links_to_the_items_of_its_scenes(job_path):
    (path,) = job_path.parent.glob("out/*/*/item.json")
    item = pystac.Item.from_file(path)
    links = item.get_links("derived_from")
    ids = [pystac.Item.from_file(link.get_absolute_href()).id for link in links]
    scenes = item.properties["terramosaic:scenes"]
    assert sorted(ids) == sorted(scene["id"] for scene in scenes)
    assert ids


def test_a_finished_product_gets_new_metadata_without_computing_a_tile(job_path):
    """The advice of deploy/upgrade.md for products of earlier releases."""
    (item,) = job_path.parent.glob("out/*/*/item.json")
    store = next(item.parent.glob("*/cube.zarr"))
    layer = zarr.open_group(store, mode="r+", use_consolidated=False)["composite_S2L2A"]
    attributes = layer.attrs.asdict()
    layer.attrs.put({"nodata": -32768, "scale": 1e-4})
    item.unlink()
    result = _run(job_path)
    assert (result.status, result.tiles.done) == ("complete", 0)
    assert result.tiles.skipped == result.tiles.total > 0
    for options in ({"use_consolidated": False}, {}):
        group = zarr.open_group(store, mode="r", **options)
        assert group["composite_S2L2A"].attrs.asdict() == attributes
    assert _run(job_path).status == "unchanged"


def test_another_request_is_planned(job_path):
    assert finished_products.find_unchanged(_load_changed(job_path)) is not None
    for sections in ({"mask": {"dilate_m": 80}}, {"bands": {"S2L2A": ["B08"]}}):
        assert finished_products.find_unchanged(_load_changed(job_path, **sections)) is None


def test_changed_quality_limits_are_used(job_path):
    plan, result = finished_products.find_unchanged(_load_changed(job_path, qc={"gate": "refuse"}))
    assert result.status == "unchanged"
    assert plan.settings.quality_limits.gate == "refuse"


@pytest.mark.parametrize("is_known", [True, False])
def test_the_plan_file_of_a_finished_product_is_not_written_again(job_path, monkeypatch, is_known):
    """Where the job's quality gate has changed, in a flow on a server and by the command plan."""
    if not is_known:
        monkeypatch.setattr(finished_products, "find_unchanged", lambda _: None)
    (plan_path,) = job_path.parent.glob("out/part/*/*/plan.json")
    content = plan_path.read_bytes()
    job = _load_changed(job_path, qc={"gate": "refuse"})
    result = stages.run(job, False, RunContext())
    assert result.status == "unchanged"
    stored_plan.make_plan(job, NullProgress())
    assert plan_path.read_bytes() == content
    assert verify.verify(job_path.parent / "out", NullProgress()).ok


def test_a_product_without_a_receipt_is_not_unchanged(job_path):
    receipt = next(job_path.parent.glob("out/part/*/*/receipts/*.json"))
    text = receipt.read_text()
    receipt.unlink()
    assert finished_products.find_unchanged(jobs.load(job_path)) is None
    receipt.write_text(text)
    assert finished_products.find_unchanged(jobs.load(job_path)) is not None


def test_a_product_with_a_removed_scene_is_not_unchanged(job_path):
    plan, _ = finished_products.find_unchanged(jobs.load(job_path))
    removed = plan.snapshot.scenes[0].id
    catalog = jobs.load(job_path).catalog.path.parent
    originals = {}
    for path in catalog.rglob("collection.json"):
        values = json.loads(path.read_text())
        links = [link for link in values["links"] if not link["href"].endswith(f"{removed}.json")]
        if len(links) < len(values["links"]):
            originals[path] = path.read_text()
            path.write_text(json.dumps(values | {"links": links}))
    assert originals
    assert finished_products.find_unchanged(jobs.load(job_path)) is None
    for path, text in originals.items():
        path.write_text(text)
    assert finished_products.find_unchanged(jobs.load(job_path)) is not None


PLANNED_MODEL = PlannedModel(
    spec=large_plan.MODEL,
    overlap=20,
    options=ModelOptions(name="demo", weights={"path": "w"}),
    caveats=(Caveat(id="demo", text="a note"),),
)


@pytest.fixture
def job_with_weights(job_path, tmp_path, monkeypatch):
    """Return a job whose model has weights of its own, on a machine without a GPU."""
    monkeypatch.setenv("TERRAMOSAIC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(model_spec_cache, "_has_gpu", lambda: False)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"a" * 1000)
    model = {"name": "demo", "weights": {"path": str(weights)}}
    return _load_changed(job_path, model=model), weights


def test_a_model_is_cached_after_it_was_loaded(job_with_weights):
    job, _ = job_with_weights
    assert model_spec_cache.find_model(job) is None
    model_spec_cache.keep_model(job, PLANNED_MODEL)
    assert model_spec_cache.find_model(job) == PLANNED_MODEL


def test_other_weights_at_the_same_path_are_another_model(job_with_weights, tmp_path):
    job, weights = job_with_weights
    model_spec_cache.keep_model(job, PLANNED_MODEL)
    state = weights.stat()
    replacement = tmp_path / "replacement"
    replacement.write_bytes(b"b" * 1000)
    os.utime(replacement, ns=(state.st_atime_ns, state.st_mtime_ns))
    shutil.move(replacement, weights)
    # ^ same size and modification time
    assert weights.stat().st_mtime_ns == state.st_mtime_ns
    assert model_spec_cache.find_model(job) is None


def test_a_plan_has_the_model_that_is_known(job_with_weights, monkeypatch):
    """Bands and overlap of the job are checked when a model is loaded: others load it again."""
    job, _ = job_with_weights
    model_spec_cache.keep_model(job, PLANNED_MODEL)
    assert planning.load_model_spec(job) == PLANNED_MODEL.spec
    model = job.model.model_copy(update={"overlap": 40})
    for changes in ({"model": model}, {"bands": {"S2L2A": ["B04", "B08"]}}):
        assert model_spec_cache.find_model(job.model_copy(update=changes)) is None


def test_machine_code_is_no_part_of_the_model(job_with_weights, monkeypatch, tmp_path):
    """Loops are compiled at their first use, into the package's folder."""
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(model_spec_cache, "PACKAGES", ("package",))
    job, _ = job_with_weights
    before = model_spec_cache.compute_fingerprint(job)
    (package / "__pycache__" / "loops.nbc").write_bytes(b"code")
    assert model_spec_cache.compute_fingerprint(job) == before
    (package / "weights.bin").touch()
    assert model_spec_cache.compute_fingerprint(job) != before


def test_a_damaged_file_of_models_is_ignored(job_with_weights):
    job, _ = job_with_weights
    model_spec_cache.keep_model(job, PLANNED_MODEL)
    path = model_spec_cache._entries_path()
    path.write_text(path.read_text().replace('"overlap"', '"unknown"'))
    assert model_spec_cache.find_model(job) is None


def test_models_on_gpus_are_always_loaded(job_with_weights, monkeypatch):
    job, _ = job_with_weights
    assert model_spec_cache.compute_fingerprint(job) is not None
    monkeypatch.setattr(model_spec_cache, "_has_gpu", lambda: True)
    assert model_spec_cache.compute_fingerprint(job) is None


@pytest.mark.parametrize("model", [{"weights": "hub"}, {"tokenizers": {"LULC": "hub"}}])
def test_official_files_are_another_model_when_they_change(
    job_path, job_with_weights, tmp_path, monkeypatch, model
):
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.setenv("TERRAMOSAIC_WEIGHTS", str(folder))
    if "weights" not in model:
        model = model | {"weights": {"random": 1}}
    job = _load_changed(job_path, model={"name": "terramind_v1_tiny", **model})
    fingerprints = {model_spec_cache.compute_fingerprint(job)}
    file = folder / hub.OFFICIAL_FILES["terramind_v1_tiny"].file
    file.write_bytes(b"a")
    fingerprints.add(model_spec_cache.compute_fingerprint(job))
    file.write_bytes(b"ab")
    fingerprints.add(model_spec_cache.compute_fingerprint(job))
    checksums.record_pin(
        "repo", "main", checksums.Pin(commit="1", sha256="2", bytes=1), renew=False
    )
    fingerprints.add(model_spec_cache.compute_fingerprint(job))
    assert None not in fingerprints
    assert len(fingerprints) == 4


def test_a_tokenizer_beside_the_weights_is_a_part_of_the_model(job_with_weights):
    job, weights = job_with_weights
    before = model_spec_cache.compute_fingerprint(job)
    tokenizer = hub.OFFICIAL_FILES["terramind_v1_tokenizer_lulc"].file
    weights.with_name(tokenizer).write_bytes(b"tokens")
    assert model_spec_cache.compute_fingerprint(job) not in {before, None}


def test_the_files_of_a_configuration_are_a_part_of_the_model(job_path, job_with_weights, tmp_path):
    _, weights = job_with_weights
    configuration = tmp_path / "mine.yaml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "architecture": {"dim": 64, "heads": 2, "depth": 2},
                "inputs": {"S2L2A": ["B04"]},
                "weights": {"path": weights.name},
            }
        )
    )
    job = _load_changed(job_path, model={"name": str(configuration)})
    fingerprints = {model_spec_cache.compute_fingerprint(job)}
    weights.write_bytes(b"c" * 10)
    fingerprints.add(model_spec_cache.compute_fingerprint(job))
    configuration.write_text(configuration.read_text() + "width: 16\n")
    fingerprints.add(model_spec_cache.compute_fingerprint(job))
    assert None not in fingerprints
    assert len(fingerprints) == 3


IMPORT_PROGRAM = """
import sys
from flows.cli import main
sys.argv = ["terramosaic", "run", sys.argv[1]]
try:
    main.main()
finally:
    slow = ("torch", "prefect", "xarray", "pandas", "dask.array", "distributed", "zarr", "numba")
    print("imported:", *(name for name in slow if name in sys.modules))
"""


def test_a_finished_product_is_found_without_slow_imports(job_path):
    command = [sys.executable, "-c", IMPORT_PROGRAM, str(job_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing to do" in result.stdout
    assert result.stdout.splitlines()[-1] == "imported:"


def test_a_plan_of_other_numerics_is_not_run(job_path, tmp_path):
    plan = planning.create_plan(jobs.load(job_path), NullProgress())
    older = dataclasses.replace(
        plan,
        numerics=plan.numerics - 1,
        settings=dataclasses.replace(plan.settings, output_dir=str(tmp_path)),
    )
    plan_file.write_plan_file(tmp_path / "plan.json", older)
    with pytest.raises(InvalidInputError, match="computes other pixel values"):
        _run(tmp_path / "plan.json")


def test_a_product_of_other_numerics_is_recomputed_by_refresh(job_path):
    job = jobs.load(job_path)
    plan, _ = finished_products.find_unchanged(job)
    older = dataclasses.replace(plan, numerics=plan.numerics - 1)
    folder = job.output.folder / job.name / "2021-06-01_2021-06-30"
    changes = list(outdated_products.iter_changes(job, older, folder, None))
    assert changes[0].startswith("this version computes other pixel values")
