"""Real items with changed radiometry are refused, kept with a caveat, or accepted."""

from __future__ import annotations

import copy
import functools
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from pyproj import Geod

from catalogs import providers
from catalogs.errors import NothingFoundError
from flows.cli import main
from tests.support import real_items

CONTRADICTION = "its radiometry is not as stated"
PROBES = ("B02", "B04", "B8A", "B12")
ALTERNATIVES = {"B8A": "B08", "B12": "B11"}


def _change_assets(item, change):
    """Return a copy of an item with changed radiometry of each asset, in either STAC version."""
    changed = copy.deepcopy(item)
    for asset in changed["assets"].values():
        listed = asset.get("raster:bands")
        fields, prefix = (listed[0], "") if listed else (asset, "raster:")
        if f"{prefix}scale" in fields or f"{prefix}unit" in fields:
            change(fields, prefix)
    return changed


def _set_field(key, value):
    def change(fields, prefix):
        fields[prefix + key] = value

    return change


def _remove_offset(fields, prefix):
    fields.pop(prefix + "offset", None)


def _with_wrong_offset(folder, item):
    """Return (provider, item with the wrong offset), as that catalog could state it."""
    stored = real_items.compute_added_offset(folder, item) != 0
    if folder == "earth-search" and not stored:
        return folder, _change_assets(item, _set_field("offset", -0.1)) | {
            "collection": "sentinel-2-c1-l2a"
        }
    if folder == "planetary-computer":
        changed = _change_assets(item, _remove_offset)
        changed["properties"]["s2:processing_baseline"] = "02.12" if stored else "05.00"
        return folder, changed
    return folder, _change_assets(item, _set_field("offset", 0 if stored else -0.1))


def _iterate_optical(realdata):
    for folder, item in real_items.iterate_items(realdata):
        if real_items.get_modality(item) != "S2L2A" or folder not in providers.list_names():
            continue
        bands = {real_items.get_band(name) for name in item["assets"]}
        has_probes = {"B02", "B04"} <= bands and bands & {"B8A", "B08"}
        is_known = real_items.select_known_collections(folder, [item])
        if has_probes and is_known and real_items.is_usable(folder, item):
            yield folder, item


def _compute_statistics(item):
    """Return {band: (share below 0.06, share below 0.08, quantiles)} as stored, and km²."""
    hrefs = {real_items.get_band(name): asset["href"] for name, asset in item["assets"].items()}
    names = [band if band in hrefs else ALTERNATIVES.get(band) for band in PROBES]
    bands = {name: _compute_dark_statistics(hrefs[name]) for name in names if name in hrefs}
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.geometry.shape(item["geometry"]))
    return bands, abs(area) / 1e6


@functools.cache
def _compute_dark_statistics(href):
    with rasterio.open(href) as file:
        values = file.read(1)
    values = values[(values > 0) & (values < 65535)] / 10_000
    quantiles = np.quantile(values, [0.001, 0.02, 0.25])
    return np.mean(values < 0.06), np.mean(values < 0.08), quantiles


def _is_offset_evident(item, stored):
    """Return whether simple statistics of the pixels determine the offset with a margin."""
    bands, square_km = _compute_statistics(item)
    black, below_offset = (
        float(np.mean([asset[index] for asset in bands.values()])) for index in (0, 1)
    )
    if not stored:
        return black > 0.08
    quantiles = {name: statistics[2] for name, statistics in bands.items()}
    steep = all(
        0.092 < quantiles[name][1] < 0.125 and quantiles[name][1] - quantiles[name][0] < 0.018
        for name in ("B02", "B04")
    )
    infrared = next(name for name in ("B8A", "B08") if name in bands)
    green = quantiles[infrared][2] - quantiles["B04"][2] > 0.09
    return square_km > 4 and steep and green and below_offset < 0.008


def _check_changed_item(location, provider, item, must_refuse):
    """Plan a changed item under the three settings of the check; return whether it was refused."""
    identity = item["id"]
    unchecked = real_items.create_plan(location, provider, [item], "off")
    assert [scene.id for scene in unchecked.snapshot.scenes] == [identity]
    assert unchecked.radiometry_verdicts == {}
    assert not [caveat for caveat in unchecked.caveats if CONTRADICTION in caveat.text]
    with_warning = real_items.create_plan(location, provider, [item], "warn")
    assert [scene.id for scene in with_warning.snapshot.scenes] == [identity]
    assert "agrees" not in with_warning.radiometry_verdicts, identity
    is_refused = with_warning.radiometry_verdicts == {"contradicts": 1}
    caveats = [caveat for caveat in with_warning.caveats if CONTRADICTION in caveat.text]
    assert [caveat.id for caveat in caveats] == [identity] * is_refused
    if is_refused:
        with pytest.raises(NothingFoundError, match=f"{re.escape(identity)}: {CONTRADICTION}"):
            real_items.create_plan(location, provider, [item], "refuse")
    else:
        accepted = real_items.create_plan(location, provider, [item], "refuse")
        assert accepted.radiometry_verdicts == {"cannot tell": 1}
        assert [scene.id for scene in accepted.snapshot.scenes] == [identity]
    assert is_refused or not must_refuse, identity
    return is_refused


