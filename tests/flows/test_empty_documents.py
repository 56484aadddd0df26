"""Documents of one acquisition whose files hold no data, and items that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import yaml

from flows.cli import main
from flows.cli.exit_codes import EXIT_FAILED, EXIT_OK
from flows.config import job as jobs
from flows.observe.progress import NullProgress
from flows.run import planning
from flows.series import outdated_products
from tests.support import small_catalogs
from tests.support.small_catalogs import SIZE

RAMP = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 900 + 300
BANDS = {"B02": RAMP, "B04": RAMP + 40, "SCL": 4}
NODATA = {"B02": 0, "B04": 0, "SCL": 0}
ALL_BANDS = "B02, B04, SCL"


def document(folder, name, baseline, *, day=10, collection="sentinel-2-l2a", **bands):
    """Describe a processing of an acquisition; a raster is uniform or the ramp."""
    values = {band: value for band, value in (BANDS | bands).items() if value is not None}
    properties = {
        "datetime": f"2024-06-{day:02d}T10:00:00Z",
        "grid:code": "MGRS-33TWM",
        "s2:processing_baseline": baseline,
    }
    return small_catalogs.an_item(folder, name, values, collection=collection, **properties)


def write_job(folder, items, **sections):
    sections = {"bands": {"S2L2A": ["B02", "B04"]}} | sections
    return small_catalogs.write_job(folder, items, provider="planetary-computer", **sections)


def change_job(path, **sections):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))
    return path


def plan(path):
    return planning.create_plan(jobs.load(path))


def used_ids(path):
    return [scene.id for scene in plan(path).snapshot.scenes]


def call(capsys, command, path):
    """Run a command twice, for people and with --json; return exit code, text and result."""
    capsys.readouterr()
    main.main([command, str(path)])
    text = capsys.readouterr().out
    code = main.main([command, str(path), "--json"])
    return code, text, json.loads(capsys.readouterr().out)


def check_warned(capsys, command, path, warning):
    """Check that a command succeeds and prints a warning in both forms."""
    code, text, result = call(capsys, command, path)
    assert code == EXIT_OK, text
    assert warning in result["warnings"]
    assert f"warning    {warning}" in text
    return result


# -- another processing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("empty", "bands", "proof"),
    [
        (NODATA, ALL_BANDS, "refuse"),
        (NODATA, ALL_BANDS, "off"),
        ({"SCL": 0}, "SCL", "warn"),
        ({"B04": 0}, "B04", "refuse"),
        ({"B02": 0, "B04": 0}, "B02, B04", "off"),
    ],
)
def test_a_complete_older_processing_is_used_where_the_newer_one_is_empty(
    tmp_path, empty, bands, proof
):
    items = [document(tmp_path, "old", "02.09"), document(tmp_path, "new", "02.14", **empty)]
    planned = plan(write_job(tmp_path, items, radiometry={"proof": proof}))
    assert [scene.id for scene in planned.snapshot.scenes] == ["old"]
    reason = f"has no valid pixel in the region in {bands}"
    (refused,) = planned.snapshot.refused
    assert (refused.id, refused.reason) == ("new", f"the same acquisition as old; it {reason}")
    (caveat,) = planned.caveats
    assert (caveat.id, caveat.text) == ("old", f"used in place of the newer new, which {reason}")


def test_the_product_of_an_older_processing_is_complete_and_tells_it(tmp_path, capsys):
    items = [document(tmp_path, "old", "02.09"), document(tmp_path, "new", "02.14", **NODATA)]
    path = write_job(tmp_path, items)
    warning = (
        "old: used in place of the newer new, which has no valid pixel in the region in "
        f"{ALL_BANDS}"
    )
    for command in ("plan", "run"):
        check_warned(capsys, command, path, warning)
    (composite,) = tmp_path.rglob("composite_S2L2A.tif")
    with rasterio.open(composite) as file:
        values = file.read(masked=True)
    assert values.count() > 0.9 * values.size
    assert np.unique(values[1] - values[0]).compressed().tolist() == [40]
    (entry,) = outdated_products.find_outdated(jobs.load(path), NullProgress())
    assert (entry.status, entry.reason) == ("finished", None)
    _, _, result = call(capsys, "run", path)
    assert result["status"] == "unchanged"


def test_a_newer_processing_that_holds_data_is_used_as_before(tmp_path):
    items = [document(tmp_path, "old", "02.09"), document(tmp_path, "new", "02.14")]
    planned = plan(write_job(tmp_path, items))
    assert [scene.id for scene in planned.snapshot.scenes] == ["new"]
    assert planned.caveats == ()
    (refused,) = planned.snapshot.refused
    assert (refused.reason, refused.replaced_by) == ("reprocessed as new", "new")


def test_an_empty_processing_takes_nothing_beside_another_date(tmp_path, capsys):
    items = [
        document(tmp_path, "old", "02.09"),
        document(tmp_path, "new", "02.14", **NODATA),
        document(tmp_path, "later", "02.14", day=20),
    ]
    path = write_job(tmp_path, items)
    assert used_ids(path) == ["old", "later"]
    check_warned(
        capsys,
        "run",
        path,
        f"old: used in place of the newer new, which has no valid pixel in the region in "
        f"{ALL_BANDS}",
    )
    (observations,) = tmp_path.rglob("observations.tif")
    with rasterio.open(observations) as file:
        assert set(file.read(1, masked=True).compressed()) == {2}


def test_twins_of_two_collections_with_one_id_are_told_apart(tmp_path, capsys):
    complete = document(tmp_path, "same", "02.14", collection="sentinel-2-l2a")
    empty = document(tmp_path, "same", "02.14", collection="sentinel-2-c1-l2a", **NODATA)
    names = {"B02": "blue", "B04": "red", "SCL": "scl"}
    for item in (complete, empty):
        item["assets"] = {names[band]: asset for band, asset in item["assets"].items()}
        item["properties"]["s2:generation_time"] = "2024-06-11T10:00:00Z"
    empty["properties"]["s2:generation_time"] = "2024-06-12T10:00:00Z"
    path = small_catalogs.write_job(
        tmp_path, [complete, empty], bands={"S2L2A": ["B02", "B04"]}, radiometry={"proof": "off"}
    )
    (scene,) = plan(path).snapshot.scenes
    assert {asset.href for asset in scene.assets.values()} == {
        asset["href"] for asset in complete["assets"].values()
    }
    code, text, _ = call(capsys, "run", path)
    assert code == EXIT_OK, text


@pytest.mark.parametrize("empty", [NODATA, {"SCL": 0}])
def test_of_empty_documents_the_newest_is_used_and_all_is_masked_as_before(tmp_path, capsys, empty):
    items = [
        document(tmp_path, name, baseline, **empty)
        for name, baseline in (("old", "02.09"), ("new", "02.14"))
    ]
    path = write_job(tmp_path, items)
    assert used_ids(path) == ["new"]
    code, _, result = call(capsys, "run", path)
    assert (code, result["status"]) == (EXIT_FAILED, "refused")
    bands = ", ".join(empty)
    assert f"new: no valid pixel in the region in {bands}, by a sample" in result["warnings"]
    assert result["reason"].startswith("S2L2A has observed 0 %")


def test_a_mask_of_the_same_baseline_replaces_an_empty_one(tmp_path):
    items = [
        document(tmp_path, "a", "02.14", SCL=0),
        document(tmp_path, "b", "02.14", B02=None, B04=None),
    ]
    (scene,) = plan(write_job(tmp_path, items)).snapshot.scenes
    assert {asset.href.rsplit("/", 2)[1] for asset in scene.assets.values()} == {"a", "b"}
    assert scene.assets["SCL"].href.rsplit("/", 2)[1] == "b"


def test_the_processing_with_more_pixels_is_used_and_told(tmp_path, capsys):
    partial = RAMP.copy()
    partial[:, :30] = 0
    items = [
        document(tmp_path, "old", "02.09"),
        document(tmp_path, "new", "02.14", B02=partial, B04=partial),
    ]
    path = write_job(tmp_path, items)
    assert used_ids(path) == ["old"]
    check_warned(
        capsys,
        "run",
        path,
        "old: used in place of the newer new, which has fewer valid pixels in the region in B02, "
        "B04",
    )
    both = [document(tmp_path, "old", "02.09", B02=partial, B04=partial), items[1]]
    assert used_ids(write_job(tmp_path, both)) == ["new"]


def test_only_pixels_in_the_region_count(tmp_path):
    outside = RAMP.copy()
    outside[:52, :52] = 0
    items = [
        document(tmp_path, "old", "02.09"),
        document(tmp_path, "new", "02.14", B02=outside, B04=outside),
    ]
    assert used_ids(write_job(tmp_path, items)) == ["old"]


def test_of_two_elevation_models_the_one_with_heights_is_used(tmp_path):
    models = [
        small_catalogs.an_item(tmp_path, name, {"data": heights}, collection="cop-dem-glo-30")
        for name, heights in (("a", RAMP), ("z", np.float32("nan")))
    ]
    items = [document(tmp_path, "s2", "02.14"), *models]
    planned = plan(write_job(tmp_path, items, inputs=["S2L2A", "DEM"]))
    assert sorted(scene.id for scene in planned.snapshot.scenes) == ["a", "s2"]


def test_an_empty_pass_does_not_replace_the_passes_that_hold_data(tmp_path):
    items = [
        document(tmp_path, "empty", "02.14", day=20, **NODATA),
        document(tmp_path, "cloudy", "02.14"),
    ]
    for item, cloud_cover in zip(items, (0, 50), strict=True):
        item["properties"]["eo:cloud_cover"] = cloud_cover
    path = write_job(tmp_path, items, composite={"max_passes": 1})
    assert used_ids(path) == ["cloudy", "empty"]
    change_job(path, exclude=["empty"])
    assert used_ids(path) == ["cloudy"]


def test_an_empty_item_is_named_beside_others(tmp_path, capsys):
    items = [
        document(tmp_path, "good", "02.14"),
        document(tmp_path, "void", "02.14", day=20, B02=0, B04=0),
    ]
    path = write_job(tmp_path, items)
    for command in ("plan", "run"):
        check_warned(
            capsys, command, path, "void: no valid pixel in the region in B02, B04, by a sample"
        )


def test_a_document_that_is_masked_throughout_is_excluded_as_advised(tmp_path, capsys):
    """A sample cannot tell that all pixels are clouds by the newer classification alone."""
    items = [document(tmp_path, "old", "02.09"), document(tmp_path, "new", "02.14", SCL=9)]
    path = write_job(tmp_path, items)
    code, text, result = call(capsys, "run", path)
    assert code == EXIT_FAILED
    advice = (
        "Of the acquisitions used there are other documents: old (in its place: new). To use "
        "these, set exclude: [new]."
    )
    assert advice in result["reason"]
    assert advice in text
    code, _, result = call(capsys, "run", change_job(path, exclude=["new"]))
    assert (code, result["status"]) == (EXIT_OK, "unchanged")


# -- items that cannot be used ---------------------------------------------------------------------


def test_items_that_cannot_be_used_are_told_by_every_command(tmp_path, capsys):
    bad_time = document(tmp_path, "bad-time", "02.14", day=20)
    bad_time["properties"]["datetime"] = "2024-06-20T24:00:00Z"
    bad_assets = document(tmp_path, "bad-assets", "02.14", day=22)
    bad_assets["assets"] = {"Band 2": bad_assets["assets"]["B02"]}
    elsewhere = small_catalogs.an_item(
        tmp_path, "elsewhere", BANDS, left=700_000.0, datetime="2024-06-20T24:00:00Z"
    )
    items = [document(tmp_path, "good", "02.14"), bad_time, bad_assets, elsewhere]
    path = write_job(tmp_path, items)
    for command in ("search", "plan", "run"):
        result = check_warned(
            capsys,
            command,
            path,
            "bad-time: left out: its time '2024-06-20T24:00:00Z' is no time",
        )
        (warning,) = [
            text for text in result["warnings"] if text.startswith("bad-assets: left out")
        ]
        assert "no usable S2L2A asset" in warning
        assert len(result["warnings"]) == 2


def make_two_bands(item, band):
    path = item["assets"][band]["href"]
    with rasterio.open(path) as file:
        profile, values = file.profile | {"count": 2}, file.read(1)
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.stack([values, values]))
    return f"its {band} ({path}) has 2 bands: an asset must have one"


def test_a_document_that_its_files_forbid_is_told(tmp_path, capsys):
    items = [document(tmp_path, "old", "02.09"), document(tmp_path, "new", "02.14")]
    reason = make_two_bands(items[1], "B04")
    path = write_job(tmp_path, items)
    for command in ("plan", "run"):
        check_warned(capsys, command, path, f"new: left out: {reason}")
    (item,) = tmp_path.glob("out/*/*/item.json")
    assert str(tmp_path) not in item.read_text().replace(str(tmp_path / "out"), "")


def test_a_refusal_for_a_missing_band_names_what_is_left_out(tmp_path, capsys):
    items = [document(tmp_path, "poor", "02.09", B04=None), document(tmp_path, "full", "02.14")]
    reason = make_two_bands(items[1], "B04")
    path = write_job(tmp_path, items)
    code, text, result = call(capsys, "run", path)
    assert (code, result["status"]) == (EXIT_FAILED, "refused")
    assert (
        f"None of the S2L2A scenes has B04, as the job requires. Left out are full: {reason}."
        in (result["reason"])
    )
    assert f"full: {reason}" in text


def test_many_items_that_cannot_be_used_are_counted(tmp_path, capsys):
    items = [document(tmp_path, "good", "02.14")]
    for hour in range(24, 34):
        items.append(document(tmp_path, f"bad-{hour}", "02.14", B02=RAMP))
        items[-1]["properties"]["datetime"] = f"2024-06-20T{hour}:00:00Z"
    _, _, result = call(capsys, "search", write_job(tmp_path, items))
    assert len(result["warnings"]) == 6
    assert result["warnings"][-1] == (
        "S2L2A: 5 more items cannot be used and are left out; the plan lists them"
    )
