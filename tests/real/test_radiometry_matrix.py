"""The cube of every provider, collection and baseline equals what rasterio reads, in its unit."""

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


def _write_table(items, folder, target):
    """Write a provider table for the collections of a folder without a table; return its path."""
    collections = {}
    for item_folder, item in items:
        modality = real_items.get_modality(item)
        if item_folder == folder and modality:
            entry = collections.setdefault(item["collection"], {"modality": modality, "names": {}})
            names = {real_items.get_band(name): name for name in item["assets"]}
            entry["names"] |= {
                band: names[band] for band in SENSORS[modality].bands if band in names
            }
    path = target / f"{folder}-of-mine.yaml"
    path.write_text(yaml.safe_dump({"collections": collections}))
    return str(path)


def _get_provider(items, folder, target):
    try:
        return providers.get(folder).name
    except InvalidInputError:
        return _write_table(items, folder, target)


@pytest.fixture(scope="module")
def groups(realdata, tmp_path_factory):
    """Return {(folder, collection, baseline): [(item, scene)]} of all items of a known modality."""
    target = tmp_path_factory.mktemp("tables")
    items = [
        item for item in real_items.iterate_items(realdata) if real_items.get_modality(item[1])
    ]
    result = {}
    for folder in dict.fromkeys(folder for folder, _ in items):
        provider = _get_provider(items, folder, target)
        source = search.CatalogSource(
            provider=provider,
            location=str(realdata / "catalog" / folder / "catalog.json"),
            allow=(str(realdata),),
        )
        members = real_items.select_known_collections(
            provider, [item for item_folder, item in items if item_folder == folder]
        )
        for modality in sorted({real_items.get_modality(item) for item in members}):
            found = search.find_scenes(source, [modality], WORLD, None)
            scenes = {(scene.collection, scene.id): scene for scene in found.scenes}
            refused = {(entry.collection, entry.id) for entry in found.refused}
            for item in members:
                key = (item["collection"], item["id"])
                if real_items.get_modality(item) == modality and key not in refused:
                    assert scenes[key].modality == modality
                    baseline = real_items.get_baseline(item) or "none stated"
                    result.setdefault((folder, item["collection"], baseline), []).append(
                        (item, scenes[key])
                    )
    assert result
    return result


