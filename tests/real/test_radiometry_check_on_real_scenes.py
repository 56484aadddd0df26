"""The radiometry check on real scenes, with correct and with wrong offsets and units."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from shapely.geometry import box

from catalogs import demo
from catalogs.scene import Radiometry
from catalogs.search import search
from catalogs.sensors import SENSORS
from pipeline.quality import radiometry_check
from tests.support import real_items

WORLD = box(-180, -89, 180, 89)
CATALOGS = {
    "earth-search": ["S2L2A"],
    "planetary-computer": ["S2L2A", "S1RTC", "DEM"],
    "cdse": ["S2L2A"],
}
MUST_CONTRADICT = re.compile(
    r"S2._MSIL2A_.*_T(29UNU|33SVB)_.*|S2_TM_.*|BEN_S2A_.*|S2._33TW[LM]_202308\d\d_0_L2A"
)
"""Scenes of ordinary ground, whose wrong offsets must be refused and not only doubted."""


def _search(location, provider, modalities, *allow):
    source = search.CatalogSource(provider=provider, location=str(location), allow=allow)
    return search.find_scenes(source, modalities, WORLD, None).scenes


def _iterate_scenes(realdata):
    for name, modalities in CATALOGS.items():
        yield from real_items.find_scenes(realdata, name, modalities)


def _with_wrong_offset(scene):
    """Return the scene with the wrong offset."""

    def change_offset(asset):
        offset = -0.1 - asset.radiometry.offset
        return replace(asset, radiometry=replace(asset.radiometry, offset=offset))

    assets = {
        band: asset if band in SENSORS[scene.modality].mask_bands else change_offset(asset)
        for band, asset in scene.assets.items()
    }
    return replace(scene, assets=assets)


def test_correct_offsets_are_accepted_and_wrong_ones_not(realdata):
    scenes = list(_iterate_scenes(realdata))
    verdicts = radiometry_check.check_scenes(scenes, threads=2)
    tally = Counter(
        (scene.modality, verdict.status) for scene, verdict in zip(scenes, verdicts, strict=True)
    )
    assert not [verdict for verdict in verdicts if verdict.status == "contradicts"]
    for modality in ("DEM", "S1RTC"):
        count = sum(scene.modality == modality for scene in scenes)
        assert tally[modality, "agrees"] == count > 0
    optical = [scene for scene in scenes if scene.modality == "S2L2A"]
    by_id = {scene.id: verdict for scene, verdict in zip(scenes, verdicts, strict=True)}
    wrong_verdicts = radiometry_check.check_scenes(
        [_with_wrong_offset(scene) for scene in optical], threads=2
    )
    assert not [verdict for verdict in wrong_verdicts if verdict.status == "agrees"]
    for scene, verdict in zip(optical, wrong_verdicts, strict=True):
        is_clear = MUST_CONTRADICT.fullmatch(scene.id)
        if is_clear:
            assert by_id[scene.id].status == "agrees", scene.id
        if is_clear or by_id[scene.id].status == "agrees":
            assert verdict.status == "contradicts", scene.id
    assert tally["S2L2A", "agrees"] > len(optical) / 2
    # ^ the others are mostly dates in Flanders under cloud or a veil, each 640 m wide


def _list_stored_offsets(realdata):
    """Return {id of an optical scene: whether its pixels hold ESA's offset}."""
    return {
        item["id"]: real_items.compute_added_offset(folder, item) != 0
        for folder, item in real_items.iterate_items(realdata)
        if real_items.get_modality(item) == "S2L2A"
    }


def _iterate_windows(realdata, side, count):
    """Yield (stored offset, bands, square kilometres) of windows of large real scenes."""
    rng = np.random.default_rng(side)
    stored_offsets = _list_stored_offsets(realdata)
    for scene in _iterate_scenes(realdata):
        if scene.modality != "S2L2A" or not MUST_CONTRADICT.fullmatch(scene.id):
            continue
        bands = {}
        for band in radiometry_check.select_probe_bands(scene):
            with rasterio.open(scene.assets[band].href) as file:
                bands[band] = file.read(1).astype(np.float32)
                metres = file.res[0]
            bands[band][bands[band] == 0] = np.nan
        if len({values.shape for values in bands.values()}) > 1:
            continue
        height, width = next(iter(bands.values())).shape
        if min(height, width) < 224:
            continue
        for _ in range(count):
            row, column = (int(rng.integers(0, size - side + 1)) for size in (height, width))
            window = (slice(row, row + side), slice(column, column + side))
            cut = {band: values[window] for band, values in bands.items()}
            yield stored_offsets[scene.id], cut, (side * metres / 1000) ** 2


@pytest.mark.parametrize("side", [64, 128, 200])
def test_windows_of_real_scenes_with_and_without_the_offset(realdata, side):
    tally = Counter()
    for stored, cut, square_km in _iterate_windows(realdata, side, 12):
        shifted = {
            band: np.maximum(values - 1000, 1) if stored else values + 1000
            for band, values in cut.items()
        }
        for has_offset, bands in ((stored, cut), (not stored, shifted)):
            for stated_offset in (0.0, -0.1):
                radiometry = dict.fromkeys(
                    bands, Radiometry(scale=1e-4, offset=stated_offset, unit="reflectance")
                )
                verdict = radiometry_check.evaluate_radiometry(
                    "S2L2A", bands, radiometry, square_km=square_km
                )
                tally[(stated_offset == -0.1) == has_offset, verdict.status] += 1
    assert tally[True, "contradicts"] == tally[False, "agrees"] == 0
    assert tally[True, "agrees"] == tally[False, "contradicts"] > tally[True, "cannot tell"]


@pytest.mark.parametrize("resampling", ["nearest", "mean"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_overviews_of_a_real_scene_are_not_misjudged(realdata, resampling, factor):
    for stored, cut, _ in _iterate_windows(realdata, 224, 1):
        bands = {}
        for band, values in cut.items():
            blocks = values.reshape(224 // factor, factor, 224 // factor, factor)
            bands[band] = blocks.mean((1, 3)) if resampling == "mean" else blocks[:, 0, :, 0]
        for stated_offset in (0.0, -0.1):
            radiometry = dict.fromkeys(
                bands, Radiometry(scale=1e-4, offset=stated_offset, unit="reflectance")
            )
            verdict = radiometry_check.evaluate_radiometry(
                "S2L2A", bands, radiometry, square_km=100.0
            )
            wrong = "agrees" if (stated_offset == -0.1) != stored else "contradicts"
            assert verdict.status != wrong


def test_radar_in_decibel_and_in_power(realdata):
    scenes = [scene for scene in _iterate_scenes(realdata) if scene.modality == "S1RTC"]
    for scene in scenes:
        assets = {
            band: replace(asset, radiometry=replace(asset.radiometry, unit="dB"))
            for band, asset in scene.assets.items()
        }
        assert radiometry_check.check_scene(replace(scene, assets=assets)).status == "contradicts"
    for path in sorted(realdata.glob("bigearthnet/S1*/*.tif")):
        with rasterio.open(path) as file:
            bands = {"VV": file.read(1)}
        for unit, status in (("dB", "agrees"), ("power", "contradicts")):
            radiometry = {"VV": Radiometry(scale=1, offset=0, unit=unit)}
            assert (
                radiometry_check.evaluate_radiometry("S1GRD", bands, radiometry, square_km=1).status
                == status
            )


@pytest.mark.parametrize("seed", [7])
def test_the_demo_country_mixes_baselines(tmp_path, seed):
    demo.build(tmp_path, seed=seed, size=512)
    scenes = _search(tmp_path / "catalog" / "catalog.json", "demo", ["S2L2A", "S1RTC", "DEM"])
    assert "contradicts" not in {
        verdict.status for verdict in radiometry_check.check_scenes(scenes, threads=2)
    }
    optical = [scene for scene in scenes if scene.modality == "S2L2A"]
    wrong_verdicts = Counter(
        verdict.status
        for verdict in radiometry_check.check_scenes(map(_with_wrong_offset, optical), threads=2)
    )
    assert wrong_verdicts["agrees"] == 0
    assert wrong_verdicts["contradicts"] >= 0.8 * len(optical)
