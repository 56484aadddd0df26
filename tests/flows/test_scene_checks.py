"""Scenes are checked against their files while a job is planned; search reads no file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from catalogs.errors import AssetReadError, InvalidInputError
from flows.cli import main
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.run import planning, scene_search, search_report, stored_plan
from flows.series import outdated_products
from tests.support.small_catalogs import an_item, write_job

BANDS = {"bands": {"S2L2A": ["B02", "B04"]}}
GDAL_ORDER = [500_000.0, 10.0, 0.0, 5_200_000.0, 0.0, -10.0]


def _plan(path):
    return planning.create_plan(jobs.load(path))


def _state(item, key, value):
    """Make an item state something else of all of its assets."""
    for asset in item["assets"].values():
        asset[key] = value
    return item


@pytest.mark.parametrize("check", ["refuse", "warn", "off"])
def test_a_wrong_transform_is_told_and_the_map_is_complete(tmp_path, check, capsys):
    item = _state(an_item(tmp_path, "a", {"blue": 500, "red": 700}), "proj:transform", GDAL_ORDER)
    path = _write_job(tmp_path, [item], radiometry={"proof": check})
    assert main.main(["run", str(path)]) == 0
    (composite,) = tmp_path.rglob("composite_S2L2A.tif")
    with rasterio.open(composite) as file:
        assert np.unique(file.read(1, masked=True).compressed()).tolist() == [500]
    (caveat,) = [caveat for caveat in _plan(path).caveats if "transform" in caveat.text]
    assert caveat.id == "a"
    assert caveat.text.startswith("its files are taken as they are: B02, B04: the catalog states")
    assert main.main(["run", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "unchanged"


def _write_job(folder, items, **sections):
    """Write a job over the rasters of small_catalogs, whatever their items state."""
    stated = items[0]["assets"]["blue"]["proj:transform"]
    right = [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0]
    items[0]["assets"]["blue"]["proj:transform"] = right
    path = write_job(folder, items, **BANDS, **sections)
    items[0]["assets"]["blue"]["proj:transform"] = stated
    catalog = Path(yaml.safe_load(path.read_text())["catalog"]["path"])
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


def test_a_finished_product_of_settled_scenes_is_not_outdated(tmp_path):
    item = _state(an_item(tmp_path, "a", {"blue": 500, "red": 700}), "proj:transform", GDAL_ORDER)
    path = _write_job(tmp_path, [item])
    assert main.main(["run", str(path)]) == 0
    job = jobs.load(path)
    (entry,) = outdated_products.find_outdated(job, NullProgress())
    assert (entry.status, entry.reason) == ("finished", None)
    plan = _plan(path)
    assert plan.snapshot.scenes[0].catalog_digest is not None
    again = type(plan).from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again.digest == plan.digest
    assert again.snapshot.scenes == plan.snapshot.scenes


def test_an_older_processing_takes_the_place_of_a_refused_scene(tmp_path):
    common = {"grid:code": "MGRS-33UWP", "platform": "sentinel-2a"}
    old = an_item(
        tmp_path, "old", {"blue": 500, "red": 700}, **common, **{"s2:processing_baseline": "02.14"}
    )
    new = an_item(
        tmp_path, "new", {"blue": 900, "red": 900}, **common, **{"s2:processing_baseline": "03.00"}
    )
    path = _write_job(tmp_path, [old, new])
    assert [scene.id for scene in _plan(path).snapshot.scenes] == ["new"]
    _state(new, "raster:bands", [{"scale": 0.5}])
    plan = _plan(_write_job(tmp_path, [old, new]))
    assert [scene.id for scene in plan.snapshot.scenes] == ["old"]
    (reason,) = [scene.reason for scene in plan.snapshot.refused if scene.id == "new"]
    assert reason.startswith("the scale of its B02 is 0.5 by the catalog")


def test_a_search_reads_no_file(tmp_path):
    item = _state(an_item(tmp_path, "a", {"blue": 500, "red": 700}), "proj:transform", GDAL_ORDER)
    path = _write_job(tmp_path, [item])
    for file in (tmp_path / "pixels").rglob("*.tif"):
        file.unlink()
    result = search_report.search(jobs.load(path), NullProgress())
    assert [scene.id for scene in result.used] == ["a"]
    for check in ("refuse", "off"):
        path = _write_job(tmp_path, [item], radiometry={"proof": check})
        with pytest.raises(AssetReadError) as caught:
            _plan(path)
        message = str(caught.value)
        assert message.startswith("a: ")
        assert "blue.tif cannot be read" in message
        assert "--allow-partial" not in message


def test_only_the_headers_of_the_bands_that_are_used_are_read(tmp_path):
    item = an_item(tmp_path, "a", {"blue": 500, "green": 600, "red": 700, "nir": 800})
    (tmp_path / "pixels/sentinel-2-l2a/a/green.tif").unlink()
    bands = ["B02", "B03", "B04", "B08"]
    assert list(_plan(_write_job(tmp_path, [item])).snapshot.scenes[0].assets) == bands
    (tmp_path / "pixels/sentinel-2-l2a/a/nir.tif").unlink()
    path = _write_job(tmp_path, [item], radiometry={"proof": "off"})
    assert list(_plan(path).snapshot.scenes[0].assets) == bands


def test_an_offset_against_the_baseline_is_used_only_where_pixels_agree(tmp_path):
    item = an_item(
        tmp_path, "a", {"blue": 2500, "red": 2700},
        collection="sentinel-2-c1-l2a",
        raster_fields={"scale": 1e-4, "offset": 0, "nodata": 0},
        **{"s2:processing_baseline": "05.10"},
    )  # fmt: skip
    with pytest.raises(InvalidInputError) as caught:
        _plan(_write_job(tmp_path, [item]))
    assert "its offset is stated as 0, but baseline 05.10 implies -0.1" in str(caught.value)
    for check in ("warn", "off"):
        plan = _plan(_write_job(tmp_path, [item], radiometry={"proof": check}))
        assert {asset.radiometry.offset for asset in plan.snapshot.scenes[0].assets.values()} == {0}
        assert any("states an offset of 0" in caveat.text for caveat in plan.caveats)


def test_headers_of_contradicting_items_show_where_they_lie(tmp_path):
    inside = an_item(tmp_path, "a", {"blue": 500, "red": 700})
    west, south, east, north = inside["bbox"]
    inside["geometry"] = _square(west + 20, south, east + 20, north)
    elsewhere = an_item(tmp_path, "b", {"blue": 900, "red": 900}, left=700_000.0)
    elsewhere["bbox"] = inside["bbox"]
    path = _write_job(tmp_path, [inside, elsewhere])
    found = scene_search.search_scenes(jobs.load(path), context_m=0.0)
    (scene,) = found.selection.used
    assert scene.id == "a"
    assert scene.bbox == pytest.approx((west, south, east, north), abs=1e-4)
    (refused,) = found.selection.refused
    assert (refused.id, "its files lie at" in refused.reason) == ("b", True)


def test_pixels_outside_of_the_footprint_enlarge_it(tmp_path):
    item = an_item(tmp_path, "a", {"blue": 500, "red": 700})
    west, south, east, north = item["bbox"]
    item["geometry"] = _square(west, south, (west + east) / 2, north)
    item["bbox"] = [west, south, (west + east) / 2, north]
    path = _write_job(tmp_path, [item])
    (scene,) = _plan(path).snapshot.scenes
    assert scene.bbox == pytest.approx((west, south, east, north), abs=1e-4)
    assert any(
        "pixels outside of its stated footprint" in caveat.text for caveat in _plan(path).caveats
    )
    path = _write_job(tmp_path, [item], radiometry={"proof": "off"})
    assert _plan(path).snapshot.scenes[0].bbox[2] == pytest.approx((west + east) / 2)
    # ^ no pixel is read


def _square(west, south, east, north):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def test_a_file_is_a_plan_or_a_job_by_its_content(tmp_path):
    item = an_item(tmp_path, "a", {"blue": 500, "red": 700})
    path = _write_job(tmp_path, [item])
    as_json = tmp_path / "job.json"
    as_json.write_text(json.dumps(yaml.safe_load(path.read_text())))
    job = stored_plan.load_job_or_plan(as_json)
    assert isinstance(job, jobs.Job)
    plan_path = tmp_path / "jutland.plan"
    stored_plan.make_plan(job, NullProgress(), plan_path)
    assert stored_plan.load_job_or_plan(plan_path).digest == _plan(path).digest
    damaged = tmp_path / "plan.json"
    damaged.write_bytes(plan_path.read_bytes()[:500])
    with pytest.raises(InvalidInputError, match="cannot be read as a plan"):
        stored_plan.load_job_or_plan(damaged)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_file_without_georeference_is_refused_by_name(tmp_path):
    item = an_item(tmp_path, "a", {"blue": 500, "red": 700})
    path = Path(item["assets"]["red"]["href"])
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint16"
    ) as file:
        file.write(np.full((1, 64, 64), 700, np.uint16))
    with pytest.raises(InvalidInputError) as caught:
        _plan(_write_job(tmp_path, [item], radiometry={"proof": "off"}))
    assert f"its B04 ({path}) has no coordinate system" in str(caught.value)
