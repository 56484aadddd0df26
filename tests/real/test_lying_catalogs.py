"""Real items whose claims were changed: refused by their pixels, doubted, or believed, as asked."""

from __future__ import annotations

import copy
import functools
import html
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from pyproj import Geod

from catalogs.errors import NothingFoundError
from flows.cli import main
from tests.support import real_items

LIED = "its radiometry is not as stated"
PROBES = ("B02", "B04", "B8A", "B12")
STAND_INS = {"B8A": "B08", "B12": "B11"}


def _each_band(item, change):
    """Return a copy of an item with the claims of each asset changed, wherever they are kept."""
    lied = copy.deepcopy(item)
    for asset in lied["assets"].values():
        listed = asset.get("raster:bands")
        claims, prefix = (listed[0], "") if listed else (asset, "raster:")
        if f"{prefix}scale" in claims or f"{prefix}unit" in claims:
            change(claims, prefix)
    return lied


def _states(key, value):
    def change(claims, prefix):
        claims[prefix + key] = value

    return change


def _unstated(claims, prefix):
    claims.pop(prefix + "offset", None)


def _other_offset(folder, item):
    """Return (provider, an item that claims the other offset), as that catalog could be wrong."""
    stored = real_items.added(folder, item) != 0
    if folder == "earth-search":
        return folder, _each_band(item, _states("offset", -0.1)) | {
            "collection": "sentinel-2-c1-l2a"
        }
    if folder == "planetary-computer":
        lied = _each_band(item, _unstated)
        lied["properties"]["s2:processing_baseline"] = "02.12" if stored else "05.00"
        return folder, lied
    return folder, _each_band(item, _states("offset", 0 if stored else -0.1))


def _optical(realdata):
    for folder, item in real_items.items(realdata):
        if real_items.modality(item) == "S2L2A" and folder != "other":
            yield folder, item


def _figures(item):
    """Return {band: (share below 0.06, share below 0.08, quantiles)} as stored, and km²."""
    named = {real_items.band(name): asset["href"] for name, asset in item["assets"].items()}
    names = [one if one in named else STAND_INS.get(one) for one in PROBES]
    bands = {name: _dark_end(named[name]) for name in names if name in named}
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.geometry.shape(item["geometry"]))
    return bands, abs(area) / 1e6


@functools.cache
def _dark_end(href):
    with rasterio.open(href) as file:
        values = file.read(1)
    values = values[(values > 0) & (values < 65535)] / 10_000
    quantiles = np.quantile(values, [0.001, 0.02, 0.25])
    return np.mean(values < 0.06), np.mean(values < 0.08), quantiles


def _tells(item, stored):
    """Return whether plain figures leave no doubt about the offset: with room on either side."""
    bands, square_km = _figures(item)
    black, stray = (float(np.mean([asset[index] for asset in bands.values()])) for index in (0, 1))
    if not stored:
        return black > 0.08
    ends = {name: one[2] for name, one in bands.items()}
    steep = all(
        0.092 < ends[name][1] < 0.125 and ends[name][1] - ends[name][0] < 0.018
        for name in ("B02", "B04")
    )
    infrared = next(name for name in ("B8A", "B08") if name in bands)
    green = ends[infrared][2] - ends["B04"][2] > 0.09
    return square_km > 4 and steep and green and stray < 0.008


def _judged(location, provider, lied, must):
    """Look at one item that lies in the three ways; return whether it was refused."""
    identity = lied["id"]
    believed = real_items.plan(location, provider, [lied], "off")
    assert [scene.id for scene in believed.snapshot.scenes] == [identity]
    assert believed.radiometry_verdicts == {}
    assert not [caveat for caveat in believed.caveats if LIED in caveat.text]
    warned = real_items.plan(location, provider, [lied], "warn")
    assert [scene.id for scene in warned.snapshot.scenes] == [identity]
    assert "agrees" not in warned.radiometry_verdicts, identity
    caught = warned.radiometry_verdicts == {"contradicts": 1}
    caveats = [caveat for caveat in warned.caveats if LIED in caveat.text]
    assert [caveat.id for caveat in caveats] == [identity] * caught
    if caught:
        with pytest.raises(NothingFoundError, match=f"{identity}: {LIED}"):
            real_items.plan(location, provider, [lied], "refuse")
    else:
        accepted = real_items.plan(location, provider, [lied], "refuse")
        assert accepted.radiometry_verdicts == {"cannot tell": 1}
        assert [scene.id for scene in accepted.snapshot.scenes] == [identity]
    assert caught or not must, identity
    return caught


