"""Products with holes: what lacks an input, a band or observations is refused, with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from flows.cli import main
from flows.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from pipeline.quality import completeness
from tests.support import small_catalogs, small_worlds
from tests.support.small_catalogs import SIZE

ROOT = Path(__file__).parents[2]
RAMP = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 900 + 300
GROUND = {"B02": RAMP, "B04": RAMP + 40, "B08": RAMP + 900}
CLEAR, CLOUD = 4, 9
BASELINE = {"s2:processing_baseline": "02.14"}
BANDS = {"S2L2A": ["B02", "B04", "B08"]}


def optical(folder, name="s2", *, scl=CLEAR, day=10, **bands):
    assets = GROUND | ({} if scl is None else {"SCL": scl}) | bands
    present = {band: values for band, values in assets.items() if values is not None}
    return small_catalogs.an_item(
        folder, name, present, datetime=f"2024-06-{day:02d}T10:00:00Z", **BASELINE
    )


def radar(folder, name="s1", *, value=0.05, **properties):
    values = np.full((SIZE, SIZE), value, np.float32) * (1 + RAMP / 900)
    stated = {"sat:orbit_state": "ascending", "sat:relative_orbit": 44} | properties
    bands = {"vv": values.astype(np.float32), "vh": (values / 4).astype(np.float32)}
    return small_catalogs.an_item(folder, name, bands, collection="sentinel-1-rtc", **stated)


def elevation(folder, name="dem", *, height=RAMP, **options):
    return small_catalogs.an_item(
        folder, name, {"data": height}, collection="cop-dem-glo-30", **options
    )


def write_job(folder, items, **sections):
    sections = {"bands": BANDS} | sections
    return small_catalogs.write_job(folder, items, provider="planetary-computer", **sections)


def change_job(job, **sections):
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | sections))
    return job


def command(capsys, name, job, *options):
    """Run a command with --json; return its exit code and its result, valid by its schema."""
    capsys.readouterr()
    code = main.main([name, str(job), "--json", *options])
    result = json.loads(capsys.readouterr().out)
    if "error" not in result:
        schema = json.loads((ROOT / "docs" / "json" / f"{name}.schema.json").read_text())
        jsonschema.validate(result, schema)
    return code, result


def text_of(capsys, name, job):
    capsys.readouterr()
    main.main([name, str(job)])
    return capsys.readouterr().out


def list_items(job):
    return list(job.parent.glob("out/*/*/item.json"))


def receipt_times(job):
    return {path: path.stat().st_mtime_ns for path in job.parent.glob("out/*/*/*/receipts/*.json")}


def check_refused(capsys, job, *texts, tiles):
    """Check that a run is refused for a reason, publishes nothing, and computes no tile twice."""
    code, result = command(capsys, "run", job)
    assert (code, result["status"], result["item"]) == (EXIT_FAILED, "refused", None)
    assert all(text in result["reason"] for text in texts), result["reason"]
    assert not list_items(job)
    assert (result["tiles"]["done"], result["tiles"]["failed"]) == (tiles, [])
    made = receipt_times(job)
    again, repeated = command(capsys, "run", job)
    assert (again, repeated["reason"]) == (EXIT_FAILED, result["reason"])
    assert receipt_times(job) == made
    return result


def check_complete(capsys, job):
    code, result = command(capsys, "run", job)
    assert (code, result["status"], result["reason"]) == (EXIT_OK, "complete", None), result
    assert list_items(job)
    return result


# -- observations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        ({"scl": CLOUD}, "S2L2A has observed 0 % of the region, and qc.min_observed is 1 %"),
        ({"B02": 0, "B04": 0, "B08": 0}, "S2L2A has values at 0 % of the region"),
    ],
    ids=["all pixels are clouds", "all pixels are nodata"],
)
@pytest.mark.parametrize("gate", ["refuse", "off"])
def test_a_region_that_was_never_observed_is_refused(tmp_path, capsys, pixels, reason, gate):
    job = write_job(
        tmp_path, [optical(tmp_path, **pixels)], qc={"gate": gate}, radiometry={"proof": "off"}
    )
    check_refused(capsys, job, reason, "set qc: {min_observed: 0}", tiles=1)
    assert text_of(capsys, "run", job).startswith(f"refused: {reason}")
    change_job(job, qc={"gate": gate, "min_observed": 0})
    made = receipt_times(job)
    result = check_complete(capsys, job)
    assert receipt_times(job) == made
    if "scl" in pixels:
        assert result["warnings"][0].startswith("100 % of the region was never observed")


def test_a_period_that_sees_more_is_complete(tmp_path, capsys):
    scenes = [optical(tmp_path, "june", scl=CLOUD), optical(tmp_path, "later", day=28)]
    job = write_job(tmp_path, scenes, period="2024-06-01/2024-06-20")
    check_refused(capsys, job, "Widen the period", tiles=1)
    change_job(job, period="2024-06")
    check_complete(capsys, job)


@pytest.mark.parametrize(
    ("min_observed", "is_refused"), [(0.01, False), (0.03, False), (0.3, True)]
)
def test_the_share_of_observed_pixels_is_compared(tmp_path, capsys, min_observed, is_refused):
    scl = np.full((SIZE, SIZE), CLOUD)
    scl[:, :20] = CLEAR
    job = write_job(
        tmp_path,
        [optical(tmp_path, scl=scl)],
        qc={"min_observed": min_observed},
        mask={"dilate_m": 0},
    )
    code, result = command(capsys, "run", job)
    assert code == (EXIT_FAILED if is_refused else EXIT_OK)
    assert (result["item"] is None) is is_refused


def test_a_published_product_is_held_to_a_narrower_limit_and_kept(tmp_path, capsys):
    scl = np.full((SIZE, SIZE), CLOUD)
    scl[:, :30] = CLEAR
    job = write_job(tmp_path, [optical(tmp_path, scl=scl)], mask={"dilate_m": 0})
    check_complete(capsys, job)
    change_job(job, qc={"min_observed": 0.9})
    code, result = command(capsys, "run", job)
    assert (code, result["status"]) == (EXIT_FAILED, "refused")
    assert Path(result["item"]).exists()
    assert "is left as it is" in text_of(capsys, "run", job)


def test_a_product_of_an_earlier_version_stays_valid(tmp_path, capsys):
    job = write_job(tmp_path, [optical(tmp_path, scl=CLOUD)], qc={"min_observed": 0})
    check_complete(capsys, job)
    for path in job.parent.glob("out/*/*/*/receipts/*.json"):
        values = json.loads(path.read_text())
        del values["counts"]
        path.write_text(json.dumps(values))
    change_job(job, qc={})
    code, result = command(capsys, "run", job)
    assert (code, result["status"]) == (EXIT_OK, "unchanged")
    assert result["warnings"][0].startswith("100 % of the region was never observed")


# -- inputs and bands ----------------------------------------------------------------------------


def test_an_input_whose_scenes_are_all_left_out_is_told_before_a_tile_is_made(tmp_path, capsys):
    items = [optical(tmp_path), radar(tmp_path)]
    job = write_job(tmp_path, items, inputs=["S2L2A", "S1RTC"], radar={"relative_orbits": [117]})
    for name in ("search", "plan"):
        code, result = command(capsys, name, job)
        assert code == EXIT_OK
        assert result["warnings"][0].startswith("A run will publish nothing. All S1RTC scenes")
        assert "relative orbit is 44" in result["warnings"][0]
    check_refused(capsys, job, "All S1RTC scenes are left out", tiles=0)
    change_job(job, inputs=["S2L2A"], radar={})
    check_complete(capsys, job)


def test_an_input_that_covers_next_to_nothing_is_refused(tmp_path, capsys):
    sliver = elevation(tmp_path, left=small_worlds.LEFT + 502, top=small_worlds.TOP)
    job = write_job(tmp_path, [optical(tmp_path), sliver], inputs=["S2L2A", "DEM"])
    check_refused(
        capsys,
        job,
        "The footprints of the DEM scenes (1) cover 0.",
        "Leave DEM out of inputs",
        tiles=0,
    )
    change_job(job, inputs=["S2L2A"])
    check_complete(capsys, job)


def test_an_input_without_a_value_is_refused(tmp_path, capsys):
    job = write_job(
        tmp_path,
        [optical(tmp_path), radar(tmp_path, value=np.nan)],
        inputs=["S2L2A", "S1RTC"],
        radiometry={"proof": "off"},
    )
    check_refused(capsys, job, "S1RTC has values at 0 % of the region", tiles=1)


def test_a_band_without_a_value_is_refused(tmp_path, capsys):
    job = write_job(tmp_path, [optical(tmp_path, B08=0)], radiometry={"proof": "off"})
    check_refused(capsys, job, "B08 of S2L2A has values at 0 %", "(s2)", tiles=1)
    change_job(job, bands={"S2L2A": ["B02", "B04"]})
    check_complete(capsys, job)


def test_a_band_that_no_scene_has_is_refused_where_the_job_names_it(tmp_path, capsys):
    scenes = [optical(tmp_path, f"s{day}", day=day, B08=None) for day in (10, 12)]
    job = write_job(tmp_path, scenes)
    check_refused(capsys, job, "None of the S2L2A scenes has B08", tiles=0)
    change_job(job, bands={})
    result = check_complete(capsys, job)
    assert any("it lacks" in text and "B08" in text for text in result["warnings"])


def test_a_band_that_some_scenes_have_is_complete(tmp_path, capsys):
    scenes = [optical(tmp_path, "full"), optical(tmp_path, "poor", day=12, B08=None)]
    result = check_complete(capsys, write_job(tmp_path, scenes))
    assert result["warnings"] == ["poor: it lacks B08: used for the others"]


# -- partial products ----------------------------------------------------------------------------


def test_a_partial_product_with_holes_is_not_published(tmp_path, capsys):
    job = write_job(tmp_path, [optical(tmp_path, scl=CLOUD)])
    code, result = command(capsys, "run", job, "--allow-partial")
    assert (code, result["status"]) == (EXIT_FAILED, "refused")
    assert not list_items(job)


# -- regions without a pixel ---------------------------------------------------------------------


def test_a_region_without_a_pixel_is_refused_and_a_larger_one_is_mapped(tmp_path, capsys):
    item = optical(tmp_path)
    job = write_job(tmp_path, [item])
    west, south, _, _ = yaml.safe_load(job.read_text())["region"]["bbox"]
    region = {"bbox": [west, south, west + 2e-5, south + 2e-5]}
    change_job(job, region=region)
    for name in ("plan", "run"):
        code, result = command(capsys, name, job)
        assert code == EXIT_USAGE
        assert "No pixel of the grid has its centre in the region" in result["error"]
    assert not (tmp_path / "out").exists()
    change_job(job, grid={"crs": "EPSG:32633", "resolution": 1})
    check_complete(capsys, job)
    larger = {"bbox": [west, south, west + 3e-4, south + 2e-4]}
    check_complete(capsys, change_job(job, region=larger, grid={"crs": "EPSG:32633"}))


# -- what is assumed -----------------------------------------------------------------------------


def test_assumptions_about_many_scenes_are_one_warning(tmp_path, capsys):
    scenes = [optical(tmp_path, f"scene-{day:02d}", day=day, scl=None) for day in range(1, 13)]
    job = write_job(tmp_path, scenes)
    expected = "scene-01, scene-02, scene-03 and 9 more: no SCL: clouds are not masked"
    for name in ("search", "plan", "run"):
        _, result = command(capsys, name, job)
        (warning,) = result["warnings"]
        assert warning.startswith(expected)
        assert f"warning    {expected}" in text_of(capsys, name, job)
    report = tmp_path / "search.html"
    main.main(["search", str(job), "--report", str(report)])
    assert expected in report.read_text()


@pytest.mark.parametrize("height", [0, 250])
def test_uniform_terrain_is_told(tmp_path, capsys, height):
    items = [optical(tmp_path), elevation(tmp_path, height=height)]
    job = write_job(tmp_path, items, inputs=["S2L2A", "DEM"])
    text = f"DEM: the height is {height} m at every pixel of the region"
    for _ in range(2):
        _, result = command(capsys, "run", job)
        (warning,) = result["warnings"]
        assert warning.startswith(text)
    (item,) = list_items(job)
    doubts = json.loads(item.read_text())["properties"]["terramosaic:doubts"]
    assert [doubt["id"] for doubt in doubts] == ["DEM"]


def test_varied_terrain_has_no_warning(tmp_path, capsys):
    items = [optical(tmp_path), elevation(tmp_path)]
    result = check_complete(capsys, write_job(tmp_path, items, inputs=["S2L2A", "DEM"]))
    assert result["warnings"] == []


def test_an_input_that_covers_a_part_is_told(tmp_path, capsys):
    half = elevation(tmp_path, left=small_worlds.LEFT + 300)
    job = write_job(tmp_path, [optical(tmp_path), half], inputs=["S2L2A", "DEM"])
    (warning,) = check_complete(capsys, job)["warnings"]
    assert warning.endswith("of the region has no DEM.")


# -- series --------------------------------------------------------------------------------------


def test_a_band_that_lacks_a_part_is_told(tmp_path, capsys):
    partly_empty = RAMP.copy()
    partly_empty[SIZE // 3 :] = 0
    job = write_job(tmp_path, [optical(tmp_path, B04=partly_empty)])
    code, result = command(capsys, "run", job)
    assert code == EXIT_OK
    (hole,) = [text for text in result["warnings"] if text.startswith("B04 of S2L2A has no value")]
    share = float(hole.split(" at ")[1].split(" %")[0])
    assert 50 < share < 80


@pytest.mark.parametrize("share", [0.0, 0.0099999999, 0.00996])
def test_a_share_below_the_limit_looks_different_from_it(share):
    text = completeness._describe_share(share, 0.01)
    first, second = (float(word) for word in re.findall(r"([\d.]+) %", text))
    assert first < second == 1


def test_a_backfill_lists_a_refused_period_as_refused(tmp_path, capsys):
    july = optical(tmp_path, "july")
    july["properties"]["datetime"] = "2024-07-10T10:00:00Z"
    job = write_job(tmp_path, [optical(tmp_path, "june", scl=CLOUD), july])
    span = ("--from", "2024-06", "--to", "2024-07", "--cadence", "P1M")
    code, result = command(capsys, "backfill", job, *span)
    june, july = result["periods"]
    assert code == EXIT_FAILED
    assert (june["status"], june["item"], july["status"]) == ("refused", None, "complete")
    assert june["reason"].startswith("S2L2A has observed 0 %")
    made = receipt_times(job)
    _, again = command(capsys, "backfill", job, *span)
    assert [period["status"] for period in again["periods"]] == ["refused", "finished"]
    assert receipt_times(job) == made
    change_job(job, qc={"min_observed": 0})
    code, published = command(capsys, "backfill", job, *span)
    assert code == EXIT_OK
    assert [period["status"] for period in published["periods"]] == ["complete", "finished"]
    assert receipt_times(job) == made
    change_job(job, qc={})
    _, listed = command(capsys, "backfill", job, *span, "--dry-run")
    assert [period["status"] for period in listed["periods"]] == ["ready", "finished"]


def test_a_period_that_would_be_refused_is_thin(tmp_path, capsys):
    job = write_job(
        tmp_path,
        [optical(tmp_path), radar(tmp_path)],
        inputs=["S2L2A", "S1RTC"],
        radar={"orbit": "descending"},
    )
    span = ("--from", "2024-06", "--to", "2024-06")
    _, listed = command(capsys, "backfill", job, *span, "--dry-run")
    (june,) = listed["periods"]
    assert (june["status"], june["coverage"]) == ("thin", 1)
    assert june["reason"].startswith("All S1RTC scenes are left out")
    code, result = command(capsys, "backfill", job, *span)
    assert (code, result["periods"][0]["status"]) == (EXIT_FAILED, "refused")


def test_a_refresh_recomputes_no_refused_period(tmp_path, capsys):
    job = write_job(tmp_path, [optical(tmp_path, scl=CLOUD)])
    command(capsys, "run", job)
    code, result = command(capsys, "refresh", job)
    assert (code, result["periods"]) == (EXIT_OK, []) or code == 3
