"""Composites of real catalogs: every pixel equals a computation in NumPy."""

from __future__ import annotations

import datetime as dt
import json
import math
import warnings

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from catalogs.search import search
from pipeline.compositing import modality_composite, radar
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import COMPOSITE_METHODS, Recipe
from pipeline.reading import units
from tests.support import real_items

CLEAR, CLOUDS, DILATE = (2, 4, 5, 6, 7, 11), (3, 8, 9, 10), 300.0
EPOCH = dt.date(1970, 1, 1)


def _build_recipe(method, **fields):
    values = {"clear_scl": CLEAR, "dilate_m": DILATE, "method": method} | fields
    return Recipe(inputs=(), stride=1, margin=0, probabilities=False, composites=True, **values)


def _compose(modality, scenes, bands, grid, recipe):
    composite = modality_composite.compose_modality(modality, scenes, bands, grid, recipe=recipe)
    return {
        name: getattr(composite, name).compute(scheduler="synchronous").values
        for name in ("values", "observations", "first_day", "last_day")
    }


def _build_mosaic_grid(scenes, band):
    """Return the finest grid of the first scene's raster that covers all scenes."""
    assets = [scene.assets[band] for scene in scenes]
    resolution, origin = assets[0].transform[0], assets[0].transform
    west = min(asset.transform[2] for asset in assets)
    north = max(asset.transform[5] for asset in assets)
    east = max(asset.transform[2] + resolution * asset.shape[1] for asset in assets)
    south = min(asset.transform[5] - resolution * asset.shape[0] for asset in assets)
    left = origin[2] - resolution * math.ceil((origin[2] - west) / resolution)
    top = origin[5] + resolution * math.ceil((north - origin[5]) / resolution)
    return Grid(
        epsg=assets[0].epsg,
        resolution=resolution,
        left=left,
        top=top,
        height=math.ceil((top - south) / resolution),
        width=math.ceil((east - left) / resolution),
    )


def _sample(asset, grid, pad=0):
    """Return the stored value at the centre of each pixel, 0 outside the file, with NumPy alone."""
    with rasterio.open(asset.href) as file:
        stored, transform = file.read(1).astype(np.int64), file.transform
    xs = grid.left + (np.arange(-pad, grid.width + pad) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(-pad, grid.height + pad) + 0.5) * grid.resolution
    columns = np.floor((xs - transform.c) / transform.a + 1e-9).astype(int)
    rows = np.floor((transform.f - ys) / -transform.e + 1e-9).astype(int)
    result = np.zeros((len(rows), len(columns)), np.int64)
    valid_rows = (rows >= 0) & (rows < stored.shape[0])
    valid_columns = (columns >= 0) & (columns < stored.shape[1])
    result[np.ix_(valid_rows, valid_columns)] = stored[
        np.ix_(rows[valid_rows], columns[valid_columns])
    ]
    return result


def _compute_expected(scenes, bands, grid, method):
    """Compute the composite of all scenes with NumPy, independently of the code under test."""
    scenes = sorted(scenes, key=lambda scene: (scene.solar_day, scene.id))
    pad = math.ceil(DILATE / grid.resolution) + 1
    inner = slice(pad, pad + grid.height), slice(pad, pad + grid.width)
    observations, clear = [], []
    for scene in scenes:
        codes = _sample(scene.assets["SCL"], grid, pad)
        distance = ndimage.distance_transform_edt(~np.isin(codes, CLOUDS)) * grid.resolution
        clear.append((np.isin(codes, CLEAR) & (distance > DILATE))[inner])
        observation = np.full((len(bands), *grid.shape), np.nan)
        for row, band in enumerate(bands):
            radiometry = scene.assets[band].radiometry
            stored = _sample(scene.assets[band], grid)
            valid = clear[-1] & (stored > 0) & (stored < 65535)
            observation[row][valid] = stored[valid] + round(radiometry.offset / radiometry.scale)
        observations.append(observation)
    days = sorted({scene.solar_day for scene in scenes})
    daily, observed = [], []
    for day in days:
        indices = [index for index, scene in enumerate(scenes) if scene.solar_day == day]
        observation = observations[indices[0]]
        for index in indices[1:]:
            observation = np.where(np.isnan(observation), observations[index], observation)
        daily.append(observation)
        observed.append(np.any([clear[index] for index in indices], axis=0))
    day_numbers = np.array([(day - EPOCH).days for day in days])[:, None, None]
    last_days = np.where(observed, day_numbers, 0)
    return {
        "values": _compute_expected_values(np.array(daily), scenes, observations, method),
        "observations": np.sum(observed, axis=0),
        "first_day": np.where(
            np.any(observed, axis=0), np.where(observed, day_numbers, 99999).min(axis=0), 0
        ),
        "last_day": last_days.max(axis=0),
    }


