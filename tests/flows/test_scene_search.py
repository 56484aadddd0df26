"""The scenes of a job: documents of one acquisition, scenes by id, and times at the edges."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import rasterio
import yaml

from catalogs.errors import InvalidInputError, NothingFoundError
from flows.cli import main
from flows.config import cadence
from flows.config import job as jobs
from flows.config import period as periods
from flows.observe.progress import NullProgress
from flows.run import planning, scene_search, search_report
from flows.run.job_digest import hash_request
from flows.series import outdated_products
from pipeline.compositing import modality_composite
from pipeline.quality import radiometry_check
from pipeline.quality.radiometry_check import Verdict
from tests.support.small_catalogs import an_item, write_job

RED_GREEN_BLUE = {"blue": 500, "green": 600, "red": 700}


def search(path, **options):
    return scene_search.search_scenes(jobs.load(path), context_m=0.0, **options)


def used(result):
    return [scene.id for scene in result.selection.used]


def refused(result):
    return {scene.id: scene.reason for scene in result.selection.refused}


def caveats(result):
    return [(caveat.id, caveat.text) for caveat in result.caveats]


# -- several documents of one acquisition -------------------------------------------------------


@pytest.fixture
def documents(tmp_path):
    """Describe one acquisition by items of two collections with different offsets."""
    common = {"s2:processing_baseline": "05.10", "grid:code": "MGRS-33UWP"}
    return [
        an_item(tmp_path, "l2a", {"green": 600, "red": 700, "scl": 4}, **common),
        an_item(
            tmp_path,
            "c1",
            {"blue": 1500},
            collection="sentinel-2-c1-l2a",
            raster_fields={"scale": 1e-4, "offset": -0.1, "nodata": 0},
            **common,
        ),
    ]


def test_a_product_of_united_documents_has_the_bands_of_both(tmp_path, documents, capsys):
    path = write_job(tmp_path, documents, bands={"S2L2A": ["B02", "B03", "B04"]})
    assert main.main(["run", str(path)]) == 0
    (composite,) = tmp_path.rglob("composite_S2L2A.tif")
    with rasterio.open(composite) as file:
        assert file.descriptions == ("B02", "B03", "B04")
        values = [file.read(band, masked=True).compressed() for band in (1, 2, 3)]
        assert [np.unique(band).tolist() for band in values] == [[500], [600], [700]]
    (observations,) = tmp_path.rglob("observations.tif")
    with rasterio.open(observations) as file:
        assert np.unique(file.read(1, masked=True).compressed()).tolist() == [1]
    assert main.main(["run", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "unchanged"


def test_a_contradicted_document_is_left_out_of_a_united_scene(tmp_path, documents, monkeypatch):
    checked = []

    def check(scene, **_):
        checked.append((scene.id, tuple(scene.assets)))
        status = {"c1": "contradicts", "l2a": "agrees"}[scene.id]
        return Verdict(status=status, reason="because.")

    monkeypatch.setattr(radiometry_check, "check_scene", check)
    path = write_job(tmp_path, documents, bands={"S2L2A": ["B02", "B03", "B04"]})
    result = search(path)
    assert sorted(checked) == [("c1", ("B02",)), ("l2a", ("B03", "B04", "SCL"))]
    assert [list(scene.assets) for scene in result.selection.used] == [["B03", "B04", "SCL"]]
    assert refused(result) == {"c1": "because"}
    assert result.verdict_counts == {"agrees": 1}
    kept = search(write_job(tmp_path, documents, radiometry={"proof": "warn"}))
    assert ("c1", "because.") in caveats(kept)
    assert kept.verdict_counts == {"contradicts": 1}


def test_the_cloud_probability_counts_where_the_job_uses_it(tmp_path):
    common = {"grid:code": "MGRS-33UWP"}
    old = {"s2:processing_baseline": "02.14"}
    new = {"s2:processing_baseline": "05.10"}
    items = [
        an_item(tmp_path, "old", RED_GREEN_BLUE | {"scl": 4, "cloud": 0}, **common, **old),
        an_item(tmp_path, "new", RED_GREEN_BLUE | {"scl": 4}, **common, **new),
    ]
    options = {"check_files": False}
    assert used(search(write_job(tmp_path, items), **options)) == ["new"]
    path = write_job(tmp_path, items, mask={"max_cloud_probability": 40})
    assert used(search(path, **options)) == ["old"]


# -- scenes by id -------------------------------------------------------------------------------


@pytest.fixture
def days(tmp_path):
    """Describe three days of June and one of July."""
    return [
        an_item(
            tmp_path, f"S2A_33UWP_{day}_0_L2A", RED_GREEN_BLUE | {"scl": 4},
            datetime=f"{day[:4]}-{day[4:6]}-{day[6:]}T10:00:00Z",
        )
        for day in ("20240605", "20240610", "20240615", "20240702")
    ]  # fmt: skip


FIRST, SECOND, THIRD, JULY = (
    f"S2A_33UWP_{day}_0_L2A" for day in ("20240605", "20240610", "20240615", "20240702")
)
SMALL = {"bands": {"S2L2A": ["B02"]}, "radiometry": {"proof": "off"}}


def test_excluded_scenes_are_not_used(tmp_path, days):
    path = write_job(tmp_path, days, exclude=[FIRST, f"sentinel-2-l2a/{THIRD}"], **SMALL)
    result = search(path)
    assert used(result) == [SECOND]
    assert refused(result) == {FIRST: "excluded by the job", THIRD: "excluded by the job"}
    assert caveats(result) == []
    assert [scene.id for scene in planning.create_plan(jobs.load(path)).snapshot.scenes] == [SECOND]


def test_included_scenes_alone_are_used(tmp_path, days):
    path = write_job(tmp_path, days, include=[SECOND], **SMALL)
    result = search(path)
    assert used(result) == [SECOND]
    assert refused(result) == {FIRST: "not among include", THIRD: "not among include"}
    report = search_report.search(jobs.load(path), NullProgress())
    assert [scene.id for scene in report.used] == [SECOND]
    assert {scene.reason for scene in report.refused} == {"not among include"}


def test_include_restricts_elevation_only_where_it_names_some(tmp_path, days):
    tiles = [
        an_item(tmp_path, name, {"data": 100}, collection="cop-dem-glo-30", left=left)
        for name, left in (("dem-1", 500_000.0), ("dem-2", 500_320.0))
    ]
    inputs = {"inputs": ["S2L2A", "DEM"]} | SMALL
    result = search(write_job(tmp_path, days + tiles, include=[SECOND], **inputs))
    assert sorted(used(result)) == [SECOND, "dem-1", "dem-2"]
    result = search(write_job(tmp_path, days + tiles, include=[SECOND, "dem-1"], **inputs))
    assert sorted(used(result)) == [SECOND, "dem-1"]


def test_an_excluded_document_does_not_replace_another_one(tmp_path):
    common = {"grid:code": "MGRS-33UWP"}
    items = [
        an_item(tmp_path, "old", RED_GREEN_BLUE, **common, **{"s2:processing_baseline": "02.14"}),
        an_item(tmp_path, "new", RED_GREEN_BLUE, **common, **{"s2:processing_baseline": "05.10"}),
    ]
    result = search(write_job(tmp_path, items, exclude=["new"], **SMALL))
    assert used(result) == ["old"]
    assert refused(result) == {"new": "excluded by the job"}


def test_an_unknown_id_is_told_with_the_closest_one(tmp_path, days):
    typo = SECOND.replace("L2A", "L2a")
    result = search(write_job(tmp_path, days, exclude=[typo], **SMALL))
    assert caveats(result) == [
        ("exclude", f"no scene of this region and period: {typo} (Did you mean {SECOND!r}?)")
    ]
    many = [f"x{number}" for number in range(8)]
    ((_, text),) = caveats(search(write_job(tmp_path, days, exclude=many, **SMALL)))
    assert text.endswith("x4; and 3 more")
    with pytest.raises(
        NothingFoundError, match=rf"include: no scene of .* \(Did you mean '{SECOND}'"
    ):
        search(write_job(tmp_path, days, include=[typo], **SMALL))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"include": ["a"], "exclude": ["b", "a"]}, "'a' is in both include and exclude"),
        ({"exclude": ["a", "a"]}, "exclude: 'a' is listed twice"),
        ({"exclude": "a"}, "exclude is 'a'; expected: a list of scene ids"),
        (
            {"include": [20240610]},
            r"include\[0\] is 20240610; expected: a list of one or more scene ids",
        ),
        ({"include": [""]}, r"include\[0\] is ''; expected: a list of one or more scene ids"),
    ],
)
def test_invalid_lists_of_ids_are_refused(tmp_path, days, keys, message):
    with pytest.raises(InvalidInputError, match=message):
        jobs.load(write_job(tmp_path, days, **keys))


def test_the_request_covers_the_ids_and_not_their_order(tmp_path, days):
    def digest(**keys):
        return hash_request(jobs.load(write_job(tmp_path, days, **keys)))

    digests = [digest(), digest(include=["a", "b"]), digest(exclude=["a", "b"])]
    assert len(set(digests)) == 3
    assert [digest(exclude=[]), digest(include=["b", "a"]), digest(exclude=["b", "a"])]\
        == digests  # fmt: skip


def test_a_backfill_uses_the_ids_and_a_refresh_notices_their_change(tmp_path, days, capsys):
    path = write_job(tmp_path, days, exclude=[FIRST, THIRD], **SMALL)
    command = ["backfill", str(path), "--from", "2024-06", "--to", "2024-07", "--json"]
    assert main.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(entry["status"], entry["scenes"]) for entry in result["periods"]] == [
        ("complete", 1),
        ("complete", 1),
    ]
    assert main.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry["status"] for entry in result["periods"]] == ["finished", "finished"]
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"exclude": [], "include": [SECOND]}))
    statuses = outdated_products.find_outdated(jobs.load(path), NullProgress())
    assert [entry.status for entry in statuses] == ["ready", "finished"]
    assert "the job asks for something else" in statuses[0].reason
    assert "All scenes of S2L2A (1)" in statuses[1].reason


# -- times at the edges -------------------------------------------------------------------------

NEW_ZEALAND = {"left": 600_000.0, "top": 5_800_000.0, "epsg": 32760}
"""Solar noon is at midnight UTC: the solar day of most scenes is the day after that in UTC."""


@pytest.fixture
def new_zealand(tmp_path):
    """Describe scenes around the ends of months."""
    stamps = {
        "may": "2024-05-31T22:20:00Z",
        "start": "2024-06-01T22:20:00Z",
        "end": "2024-06-30T22:20:00Z",
        "last": "2024-06-30T23:59:59.500Z",
        "july": "2024-07-01T00:00:00Z",
    }
    return [
        an_item(
            tmp_path, name, {"blue": 500, "scl": 4}, datetime=stamp, platform=platform,
            **NEW_ZEALAND,
        )
        for (name, stamp), platform in zip(
            stamps.items(), itertools.cycle(["sentinel-2a", "sentinel-2b"]), strict=False
        )
    ]  # fmt: skip


def test_the_day_in_utc_decides_and_a_solar_day_outside_is_told(tmp_path, new_zealand):
    result = search(write_job(tmp_path, new_zealand, **SMALL))
    assert used(result) == ["start", "end", "last"]
    ((modality, text),) = caveats(result)
    assert (modality, text.split(":")[0]) == (
        "S2L2A",
        "scenes (2) of 2024-07-01 in solar time",
    )


@pytest.mark.parametrize("length", ["P1M", "P10D", "P1W"])
def test_each_scene_is_in_one_period_and_in_one_step_of_it(tmp_path, new_zealand, length):
    whole = periods.parse("2024-05/2024-07")
    parts = cadence.split_period(whole, length, max_parts=100)
    job = jobs.load(write_job(tmp_path, new_zealand, period=str(whole), **SMALL))

    def find(period):
        options = {"context_m": 0.0, "check_files": False}
        try:
            return scene_search.search_scenes(job.with_period(period), **options).selection.used
        except NothingFoundError:
            return ()

    scenes = find(whole)
    assert len(scenes) == 5
    by_period = [[scene.id for scene in find(part)] for part in parts]
    steps = [(part.start.isoformat(), part.end.isoformat()) for part in parts]
    by_step = [
        [scene.id for scene in modality_composite.select_scenes_in_step(scenes, step)]
        for step in steps
    ]
    assert by_step == by_period
    assert sorted(itertools.chain.from_iterable(by_period)) == sorted(scene.id for scene in scenes)
