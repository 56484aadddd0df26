"""Every provider, collection and baseline: our cube is what rasterio reads, in its unit."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from scipy import ndimage

from catalogs import providers
from catalogs.errors import InvalidInputError, NothingFoundError
from catalogs.search import scene_selection, search
from catalogs.sensors import SENSORS
from pipeline.compositing import modality_composite
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import Recipe
from pipeline.reading import cube
from tests.support import real_items
from tests.support.real_items import WORLD

RECIPE = Recipe(
    inputs=(),
    clear_scl=(4,),
    dilate_m=0.0,
    method="median",
    stride=1,
    margin=0,
    probabilities=False,
    composites=True,
)
NOISE = 10**-3.5
"""Power below which a pixel near an edge may be taken for border noise."""

SMALL = 2**18
"""Pixels of a file that is composed whole; a larger one is only read and converted, for speed."""


def _table(items, folder, target):
    """Write a table for the collections that no table of ours declares; return its path."""
    collections = {}
    for there, item in items:
        modality = real_items.modality(item)
        if there == folder and modality:
            one = collections.setdefault(item["collection"], {"modality": modality, "names": {}})
            names = {real_items.band(name): name for name in item["assets"]}
            one["names"] |= {band: names[band] for band in SENSORS[modality].bands if band in names}
    path = target / f"{folder}-of-mine.yaml"
    path.write_text(yaml.safe_dump({"collections": collections}))
    return str(path)


def _provider(items, folder, target):
    try:
        return providers.get(folder).name
    except InvalidInputError:
        return _table(items, folder, target)


@pytest.fixture(scope="module")
def groups(realdata, tmp_path_factory):
    """Return {(folder, collection, baseline): [(item, scene)]} of all that is measured."""
    target = tmp_path_factory.mktemp("tables")
    items = [item for item in real_items.items(realdata) if real_items.modality(item[1])]
    found, result = {}, {}
    for folder in dict.fromkeys(folder for folder, _ in items):
        source = search.CatalogSource(
            provider=_provider(items, folder, target),
            location=str(realdata / "catalog" / folder / "catalog.json"),
            allow=(str(realdata),),
        )
        modalities = {real_items.modality(item) for one, item in items if one == folder}
        for scene in search.find_scenes(source, sorted(modalities), WORLD, None).scenes:
            found[folder, scene.collection, scene.id] = scene
    for folder, item in items:
        scene = found.pop((folder, item["collection"], item["id"]))
        assert scene.modality == real_items.modality(item)
        key = (folder, item["collection"], real_items.baseline(item) or "none stated")
        result.setdefault(key, []).append((item, scene))
    assert not found
    return result


def _chosen(valid, values):
    """Return places: darkest, brightest, middle, one beside nodata; and one without data."""
    rows, columns = np.nonzero(valid)
    order = np.argsort(values[rows, columns], kind="stable")
    picks = [order[0], order[-1], order[len(order) // 2]]
    places = [(int(rows[pick]), int(columns[pick])) for pick in picks]
    beside = valid & ndimage.binary_dilation(~valid)
    if beside.any():
        places.append(tuple(map(int, np.argwhere(beside)[0])))
        places.append(tuple(map(int, np.argwhere(~valid)[-1])))
    return places


def _native(file):
    return Grid(
        epsg=file.crs.to_epsg(),
        resolution=file.transform.a,
        left=file.transform.c,
        top=file.transform.f,
        height=file.height,
        width=file.width,
    )


def _ours(scene, band, grid, projected):
    """Return (y, x) of a composite, or of the cube where no job uses the grid."""
    bare = scene.select_bands((band,))
    if projected and grid.height * grid.width <= SMALL:
        made = modality_composite.compose_modality(
            scene.modality, [bare], [band], grid, recipe=RECIPE
        )
        return made.values[0].compute(scheduler="synchronous").values
    return cube.load([bare], [band], grid)[0, 0].compute(scheduler="synchronous").values


def _asset(item, scene, band):
    """Return the item's own asset behind a band of the scene."""
    ((name, asset),) = [
        (name, asset)
        for name, asset in item["assets"].items()
        if Path(asset["href"]) == Path(scene.assets[band].href).resolve()
    ]
    assert real_items.band(name) == band
    return asset


def _unit_and_nodata(asset, file):
    stated = (asset.get("raster:bands") or [{}])[0]
    nodata = stated.get("nodata", file.nodata)
    return stated.get("unit"), None if nodata is None else float(nodata)


def _measured(scene):
    return [band for band in scene.assets if band not in SENSORS[scene.modality].mask_bands]


def test_reflectance_of_every_group_is_what_the_files_say(groups):
    """Reflectance in decimals: DN times 1/10000, and what ESA added taken out where it is in."""
    optical = {key: some for key, some in groups.items() if some[0][1].modality[:2] == "S2"}
    assert optical
    for key, some in optical.items():
        pixels = 0
        for item, scene in some:
            added = real_items.added(key[0], item)
            for band in _measured(scene):
                asset = _asset(item, scene, band)
                with rasterio.open(asset["href"]) as file:
                    stored, grid = file.read(1).astype(int), _native(file)
                    projected = file.crs.is_projected
                assert stored.min() >= 0
                values = _ours(scene, band, grid, projected)
                valid = (stored > 0) & (stored < 65535)
                for place in _chosen(valid, stored):
                    found = float(values[place])
                    if valid[place]:
                        expected = Decimal(int(stored[place]) + added) * Decimal("0.0001")
                        assert found == int(found), (key, scene.id, band, place)
                        assert Decimal(int(found)) * Decimal("0.0001") == expected
                    else:
                        assert math.isnan(found), (key, scene.id, band, place)
                    pixels += 1
                assert np.array_equal(values, np.where(valid, stored + added, np.nan), True)
                # ^ and so do all the others
        assert pixels >= 3 * len(some), key


