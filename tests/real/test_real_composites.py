"""Real catalogs composed: every pixel is what plain NumPy makes of the files."""

from __future__ import annotations

import datetime as dt
import json
import math
import warnings

import numpy as np
import pytest
import rasterio
import shapely
from scipy import ndimage

from catalogs.search import search
from pipeline.compositing import modality_composite, radar
from pipeline.grid.grid import Grid
from pipeline.plan.recipe import COMPOSITE_METHODS, Recipe
from pipeline.reading import units

CLEAR, CLOUDS, DILATE = (2, 4, 5, 6, 7, 11), (3, 8, 9, 10), 300.0
EPOCH = dt.date(1970, 1, 1)


def _found(realdata, name, modalities):
    source = search.CatalogSource(
        provider=name,
        location=str(realdata / "catalog" / name / "catalog.json"),
        allow=(str(realdata),),
    )
    world = shapely.box(-180, -90, 180, 90)
    return search.find_scenes(source, modalities, world, None).scenes


def _recipe(method, **more):
    values = {"clear_scl": CLEAR, "dilate_m": DILATE, "method": method} | more
    return Recipe(inputs=(), stride=1, margin=0, probabilities=False, composites=True, **values)


def _made(modality, scenes, bands, grid, recipe):
    made = modality_composite.compose_modality(modality, scenes, bands, grid, recipe=recipe)
    return {
        name: getattr(made, name).compute(scheduler="synchronous").values
        for name in ("values", "observations", "first_day", "last_day")
    }


def _mosaic(scenes, band):
    """Return the finest grid of the first scene's raster that covers all scenes."""
    known = [scene.assets[band] for scene in scenes]
    step, origin = known[0].transform[0], known[0].transform
    west = min(asset.transform[2] for asset in known)
    north = max(asset.transform[5] for asset in known)
    east = max(asset.transform[2] + step * asset.shape[1] for asset in known)
    south = min(asset.transform[5] - step * asset.shape[0] for asset in known)
    left = origin[2] - step * math.ceil((origin[2] - west) / step)
    top = origin[5] + step * math.ceil((north - origin[5]) / step)
    return Grid(
        epsg=known[0].epsg,
        resolution=step,
        left=left,
        top=top,
        height=math.ceil((top - south) / step),
        width=math.ceil((east - left) / step),
    )


def _picked(asset, grid, pad=0):
    """Return the stored value at each pixel's centre, 0 beyond the file, all in plain NumPy."""
    with rasterio.open(asset.href) as file:
        stored, transform = file.read(1).astype(np.int64), file.transform
    xs = grid.left + (np.arange(-pad, grid.width + pad) + 0.5) * grid.resolution
    ys = grid.top - (np.arange(-pad, grid.height + pad) + 0.5) * grid.resolution
    columns = np.floor((xs - transform.c) / transform.a + 1e-9).astype(int)
    rows = np.floor((transform.f - ys) / -transform.e + 1e-9).astype(int)
    result = np.zeros((len(rows), len(columns)), np.int64)
    good_rows = (rows >= 0) & (rows < stored.shape[0])
    good_columns = (columns >= 0) & (columns < stored.shape[1])
    result[np.ix_(good_rows, good_columns)] = stored[np.ix_(rows[good_rows], columns[good_columns])]
    return result


def _expected(scenes, bands, grid, method):
    """Return what plain NumPy makes of all scenes, a second time and in another way."""
    scenes = sorted(scenes, key=lambda scene: (scene.solar_day, scene.id))
    pad = math.ceil(DILATE / grid.resolution) + 1
    inner = slice(pad, pad + grid.height), slice(pad, pad + grid.width)
    looks, clear = [], []
    for scene in scenes:
        codes = _picked(scene.assets["SCL"], grid, pad)
        away = ndimage.distance_transform_edt(~np.isin(codes, CLOUDS)) * grid.resolution
        clear.append((np.isin(codes, CLEAR) & (away > DILATE))[inner])
        look = np.full((len(bands), *grid.shape), np.nan)
        for row, band in enumerate(bands):
            meaning = scene.assets[band].radiometry
            stored = _picked(scene.assets[band], grid)
            good = clear[-1] & (stored > 0) & (stored < 65535)
            look[row][good] = stored[good] + round(meaning.offset / meaning.scale)
        looks.append(look)
    days = sorted({scene.solar_day for scene in scenes})
    daily, seen = [], []
    for day in days:
        same = [index for index, scene in enumerate(scenes) if scene.solar_day == day]
        look = looks[same[0]]
        for index in same[1:]:
            look = np.where(np.isnan(look), looks[index], look)
        daily.append(look)
        seen.append(np.any([clear[index] for index in same], axis=0))
    numbers = np.array([(day - EPOCH).days for day in days])[:, None, None]
    stamps = np.where(seen, numbers, 0)
    return {
        "values": _composed(np.array(daily), scenes, looks, method),
        "observations": np.sum(seen, axis=0),
        "first_day": np.where(np.any(seen, axis=0), np.where(seen, numbers, 99999).min(axis=0), 0),
        "last_day": stamps.max(axis=0),
    }