def test_wrong_offsets_are_refused_or_accepted_as_stated_in_the_job(realdata, tmp_path):
    refused = set()
    for number, (folder, item) in enumerate(_iterate_optical(realdata)):
        provider, changed = _with_wrong_offset(folder, item)
        location = real_items.publish_catalog(tmp_path / str(number), [changed])
        must_refuse = _is_offset_evident(item, real_items.compute_added_offset(folder, item) != 0)
        if _check_changed_item(location, provider, changed, must_refuse):
            refused.add((folder, real_items.compute_added_offset(folder, item)))
    assert {0, -1000} <= {offset for _, offset in refused}


def test_pixels_with_the_offset_are_refused_in_a_collection_without_it(realdata, tmp_path):
    """The item is listed in the Earth Search collection whose pixels have no offset."""
    names = {band: name for name, band in real_items.COLOURS.items()} | {"SCL": "scl"}
    refused = 0
    for number, (folder, item) in enumerate(_iterate_optical(realdata)):
        if real_items.compute_added_offset(folder, item) and _is_offset_evident(item, True):
            assets = {
                names[real_items.get_band(name)]: asset
                for name, asset in item["assets"].items()
                if real_items.get_band(name) in names
            }
            changed = item | {"assets": assets, "collection": "sentinel-2-l2a"}
            location = real_items.publish_catalog(tmp_path / str(number), [changed])
            reason = f"{re.escape(item['id'])}: {CONTRADICTION}: the stated offset is 0"
            with pytest.raises(NothingFoundError, match=reason):
                real_items.create_plan(location, "earth-search", [changed], "refuse")
            refused += 1
    assert refused > 0


def test_l1c_scenes_are_checked_by_their_darkest_bands(realdata, tmp_path):
    for number, (folder, item) in enumerate(real_items.iterate_items(realdata)):
        if real_items.get_modality(item) == "S2L1C" and {"B10", "B12"} <= set(item["assets"]):
            correct = item | {"collection": "sentinel-2-l1c"}
            location = real_items.publish_catalog(tmp_path / str(number), [correct])
            assert real_items.create_plan(
                location, "cdse", [correct], "refuse"
            ).radiometry_verdicts == {"agrees": 1}
            stored = real_items.compute_added_offset(folder, item) != 0
            changed = _change_assets(correct, _set_field("offset", 0 if stored else -0.1))
            location = real_items.publish_catalog(tmp_path / f"{number}-lied", [changed])
            black = [
                _compute_dark_statistics(item["assets"][name]["href"])[0] for name in ("B10", "B12")
            ]
            must_refuse = stored or np.mean(black) > 0.08
            assert _check_changed_item(location, "cdse", changed, must_refuse)


def test_a_wrong_offset_flag_is_a_caveat(realdata, tmp_path):
    originals = _list_without_offset(realdata)
    changed = copy.deepcopy(originals)
    for item in changed:
        item["properties"]["earthsearch:boa_offset_applied"] = False
    for number, (original, changed_item) in enumerate(zip(originals, changed, strict=True)):
        location = real_items.publish_catalog(tmp_path / str(number), [changed_item])
        plan = real_items.create_plan(location, "earth-search", [changed_item], "refuse")
        assert [scene.id for scene in plan.snapshot.scenes] == [original["id"]]
        assert plan.radiometry_verdicts in ({"agrees": 1}, {"cannot tell": 1})
        assert all(
            asset.radiometry.offset == 0 for asset in plan.snapshot.scenes[0].assets.values()
        )
        assert sum("boa_offset_applied is False" in caveat.text for caveat in plan.caveats) == 1


def test_a_missing_offset_is_derived_from_the_baseline(realdata, tmp_path):
    for number, (folder, item) in enumerate(_iterate_optical(realdata)):
        if folder == "cdse":
            changed = _change_assets(item, _remove_offset)
            location = real_items.publish_catalog(tmp_path / str(number), [changed])
            (scene,) = real_items.create_plan(location, folder, [changed], "off").snapshot.scenes
            offsets = {
                asset.radiometry.offset for band, asset in scene.assets.items() if band != "SCL"
            }
            assert offsets == {real_items.compute_added_offset(folder, item) / 10_000}