def test_the_darkest_pixels_bear_out_what_the_table_says(groups):
    """With what was added still in it nothing is black; without, something of most scenes is."""
    free = 0
    for key, some in groups.items():
        for item, scene in some:
            if not scene.modality.startswith("S2"):
                continue
            stored = []
            for band in _measured(scene):
                with rasterio.open(scene.assets[band].href) as file:
                    values = file.read(1)
                stored.append(values[values > 0])
            if real_items.added(key[0], item):
                assert np.mean(np.concatenate(stored) < 800) < 0.01, (key, scene.id)
            else:
                free += bool(min(values.min() for values in stored) < 800)
    assert free > 0


def test_power_of_every_group_is_what_the_files_say(groups):
    """Gamma nought in linear power, to the seven digits of the type; decibel become power once."""
    radar = {key: some for key, some in groups.items() if some[0][1].modality[:2] == "S1"}
    assert radar
    for key, some in radar.items():
        for item, scene in some:
            for band in _measured(scene):
                asset = _asset(item, scene, band)
                with rasterio.open(asset["href"]) as file:
                    stored, grid = file.read(1).astype(np.float64), _native(file)
                    unit, nodata = _unit_and_nodata(asset, file)
                    projected = file.crs.is_projected
                there = np.isfinite(stored)
                if nodata is not None and not math.isnan(nodata):
                    there &= stored != nodata
                power = 10 ** (np.where(there, stored, 0) / 10) if unit == "dB" else stored.copy()
                values = _ours(scene, band, grid, projected)
                sure = there & (power > NOISE)
                for place in _chosen(sure, power):
                    if sure[place]:
                        assert values[place] == pytest.approx(power[place], rel=2e-6), key
                    elif not there[place]:
                        assert math.isnan(values[place]), (key, scene.id, band, place)
                assert np.allclose(values[sure], power[sure], rtol=2e-6, atol=0), (key, band)
                if unit != "dB":
                    assert np.array_equal(values[sure], stored[sure].astype(np.float32))
                assert np.isnan(values[~there]).all(), (key, scene.id, band)


def test_heights_of_every_group_are_what_the_files_say(groups):
    heights = 0
    for key, some in groups.items():
        for item, scene in some:
            if scene.modality != "DEM":
                continue
            asset = _asset(item, scene, "DEM")
            with rasterio.open(asset["href"]) as file:
                stored, grid = file.read(1), _native(file)
                nodata = _unit_and_nodata(asset, file)[1]
                assert file.crs.is_projected
            valid = (stored != nodata) & (stored > -500)
            values = _ours(scene, "DEM", grid, True)
            for place in _chosen(valid, stored):
                expected = stored[place] if valid[place] else np.nan
                assert np.array_equal(values[place], expected, equal_nan=True), key
                heights += 1
    assert heights > 0


def test_every_scene_is_chosen_by_the_bands_it_has(groups):
    """A lone polarisation is refused as usual, and used where it is asked for."""
    for some in groups.values():
        for _, scene in some:
            asked = scene_selection.select_scenes(
                [scene], WORLD, bands={scene.modality: _measured(scene)}
            )
            assert [used.id for used in asked.used] == [scene.id]
            lacks = scene.modality[:2] == "S1" and not {"VV", "VH"} <= set(scene.assets)
            usual = scene_selection.select_scenes([scene], WORLD)
            assert bool(usual.used) != lacks
            assert all(
                "it lacks the polarisation" in rejection.reason for rejection in usual.refused
            )


TABLES = {"earth-search-v1": "earth-search", "stactools-from-real-SAFE": "stactools"}


def _recorded(realdata):
    """Yield (provider, item) of every recorded Sentinel-2 item of a catalog we have a table of."""
    for path in sorted((realdata / "stac").glob("*/*/*.json")):
        provider = TABLES.get(path.parents[1].name, path.parents[1].name)
        item = json.loads(path.read_text())
        if item.get("type") == "Feature" and "sentinel-" in str(item.get("collection")):
            try:
                known = providers.get(provider).collections_by_id
            except InvalidInputError:
                continue
            if item["collection"] in known and known[item["collection"]].modality[:2] == "S2":
                yield provider, item


def test_recorded_items_of_every_baseline_claim_what_esa_did(realdata, tmp_path):
    """Without pixels: the offset by who took it out and by the baseline alone."""
    seen = set()
    for number, (provider, item) in enumerate(_recorded(realdata)):
        source = search.CatalogSource(
            provider=provider, location=str(real_items.publish(tmp_path / str(number), [item]))
        )
        modality = providers.get(provider).collections_by_id[item["collection"]].modality
        try:
            (scene,) = search.find_scenes(source, [modality], WORLD, None).scenes
        except NothingFoundError:
            continue
            # ^ what is refused has no numbers
        offset = real_items.added(provider, item) / 10_000
        for band in _measured(scene):
            meaning = scene.assets[band].radiometry
            assert (meaning.scale, meaning.offset) == (1e-4, offset), (provider, item["id"], band)
        seen.add((provider, item["collection"], real_items.baseline(item)))
    assert len(seen) > 5
