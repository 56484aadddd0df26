"""Advice in messages: each message is caused, its advice followed, and the command succeeds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from flows.cli import main
from flows.cli.exit_codes import EXIT_FAILED, EXIT_NOTHING_FOUND, EXIT_OK, EXIT_USAGE
from pipeline.reading import http_ranges
from tests.faults.range_server import serving
from tests.support import small_catalogs, small_worlds
from tests.support.small_catalogs import SIZE

ROOT = Path(__file__).parents[2]
RAMP = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 900 + 300
BANDS = {"B02": RAMP, "B04": RAMP + 40, "SCL": 4}
RETRY = "same command again"


@pytest.fixture(autouse=True)
def _retry_quickly(monkeypatch):
    policy = dataclasses.replace(http_ranges.RETRY_POLICY, max_attempts=2, backoff=0.001)
    monkeypatch.setattr(http_ranges, "RETRY_POLICY", policy)


def scene(folder, name="first", day=10, **changes):
    stamp = f"2024-06-{day:02d}T10:00:00Z"
    return small_catalogs.an_item(
        folder, name, BANDS | changes, datetime=stamp, **{"s2:processing_baseline": "02.14"}
    )


def write_job(folder, items, **sections):
    sections = {"bands": {"S2L2A": ["B02", "B04"]}} | sections
    return small_catalogs.write_job(folder, items, provider="planetary-computer", **sections)


@pytest.fixture
def job(tmp_path):
    return write_job(tmp_path, [scene(tmp_path), scene(tmp_path, "second", 20)])


def change(job, **sections):
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | sections))
    return job


def raster(job, name="first", band="B02"):
    return job.parent / "pixels" / "sentinel-2-l2a" / name / f"{band}.tif"


def call(capfd, *arguments):
    """Run a command; return its exit code and all that it prints."""
    capfd.readouterr()
    code = main.main([str(argument) for argument in arguments])
    printed = capfd.readouterr()
    text = printed.out + printed.err
    assert "vsiriopener" not in text
    return code, text


def succeed(capfd, *arguments):
    code, text = call(capfd, *arguments)
    assert code == EXIT_OK, text
    return text


def find(pattern, text):
    """Return what a message advises, to be followed literally."""
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


# -- files of scenes -----------------------------------------------------------------------------


def break_file(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "page":
        path.write_bytes(b"<html>Not a raster</html>" * 100)
    else:
        path.write_bytes(content[: len(content) // 2])
    return content


@pytest.mark.parametrize("how", ["missing", "page", "truncated"])
def test_a_scene_whose_file_cannot_be_read_is_left_out_as_advised(job, capfd, how):
    break_file(raster(job), how)
    code, text = call(capfd, "run", job)
    assert code in (EXIT_USAGE, EXIT_FAILED)
    assert RETRY not in text
    assert str(raster(job)) in text
    excluded = yaml.safe_load(find(r"\(exclude: (\[[^\]]*\])\)", text))
    change(job, exclude=excluded)
    succeed(capfd, "run", job)


@pytest.mark.parametrize("how", ["missing", "page", "truncated"])
def test_a_tile_whose_file_was_broken_after_planning_is_made_once_it_is_replaced(job, capfd, how):
    plan = job.parent / "plan.json"
    succeed(capfd, "plan", job, "-o", plan)
    content = break_file(raster(job), how)
    code, text = call(capfd, "run", plan)
    assert code == EXIT_FAILED
    assert "they fail again unless what is named below is changed" in text
    assert RETRY not in text
    assert "--allow-partial" not in text
    # ^ there is no other tile
    assert "Check and replace the file" in text
    raster(job).write_bytes(content)
    succeed(capfd, "run", plan)


def serve_job(folder, server, items):
    for document in items:
        for asset in document["assets"].values():
            asset["href"] = f"{server.address}/{Path(asset['href']).relative_to(folder)}"
    return small_catalogs.write_job(
        folder, items, provider="demo", bands={"S2L2A": ["B02", "B04"]}, allow=["127.0.0.1"]
    )


@pytest.mark.parametrize("fault", ["503", "reset", "429"])
def test_a_server_that_fails_for_a_while_is_tried_again(tmp_path, capfd, fault):
    with serving(tmp_path) as server:
        job = serve_job(tmp_path, server, [scene(tmp_path)])
        change(job, catalog={"url": f"{server.address}/catalog.json", "provider": "demo"})
        plan = tmp_path / "plan.json"
        succeed(capfd, "plan", job, "-o", plan)
        server.script = lambda path, *_: fault if path.endswith(".tif") else None
        code, text = call(capfd, "plan", job)
        assert code == EXIT_FAILED
        assert "Run the same command again when the file can be reached." in text
        assert "--allow-partial" not in text
        code, text = call(capfd, "run", plan)
        assert code == EXIT_FAILED
        assert "run the same command again to retry them" in text
        server.script = None
        succeed(capfd, "plan", job)
        succeed(capfd, "run", plan)


@pytest.mark.parametrize("fault", ["404", "403"])
def test_a_file_that_a_server_refuses_is_left_out_as_advised(tmp_path, capfd, fault):
    with serving(tmp_path) as server:
        job = serve_job(tmp_path, server, [scene(tmp_path), scene(tmp_path, "second", 20)])
        change(job, catalog={"url": f"{server.address}/catalog.json", "provider": "demo"})
        server.script = lambda path, *_: fault if "/first/B02" in path else None
        code, text = call(capfd, "run", job)
        assert code == EXIT_USAGE
        assert (f"HTTP {fault}" in text, RETRY in text) == (True, False)
        change(job, exclude=yaml.safe_load(find(r"\(exclude: (\[[^\]]*\])\)", text)))
        succeed(capfd, "run", job)


def test_remote_bytes_that_are_no_raster_are_named_by_their_file(tmp_path, capfd):
    with serving(tmp_path) as server:
        job = serve_job(tmp_path, server, [scene(tmp_path), scene(tmp_path, "second", 20)])
        change(job, catalog={"url": f"{server.address}/catalog.json", "provider": "demo"})
        break_file(raster(job), "page")
        code, text = call(capfd, "run", job)
    assert code == EXIT_USAGE
    assert "B02.tif not recognized as being in a supported file format" in text
    assert RETRY not in text


def test_an_asset_of_two_bands_is_named_and_the_other_scene_is_used(job, capfd):
    path = raster(job)
    with rasterio.open(path) as file:
        profile, values = file.profile, file.read(1)
    profile.update(count=2)
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.stack([values, values]))
    text = succeed(capfd, "search", job)
    succeed(capfd, "run", job)
    code, text = call(capfd, "plan", change(job, include=["first"]))
    assert code == EXIT_NOTHING_FOUND
    assert f"its B02 ({path}) has 2 bands" in text


def test_a_part_of_a_product_is_published_as_advised(tmp_path, capfd):
    job = write_job(tmp_path, [scene(tmp_path)], execution={"tile": 16})
    far = small_catalogs.an_item(
        tmp_path, "far", BANDS, left=small_worlds.LEFT + 400, datetime="2024-06-20T10:00:00Z"
    )
    near = scene(tmp_path)
    job = write_job(tmp_path, [near, far], execution={"tile": 16})
    plan = tmp_path / "plan.json"
    succeed(capfd, "plan", job, "-o", plan)
    break_file(raster(job, "far"), "page")
    code, text = call(capfd, "run", plan)
    assert code == EXIT_FAILED
    assert "or publish without them with --allow-partial" in text
    assert "published without" in succeed(capfd, "run", plan, "--allow-partial")


# -- damage that verify finds --------------------------------------------------------------------


def damage(path):
    if path.is_dir():
        path = next(file for file in sorted(path.glob("composite_S2L2A/c/**/*")) if file.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "pattern",
    ["*/composite_S2L2A.tif", "plan.json", "quicklook.png", "report.html", "cube.zarr"],
)
def test_run_repairs_what_verify_finds(job, capfd, pattern):
    change(job, output={"path": "out", "composites": True})
    bands = {"S2L2A": ["B02", "B03", "B04"]}
    scenes = [scene(job.parent, B03=RAMP + 20)]
    write_job(job.parent, scenes, bands=bands, output={"path": "out", "composites": True})
    succeed(capfd, "run", job)
    (product,) = job.parent.glob("out/small/*_*")
    (path,) = next(product.glob("*/receipts")).parent.glob(pattern)
    damage(path)
    code, text = call(capfd, "verify", job.parent / "out")
    assert code == EXIT_FAILED
    assert "run the job again to make only these tiles and files" in text
    assert "complete" in succeed(capfd, "run", job)
    assert "verified" in succeed(capfd, "verify", job.parent / "out")
    assert "nothing to do" in succeed(capfd, "run", job)


def test_run_repairs_an_item_that_is_no_json(job, capfd):
    succeed(capfd, "run", job)
    (item,) = job.parent.glob("out/*/*/item.json")
    item.write_text("{")
    code, _ = call(capfd, "verify", job.parent / "out")
    assert code == EXIT_FAILED
    succeed(capfd, "run", job)
    succeed(capfd, "verify", job.parent / "out")


# -- jobs and plans ------------------------------------------------------------------------------


def test_an_edited_plan_is_made_anew_as_advised(job, capfd):
    plan = job.parent / "plan.json"
    succeed(capfd, "plan", job, "-o", plan)
    plan.write_text(plan.read_text().replace('"small"', '"large"', 1))
    code, text = call(capfd, "run", plan)
    assert code == EXIT_USAGE
    name, option, path = find(r"terramosaic plan (JOB -o plan\.json)", text).split()
    assert (name, path) == ("JOB", plan.name)
    succeed(capfd, "plan", job, option, plan)
    succeed(capfd, "run", plan)


def test_an_output_is_added_as_advised(job, capfd):
    change(job, output={"path": "out"})
    code, text = call(capfd, "plan", job)
    assert code == EXIT_USAGE
    advised = yaml.safe_load(find(r"set (output: \{.*?\})", text))
    change(job, output={"path": "out"} | advised["output"])
    succeed(capfd, "plan", job)


def test_a_tile_size_is_chosen_as_advised(job, capfd):
    change(job, execution={"tile": 100})
    code, text = call(capfd, "plan", job)
    assert code == EXIT_USAGE
    change(job, execution={"tile": int(find(r"use (\d+)", text))})
    succeed(capfd, "plan", job)


def test_a_provider_is_named_as_advised(job, capfd):
    change(job, catalog="./catalog.json")
    code, text = call(capfd, "search", job)
    assert code == EXIT_USAGE
    advised = find(r"(\{path: [^}]*\})", text).replace("NAME", "planetary-computer")
    change(job, catalog=yaml.safe_load(advised))
    succeed(capfd, "search", job)
    change(job, catalog={"path": "catalog.json"})
    code, text = call(capfd, "search", job)
    assert code == EXIT_USAGE
    change(job, catalog={"path": "catalog.json", "provider": find(r"provider: ([\w-]+)", text)})
    succeed(capfd, "search", job)


def test_a_period_in_reverse_is_swapped_as_advised(job, capfd):
    change(job, period="2024-06-30/2024-06-01")
    code, text = call(capfd, "search", job)
    assert code == EXIT_USAGE
    change(job, period=find(r"as in (\d{4}-\d\d-\d\d/\d{4}-\d\d-\d\d)", text))
    succeed(capfd, "search", job)


def test_a_folder_is_allowed_as_advised(tmp_path, capfd):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "elsewhere").mkdir()
    job = write_job(tmp_path / "catalog", [scene(tmp_path / "elsewhere")])
    code, text = call(capfd, "search", job)
    assert code == EXIT_NOTHING_FOUND
    change(job, allow=[find(r"add (\S+) to the job's allow list", text)])
    succeed(capfd, "search", job)


def test_the_unit_of_radar_is_set_as_advised(tmp_path, capfd):
    values = (RAMP / 9000).astype(np.float32)
    item = small_catalogs.an_item(
        tmp_path, "radar", {"vv": values, "vh": values / 4}, collection="rtc"
    )
    table = {"collections": {"rtc": {"modality": "S1RTC", "names": {"VV": "vv", "VH": "vh"}}}}
    provider = tmp_path / "mine.yaml"
    provider.write_text(yaml.safe_dump(table))
    job = small_catalogs.write_job(tmp_path, [item], provider="mine.yaml", inputs=["S1RTC"])
    code, text = call(capfd, "search", job)
    assert code == EXIT_NOTHING_FOUND
    assert "set `unit:` of the collection in a provider table (docs/providers.md)" in text
    table["collections"]["rtc"]["unit"] = "power"
    provider.write_text(yaml.safe_dump(table))
    succeed(capfd, "run", job)


def test_a_search_without_a_scene_says_which_periods_have_some(job, capfd):
    change(job, period="2023")
    code, text = call(capfd, "search", job)
    assert code == EXIT_NOTHING_FOUND
    first, last = re.findall(r"touch the region, dated (\S+) to (\S+):", text)[0]
    succeed(capfd, "search", change(job, period=f"{first}/{last}"))


def test_clouds_are_accepted_as_advised(tmp_path, capfd):
    job = write_job(
        tmp_path,
        [scene(tmp_path) | {}],
        composite={"max_cloud_cover": 10},
    )
    catalog = tmp_path / "catalog.json"
    document = json.loads(catalog.read_text())
    document["features"][0]["properties"]["eo:cloud_cover"] = 55
    catalog.write_text(json.dumps(document))
    code, text = call(capfd, "run", job)
    assert code == EXIT_NOTHING_FOUND
    key = find(r"change the key that leaves them out: composite\.(\w+)", text)
    succeed(capfd, "run", change(job, composite={key: 60}))


def test_the_time_limit_is_lifted_by_another_run(job, capfd, monkeypatch):
    change(job, execution={"tile": 16, "max_hours": 1e-9})
    code, text = call(capfd, "run", job)
    assert code == EXIT_FAILED
    assert "run the same command again to go on" in text
    succeed(capfd, "run", change(job, execution={"tile": 16}))


def test_a_moved_product_is_found_by_its_moved_job(job, capfd):
    """README, "Limits"."""
    succeed(capfd, "run", job)
    (job.parent / "out").rename(job.parent / "moved")
    output = yaml.safe_load(job.read_text())["output"]
    change(job, output=output | {"path": "moved"})
    assert "nothing to do" in succeed(capfd, "run", job)
    assert "verified" in succeed(capfd, "verify", job.parent / "moved")


# -- messages in the code ------------------------------------------------------------------------


def test_pages_that_messages_name_exist():
    text = "\n".join(
        path.read_text()
        for folder in ("catalogs", "pipeline", "model", "flows")
        for path in (ROOT / folder).rglob("*.py")
    )
    named = set(re.findall(r"\b(?:docs|deploy)/[a-z-]+\.md\b", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