def _compute_expected_values(daily, scenes, observations, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        median = np.nanmedian(daily, axis=0)
    if method == "median":
        return median
    if method == "least_cloudy":
        cover = [101 if scene.cloud_cover is None else scene.cloud_cover for scene in scenes]
        order = sorted(range(len(scenes)), key=lambda i: (cover[i], scenes[i].datetime))
        daily = np.array([observations[index] for index in order])
        rank = np.arange(len(daily))[:, None, None] + np.zeros(daily[0, 0].shape)
    elif method == "latest":
        rank = -np.arange(len(daily))[:, None, None] + np.zeros(daily[0, 0].shape)
    else:
        rank = np.nansum((daily - median) ** 2, axis=1)
    missing = np.isnan(daily).sum(axis=1)
    penalty = 2 * np.abs(rank).max() + 1
    best = np.argmin(missing * penalty + rank, axis=0)
    rows, columns = np.indices(best.shape)
    return np.moveaxis(daily[best, :, rows, columns], -1, 0)


def _assert_same(actual, expected):
    for name, values in expected.items():
        assert np.array_equal(actual[name], values, equal_nan=name == "values"), name


@pytest.mark.parametrize("method", COMPOSITE_METHODS)
def test_the_composite_of_a_catalog_equals_numpy_in_all_pixels(realdata, tmp_path, method):
    items = real_items.select_slovenian_scenes(realdata)
    location = real_items.publish_catalog(tmp_path / "catalog", items)
    source = search.CatalogSource(
        provider="earth-search", location=str(location), allow=(str(realdata),)
    )
    scenes = search.find_scenes(source, ("S2L2A",), real_items.WORLD, None).scenes
    bands = [band for band in scenes[0].assets if band != "SCL"]
    grid = _build_mosaic_grid(scenes, bands[0])
    full = _compose("S2L2A", scenes, bands, grid, _build_recipe(method))
    expected = _compute_expected(scenes, bands, grid, method)
    assert np.isfinite(expected["values"]).any()
    _assert_same(full, expected)
    row, column = grid.height // 2 + 1, grid.width // 3 - 1
    for window in (
        {"row": 0, "column": 0, "height": row, "width": grid.width},
        {"row": row, "column": 0, "height": grid.height - row, "width": grid.width},
        {"row": 0, "column": 0, "height": grid.height, "width": column},
        {"row": 0, "column": column, "height": grid.height, "width": grid.width - column},
    ):
        part = _compose("S2L2A", scenes[::-1], bands, grid.window(**window), _build_recipe(method))
        rows = slice(window["row"], window["row"] + window["height"])
        columns = slice(window["column"], window["column"] + window["width"])
        _assert_same(part, {name: values[..., rows, columns] for name, values in full.items()})


def test_dark_counts_with_an_offset_become_negative_reflectance(realdata):
    dark_count = 0
    for scene in real_items.find_scenes(realdata, "cdse", ("S2L2A",)):
        asset = scene.assets.get("B02")
        if asset is None or asset.radiometry.offset >= 0:
            continue
        with rasterio.open(asset.href) as file:
            stored = file.read(1)
        dark = (stored > 0) & (stored < 1000)
        dark_count += int(dark.sum())
        one_band = scene.select_bands(("B02",))
        grid = _build_mosaic_grid([one_band], "B02")
        values = _compose("S2L2A", [one_band], ["B02"], grid, _build_recipe("median"))["values"][0]
        assert np.array_equal(values < 0, dark)
        assert np.array_equal(np.isnan(values), stored == 0)
        assert np.array_equal(values[dark], stored[dark].astype(int) - 1000)
        assert np.nanmax(values) == int(stored.max()) - 1000
    assert dark_count > 0


def test_pixels_without_a_scene_class_are_not_clear(realdata):
    unclassified = 0
    for scene in real_items.find_scenes(realdata, "cdse", ("S2L2A",)):
        if "SCL" not in scene.assets or "B02" not in scene.assets:
            continue
        grid = _build_mosaic_grid([scene], "B02")
        codes, stored = _sample(scene.assets["SCL"], grid), _sample(scene.assets["B02"], grid)
        composite = _compose("S2L2A", [scene], ["B02"], grid, _build_recipe("median", dilate_m=0.0))
        assert np.array_equal(composite["observations"] > 0, np.isin(codes, CLEAR))
        unclassified += int(((codes == 0) & (stored > 0)).sum())
    assert unclassified > 0


def test_no_real_radar_pixel_far_from_an_edge_is_border_noise(realdata):
    checked = 0
    for scene in real_items.find_scenes(realdata, "planetary-computer", ("S1RTC",)):
        for band, asset in scene.assets.items():
            grid = _build_mosaic_grid([scene.select_bands((band,))], band)
            composite = _compose("S1RTC", [scene], [band], grid, _build_recipe("median"))["values"][
                0
            ]
            with rasterio.open(asset.href) as file:
                stored = file.read(1)
            valid = np.isfinite(stored) & (stored != asset.nodata) & (stored > 1e-6)
            checked += _check_removed_pixels(
                np.where(valid, stored, np.nan), composite, grid.resolution
            )
    assert checked > 0


def test_no_real_pixel_in_decibel_far_from_an_edge_is_border_noise(realdata):
    checked = 0
    for path in sorted((realdata / "catalog" / "other").glob("sentinel-1*/**/*.json")):
        assets = json.loads(path.read_text()).get("assets", {})
        for asset in (assets[name] for name in ("vv", "vh") if name in assets):
            with rasterio.open(path.parent / asset["href"]) as file:
                if not file.crs.is_projected:
                    continue
                stored = file.read(1, masked=True).filled(np.nan)
                spacing = file.transform.a
            power = units.from_decibel(stored)
            reach = radar.border_noise_reach(spacing)
            noise = radar.detect_border_noise(np.pad(power, reach, constant_values=np.nan), spacing)
            cleaned = np.where(noise[reach:-reach, reach:-reach], np.nan, power)
            checked += _check_removed_pixels(power, cleaned, spacing)
    assert checked > 0


def _check_removed_pixels(power, cleaned, spacing):
    """Check which pixels were removed as border noise; return the number of checked pixels."""
    valid = np.isfinite(power)
    removed = valid & np.isnan(cleaned)
    assert np.array_equal(cleaned[valid & ~removed], power[valid & ~removed])
    assert not (removed & (power > 10**-3.5)).any()
    distance = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1] * spacing
    assert not (removed & (distance > radar.BORDER_NOISE_M + radar.MIN_EDGE_SIZE * spacing)).any()
    assert removed.sum() <= 0.01 * valid.sum()
    return int(valid.sum())