def test_offsets_that_lie_are_refused_doubted_or_believed(realdata, tmp_path):
    refused = set()
    for number, (folder, item) in enumerate(_optical(realdata)):
        provider, lied = _other_offset(folder, item)
        location = real_items.publish(tmp_path / str(number), [lied])
        must = _tells(item, real_items.added(folder, item) != 0)
        if _judged(location, provider, lied, must):
            refused.add((folder, real_items.added(folder, item)))
    assert {0, -1000} <= {added for _, added in refused}


def test_pixels_that_still_hold_the_offset_do_not_pass_for_free_of_it(realdata, tmp_path):
    """What the one Earth Search collection takes out, listed where the pixels still have it."""
    names = {band: name for name, band in real_items.COLOURS.items()} | {"SCL": "scl"}
    refused = 0
    for folder, item in _optical(realdata):
        if real_items.added(folder, item) and _tells(item, True):
            assets = {
                names[real_items.band(name)]: one
                for name, one in item["assets"].items()
                if real_items.band(name) in names
            }
            lied = item | {"assets": assets, "collection": "sentinel-2-l2a"}
            location = real_items.publish(tmp_path / item["id"], [lied])
            with pytest.raises(
                NothingFoundError, match=f"{item['id']}: {LIED}: the stated offset is 0"
            ):
                real_items.plan(location, "earth-search", [lied], "refuse")
            refused += 1
    assert refused > 0


def test_the_top_of_the_atmosphere_is_judged_by_its_darkest_bands(realdata, tmp_path):
    for folder, item in real_items.items(realdata):
        if real_items.modality(item) == "S2L1C" and "B10" in item["assets"]:
            honest = item | {"collection": "sentinel-2-l1c"}
            location = real_items.publish(tmp_path / item["id"], [honest])
            assert real_items.plan(location, "cdse", [honest], "refuse").radiometry_verdicts == {
                "agrees": 1
            }
            stored = real_items.added(folder, item) != 0
            lied = _each_band(honest, _states("offset", 0 if stored else -0.1))
            location = real_items.publish(tmp_path / f"{item['id']}-lied", [lied])
            black = [_dark_end(item["assets"][name]["href"])[0] for name in ("B10", "B12")]
            must = stored or np.mean(black) > 0.08
            assert _judged(location, "cdse", lied, must)


def test_a_flag_that_lies_about_a_collection_changes_nothing_but_is_told(realdata, tmp_path):
    some = [item for folder, item in _optical(realdata) if folder == "earth-search"]
    lied = copy.deepcopy(some)
    for item in lied:
        item["properties"]["earthsearch:boa_offset_applied"] = False
    for honest, liar in zip(some, lied, strict=True):
        location = real_items.publish(tmp_path / honest["id"], [liar])
        plan = real_items.plan(location, "earth-search", [liar], "refuse")
        assert [scene.id for scene in plan.snapshot.scenes] == [honest["id"]]
        assert plan.radiometry_verdicts == {"agrees": 1}
        assert all(
            asset.radiometry.offset == 0 for asset in plan.snapshot.scenes[0].assets.values()
        )
        assert sum("boa_offset_applied is False" in caveat.text for caveat in plan.caveats) == 1


def test_an_offset_that_is_left_out_follows_from_the_baseline(realdata, tmp_path):
    for folder, item in _optical(realdata):
        if folder == "cdse":
            bare = _each_band(item, _unstated)
            location = real_items.publish(tmp_path / item["id"], [bare])
            (scene,) = real_items.plan(location, folder, [bare], "off").snapshot.scenes
            offsets = {
                asset.radiometry.offset for band, asset in scene.assets.items() if band != "SCL"
            }
            assert offsets == {real_items.added(folder, item) / 10_000}