def test_a_wrong_scale_is_refused(realdata, tmp_path):
    for number, (folder, item) in enumerate(_iterate_optical(realdata)):
        changed = _change_assets(item, _set_field("scale", (1.0, 1e-8)[number % 2]))
        location = real_items.publish_catalog(tmp_path / str(number), [changed])
        reason = rf"{re.escape(item['id'])}: the scale of its B\d[\dA] is (1|1e-08) by the catalog"
        with pytest.raises(NothingFoundError, match=reason):
            real_items.create_plan(location, folder, [changed], "refuse")


def test_exchanged_units_of_decibel_and_power_are_refused(realdata, tmp_path):
    stated_units = set()
    for number, (provider, item) in enumerate(real_items.iterate_radar(realdata)):
        unit = item["assets"]["vv"]["raster:bands"][0]["unit"]
        changed = _change_assets(item, _set_field("unit", "1" if unit == "dB" else "dB"))
        location = real_items.publish_catalog(tmp_path / str(number), [changed])
        with rasterio.open(item["assets"]["vv"]["href"]) as file:
            pixel_count = int(np.isfinite(file.read(1, masked=True).filled(np.nan)).sum())
        if _check_changed_item(location, provider, changed, pixel_count > 2000):
            stated_units.add(unit)
        correct_location = real_items.publish_catalog(tmp_path / f"honest-{number}", [item])
        assert (
            "contradicts"
            not in real_items.create_plan(
                correct_location, provider, [item], "warn"
            ).radiometry_verdicts
        )
    assert stated_units


def _list_without_offset(realdata):
    """Return the items of Earth Search in the collection whose pixels have no offset."""
    return [
        item
        for folder, item in _iterate_optical(realdata)
        if (folder, item["collection"]) == ("earth-search", "sentinel-2-l2a")
    ]


def _get_tile(item):
    return item["properties"].get("grid:code", "").removeprefix("MGRS-")


def _publish_duplicates(realdata, tmp_path):
    """Publish real scenes twice: unchanged, and in the collection that still has the offset."""
    days_by_tile = {}
    for item in _list_without_offset(realdata):
        if _is_offset_evident(item, False):
            day = item["properties"]["datetime"][:10]
            days_by_tile.setdefault(_get_tile(item), {}).setdefault(day, item)
            # ^ one item of each day, as a second one would replace the first
    originals = list(max(days_by_tile.values(), key=len).values())
    changed = [_with_wrong_offset("earth-search", item)[1] for item in originals]
    return (
        originals,
        changed,
        real_items.publish_catalog(tmp_path / "twins", [*originals, *changed]),
    )


def test_correct_duplicates_replace_refused_scenes(realdata, tmp_path):
    originals, changed, location = _publish_duplicates(realdata, tmp_path)
    plan = real_items.create_plan(location, "earth-search", originals, "refuse")
    assert {scene.collection for scene in plan.snapshot.scenes} == {"sentinel-2-l2a"}
    assert {scene.id for scene in plan.snapshot.scenes} == {item["id"] for item in originals}
    assert plan.radiometry_verdicts == {"agrees": len(originals)}
    refused_ids = {
        rejection.id
        for rejection in plan.snapshot.refused
        if rejection.collection == "sentinel-2-c1-l2a"
    }
    assert refused_ids == {item["id"] for item in changed}


def test_a_run_reports_refused_scenes(realdata, tmp_path, capsys):
    originals, changed, _ = _publish_duplicates(realdata, tmp_path)
    location = real_items.publish_catalog(tmp_path / "mixed", [*originals[1:], changed[0]])
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(real_items.build_job(location, "earth-search", originals, "refuse"))
    )
    assert main.main(["run", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    item = json.loads(Path(result["item"]).read_text())
    properties = item["properties"]
    assert properties["terramosaic:radiometry_proof"] == {"agrees": len(originals) - 1}
    (refused,) = properties["terramosaic:refused"]
    assert refused["id"] == changed[0]["id"]
    assert refused["reason"].startswith(CONTRADICTION)
    report = html.unescape(
        (Path(result["item"]).parent / item["assets"]["report"]["href"]).read_text()
    )
    assert refused["reason"] in report
    assert f"(agrees: {len(originals) - 1} scenes)" in report
    changed_location = real_items.publish_catalog(tmp_path / "alone", [changed[0]])
    path.write_text(
        yaml.safe_dump(
            real_items.build_job(changed_location, "earth-search", [changed[0]], "refuse")
        )
    )
    assert main.main(["run", str(path)]) == 3
    assert CONTRADICTION in capsys.readouterr().err