def _choose_pixels(valid, values):
    """Return the darkest, brightest and median pixel, one beside nodata, and one of nodata."""
    rows, columns = np.nonzero(valid)
    order = np.argsort(values[rows, columns], kind="stable")
    picks = [order[0], order[-1], order[len(order) // 2]]
    pixels = [(int(rows[pick]), int(columns[pick])) for pick in picks]
    beside_nodata = valid & ndimage.binary_dilation(~valid)
    if beside_nodata.any():
        pixels.append(tuple(map(int, np.argwhere(beside_nodata)[0])))
        pixels.append(tuple(map(int, np.argwhere(~valid)[-1])))
    return pixels


def _get_native_grid(file):
    return Grid(
        epsg=file.crs.to_epsg(),
        resolution=file.transform.a,
        left=file.transform.c,
        top=file.transform.f,
        height=file.height,
        width=file.width,
    )


def _compose_band(scene, band, grid, projected):
    """Return (y, x) of a composite, or of the cube where no job uses the grid."""
    one_band = scene.select_bands((band,))
    if projected and grid.height * grid.width <= SMALL:
        composite = modality_composite.compose_modality(
            scene.modality, [one_band], [band], grid, recipe=RECIPE
        )
        return composite.values[0].compute(scheduler="synchronous").values
    return cube.load([one_band], [band], grid)[0, 0].compute(scheduler="synchronous").values


def _find_asset(item, scene, band):
    """Return the item's own asset behind a band of the scene."""
    assets = {
        real_items.get_band(name): asset
        for name, asset in item["assets"].items()
        if Path(asset["href"]) == Path(scene.assets[band].href).resolve()
    }
    return assets[band]


def _get_unit_and_nodata(asset, file):
    fields = (asset.get("raster:bands") or [{}])[0]
    nodata = fields.get("nodata", file.nodata)
    return fields.get("unit"), None if nodata is None else float(nodata)


def _list_measured_bands(scene):
    return [band for band in scene.assets if band not in SENSORS[scene.modality].mask_bands]


def test_reflectance_of_every_group_equals_the_files(groups):
    """Reflectance in decimal arithmetic: (DN + offset) / 10000."""
    optical = {key: group for key, group in groups.items() if group[0][1].modality[:2] == "S2"}
    assert optical
    for key, group in optical.items():
        pixel_count = 0
        for item, scene in group:
            offset = real_items.compute_added_offset(key[0], item)
            for band in _list_measured_bands(scene):
                asset = _find_asset(item, scene, band)
                with rasterio.open(asset["href"]) as file:
                    stored, grid = file.read(1).astype(int), _get_native_grid(file)
                    projected = file.crs.is_projected
                assert stored.min() >= 0
                values = _compose_band(scene, band, grid, projected)
                valid = (stored > 0) & (stored < 65535)
                for pixel in _choose_pixels(valid, stored):
                    actual = float(values[pixel])
                    if valid[pixel]:
                        expected = Decimal(int(stored[pixel]) + offset) * Decimal("0.0001")
                        assert actual == int(actual), (key, scene.id, band, pixel)
                        assert Decimal(int(actual)) * Decimal("0.0001") == expected
                    else:
                        assert math.isnan(actual), (key, scene.id, band, pixel)
                    pixel_count += 1
                assert np.array_equal(values, np.where(valid, stored + offset, np.nan), True)
                # ^ all other pixels as well
        assert pixel_count >= 3 * len(group), key


def test_the_darkest_pixels_agree_with_the_table_of_offsets(groups):
    """Scenes with the stored offset have no dark pixels; most scenes without it have some."""
    dark_scenes = 0
    for key, group in groups.items():
        for item, scene in group:
            if not scene.modality.startswith("S2"):
                continue
            stored = []
            for band in _list_measured_bands(scene):
                with rasterio.open(scene.assets[band].href) as file:
                    values = file.read(1)
                stored.append(values[values > 0])
            if real_items.compute_added_offset(key[0], item):
                assert np.mean(np.concatenate(stored) < 800) < 0.01, (key, scene.id)
            else:
                dark_scenes += bool(min(values.min() for values in stored) < 800)
    assert dark_scenes > 0


def test_power_of_every_group_equals_the_files(groups):
    """Gamma nought in linear power to seven digits; decibels are converted once."""
    radar = {key: group for key, group in groups.items() if group[0][1].modality[:2] == "S1"}
    assert radar
    for key, group in radar.items():
        for item, scene in group:
            for band in _list_measured_bands(scene):
                asset = _find_asset(item, scene, band)
                with rasterio.open(asset["href"]) as file:
                    stored, grid = file.read(1).astype(np.float64), _get_native_grid(file)
                    unit, nodata = _get_unit_and_nodata(asset, file)
                    projected = file.crs.is_projected
                valid = np.isfinite(stored)
                if nodata is not None and not math.isnan(nodata):
                    valid &= stored != nodata
                power = 10 ** (np.where(valid, stored, 0) / 10) if unit == "dB" else stored.copy()
                values = _compose_band(scene, band, grid, projected)
                above_noise = valid & (power > NOISE)
                for pixel in _choose_pixels(above_noise, power):
                    if above_noise[pixel]:
                        assert values[pixel] == pytest.approx(power[pixel], rel=2e-6), key
                    elif not valid[pixel]:
                        assert math.isnan(values[pixel]), (key, scene.id, band, pixel)
                assert np.allclose(values[above_noise], power[above_noise], rtol=2e-6, atol=0), (
                    key,
                    band,
                )
                if unit != "dB":
                    assert np.array_equal(
                        values[above_noise], stored[above_noise].astype(np.float32)
                    )
                assert np.isnan(values[~valid]).all(), (key, scene.id, band)


def test_heights_of_every_group_equal_the_files(groups):
    pixel_count = 0
    for key, group in groups.items():
        for item, scene in group:
            if scene.modality != "DEM":
                continue
            asset = _find_asset(item, scene, "DEM")
            with rasterio.open(asset["href"]) as file:
                stored, grid = file.read(1), _get_native_grid(file)
                nodata = _get_unit_and_nodata(asset, file)[1]
                assert file.crs.is_projected
            valid = (stored != nodata) & (stored > -500)
            values = _compose_band(scene, "DEM", grid, True)
            for pixel in _choose_pixels(valid, stored):
                expected = stored[pixel] if valid[pixel] else np.nan
                assert np.array_equal(values[pixel], expected, equal_nan=True), key
                pixel_count += 1
    assert pixel_count > 0


def test_every_scene_is_selected_by_its_bands(groups):
    """A scene with one polarisation is used only where that band is requested."""
    for group in groups.values():
        for _, scene in group:
            requested = scene_selection.select_scenes(
                [scene], WORLD, bands={scene.modality: _list_measured_bands(scene)}
            )
            assert [selected.id for selected in requested.used] == [scene.id]
            is_incomplete = scene.modality[:2] == "S1" and not {"VV", "VH"} <= set(scene.assets)
            default = scene_selection.select_scenes([scene], WORLD)
            assert bool(default.used) != is_incomplete
            assert all(
                "it lacks the polarisation" in rejection.reason for rejection in default.refused
            )


TABLES = {"earth-search-v1": "earth-search", "stactools-from-real-SAFE": "stactools"}


def _iterate_recorded(realdata):
    """Yield (provider, item) of every recorded Sentinel-2 item of a provider with a table."""
    for path in sorted((realdata / "stac").glob("*/*/*.json")):
        provider = TABLES.get(path.parents[1].name, path.parents[1].name)
        item = json.loads(path.read_text())
        if (
            isinstance(item, dict)
            and item.get("type") == "Feature"
            and "sentinel-" in str(item.get("collection"))
        ):
            try:
                collections = providers.get(provider).collections_by_id
            except InvalidInputError:
                continue
            if (
                item["collection"] in collections
                and collections[item["collection"]].modality[:2] == "S2"
            ):
                yield provider, item


def test_recorded_items_of_every_baseline_have_the_offset_of_esa(realdata, tmp_path):
    """The offset follows from the collection and the baseline, without reading pixels."""
    tested = set()
    for number, (provider, item) in enumerate(_iterate_recorded(realdata)):
        source = search.CatalogSource(
            provider=provider,
            location=str(real_items.publish_catalog(tmp_path / str(number), [item])),
        )
        modality = providers.get(provider).collections_by_id[item["collection"]].modality
        try:
            (scene,) = search.find_scenes(source, [modality], WORLD, None).scenes
        except NothingFoundError:
            continue
            # ^ a refused item has no radiometry
        offset = real_items.compute_added_offset(provider, item) / 10_000
        for band in _list_measured_bands(scene):
            radiometry = scene.assets[band].radiometry
            assert (radiometry.scale, radiometry.offset) == (1e-4, offset), (
                provider,
                item["id"],
                band,
            )
        tested.add((provider, item["collection"], real_items.get_baseline(item)))
    assert len(tested) > 5