def test_a_scale_that_is_left_out_or_counted_twice_is_refused(realdata, tmp_path):
    for number, (folder, item) in enumerate(_optical(realdata)):
        lied = _each_band(item, _states("scale", (1.0, 1e-8)[number % 2]))
        location = real_items.publish(tmp_path / str(number), [lied])
        with pytest.raises(NothingFoundError, match=f"{item['id']}: {LIED}: with its scale"):
            real_items.plan(location, folder, [lied], "refuse")


def test_decibel_and_power_that_change_places_are_refused(realdata, tmp_path):
    stated_units = set()
    for number, (provider, item) in enumerate(real_items.radar(realdata)):
        unit = item["assets"]["vv"]["raster:bands"][0]["unit"]
        lied = _each_band(item, _states("unit", "1" if unit == "dB" else "dB"))
        location = real_items.publish(tmp_path / str(number), [lied])
        with rasterio.open(item["assets"]["vv"]["href"]) as file:
            counted = int(np.isfinite(file.read(1, masked=True).filled(np.nan)).sum())
        if _judged(location, provider, lied, counted > 2000):
            stated_units.add(unit)
        honest = real_items.publish(tmp_path / f"honest-{number}", [item])
        assert (
            "contradicts"
            not in real_items.plan(honest, provider, [item], "warn").radiometry_verdicts
        )
    assert stated_units


def _twins(realdata, tmp_path):
    """Publish real scenes twice: honest, and as of the collection that still has the offset."""
    some = [item for folder, item in _optical(realdata) if folder == "earth-search"]
    common = shapely.geometry.shape(some[0]["geometry"])
    some = [item for item in some if common.intersects(shapely.geometry.shape(item["geometry"]))]
    cell = some[0]["id"].split("_")[1]
    some = [item for item in some if item["id"].split("_")[1] == cell]
    lied = [_other_offset("earth-search", item)[1] for item in some]
    return some, lied, real_items.publish(tmp_path / "twins", [*some, *lied])


def test_honest_twins_stand_for_scenes_that_are_refused(realdata, tmp_path):
    some, lied, location = _twins(realdata, tmp_path)
    plan = real_items.plan(location, "earth-search", some, "refuse")
    assert {scene.collection for scene in plan.snapshot.scenes} == {"sentinel-2-l2a"}
    assert {scene.id for scene in plan.snapshot.scenes} == {item["id"] for item in some}
    assert plan.radiometry_verdicts == {"agrees": len(some)}
    named = {
        rejection.id
        for rejection in plan.snapshot.refused
        if rejection.collection == "sentinel-2-c1-l2a"
    }
    assert named == {item["id"] for item in lied}


def test_a_run_tells_what_it_refused(realdata, tmp_path, capsys):
    some, lied, _ = _twins(realdata, tmp_path)
    location = real_items.publish(tmp_path / "mixed", [*some[1:], lied[0]])
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(real_items.job(location, "earth-search", some, "refuse")))
    assert main.main(["run", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    item = json.loads(Path(result["item"]).read_text())
    facts = item["properties"]
    assert facts["terramosaic:radiometry_proof"] == {"agrees": len(some) - 1}
    (refused,) = facts["terramosaic:refused"]
    assert refused["id"] == lied[0]["id"]
    assert refused["reason"].startswith(LIED)
    report = html.unescape(
        (Path(result["item"]).parent / item["assets"]["report"]["href"]).read_text()
    )
    assert refused["reason"] in report
    assert f"(agrees: {len(some) - 1} scenes)" in report
    alone = real_items.publish(tmp_path / "alone", [lied[0]])
    path.write_text(yaml.safe_dump(real_items.job(alone, "earth-search", [lied[0]], "refuse")))
    assert main.main(["run", str(path)]) == 3
    assert LIED in capsys.readouterr().err