def _composed(daily, scenes, looks, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        middle = np.nanmedian(daily, axis=0)
    if method == "median":
        return middle
    if method == "least_cloudy":
        cover = [101 if scene.cloud_cover is None else scene.cloud_cover for scene in scenes]
        order = sorted(range(len(scenes)), key=lambda i: (cover[i], scenes[i].datetime))
        daily = np.array([looks[index] for index in order])
        rank = np.arange(len(daily))[:, None, None] + np.zeros(daily[0, 0].shape)
    elif method == "latest":
        rank = -np.arange(len(daily))[:, None, None] + np.zeros(daily[0, 0].shape)
    else:
        rank = np.nansum((daily - middle) ** 2, axis=1)
    lacking = np.isnan(daily).sum(axis=1)
    worst = 2 * np.abs(rank).max() + 1
    best = np.argmin(lacking * worst + rank, axis=0)
    rows, columns = np.indices(best.shape)
    return np.moveaxis(daily[best, :, rows, columns], -1, 0)


def _same(found, expected):
    for name, values in expected.items():
        assert np.array_equal(found[name], values, equal_nan=name == "values"), name


@pytest.mark.parametrize("method", COMPOSITE_METHODS)
def test_the_composite_of_a_catalog_is_numpys_on_all_pixels(realdata, method):
    scenes = [
        scene for scene in _found(realdata, "earth-search", ("S2L2A",)) if "SCL" in scene.assets
    ]
    bands = [band for band in scenes[0].assets if band != "SCL"]
    grid = _mosaic(scenes, bands[0])
    whole = _made("S2L2A", scenes, bands, grid, _recipe(method))
    expected = _expected(scenes, bands, grid, method)
    assert np.isfinite(expected["values"]).any()
    _same(whole, expected)
    row, column = grid.height // 2 + 1, grid.width // 3 - 1
    for cut in (
        {"row": 0, "column": 0, "height": row, "width": grid.width},
        {"row": row, "column": 0, "height": grid.height - row, "width": grid.width},
        {"row": 0, "column": 0, "height": grid.height, "width": column},
        {"row": 0, "column": column, "height": grid.height, "width": grid.width - column},
    ):
        part = _made("S2L2A", scenes[::-1], bands, grid.window(**cut), _recipe(method))
        rows = slice(cut["row"], cut["row"] + cut["height"])
        columns = slice(cut["column"], cut["column"] + cut["width"])
        _same(part, {name: values[..., rows, columns] for name, values in whole.items()})


def test_dark_counts_with_an_offset_come_out_as_negative_reflectance(realdata):
    counted = 0
    for scene in _found(realdata, "cdse", ("S2L2A",)):
        asset = scene.assets.get("B02")
        if asset is None or asset.radiometry.offset >= 0:
            continue
        with rasterio.open(asset.href) as file:
            stored = file.read(1)
        dark = (stored > 0) & (stored < 1000)
        counted += int(dark.sum())
        bare = scene.select_bands(("B02",))
        grid = _mosaic([bare], "B02")
        values = _made("S2L2A", [bare], ["B02"], grid, _recipe("median"))["values"][0]
        assert np.array_equal(values < 0, dark)
        assert np.array_equal(np.isnan(values), stored == 0)
        assert np.array_equal(values[dark], stored[dark].astype(int) - 1000)
        assert np.nanmax(values) == int(stored.max()) - 1000
    assert counted > 0


def test_pixels_without_a_scene_class_are_not_clear_though_they_have_data(realdata):
    unknown = 0
    for scene in _found(realdata, "cdse", ("S2L2A",)):
        if "SCL" not in scene.assets or "B02" not in scene.assets:
            continue
        grid = _mosaic([scene], "B02")
        codes, stored = _picked(scene.assets["SCL"], grid), _picked(scene.assets["B02"], grid)
        made = _made("S2L2A", [scene], ["B02"], grid, _recipe("median", dilate_m=0.0))
        assert np.array_equal(made["observations"] > 0, np.isin(codes, CLEAR))
        unknown += int(((codes == 0) & (stored > 0)).sum())
    assert unknown > 0


def test_no_real_radar_pixel_far_from_an_edge_is_taken_for_border_noise(realdata):
    checked = 0
    for scene in _found(realdata, "planetary-computer", ("S1RTC",)):
        for band, asset in scene.assets.items():
            grid = _mosaic([scene.select_bands((band,))], band)
            found = _made("S1RTC", [scene], [band], grid, _recipe("median"))["values"][0]
            with rasterio.open(asset.href) as file:
                stored = file.read(1)
            known = np.isfinite(stored) & (stored != asset.nodata) & (stored > 1e-6)
            checked += _lost_at_the_edge(np.where(known, stored, np.nan), found, grid.resolution)
    assert checked > 0


def test_no_real_pixel_in_decibel_far_from_an_edge_is_taken_for_border_noise(realdata):
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
            found = np.where(noise[reach:-reach, reach:-reach], np.nan, power)
            checked += _lost_at_the_edge(power, found, spacing)
    assert checked > 0


def _lost_at_the_edge(power, found, spacing):
    """Check what was taken away, and return how many pixels were looked at."""
    known = np.isfinite(power)
    lost = known & np.isnan(found)
    assert np.array_equal(found[known & ~lost], power[known & ~lost])
    assert not (lost & (power > 10**-3.5)).any()
    away = ndimage.distance_transform_edt(np.pad(known, 1))[1:-1, 1:-1] * spacing
    assert not (lost & (away > radar.BORDER_NOISE_M + radar.MIN_EDGE_SIZE * spacing)).any()
    assert lost.sum() <= 0.01 * known.sum()
    return int(known.sum())
